'use strict';

// Clients that break RFC 6455 are told so with the right code; the rest of it
// is answered as it asks.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { OP, closing, frame } = require('../support/frames');
const { until } = require('../support/until');
const { open } = require('../support/world');

const LIMITS = { maxReceivedFrameSize: 1000, maxReceivedMessageSize: 2500 };

/** Text frames that are fragments of one message, of the sizes given. */
const fragments = (...sizes) =>
  sizes.map((size, index) =>
    frame(index ? OP.more : OP.text, 'x'.repeat(size), {
      fin: index === sizes.length - 1,
    }),
  );

/** @type {Record<string, [code: number, ...frames: Buffer[]]>} */
const BREACHES = {
  'a frame without a mask': [1002, frame(OP.text, 'x', { masked: false })],
  'reserved bit 1': [1002, frame(OP.text, 'x', { rsv: 4 })],
  'reserved bit 2': [1002, frame(OP.text, 'x', { rsv: 2 })],
  'reserved bit 3': [1002, frame(OP.ping, 'x', { rsv: 1 })],
  'a data opcode that is none': [1002, frame(3, 'x')],
  'a control opcode that is none': [1002, frame(11, 'x')],
  'a fragmented ping': [1002, frame(OP.ping, 'x', { fin: false })],
  'a long ping': [1002, frame(OP.ping, 'x'.repeat(126))],
  'a fragment of nothing': [1002, frame(OP.more, 'x')],
  'a message within another': [
    1002,
    frame(OP.text, 'x', { fin: false }),
    frame(OP.text, 'y'),
  ],
  'a close frame of one byte': [1002, frame(OP.close, 'x')],
  'a close code that must not be sent': [1002, frame(OP.close, closing(1005))],
  'a close code below all': [1002, frame(OP.close, closing(999))],
  'a close reason that is no UTF-8': [
    1007,
    frame(OP.close, closing(1000, Buffer.of(0xff))),
  ],
  'text that is no UTF-8': [1007, frame(OP.text, Buffer.of(0x61, 0xff))],
  'a surrogate in text': [1007, frame(OP.text, Buffer.of(0xed, 0xa0, 0x80))],
  'text that ends within a character': [1007, frame(OP.text, Buffer.of(0xc3))],
  'fragments that are no UTF-8 together': [
    1007,
    frame(OP.text, Buffer.of(0xc3), { fin: false }),
    frame(OP.more, Buffer.of(0x28)),
  ],
  'a frame that is too big': [1009, frame(OP.text, 'x'.repeat(1001))],
  'a binary frame that is too big': [
    1009,
    frame(OP.binary, Buffer.alloc(1001)),
  ],
  'a frame that says it will be too big': [
    1009,
    frame(OP.text, 'x', { length: 2 ** 31 }),
  ],
  'a message that is too big': [1009, ...fragments(1000, 1000, 501)],
};

forEachBroker(test, 'breaches of the protocol', async (t, broker) => {
  const world = await open(t, broker, { ws: LIMITS });
  const wanted = [];
  for (const [name, [code, ...frames]] of Object.entries(BREACHES)) {
    const key = encodeURIComponent(name);
    const raw = await world.rawOpen(key);
    raw.socket.write(frame(OP.text, name));
    for (const bytes of frames) raw.socket.write(bytes);
    raw.socket.write(frame(OP.text, 'not read any more'));
    const close = await raw.closeFrame();
    t.is(close.code, code, name);
    await until(() => raw.ended);
    t.is(raw.frames.length, 1, name);
    t.is(raw.error, undefined, name);
    raw.socket.end();
    await raw.closed;
    wanted.push([1, name]);
    wanted.push([0, name, code]);
    const told = await world.told(wanted.length);
    t.deepEqual(told.at(-1).slice(0, 3), wanted.at(-1));
    t.true(told.at(-1)[3].length > 0, name);
  }
  t.deepEqual(await world.heard(1), Object.keys(BREACHES));
  t.is(world.gateway.size, 0);
});

