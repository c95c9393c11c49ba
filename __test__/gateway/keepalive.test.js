'use strict';

// Silence is answered by a ping, and silence after that by letting go; whoever
// reads too slowly is let go as well, and neighbours do not notice.

const { setTimeout: delay } = require('node:timers/promises');
const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { OP, frame } = require('../support/frames');
const { until } = require('../support/until');
const { everyWay } = require('../support/ways');
const { open } = require('../support/world');

// One after the other: times are short here, and a flood would hold up the
// answers of the other tests.
const inTurn = (title, run) => forEachBroker(test.serial, title, run);

const pings = (raw) => raw.frames.filter(({ opcode }) => opcode === OP.ping);

inTurn('a silent peer is pinged and dropped', async (t, broker) => {
  const world = await open(t, broker, {
    ws: { keepaliveInterval: 120, keepaliveGracePeriod: 180 },
  });
  const start = performance.now();
  const raw = await world.rawOpen('a');
  await until(() => pings(raw).length > 0);
  const pinged = performance.now() - start;
  t.true(pinged >= 110, `pinged after ${pinged} ms`);
  await world.told(2);
  const dropped = performance.now() - start;
  t.true(dropped >= 290, `dropped after ${dropped} ms`);
  t.deepEqual(await world.told(2), [
    [1, 'a'],
    [0, 'a', 1006, 'Peer not responding.'],
  ]);
  await raw.closed;
  t.is(pings(raw).length, 1);
  t.is(world.gateway.size, 0);
});

inTurn('a peer that answers pings stays', async (t, broker) => {
  const world = await open(t, broker, {
    ws: { keepaliveInterval: 60, keepaliveGracePeriod: 20_000 },
  });
  const raw = await world.rawOpen('a');
  for (let count = 1; count <= 6; count += 1) {
    await until(() => pings(raw).length >= count);
    t.is(pings(raw).length, count);
    raw.socket.write(frame(OP.pong, pings(raw)[count - 1].payload));
  }
  raw.socket.write(frame(OP.text, 'still here'));
  t.deepEqual(await world.heard(1), ['still here']);
  t.deepEqual(await world.told(1), [[1, 'a']]);
});

inTurn('any data counts as an answer', async (t, broker) => {
  const world = await open(t, broker, {
    ws: { keepaliveInterval: 100, keepaliveGracePeriod: 20_000 },
  });
  const raw = await world.rawOpen('a');
  for (let count = 1; count <= 3; count += 1) {
    await until(() => pings(raw).length >= count);
    raw.socket.write(frame(OP.text, `${count}`));
  }
  t.deepEqual(await world.heard(3), [1, 2, 3]);
  t.is(world.gateway.size, 1);
});

inTurn('a peer that talks is not pinged', async (t, broker) => {
  const world = await open(t, broker, {
    ws: { keepaliveInterval: 3000, keepaliveGracePeriod: 1 },
  });
  world.client.on('message', (message, headers) => {
    world.client.send(message, headers);
  });
  const raw = await world.rawOpen('a');
  const end = performance.now() + 4000;
  let count = 0;
  while (performance.now() < end) {
    count += 1;
    raw.socket.write(frame(OP.text, 'x'));
    await until(() => raw.frames.length >= count);
  }
  t.is(pings(raw).length, 0);
  t.is(world.gateway.size, 1);
});

inTurn('without keepalive nobody is pinged', async (t, broker) => {
  const short = { keepaliveInterval: 20, keepaliveGracePeriod: 20 };
  const none = await open(t, broker, { ws: { keepalive: false, ...short } });
  const native = await open(t, broker, {
    ws: { useNativeKeepalive: true, ...short },
  });
  const kept = await open(t, broker, {
    ws: { dropConnectionOnKeepaliveTimeout: false, ...short },
  });
  const raws = [];
  for (const world of [none, native, kept]) raws.push(await world.rawOpen('a'));
  await until(() => pings(raws[2]).length >= 4);
  t.deepEqual(
    raws.map((raw) => pings(raw).length > 0),
    [false, false, true],
  );
  for (const world of [none, native, kept]) t.is(world.gateway.size, 1);
});

const MIB = 1024 * 1024;

/** What a slow peer reads in a second. */
const SPEED = 4 * MIB;

/**
 * A peer that is sent a large message, reads as much of it as it is told to, and
 * answers no ping. Not beside other tests: encoding such a message keeps this
 * process from reading.
 */
