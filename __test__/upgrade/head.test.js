'use strict';

// No byte that a client sends before it has its answer is lost, however the
// network cuts the stream.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { OP, frame } = require('../support/frames');
const { upgradeRequest } = require('../support/raw');
const { heldKey, until } = require('../support/until');
const { open } = require('../support/world');

const REQUEST = Buffer.from(upgradeRequest('/?key=early', { to: 'early' }));

/** @param {number} count @param {number} size */
const texts = (count, size) =>
  Array.from({ length: count }, (_, n) => `${n}:`.padEnd(size, 'ü-'));

/** @param {string[]} messages */
const framed = (messages) =>
  Buffer.concat(messages.map((text) => frame(OP.text, text)));

/** Cuts of `bytes`, each a write of its own. */
function cut(bytes, ...places) {
  const edges = [0, ...places, bytes.length];
  return edges.slice(1).map((end, index) => bytes.subarray(edges[index], end));
}

/** One byte at a time from `start` to `end`. */
function crumbs(bytes, start, end) {
  const places = Array.from({ length: end - start }, (_, n) => start + n);
  return cut(bytes, ...places);
}

const FEW = texts(5, 40);
const MANY = texts(28, 1000);

/** @type {Record<string, [messages: string[], cuts: (all: Buffer) => Buffer[]]>} */
const PATTERNS = {
  'one packet': [FEW, (all) => [all]],
  '28 KB in one packet': [MANY, (all) => [all]],
  'the request first': [MANY, (all) => cut(all, REQUEST.length)],
  'half of a frame head with the request': [
    FEW,
    (all) => cut(all, REQUEST.length + 1, REQUEST.length + 3),
  ],
  'within a frame': [FEW, (all) => cut(all, REQUEST.length + 20)],
  'within the end of the request': [
    FEW,
    (all) => cut(all, REQUEST.length - 3, REQUEST.length - 1),
  ],
  'one byte at a time across the boundary': [
    FEW,
    (all) => crumbs(all, REQUEST.length - 12, REQUEST.length + 60),
  ],
  'small pieces of 28 KB': [
    MANY,
    (all) =>
      cut(all, ...Array.from({ length: 40 }, (_, n) => REQUEST.length + n * 7)),
  ],
};

for (const [name, [messages, cuts]] of Object.entries(PATTERNS)) {
  forEachBroker(test, `sent while keyFn runs: ${name}`, async (t, broker) => {
    const { asked, held, keyFn } = heldKey();
    const world = await open(t, broker, {
      ws: {
        keyFn,
      },
    });
    const raw = await world.raw();
    for (const piece of cuts(Buffer.concat([REQUEST, framed(messages)]))) {
      await raw.write(piece);
      // The next piece is another packet only if this one is on its way.
      await new Promise((resolve) => setImmediate(resolve));
    }
    await asked.promise;
    t.is(raw.head, null);
    held.open('early');
    t.is((await raw.response()).status, 101);
    raw.write(frame(OP.text, 'late'));
    t.deepEqual(await world.heard(messages.length + 1), [...messages, 'late']);
    world.client.send('answer', { to: 'early' });
    await until(() => raw.frames.length > 0);
    t.is(raw.frames[0].payload.toString(), 'answer');
    t.deepEqual(await world.told(1), [[1, 'early']]);
  });
}

forEachBroker(
  test,
  'many clients that send early and are answered at once',
  async (t, broker) => {
    const world = await open(t, broker);
    const peers = await Promise.all(
      Array.from({ length: 60 }, () => world.raw()),
    );
    for (const [index, raw] of peers.entries()) {
      const request = upgradeRequest(`/?key=${index}`, { to: `${index}` });
      const all = Buffer.concat([
        Buffer.from(request),
        framed(MANY.map((text) => `${index}/${text}`)),
      ]);
      const pieces = [
        [all],
        cut(all, request.length),
        crumbs(all, request.length - 5, request.length + 5),
      ][index % 3];
      for (const piece of pieces) raw.socket.write(piece);
    }
    const heard = await world.heard(peers.length * MANY.length);
    for (const index of peers.keys()) {
      t.deepEqual(
        heard.filter((text) => text.startsWith(`${index}/`)),
        MANY.map((text) => `${index}/${text}`),
      );
    }
  },
);

forEachBroker(
  test,
  'what came early counts even from one who has left since',
  async (t, broker) => {
    const { asked, held, keyFn } = heldKey();
    const world = await open(t, broker, {
      ws: {
        keyFn,
      },
    });
    const raw = await world.raw();
    const bye = frame(OP.close, Buffer.of(3, 232));
    await raw.write(Buffer.concat([REQUEST, framed(FEW), bye]));
    raw.socket.end();
    await asked.promise;
    held.open('early');
    t.deepEqual(await world.heard(FEW.length), FEW);
    t.deepEqual(await world.told(2), [
      [1, 'early'],
      [0, 'early', 1000, 'Normal connection closure'],
    ]);
  },
);
