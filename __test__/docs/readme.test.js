'use strict';

// The documentation as a new user takes it: the programs of README.md and docs/
// are those of examples/, and they run as they are printed, in a folder where
// message-engin is installed.

const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');
const { pathToFileURL } = require('node:url');
const vm = require('node:vm');
const test = require('ava');
const { server } = require('../..');
// The code's own word on its defaults, which no caller can see.
const { mqSettings } = require('../../lib/options/broker');
const { wsSettings } = require('../../lib/options/gateway');
const { withRabbit } = require('../support/brokers');
const { launchChromium } = require('../support/chromium');
const { run } = require('../support/children');
const { declaredOptions } = require('../support/declarations');
const { Peer } = require('../support/peers');
const { until } = require('../support/until');

const root = path.join(__dirname, '..', '..');
const examples = path.join(root, 'examples');
const read = (...parts) => fs.readFileSync(path.join(root, ...parts), 'utf8');

/** The Markdown files that users read: texts by paths from the root. */
const documents = new Map(
  [
    ...['README.md', 'CHANGELOG.md', 'CONTRIBUTING.md'],
    ...['bench/README.md', 'fuzz/README.md'],
    ...fs
      .readdirSync(path.join(root, 'docs'), { recursive: true })
      .filter((name) => name.endsWith('.md'))
      .map((name) => path.posix.join('docs', name.split(path.sep).join('/'))),
  ].map((name) => [name, read(name)]),
);

/** The programs by their names, which stand in bold before them. */
const programs = new Map();
for (const [document, text] of documents) {
  const found = text.matchAll(/\*\*([\w.]+)\*\*:\n\n```\w+\n([^]*?)```\n/g);
  for (const [, name, program] of found) {
    if (programs.has(name)) throw new Error(`${name} again in ${document}`);
    programs.set(name, program);
  }
}

const rabbit = withRabbit(test);

/**
 * A folder with the programs of the documentation, where packages resolve to those here.
 *
 * @param {import('ava').ExecutionContext} t
 * @param {string} co the package that is installed as `co`
 */
function install(t, co = 'co') {
  const folder = fs.mkdtempSync(
    path.join(os.tmpdir(), 'message-engin-readme-'),
  );
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  const modules = path.join(folder, 'node_modules');
  fs.mkdirSync(modules);
  const link = (name, target) =>
    fs.symlinkSync(target, path.join(modules, name), 'junction');
  link('message-engin', root);
  link('co', path.join(root, 'node_modules', co));
  for (const [name, text] of programs) {
    fs.writeFileSync(path.join(folder, name), text);
  }
  const fixtures = path.join(__dirname, '..', 'fixtures');
  return {
    file: (name) => path.join(folder, name),
    start: (name, env) =>
      run(t, path.relative(fixtures, path.join(folder, name)), {
        PORT: 0,
        ...env,
      }),
  };
}

/** @param {ReturnType<typeof run>} program */
async function portOf(program) {
  const [, port] = await program.prints(/^gateway: listening on port (\d+)$/m);
  return port;
}

/**
 * Connects, sends, gets the echo, and leaves.
 *
 * @param {import('ava').ExecutionContext} t
 * @param {string} port
 * @param {ReturnType<typeof run>} worker
 */
async function converse(t, port, worker) {
  const peer = new Peer(`ws://127.0.0.1:${port}/?user=bob`);
  t.teardown(() => peer.terminate());
  await peer.opened;
  await worker.prints(/^status \{ status: 1, key: 'bob' \}$/m);
  const text = JSON.stringify({ to: 'bob', text: 'hello' });
  peer.send(text);
  t.deepEqual(await peer.received(1), [text]);
  await peer.close(1000);
  await worker.prints(/^status \{\s+status: 0,\s+key: 'bob',/m);
  t.is(worker.stderr, '');
}

test('the programs of the documentation are those of examples/', (t) => {
  const files = fs
    .readdirSync(examples, { withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name }) => name);
  t.deepEqual([...programs.keys()].sort(), files.sort());
  for (const [name, text] of programs) t.is(text, read('examples', name), name);
});

