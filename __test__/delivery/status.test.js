'use strict';

// Workers are told who comes and who goes, why, and with which headers.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { OP, closing, frame } = require('../support/frames');
const { connectOld } = require('../support/peers');
const { until } = require('../support/until');
const { open } = require('../support/world');

/** How a browser leaves, and what status 0 says of it. */
const ENDS = [
  [(peer) => peer.close(1000), 1000, 'Normal connection closure'],
  [(peer) => peer.close(1001), 1001, 'Remote peer is going away'],
  [(peer) => peer.close(), 1005, 'Reason not provided'],
  [(peer) => peer.close(1000, 'tschüß 👋'), 1000, 'tschüß 👋'],
  [(peer) => peer.close(4000, 'a "reason"'), 4000, 'a "reason"'],
  [(peer) => peer.close(3999), 3999, ''],
  [(peer) => peer.close(1011), 1011, 'Internal Server Error'],
  [(peer) => peer.terminate(), 1006, 'Connection dropped by remote peer.'],
];

forEachBroker(test, 'how a connection ends', async (t, broker) => {
  const world = await open(t, broker);
  const wanted = [];
  for (const [index, [leave, code, description]] of ENDS.entries()) {
    const key = `k${index}`;
    const peer = await world.connect(key);
    wanted.push([1, key]);
    t.deepEqual(await world.told(wanted.length), wanted);
    await leave(peer);
    wanted.push([0, key, code, description]);
    t.deepEqual(await world.told(wanted.length), wanted);
    t.is(world.gateway.size, 0);
  }
  const [up, down] = world.statuses;
  t.deepEqual(JSON.parse(up.info.raw), { status: 1, key: 'k0' });
  t.deepEqual(JSON.parse(down.info.raw), {
    status: 0,
    key: 'k0',
    reasonCode: 1000,
    description: 'Normal connection closure',
  });
});

forEachBroker(test, 'a reset and a bare FIN are 1006', async (t, broker) => {
  const world = await open(t, broker);
  const wanted = [];
  for (const [key, leave] of [
    ['rst', (raw) => raw.reset()],
    ['fin', (raw) => raw.leave()],
    ['half', (raw) => raw.socket.end()],
    [
      'mid',
      async (raw) =>
        raw
          .write(frame(OP.text, 'x'.repeat(99)).subarray(0, 50))
          .then(() => raw.leave()),
    ],
  ]) {
    const raw = await world.rawOpen(key);
    await leave(raw);
    wanted.push([1, key]);
    wanted.push([0, key, 1006, 'Connection dropped by remote peer.']);
    t.deepEqual(await world.told(wanted.length), wanted);
    await raw.closed;
  }
  t.deepEqual(world.messages, []);
});

forEachBroker(test, 'closes of WebSocket-Node', async (t, broker) => {
  const world = await open(t, broker);
  const wanted = [];
  for (const [key, leave, code, description] of [
    ['close', (c) => c.close(), 1000, 'Normal connection closure'],
    ['drop', (c) => c.drop(1008, 'no'), 1008, 'no'],
    ['reason', (c) => c.close(4001, 'mine'), 4001, 'mine'],
  ]) {
    const connection = await connectOld(`${world.url}?key=${key}`);
    leave(connection);
    wanted.push([1, key]);
    wanted.push([0, key, code, description]);
    t.deepEqual((await world.told(wanted.length)).slice(-2), wanted.slice(-2));
    t.false(connection.connected);
  }
});

forEachBroker(test, 'both statuses carry the headers', async (t, broker) => {
  const world = await open(t, broker);
  const peer = await world.connect('a', {
    headers: { appId: 'x1', Cookie: 'sid=1' },
  });
  await peer.close(1000);
  await world.told(2);
  const [up, down] = world.statuses;
  t.is(up.headers.appid, 'x1');
  t.is(up.headers.cookie, 'sid=1');
  t.is(up.headers['sec-websocket-version'], '13');
  t.deepEqual(down.headers, up.headers);
  t.is(up.info.contentType, 'application/json');
});

forEachBroker(
  test,
  'what was said just before leaving arrives',
  async (t, broker) => {
    const world = await open(t, broker);
    const peer = await world.connect('a');
    for (let n = 0; n < 500; n += 1) peer.send(`${n}`);
    await peer.close(1000);
    await world.told(2);
    t.is((await world.heard(500)).length, 500);
  },
);

