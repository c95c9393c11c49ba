'use strict';

// Gateways and workers in processes of their own: to be measured, or killed.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { run } = require('../children');
const { until } = require('../until');

/**
 * @param {import('ava').ExecutionContext} t
 * @param {string} name
 * @param {Record<string, any>} env
 */
function start(t, name, env) {
  const script = run(t, `faults/${name}.js`, env);
  let last = 0;
  return {
    script,
    /** @param {string} verb @param {...any} args @returns {Promise<any>} */
    async ask(verb, ...args) {
      last += 1;
      const id = last;
      script.child.send({ id, verb, args });
      const told = await script.wait(() =>
        script.told.find(({ answer }) => answer?.id === id),
      );
      return told.answer.value;
    },
    /** The events of that name so far. @param {string} event */
    events: (event) => script.told.filter((told) => told.event?.[0] === event),
    async kill9() {
      script.child.kill('SIGKILL');
      await script.end();
    },
  };
}

/**
 * @param {import('ava').ExecutionContext} t
 * @param {object} mqConf
 * @param {object} [wsConf]
 */
async function gatewayChild(t, mqConf, wsConf = {}) {
  const child = start(t, 'gateway', {
    MQ_CONF: JSON.stringify(mqConf),
    WS_CONF: JSON.stringify(wsConf),
  });
  const port = await child.script.tells('port');
  return { ...child, port, url: `ws://127.0.0.1:${port}/` };
}

/**
 * @param {import('ava').ExecutionContext} t
 * @param {object} mqConf
 * @param {string} name
 * @param {import('./ledger').Ledger} ledger
 * @param {{ slow?: number }} [options] as of Hand
 */
async function workerChild(t, mqConf, name, ledger, { slow = 0 } = {}) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-book-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  const file = path.join(folder, 'book');
  fs.writeFileSync(file, '');
  const child = start(t, 'worker', {
    ...{ MQ_CONF: JSON.stringify(mqConf), NAME: name },
    ...{ BOOK: file, SLOW: slow },
  });
  await child.script.tells('ready');

  const reader = fs.openSync(file, 'r');
  t.teardown(() => fs.closeSync(reader));
  const chunk = Buffer.alloc(1 << 16);
  let rest = Buffer.alloc(0);
  /** What it got, as [key, n, marked, id]. @type {any[][]} */
  const got = [];
  /** Enters in the ledger what it has done since. */
  function copy() {
    for (let size; (size = fs.readSync(reader, chunk)) > 0;) {
      rest = Buffer.concat([rest, chunk.subarray(0, size)]);
    }
    const end = rest.lastIndexOf('\n') + 1;
    const lines = rest.toString('utf8', 0, end).split('\n').slice(0, -1);
    rest = rest.subarray(end);
    for (const line of lines) {
      const [what, key, n, ...more] = JSON.parse(line);
      if (what === 'sent') ledger.down.noteSent(key, n, more[0]);
      else if (what === 'refused') ledger.down.refuse(key, n);
      else {
        got.push([key, n, ...more]);
        ledger.up.got(key, n, { marked: more[0], id: more[1] ?? undefined });
      }
    }
  }
  return { ...child, copy, got };
}

/**
 * Waits, while what workers do is entered in the ledger.
 *
 * @param {{ copy: () => void }[]} workers
 * @param {() => any} condition
 * @param {number} [ms]
 */
function untilCopied(workers, condition, ms) {
  return until(() => {
    for (const { copy } of workers) copy();
    return condition();
  }, ms);
}

module.exports = { gatewayChild, untilCopied, workerChild };
