'use strict';

// In worker threads, under cluster, at the end of the process and when a
// listener throws, the package behaves as Node's own servers do.

const test = require('ava');
const { embedded, forEachBroker, rabbitmq } = require('../support/brokers');
const { run } = require('../support/children');
const { Peer } = require('../support/peers');
const { until } = require('../support/until');
const { worker } = require('../support/world');

const CLEAN = { code: 0, signal: null };

const start = (t, name, conf, env) =>
  run(t, `processes/${name}.js`, { MQ_CONF: JSON.stringify(conf), ...env });

forEachBroker(
  test,
  'threads start, talk, close and exit',
  async (t, broker) => {
    const script = start(t, 'threads', broker.settings());
    const end = await script.end();
    t.is(script.stderr, '');
    t.is(script.stdout, 'first 0,0\nsecond 0,0\n');
    t.deepEqual(end, CLEAN);
  },
);

forEachBroker(test, 'gateway and client in two threads', async (t, broker) => {
  const script = start(t, 'thread-pair', broker.settings());
  const end = await script.end();
  t.is(script.stderr, '');
  t.is(script.stdout, 'exits 0,0\n');
  t.deepEqual(end, CLEAN);
});

forEachBroker(
  test,
  'a terminated thread lets its browsers go',
  async (t, broker) => {
    const env = { WITH_CLIENT: 'yes' };
    const script = start(t, 'thread-terminated', broker.settings(), env);
    t.deepEqual(await script.tells('codes'), [1001, 1001, 1001]);
    t.is(script.ended, null);
    script.child.send('end');
    t.deepEqual(await script.end(), CLEAN);
    t.is(script.stderr, '');
  },
);

test('a terminated thread takes leave of the broker', async (t) => {
  const conf = rabbitmq.settings();
  const { client, statuses } = await worker(t, conf);
  client.on('message', (message, { to }) => client.send(message, { to }));
  const script = start(t, 'thread-terminated', conf);
  await script.tells('codes');
  await until(() => statuses.length === 6);
  const gone = statuses.filter(({ status }) => status === 0);
  t.deepEqual(gone.map(({ key }) => key).sort(), ['a', 'b', 'c']);
  t.true(gone.every(({ reasonCode }) => reasonCode === 1001));
  script.child.send('end');
  t.deepEqual(await script.end(), CLEAN);
});

test('the addon is loaded twice in one thread', async (t) => {
  const script = start(t, 'loaded-twice', embedded.settings());
  await script.prints(/^closed$/m);
  t.deepEqual(await script.end(), CLEAN);
  t.is(script.stderr, '');
});

test('two processes of a cluster on one port', async (t) => {
  const conf = rabbitmq.settings();
  const { client, messages, statuses } = await worker(t, conf);
  client.on('message', (message, { to }) => client.send(message, { to }));
  const script = start(t, 'cluster', conf);
  const [port, same] = await script.tells('ports');
  t.is(port, same);
  const peers = [];
  for (const key of ['a', 'b', 'c', 'd']) {
    const headers = { to: key };
    const url = `ws://127.0.0.1:${port}/?key=${key}`;
    const peer = new Peer(url, { headers });
    // The primary hands connections out in turn when they come one by one.
    await peer.opened;
    peers.push({ key, peer });
  }
  for (let n = 0; n < 100; n += 1) {
    for (const { key, peer } of peers) peer.sendJson(`${key}${n}`);
  }
  for (const { key, peer } of peers) {
    const heard = await peer.received(100);
    t.true(heard.every((text, n) => text === `${key}${n}`));
  }
  t.is(messages.length, 400);

  script.child.send('end');
  const stats = await script.tells('stats');
  for (const { accepted, received, sent } of stats) {
    t.true(accepted > 0);
    t.deepEqual([received, sent], [accepted * 100, accepted * 100]);
  }
  t.is(stats[0].accepted + stats[1].accepted, peers.length);
  for (const { peer } of peers) t.like(await peer.closed, { code: 1001 });
  await until(() => statuses.length === 8);
  const exits = await script.tells('exits');
  t.deepEqual(exits, [
    [0, null],
    [0, null],
  ]);
  t.deepEqual(await script.end(), CLEAN);
  t.is(script.stdout + script.stderr, '');
});

forEachBroker(test, 'process.exit() amid traffic', async (t, broker) => {
  for (let round = 0; round < 3; round += 1) {
    const script = start(t, 'exits', broker.settings());
    t.deepEqual(await script.end(), { code: 7, signal: null });
    t.is(script.stdout + script.stderr, '');
  }
});

test('a process that closes its gateway on SIGTERM ends by itself', async (t) => {
  const conf = rabbitmq.settings();
  const { statuses } = await worker(t, conf);
  const script = start(t, 'sigterm', conf);
  const [, port] = await script.prints(/^port (\d+)$/m);
  const peer = new Peer(`ws://127.0.0.1:${port}/?key=k`);
  await peer.opened;
  await until(() => statuses.length);
  script.child.kill('SIGTERM');
  t.like(await peer.closed, { code: 1001 });
  t.deepEqual(await script.end(), CLEAN);
  t.regex(script.stdout, /^closed$/m);
  t.is(script.stderr, '');
  await until(() => statuses.length === 2);
  t.like(statuses[1], { status: 0, key: 'k', reasonCode: 1001 });
});

test('what a listener throws ends a process that does not catch it', async (t) => {
  const script = start(t, 'throws', embedded.settings());
  t.deepEqual(await script.end(), { code: 1, signal: null });
  t.regex(script.stderr, /Error: a listener of statuses\n {4}at /);
});

test('what a listener throws costs one that catches it no message', async (t) => {
  const env = { SURVIVE: 'yes' };
  const script = start(t, 'throws', embedded.settings(), env);
  t.deepEqual(await script.end(), CLEAN);
  t.regex(script.stdout, /^caught a listener of statuses$/m);
  t.regex(script.stdout, /^caught a listener of messages$/m);
  t.regex(script.stdout, /^heard 0 1 2 3 4 5 6 7 8 9$/m);
  t.is(script.stderr, '');
});
