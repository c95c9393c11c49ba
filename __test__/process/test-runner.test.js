'use strict';

// Whatever a test does, its suite ends: with exit code 1, the names of the file
// and of the test, and without their processes. fixtures/planted has a fault of
// each kind.

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const test = require('ava');
const { until } = require('../support/until');

const script = path.join(__dirname, '..', 'fixtures', 'planted', 'run.js');

/** @param {string} pid */
function isRunning(pid) {
  try {
    process.kill(Number(pid), 0);
  } catch {
    return false;
  }
  if (process.platform !== 'linux') return true;
  try {
    // One that has ended and that nobody waits for is a zombie.
    return !/\) Z /.test(fs.readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

/**
 * @param {import('ava').ExecutionContext} t
 * @param {string[]} args the suite and its files
 * @param {Record<string, string>} [env]
 */
async function runPlanted(t, args, env) {
  t.timeout(300_000);
  const runner = startPlanted(t, args, env);
  const { code, output } = await runner.ended;
  t.is(code, 1);
  t.regex(output, /^\d+ passed, [1-9]\d* failed$/m);
  await allEnded(output);
  return output;
}

function startPlanted(t, args, env) {
  let output = '';
  const child = spawn(process.execPath, [script, ...args], {
    env: { ...process.env, ...env },
  });
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => (output += text));
  }
  const ended = once(child, 'close').then(([code]) => ({ code, output }));
  t.teardown(() => child.kill());
  return { child, ended, printed: () => output };
}

/** The processes that the planted tests told of. */
async function allEnded(output) {
  for (const [, pid] of output.matchAll(/planted pid (\d+)/g)) {
    await until(() => !isRunning(pid));
  }
}

test('ava: a test that waits fails, and its process is ended', async (t) => {
  const output = await runPlanted(t, ['ava', 'waits', 'fine']);
  t.regex(output, /✘ \[fail\]: waits › waits for an event that has been/);
  t.regex(output, /waits\.js: the process does not exit .*1 Timeout/);
  t.regex(output, /✔ fine › passes/);
});

test('ava: a teardown that does not end', async (t) => {
  const output = await runPlanted(t, ['ava', 'teardown', 'fine']);
  t.regex(output, /teardown\.js: nothing has ended for 8 s/);
  t.regex(output, /unfinished: has a teardown that does not end/);
  t.regex(output, /has not ended: .*teardown\.js: has a teardown/);
  t.regex(output, /✔ fine › passes/);
});

test('ava: a test that fails with an open client', async (t) => {
  const output = await runPlanted(t, ['ava', 'client']);
  t.regex(output, /\[fail\]: .*fails before it closes its client/);
  t.regex(output, /client\.js: the process does not exit .* NativeHandle/);
});

test('ava: a process that aborts, and one that exits with 0', async (t) => {
  const output = await runPlanted(t, ['ava', 'aborts', 'exits']);
  t.regex(output, /has not ended: .*aborts\.js: ends its process by SIGABRT/);
  t.regex(output, /has not ended: .*exits\.js: ends its process as if all/);
});

test('ava: a blocked event loop, and a RabbitMQ beside it', async (t) => {
  const env = { PLANTED_FILE_LIMIT: '200', PLANTED_SILENCE: '25' };
  const output = await runPlanted(t, ['ava', 'blocks'], env);
  t.regex(output, /is ended: it has printed nothing for 25 s/);
  t.regex(output, /has not ended: .*blocks\.js: blocks the event loop/);
  // That of ava's process and that of RabbitMQ.
  t.is(output.match(/planted pid/g)?.length, 2);
});

test('jest: a test that waits fails', async (t) => {
  const output = await runPlanted(t, ['jest', 'waits']);
  t.regex(output, /✕ waits for an event that has been/);
});

test('jest: a blocked event loop', async (t) => {
  const output = await runPlanted(t, ['jest', 'blocks'], {
    PLANTED_SILENCE: '25',
  });
  t.regex(output, /has not ended: .*blocks\.js: blocks the event loop/);
});

test('jest: a test that fails with an open client', async (t) => {
  const output = await runPlanted(t, ['jest', 'client']);
  t.regex(output, /✕ fails before it closes its client/);
  t.regex(output, /client\.js: fails before it closes its client: has failed/);
  t.regex(output, /client\.js: open: .*NativeHandle/);
});

test('a runner that is interrupted leaves no process behind', async (t) => {
  t.timeout(300_000);
  const runner = startPlanted(t, ['ava', 'deaf']);
  await until(() => runner.printed().includes('planted and blocked'));
  runner.child.kill('SIGTERM');
  const { code, output } = await runner.ended;
  t.is(code, 143);
  await allEnded(output);
});

test('jest: a process that aborts', async (t) => {
  const output = await runPlanted(t, ['jest', 'aborts']);
  t.regex(output, /has not ended: .*aborts\.js: ends its process by SIGABRT/);
});

const target = fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-planted-'));
test.after.always(() => fs.rmSync(target, { recursive: true }));

for (const [name, text] of [
  ['waits', /has not ended: tests\/waits\.rs: waits_for_ever/],
  ['fails', /test fails_before_it_closes_its_server \.\.\. FAILED/],
  ['aborts', /has not ended: tests\/aborts\.rs: ends_its_process/],
]) {
  test(`cargo: a test that ${name}`, async (t) => {
    const env = {
      CARGO_TARGET_DIR: path.join(target, name),
      PLANTED_SILENCE: '30',
    };
    t.regex(await runPlanted(t, ['cargo', name], env), text);
  });
}