forEachBroker(
  test,
  'the newest connection of a key wins, and the old one has no status 0',
  async (t, broker) => {
    const world = await open(t, broker);
    const first = await world.connect('a');
    const second = await world.connect('a');
    t.deepEqual(await first.closed, {
      code: 4001,
      reason: 'Replaced by a newer connection',
    });
    t.is(world.gateway.size, 1);
    world.client.send('hello', { to: 'a' });
    t.deepEqual(await second.received(1), ['hello']);
    t.deepEqual(first.messages, []);
    second.send('and back');
    t.deepEqual(await world.heard(1), ['and back']);
    await second.close(1000);
    t.deepEqual(await world.told(3), [
      [1, 'a'],
      [1, 'a'],
      [0, 'a', 1000, 'Normal connection closure'],
    ]);
    t.is(world.gateway.size, 0);
  },
);

forEachBroker(
  test,
  'an old connection that does not answer changes nothing',
  async (t, broker) => {
    const world = await open(t, broker, { ws: { closeTimeout: 200 } });
    const old = await world.rawOpen('a');
    old.socket.pause();
    const peer = await world.connect('a');
    world.client.send('hello', { to: 'a' });
    t.deepEqual(await peer.received(1), ['hello']);
    old.socket.resume();
    t.is((await old.closeFrame()).code, 4001);
    await until(() => old.ended);
    // The old one may still speak until it has answered, and says good-bye.
    old.socket.write(frame(OP.close, Buffer.of(3, 232)));
    old.socket.end();
    await old.closed;
    await peer.close(1000);
    t.deepEqual(await world.told(3), [
      [1, 'a'],
      [1, 'a'],
      [0, 'a', 1000, 'Normal connection closure'],
    ]);
  },
);

forEachBroker(
  test,
  'many connections of one key at once leave one, and pairs of statuses',
  async (t, broker) => {
    const world = await open(t, broker);
    const peers = Array.from({ length: 30 }, () => world.knock('a'));
    await Promise.all(peers.map((peer) => peer.opened));
    await until(
      () => peers.filter((p) => p.socket.readyState === 1).length === 1,
    );
    t.is(world.gateway.size, 1);
    const [last] = peers.filter((p) => p.socket.readyState === 1);
    world.client.send('hello', { to: 'a' });
    t.deepEqual(await last.received(1), ['hello']);
    await last.close(1000);
    const told = await world.told(31);
    t.deepEqual(told.slice(0, 30), Array(30).fill([1, 'a']));
    t.is(told[30][0], 0);
    await world.connect('b');
    t.deepEqual((await world.told(32))[31], [1, 'b']);
  },
);

forEachBroker(
  test,
  '5 and "5" are one key, told as keyFn gave it',
  async (t, broker) => {
    const world = await open(t, broker, {
      ws: {
        keyFn: ({ resourceURL }) => JSON.parse(resourceURL.query.key),
        messageKeyFn: (message) => message.to,
      },
    });
    const first = await world.connect('5');
    world.client.send({ to: '5' });
    t.deepEqual(await first.received(1), ['{"to":"5"}']);
    const second = await world.connect('"5"');
    t.is((await first.closed).code, 4001);
    world.client.send({ to: 5 });
    t.deepEqual(await second.received(1), ['{"to":5}']);
    t.deepEqual(await world.told(2), [
      [1, 5],
      [1, '5'],
    ]);
    t.is(world.gateway.size, 1);
  },
);

forEachBroker(
  test,
  'a close right behind a message is answered and told at once',
  async (t, broker) => {
    const ROUNDS = 10;
    const world = await open(t, broker);
    const took = [];
    for (let count = 1; count <= ROUNDS; count += 1) {
      const raw = await world.rawOpen(`k${count}`);
      const began = performance.now();
      raw.socket.write(
        Buffer.concat([
          frame(OP.text, `last ${count}`),
          frame(OP.close, closing(1000)),
        ]),
      );
      await raw.closeFrame();
      await world.told(2 * count);
      took.push(performance.now() - began);
    }
    // The fastest, since the machine may be busy.
    t.true(Math.min(...took) < 200, `${took}`);
    t.is((await world.heard(ROUNDS)).at(-1), `last ${ROUNDS}`);
  },
);
