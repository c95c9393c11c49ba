'use strict';

// What is set up in a way that cannot work, and that nothing else would tell
// of, is a process warning.

const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');
const test = require('ava');
const { server } = require('../..');
const { embedded } = require('../support/brokers');
const { run } = require('../support/children');
const { Peer } = require('../support/peers');
const { until } = require('../support/until');
const { listen, usual } = require('../support/world');

const ROOT = path.join(__dirname, '..', '..');

/** The texts of the warnings of one code, while a serial test runs. */
function warnings(t, code) {
  const seen = [];
  const listener = (warning) => {
    if (warning.code === code) seen.push(warning.message);
  };
  process.on('warning', listener);
  t.teardown(() => process.off('warning', listener));
  return seen;
}

async function start(t, httpServer, conf) {
  const ws = { ...usual, httpServer, ...conf };
  const gateway = await server.start(embedded.settings(), ws);
  t.teardown(() => gateway.close());
  return gateway;
}

const NOT_LISTENING = 'MESSAGE_ENGIN_NOT_LISTENING';
const SHORT = { handshakeTimeout: 50 };
/** Long enough for a connection, however busy the machine is. */
const LONG = { handshakeTimeout: 4000 };

test.serial('servers that do not listen', async (t) => {
  const seen = warnings(t, NOT_LISTENING);
  await start(t, http.createServer(), SHORT);
  await until(() => seen.length === 1);
  t.regex(seen[0], /^wsConf\.httpServer does not listen 50 ms after/);

  const listening = await listen(t, http.createServer());
  const [one, other] = [http.createServer(), http.createServer()];
  await start(t, [listening, one, other], SHORT);
  await until(() => seen.length === 2);
  t.regex(seen[1], /^wsConf\.httpServer \(2 of 3\) does not listen/);
});

test.serial('servers that need not be warned of', async (t) => {
  const seen = warnings(t, NOT_LISTENING);
  // The gateway is closed in time.
  const closed = http.createServer();
  const before = closed.listenerCount('listening');
  await (await start(t, closed, LONG)).close();
  t.is(closed.listenerCount('listening'), before);
  // The server listens in time, and is closed again.
  const late = http.createServer();
  await start(t, late, LONG);
  await listen(t, late);
  late.close();
  // It is given its connections by another server.
  const inner = http.createServer();
  const outer = await listen(t, http.createServer());
  outer.removeAllListeners('connection');
  outer.on('connection', (socket) => inner.emit('connection', socket));
  await start(t, inner, LONG);
  const peer = new Peer(`ws://127.0.0.1:${outer.address().port}/?key=a`);
  t.teardown(() => peer.terminate());
  await peer.opened;
  // This one is warned of after the time of the others is over.
  await start(t, http.createServer(), LONG);
  await until(() => seen.length > 0);
  t.is(seen.length, 1);
});

test.serial('gateways of one server that want the same upgrades', async (t) => {
  const seen = warnings(t, 'MESSAGE_ENGIN_SAME_PATH');
  const httpServer = await listen(t, http.createServer());
  const first = await start(t, httpServer);
  await start(t, httpServer, { path: '/a' });
  await start(t, httpServer, { path: '/b' });
  await start(t, await listen(t, http.createServer()));
  await first.close();
  await start(t, httpServer);
  // Warnings are emitted on the next tick.
  await new Promise((resolve) => setImmediate(resolve));
  t.deepEqual(seen, []);

  await start(t, httpServer);
  await start(t, httpServer, { path: '/b' });
  await until(() => seen.length === 2);
  t.regex(seen[0], /another gateway without a path, which gets no more/);
  t.regex(seen[1], /another gateway with the path \/b, which gets no more/);
});

test('two copies of the package in one process', async (t) => {
  const other = fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-copy-'));
  t.teardown(() => fs.rmSync(other, { recursive: true }));
  const isAddon = (name) => name.endsWith('.node');
  for (const name of ['index.js', 'binding.js', 'lib', 'package.json']) {
    fs.cpSync(path.join(ROOT, name), path.join(other, name), {
      recursive: true,
    });
  }
  for (const name of fs.readdirSync(ROOT).filter(isAddon)) {
    fs.symlinkSync(path.join(ROOT, name), path.join(other, name));
  }
  fs.symlinkSync(
    path.join(ROOT, 'node_modules'),
    path.join(other, 'node_modules'),
  );
  const script = run(t, 'processes/copies.js', { OTHER: other });
  t.deepEqual(await script.end(), { code: 0, signal: null });
  const codes = script.told.map(({ code, threadEnded }) => threadEnded || code);
  t.deepEqual(codes, [true, 'MESSAGE_ENGIN_TWO_COPIES']);
  const { message } = script.told[1];
  for (const folder of [ROOT, fs.realpathSync(other)]) {
    t.true(message.includes(`from ${folder}`), message);
  }
});
