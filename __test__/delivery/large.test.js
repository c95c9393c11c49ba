'use strict';

// Messages of every size up to the limits pass whole, in one frame or in many.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { OP, frame } = require('../support/frames');
const { connectOld } = require('../support/peers');
const { until } = require('../support/until');
const { open } = require('../support/world');

const MIB = 1024 * 1024;

/** Text of exactly so many bytes, no two parts of it alike, and no JSON. */
function sized(bytes) {
  let text = '';
  for (let n = 0; text.length < bytes; n += 1) text += `${n},`;
  return text.slice(0, bytes);
}

const LARGE = sized(MIB - 1);

/** A world that gives everything back. */
async function echo(t, broker, ws) {
  const world = await open(t, broker, { ws });
  world.client.on('message', (message, headers, { raw, contentType }) => {
    const octets = contentType === 'application/octet-stream';
    world.client.send(octets ? raw : raw.toString(), headers);
  });
  return world;
}

forEachBroker(test, '1 MiB - 1 in fragments, with ws', async (t, broker) => {
  const world = await echo(t, broker, { binary: true });
  const peer = await world.connect('a');
  for (let start = 0; start < LARGE.length; start += 60_000) {
    const end = start + 60_000;
    peer.send(LARGE.slice(start, end), { fin: end >= LARGE.length });
  }
  t.true((await peer.received(1))[0] === LARGE);
  const bytes = Buffer.from(LARGE).reverse();
  for (let start = 0; start < bytes.length; start += 60_000) {
    const end = start + 60_000;
    peer.send(bytes.subarray(start, end), { fin: end >= bytes.length });
  }
  t.true(bytes.equals((await peer.received(2))[1]));
});

forEachBroker(
  test,
  '1 MiB - 1 in fragments, with WebSocket-Node',
  async (t, broker) => {
    const world = await echo(t, broker);
    const connection = await connectOld(`${world.url}?key=a`, {
      config: { fragmentationThreshold: 60_000 },
      headers: { to: 'a' },
    });
    t.teardown(() => connection.drop());
    connection.sendUTF(LARGE);
    connection.sendUTF('small');
    await until(() => connection.messages.length === 2);
    t.true(connection.messages[0] === LARGE);
    t.is(connection.messages[1], 'small');
  },
);

forEachBroker(
  test,
  'pings and pongs between fragments, and characters cut in two',
  async (t, broker) => {
    const world = await echo(t, broker);
    const raw = await world.rawOpen('a');
    const text = 'Grüße, 世界 👍'.repeat(20);
    const bytes = Buffer.from(text);
    for (let at = 0; at < bytes.length; at += 1) {
      const fin = at === bytes.length - 1;
      const opcode = at ? OP.more : OP.text;
      raw.socket.write(frame(opcode, bytes.subarray(at, at + 1), { fin }));
      if (at % 50 === 1) raw.socket.write(frame(OP.ping, `${at}`));
      if (at % 50 === 2) raw.socket.write(frame(OP.pong, 'unasked'));
    }
    raw.socket.write(frame(OP.text, '', { fin: false }));
    raw.socket.write(frame(OP.more, 'last', { fin: false }));
    raw.socket.write(frame(OP.more, ''));
    await until(() =>
      raw.frames.some(({ payload }) => `${payload}` === 'last'),
    );
    const got = (opcode) => raw.frames.filter((f) => f.opcode === opcode);
    t.deepEqual(
      got(OP.text).map(({ payload }) => `${payload}`),
      [text, 'last'],
    );
    const pings = Math.ceil((bytes.length - 1) / 50);
    t.deepEqual(
      got(OP.pong).map(({ payload }) => `${payload}`),
      Array.from({ length: pings }, (_, n) => `${n * 50 + 1}`),
    );
  },
);

forEachBroker(
  test,
  'sizes around the edges of the frame format',
  async (t, broker) => {
    const world = await echo(t, broker, { binary: true });
    const peer = await world.connect('a');
    const sizes = [1, 125, 126, 127, 2047, 2048, 4096, 16_384, 65_535, 65_536];
    const sent = sizes.flatMap((size) => [
      sized(size),
      Buffer.alloc(size, size % 251),
    ]);
    for (const data of sent) peer.send(data);
    const received = await peer.received(sent.length);
    for (const [index, data] of sent.entries()) {
      t.true(
        typeof data === 'string'
          ? data === received[index]
          : data.equals(received[index]),
        `message ${index}`,
      );
    }
  },
);

forEachBroker(
  test,
  'limits that are raised let larger frames and messages pass',
  async (t, broker) => {
    const world = await echo(t, broker, {
      maxReceivedFrameSize: 5 * MIB,
      maxReceivedMessageSize: 5 * MIB,
      maxBackpressure: 8 * MIB,
    });
    const peer = await world.connect('a');
    const huge = sized(5 * MIB);
    peer.send(huge);
    peer.send('after');
    const received = await peer.received(2);
    t.true(received[0] === huge);
    t.is(received[1], 'after');
  },
);

forEachBroker(
  test,
  '16 MiB, which a broker of 4.0 takes as one message',
  async (t, broker) => {
    // To the worker as it is; back as JSON, of which the quotes are a part too.
    const text = sized(16 * MIB - 2);
    const world = await echo(t, broker, {
      maxReceivedFrameSize: 16 * MIB,
      maxReceivedMessageSize: 16 * MIB,
      maxBackpressure: 32 * MIB,
    });
    const peer = await world.connect('a');
    peer.send(text);
    peer.send('after');
    const received = await peer.received(2);
    t.true(received[0] === text);
    t.is(received[1], 'after');
  },
);

forEachBroker(
  test,
  'a worker may send more than a browser may',
  async (t, broker) => {
    const world = await open(t, broker, { ws: { maxBackpressure: 8 * MIB } });
    const peer = await world.connect('a');
    const huge = sized(3 * MIB);
    t.true(world.client.send(huge, { to: 'a' }));
    t.true(world.client.send(Buffer.from(huge), { to: 'a' }));
    const received = await peer.received(2);
    t.true(received[0] === huge);
    t.true(received[1].equals(Buffer.from(huge)));
  },
);

forEachBroker(
  test,
  'a burst does not make a browser slow that reads all it gets',
  async (t, broker) => {
    const world = await open(t, broker);
    const peer = await world.connect('a');
    const texts = Array.from({ length: 200 }, (_, n) => sized(20_000) + n);
    for (const text of texts) world.client.send(text, { to: 'a' });
    await until(
      () => peer.messages.length === 200 || peer.socket.readyState > 1,
    );
    t.is(peer.socket.readyState, 1);
    t.true(peer.messages.every((text, n) => text === texts[n]));
    t.is(world.gateway.stats().overflowed, 0);
  },
);
