'use strict';

// Programs in Python, where that can be had: clients get back what they send, and
// the example of the documentation sends to a browser.

const { execFile, execFileSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { promisify } = require('node:util');
const test = require('ava');
const { which } = require('../../scripts/lib/project');
const { forEachBroker, rabbitmq, withRabbit } = require('../support/brokers');
const { FIXTURES, echo, program, same } = require('../support/foreign');
const { door } = require('../support/world');

const PACKAGES = ['websockets', 'websocket-client', 'pika'];
const EXAMPLES = path.join(__dirname, '..', '..', 'examples');
/** ms for each of the two steps. */
const PATIENCE = 50_000;

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-python-'));
const inVenv = path.join(folder, 'bin', 'python3');

/**
 * Makes a Python with these packages. At once, since only tests that are
 * declared as skipped are counted so.
 *
 * @returns {string} why there is none, or ''
 */
function prepare() {
  const python = which('python3');
  if (!python) return 'python3 is not on PATH';
  const execute = (command, ...args) =>
    execFileSync(command, args, { timeout: PATIENCE, stdio: 'pipe' });
  try {
    execute(python, '-m', 'venv', folder);
    const pip = ['-m', 'pip', '--disable-pip-version-check', '--retries', '1'];
    execute(inVenv, ...pip, 'install', '-q', ...PACKAGES);
    return '';
  } catch (error) {
    const { stdout = '', stderr = '' } = /** @type {any} */ (error);
    return `${error}\n${stdout}${stderr}`;
  }
}

const why = prepare();
// Seldom the fault of what is tested, and never to pass in silence.
if (why) console.warn(`Python clients are skipped: ${why}`);

test.after.always('Python is taken away', () => {
  fs.rmSync(folder, { recursive: true });
});

for (const name of ['websockets', 'websocket']) {
  const title = `Python: ${name}`;
  if (why) {
    test.skip(title, () => {});
    continue;
  }
  forEachBroker(test, title, async (t, broker) => {
    const world = await echo(t, broker);
    const file = path.join(FIXTURES, `${name}_client.py`);
    await same(t, world, await program(world.url, inVenv, file));
  });
}

for (const delivery of ['at-most-once', 'at-least-once']) {
  const title = `Python: pika, ${delivery}`;
  if (why) {
    test.skip(title, () => {});
    continue;
  }
  withRabbit(test);
  test(title, async (t) => {
    const mqConf = { ...rabbitmq.settings(), delivery };
    const seen = [];
    const { connect } = await door(t, mqConf, {
      messageKeyFn(message, headers) {
        seen.push(headers);
        return message.to;
      },
    });
    const peer = await connect('alice');
    const url = new URL(mqConf.url);
    // pika takes no vhost for an empty one.
    url.pathname ||= '/%2F';
    await promisify(execFile)(inVenv, [path.join(EXAMPLES, 'publish.py')], {
      env: {
        ...process.env,
        AMQP_URL: url.href,
        MESSAGE_EXCHANGE: mqConf.messageExchange,
      },
      timeout: PATIENCE,
    });
    const [text] = await peer.received(1);
    t.deepEqual(JSON.parse(text), { to: 'alice', text: 'hello from Python' });
    t.deepEqual(seen, [{ from: 'publish.py' }]);
  });
}