forEachBroker(test, 'what is just within the limits', async (t, broker) => {
  const world = await open(t, broker, { ws: LIMITS });
  const raw = await world.rawOpen('a');
  const at = [frame(OP.text, 'x'.repeat(1000)), ...fragments(1000, 1000, 500)];
  for (const bytes of at) raw.socket.write(bytes);
  raw.socket.write(frame(OP.close, closing(1000)));
  t.is((await raw.closeFrame()).code, 1000);
  t.deepEqual(await world.heard(2), ['x'.repeat(1000), 'x'.repeat(2500)]);
});

forEachBroker(test, 'the limits without settings', async (t, broker) => {
  const world = await open(t, broker);
  const within = await world.rawOpen('within');
  for (const bytes of [
    frame(OP.text, 'x'.repeat(65_536)),
    ...fragments(...Array(16).fill(65_536)),
  ]) {
    within.socket.write(bytes);
  }
  const heard = await world.heard(2);
  t.deepEqual(
    heard.map(({ length }) => length),
    [65_536, 1_048_576],
  );
  const frames = await world.rawOpen('frame');
  frames.socket.write(frame(OP.text, 'x'.repeat(65_537)));
  t.is((await frames.closeFrame()).code, 1009);
  const messages = await world.rawOpen('message');
  for (const bytes of fragments(...Array(16).fill(65_536), 1)) {
    messages.socket.write(bytes);
  }
  t.is((await messages.closeFrame()).code, 1009);
  t.is(world.gateway.size, 1);
});

forEachBroker(test, 'pings are answered', async (t, broker) => {
  const world = await open(t, broker);
  const raw = await world.rawOpen('a');
  const payloads = ['', 'one', 'x'.repeat(125), '\u0000\u00ff'];
  for (const [index, payload] of payloads.entries()) {
    raw.socket.write(frame(OP.ping, payload));
    // One at a time: of several that wait, only the last must be answered.
    await until(() => raw.frames.length > index);
  }
  t.deepEqual(
    raw.frames.map(({ opcode, payload }) => [opcode, payload.toString()]),
    payloads.map((payload) => [OP.pong, payload]),
  );
  t.true(raw.frames.every(({ fin, rsv, masked }) => fin && !rsv && !masked));
  t.deepEqual(world.messages, []);
});

forEachBroker(test, 'close frames are answered', async (t, broker) => {
  const world = await open(t, broker);
  const wanted = [];
  for (const [payload, code, description] of [
    [closing(1000), 1000, 'Normal connection closure'],
    [closing(1001, 'bye'), 1001, 'bye'],
    [closing(3000), 3000, ''],
    [closing(4999, 'ü'), 4999, 'ü'],
    ['', 1005, 'Reason not provided'],
  ]) {
    const key = `k${code}`;
    const raw = await world.rawOpen(key);
    raw.socket.write(frame(OP.close, payload));
    // RFC 6455, section 5.5.1: nothing counts that comes behind it.
    raw.socket.write(frame(OP.text, 'too late'));
    const answer = await raw.closeFrame();
    if (code === 1005) t.true([undefined, 1000].includes(answer.code));
    else t.is(answer.code, code);
    await until(() => raw.ended);
    raw.socket.end();
    await raw.closed;
    t.is(raw.frames.length, 1);
    wanted.push([1, key]);
    wanted.push([0, key, code, description]);
    t.deepEqual(await world.told(wanted.length), wanted);
  }
  t.deepEqual(world.messages, []);
});

forEachBroker(
  test,
  'who does not answer our close is let go after closeTimeout',
  async (t, broker) => {
    const world = await open(t, broker, { ws: { closeTimeout: 150 } });
    const raw = await world.rawOpen('a');
    await world.connect('a');
    t.is((await raw.closeFrame()).code, 4001);
    await until(() => raw.ended);
    t.is(raw.error, undefined);
    t.is(world.gateway.size, 1);
  },
);