/** The rows of a table of options. @param {string} heading */
function tableOf(heading) {
  const options = documents.get('docs/reference/options.md');
  const [, rest] = options.split(`\n## ${heading}\n`);
  const rows = rest
    .split('\n#')[0]
    .matchAll(/^\| `(\w+)` +\| +(?:`([^`]+)`|required)? +\|/gm);
  return new Map(Array.from(rows, ([, option, text]) => [option, text]));
}

/** The defaults of a table. @param {ReturnType<typeof tableOf>} table */
function defaultsOf(table) {
  const rows = [...table].filter(([, text]) => text);
  const read = (text) => JSON.parse(text.replaceAll("'", '"'));
  return Object.fromEntries(rows.map(([option, text]) => [option, read(text)]));
}

test('the defaults of the tables are those of the code', (t) => {
  const httpServer = http.createServer();
  const mq = mqSettings({}, 'worker');
  const ws = wsSettings({ httpServer, keyFn() {}, messageKeyFn() {} });
  const [{ host, port }] = mq.hosts;
  const clientProperties = { ...mq.clientProperties };
  for (const own of ['product', 'version', 'platform', 'connection_name']) {
    t.truthy(clientProperties[own], own);
    delete clientProperties[own];
  }
  const settings = {
    mqConf: { ...mq, host, port, clientProperties },
    // No limit is null inside; these two have but one value.
    wsConf: {
      ...ws,
      connectionRate: ws.connectionRate ?? 0,
      assembleFragments: true,
      autoAcceptConnections: false,
    },
  };
  for (const [heading, values] of Object.entries(settings)) {
    const table = tableOf(heading);
    const wanted = defaultsOf(table);
    for (const option of table.keys()) {
      // What the table leaves empty has no default.
      const value = values[option] ?? null;
      t.deepEqual(value, wanted[option] ?? null, `${heading}.${option}`);
    }
  }
  t.is(mq.tls, null);
});

test('the tables name every option, with its default', async (t) => {
  const values = {};
  for (const [heading, type] of [
    ['mqConf', 'MqConf'],
    ['wsConf', 'WsOptions'],
  ]) {
    const table = tableOf(heading);
    const declared = declaredOptions(type);
    t.deepEqual(
      [...table.keys()],
      declared.map(([option]) => option),
    );
    for (const [option, text] of declared) {
      if (text) t.is(table.get(option), text, option);
    }
    values[heading] = defaultsOf(table);
  }

  const warnings = [];
  const warned = (warning) => warnings.push(warning.message);
  process.on('warning', warned);
  const gateway = await server.start(
    { url: 'memory://readme', ...values.mqConf },
    {
      httpServer: http.createServer(),
      keyFn() {},
      messageKeyFn() {},
      ...values.wsConf,
    },
  );
  await gateway.close();
  process.off('warning', warned);
  t.deepEqual(warnings, []);
});

/** A document without its blocks of code. @param {string} text */
const proseOf = (text) => text.replace(/^( *)```[^]*?^\1```$/gm, '');

/** The anchors that GitHub gives to headings. @param {string} text */
function anchorsOf(text) {
  const anchors = new Set();
  for (const [, title] of proseOf(text).matchAll(/^#+ (.*)$/gm)) {
    const slug = title
      .toLowerCase()
      .replace(/[^\w\- ]/g, '')
      .replaceAll(' ', '-');
    let anchor = slug;
    for (let n = 1; anchors.has(anchor); n += 1) anchor = `${slug}-${n}`;
    anchors.add(anchor);
  }
  return anchors;
}

for (const [document, text] of documents) {
  test(`the links of ${document} lead somewhere`, (t) => {
    for (const [, target] of proseOf(text).matchAll(/\]\(([^)]+)\)/g)) {
      if (/^https?:/.test(target)) continue;
      const [file, anchor] = target.split('#');
      const name = path.posix.join(path.posix.dirname(document), file);
      const linked = file === '' ? document : name;
      t.true(fs.existsSync(path.join(root, linked)), target);
      if (anchor === undefined) continue;
      t.true(anchorsOf(read(linked)).has(anchor), target);
    }
    t.pass();
  });
}

test('the guides and the reference are in the index of docs/', (t) => {
  const index = documents.get('docs/README.md');
  for (const name of documents.keys()) {
    if (!/^docs\/(guide|reference)\//.test(name)) continue;
    t.true(index.includes(`](${path.posix.relative('docs', name)})`), name);
  }
});

test('the README is short enough for the page of a registry', (t) => {
  const text = documents.get('README.md');
  // npm shows no more than 64 KiB.
  t.true(Buffer.byteLength(text) < 65_536);
  t.true(text.split('\n').length <= 200);
});

test('the JavaScript of the documentation parses', (t) => {
  for (const [document, text] of documents) {
    for (const [, code] of text.matchAll(/^```js\n([^]*?)^```$/gm)) {
      // A script can only be parsed here where it is no ES module.
      if (/^(import|export) /m.test(code)) continue;
      t.notThrows(
        () => new vm.Script(`async () => {${code}}`),
        `${document}: ${code}`,
      );
    }
  }
});

// One after the other: they use the default names on the shared broker.

test.serial('server, client and page on RabbitMQ', async (t) => {
  const folder = install(t);
  const env = { AMQP_URL: rabbit().url };
  const worker = folder.start('client.js', env);
  await worker.prints(/^worker: waiting for messages$/m);
  const gateway = folder.start('server.js', env);
  const port = await portOf(gateway);
  await converse(t, port, worker);
  t.regex(worker.stdout, /^message \{ to: 'bob', text: 'hello' \}$/m);

  const html = programs.get('browser.html');
  const file = folder.file('browser.html');
  fs.writeFileSync(file, html.replace('localhost:8080', `localhost:${port}`));
  const { open } = await launchChromium(t);
  const { page, problems } = await open(pathToFileURL(file).href);
  const shown = () => page.textContent('pre');
  await until(async () => (await shown()) === 'open\n');
  await page.click('button');
  await until(async () =>
    /^open\nhello came back after \d+ ms\n$/.test(await shown()),
  );
  t.deepEqual(problems, []);
  await worker.prints(/^status \{ status: 1, key: 'alice' \}$/m);
  t.is(gateway.stderr + worker.stderr, '');
});

test.serial('gateway and worker in one process', async (t) => {
  const program = install(t).start('memory.js');
  await program.prints(/^worker: waiting for messages$/m);
  await converse(t, await portOf(program), program);
});

for (const broker of ['embedded', 'RabbitMQ']) {
  const env = () => ({
    AMQP_URL: broker === 'RabbitMQ' ? rabbit().url : 'memory:',
  });

  test.serial(`${broker}: co 4.6`, async (t) => {
    const program = install(t).start('co.js', env());
    await converse(t, await portOf(program), program);
  });

  test.serial(`${broker}: co 3.1, with the change it needs`, async (t) => {
    const folder = install(t, 'co3');
    const text = programs.get('co.js');
    const changed = text.replace('\nco(main);\n', '\nco(main)();\n');
    t.not(changed, text);
    fs.writeFileSync(folder.file('co.js'), changed);
    const program = folder.start('co.js', env());
    await converse(t, await portOf(program), program);
  });

  test.serial(`${broker}: an orderly end`, async (t) => {
    const program = install(t).start('shutdown.js', env());
    const peer = new Peer(`ws://127.0.0.1:${await portOf(program)}/?user=bob`);
    t.teardown(() => peer.terminate());
    await peer.opened;
    program.child.kill('SIGTERM');
    t.like(await peer.closed, { code: 1001 });
    t.deepEqual(await program.end(), { code: 0, signal: null });
    t.regex(program.stdout, /^gateway: closed$/m);
    t.is(program.stderr, '');
  });

  test.serial(`${broker}: browsers leave one by one`, async (t) => {
    const program = install(t).start('drain.js', { ...env(), DRAIN: 4000 });
    const port = await portOf(program);
    const health = async () => {
      const { status } = await fetch(`http://127.0.0.1:${port}/`, {
        // A connection that stays would hold up the end.
        headers: { connection: 'close' },
      });
      return status;
    };
    t.is(await health(), 200);
    const peers = ['ann', 'bob'].map(
      (user) => new Peer(`ws://127.0.0.1:${port}/?user=${user}`),
    );
    for (const peer of peers) {
      t.teardown(() => peer.terminate());
      await peer.opened;
    }
    program.child.kill('SIGTERM');
    t.like(await Promise.race(peers.map(({ closed }) => closed)), {
      code: 1012,
    });
    // The other one is still served.
    t.is(await health(), 503);
    const left = peers.find(({ socket }) => socket.readyState === 1);
    const user = left === peers[0] ? 'ann' : 'bob';
    left.sendJson({ to: user });
    t.deepEqual(await left.received(1), [JSON.stringify({ to: user })]);
    t.like(await left.closed, { code: 1012 });
    t.deepEqual(await program.end(), { code: 0, signal: null });
    t.regex(program.stdout, /^gateway: drained$/m);
    t.is(program.stderr, '');
  });
}
