'use strict';

// Long messages go out as fragments, between which there is room for what must
// not wait.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { OP, frame } = require('../support/frames');
const { until } = require('../support/until');
const { open } = require('../support/world');

const MIB = 1024 * 1024;

/** What a message of so many bytes goes out as: opcode, size, last or not. */
async function shapes(world, raw, bytes) {
  const count = raw.messages.length;
  const text = 'x'.repeat(bytes - 1) + '.';
  world.client.send(text, { to: 'a' });
  await until(() => raw.messages.length > count);
  return {
    same: raw.messages.at(-1).toString() === text,
    frames: raw.frames
      .splice(0)
      .map(({ opcode, payload, fin }) => [opcode, payload.length, fin]),
  };
}

for (const [name, ws, expected] of /** @type {const} */ ([
  [
    'without settings',
    {},
    {
      16_384: [[OP.text, 16_384, true]],
      16_385: [
        [OP.text, 16_384, false],
        [OP.more, 1, true],
      ],
      40_000: [
        [OP.text, 16_384, false],
        [OP.more, 16_384, false],
        [OP.more, 7232, true],
      ],
    },
  ],
  [
    'with a threshold of 100 bytes',
    { fragmentationThreshold: 100 },
    {
      100: [[OP.text, 100, true]],
      200: [
        [OP.text, 100, false],
        [OP.more, 100, true],
      ],
    },
  ],
  [
    'with fragmentOutgoingMessages: false',
    { fragmentOutgoingMessages: false, fragmentationThreshold: 100 },
    { 100_000: [[OP.text, 100_000, true]] },
  ],
  [
    'with a threshold of Infinity',
    { fragmentationThreshold: Infinity },
    { 100_000: [[OP.text, 100_000, true]] },
  ],
])) {
  forEachBroker(test, `fragments ${name}`, async (t, broker) => {
    const world = await open(t, broker, { ws });
    const raw = await world.rawOpen('a');
    for (const [bytes, frames] of Object.entries(expected)) {
      t.deepEqual(await shapes(world, raw, Number(bytes)), {
        same: true,
        frames,
      });
    }
  });
}

forEachBroker(
  test,
  'what comes has no limit where that is Infinity',
  async (t, broker) => {
    const ws = {
      maxReceivedFrameSize: Infinity,
      maxReceivedMessageSize: Infinity,
    };
    const world = await open(t, broker, { ws });
    const raw = await world.rawOpen('a');
    const text = 'x'.repeat(3 * MIB);
    raw.socket.write(frame(OP.text, text));
    t.true((await world.heard(1))[0] === text);
  },
);

forEachBroker(
  test,
  'one message in fragments to many connections',
  async (t, broker) => {
    const KEYS = ['a', 'b', 'c'];
    const world = await open(t, broker, { ws: { messageKeyFn: () => KEYS } });
    const peers = [];
    for (const key of KEYS) peers.push(await world.connect(key));
    const sent = [];
    for (let n = 0; n < 20; n += 1) {
      sent.push(`${n} `.repeat(n * 3000));
      world.client.send(sent.at(-1));
    }
    for (const peer of peers) {
      const received = await peer.received(sent.length);
      t.true(received.every((text, n) => text === sent[n]));
    }
  },
);

forEachBroker(
  test,
  'a pong does not wait for the end of a long message',
  async (t, broker) => {
    const world = await open(t, broker, {
      mq: { bufferSize: 64 * MIB },
      ws: { maxBackpressure: 64 * MIB },
    });
    const raw = await world.rawOpen('a');
    const neighbour = await world.connect('b');
    raw.socket.pause();
    // More than the kernel holds for one connection, and what RabbitMQ 4 takes.
    const long = Buffer.alloc(15 * MIB);
    world.client.send(long, { to: 'a' });
    world.client.send('sent', { to: 'b' });
    await neighbour.received(1);
    raw.socket.write(frame(OP.ping, 'still there?'));
    neighbour.send('"asked"');
    t.deepEqual(await world.heard(1), ['asked']);
    raw.socket.resume();
    await until(() => raw.messages.length === 1);
    const at = raw.frames.findIndex(({ opcode }) => opcode === OP.pong);
    t.true(at > 0 && at < raw.frames.length - 1, `${at}`);
    t.is(raw.frames[at].payload.toString(), 'still there?');
    t.true(raw.messages[0].equals(long));
  },
);