async function slowly(t, way, { size, reads }) {
  const world = await way.open({
    keepaliveInterval: 2000,
    keepaliveGracePeriod: 2000,
    maxBackpressure: 2 * size,
  });
  const raw = await way.rawOpen('slow');
  raw.socket.pause();
  let count = 0;
  raw.socket.on('data', ({ length }) => (count += length));
  // A Buffer takes the least work; nobody reads or answers meanwhile.
  world.client.send(Buffer.alloc(size), { to: 'slow' });
  const began = performance.now();
  await until(async () => {
    const due = ((performance.now() - began) / 1000) * SPEED;
    while (count < Math.min(due, reads) && raw.socket.read() !== null);
    await delay(10);
    return count >= reads || raw.socket.destroyed;
  });
  return { world, raw };
}

everyWay(
  test.serial,
  'a peer that reads all the time stays, though it cannot answer yet',
  async (t, way) => {
    // The peer reads for far longer than it may be silent, and the buffers of
    // both ends hold only a part of it.
    const size = 20 * MIB;
    const { world, raw } = await slowly(t, way, { size, reads: size });
    raw.socket.resume();
    await until(() => raw.messages.length === 1);
    t.is(raw.messages[0].length, size);
    t.is(world.statuses.length, 1);
    t.deepEqual(await world.told(2), [
      [1, 'slow'],
      [0, 'slow', 1006, 'Peer not responding.'],
    ]);
  },
);

everyWay(
  test.serial,
  'a peer that stops reading in the middle of a message is dropped',
  async (t, way) => {
    const { world, raw } = await slowly(t, way, {
      size: 12 * MIB,
      reads: MIB,
    });
    t.deepEqual(await world.told(2), [
      [1, 'slow'],
      [0, 'slow', 1006, 'Peer not responding.'],
    ]);
    t.is(raw.messages.length, 0);
  },
);

/** Sends to 'slow', who does not read, until it is closed. */
async function flood(t, world) {
  const neighbour = await world.connect('neighbour');
  let count = 0;
  const text = 'x'.repeat(20_000);
  await until(async () => {
    for (let n = 0; n < 8; n += 1) {
      world.client.send(text, { to: 'slow' });
    }
    count += 1;
    world.client.send(`${count}`, { to: 'neighbour' });
    await neighbour.received(count);
    return world.statuses.some(({ status }) => status === 0);
  });
  t.deepEqual(
    neighbour.messages,
    Array.from({ length: count }, (_, n) => `${n + 1}`),
  );
  const told = world.statuses.map(({ key, status, reasonCode }) => [
    key,
    status,
    reasonCode,
  ]);
  t.deepEqual(told, [
    ['slow', 1, undefined],
    ['neighbour', 1, undefined],
    ['slow', 0, 1013],
  ]);
  t.true(world.gateway.stats().overflowed > 0);
  t.is(world.gateway.size, 1);
  neighbour.send('fine');
  t.deepEqual(await world.heard(1), ['fine']);
}

for (const keepalive of [true, false]) {
  forEachBroker(
    test,
    `who does not read is closed, keepalive ${keepalive}`,
    async (t, broker) => {
      const world = await open(t, broker, {
        ws: { keepalive, maxBackpressure: 300_000, closeTimeout: 300 },
      });
      const raw = await world.rawOpen('slow');
      raw.socket.pause();
      await flood(t, world);
      raw.socket.resume();
      await raw.closed;
    },
  );
}

inTurn(
  'who reads late gets everything, in order, within maxBackpressure',
  async (t, broker) => {
    const world = await open(t, broker, {
      ws: { maxBackpressure: 32 * 1024 * 1024 },
    });
    const raw = await world.rawOpen('late');
    const neighbour = await world.connect('neighbour');
    raw.socket.pause();
    const pad = 'x'.repeat(19_990);
    for (let n = 0; n < 600; n += 1) {
      world.client.send(`${n}`.padEnd(10, ' ') + pad, { to: 'late' });
    }
    world.client.send('mine', { to: 'neighbour' });
    t.deepEqual(await neighbour.received(1), ['mine']);
    raw.socket.resume();
    await until(() => raw.messages.length === 600);
    t.true(raw.messages.every((payload, n) => parseInt(payload, 10) === n));
    t.true(raw.messages.every(({ length }) => length === 20_000));
    t.is(world.gateway.stats().overflowed, 0);
  },
);
