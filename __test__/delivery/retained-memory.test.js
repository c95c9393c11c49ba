'use strict';

// Who keeps a little of what came does not keep all that came with it.

const v8 = require('node:v8');
const vm = require('node:vm');
const test = require('ava');
const { embedded } = require('../support/brokers');
const { until } = require('../support/until');
const { open } = require('../support/world');

const KIB = 1024;
const COUNT = 100;
const large = 'x'.repeat(200 * KIB);

v8.setFlagsFromString('--expose-gc');
const collect = vm.runInNewContext('gc');

/**
 * Bytes that are held when all else is let go.
 *
 * @param {any[]} kept
 */
function held(kept) {
  collect();
  // Not all that Buffers hold is on Node's accounts.
  const memories = new Set(kept.map((each) => each?.buffer ?? null));
  return [...memories].reduce(
    (sum, memory) => sum + (memory?.byteLength ?? 0),
    process.memoryUsage().heapUsed,
  );
}

/**
 * What is kept of each small message and of each large one.
 *
 * @type {Record<string, [
 *   wrap: (text: string) => any,
 *   keep: (message: any, info: any) => any,
 *   keepLarge: (message: any, info: any) => any,
 * ]>}
 */
const KEPT = {
  'ids of messages': [
    (text) => `"${text}"`,
    () => null,
    (message, info) => info.messageId,
  ],
  'texts that are not JSON': [(text) => text, (message) => message, () => null],
  'texts within JSON': [
    (text) => JSON.stringify({ list: [text] }),
    ({ list }) => list[0],
    () => null,
  ],
  'binary messages': [
    (text) => Buffer.concat([Buffer.of(255), Buffer.from(text)]),
    (message) => message,
    () => null,
  ],
  'ids beside what is not ASCII': [
    (text) => `"ä${text}"`,
    () => null,
    (message, info) => info.messageId,
  ],
  'bodies as they came': [
    (text) => `"ä${text}"`,
    (message, info) => info.raw,
    () => null,
  ],
};

for (const [what, [wrap, keep, keepLarge]] of Object.entries(KEPT)) {
  test.serial(what, async (t) => {
    const mq = { delivery: 'at-least-once' };
    const ws = { binary: true, maxReceivedFrameSize: KIB * KIB };
    const world = await open(t, embedded, { mq, ws });
    const peer = await world.connect('a');
    const { client } = world;
    client.removeAllListeners('message');
    const kept = [];
    client.on('message', (message, headers, info) => {
      const isLarge = info.raw.length > KIB;
      kept.push((isLarge ? keepLarge : keep)(message, info));
    });
    const before = held(kept);
    for (let n = 0; n < COUNT; n += 1) {
      for (const text of [large, `small and of its own ${n}`]) {
        peer.send(wrap(text));
      }
    }
    await until(() => kept.length === COUNT * 2);
    const left = kept.filter((each) => each !== null);
    t.is(new Set(left.map(String)).size, COUNT);
    // Settlements are on their way yet, and hold what they are about.
    const most = 20 * large.length;
    await until(() => held(kept) - before < most).catch(() => {});
    t.true(held(kept) - before < most, `${(held(kept) - before) / KIB} KiB`);
  });
}
