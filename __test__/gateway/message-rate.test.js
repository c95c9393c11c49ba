'use strict';

// messageRate: a browser that sends too much is held back or closed, and its
// neighbours are neither.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { OP, closing, frame } = require('../support/frames');
const { until } = require('../support/until');
const { open } = require('../support/world');

/** Sends so many numbers at once; resolves to ms until the worker has all. */
async function burst(t, world, count, pad = 0) {
  const raw = await world.rawOpen('a');
  const start = performance.now();
  const numbers = Array.from({ length: count }, (_, n) => n);
  const texts = numbers.map((n) => frame(OP.text, `${n}`.padStart(pad)));
  raw.socket.write(Buffer.concat(texts));
  t.deepEqual(await world.heard(count), numbers);
  return { ms: performance.now() - start, raw };
}

forEachBroker(test, 'messages are held back', async (t, broker) => {
  const world = await open(t, broker, {
    ws: { messageRate: { messages: 50, burst: 0.2 } },
  });
  // Ten at once, and thirty at 50 a second.
  const { ms } = await burst(t, world, 40);
  t.true(ms >= 550, `${ms} ms`);
});

forEachBroker(test, 'bytes are held back', async (t, broker) => {
  const world = await open(t, broker, {
    ws: { messageRate: { bytes: 20_000, burst: 0.1 } },
  });
  const { ms } = await burst(t, world, 14, 1000);
  t.true(ms >= 500, `${ms} ms`);
});

forEachBroker(test, 'a burst passes at once', async (t, broker) => {
  const world = await open(t, broker, {
    // As many again would take an hour.
    ws: { messageRate: { messages: 1, burst: 3600 } },
  });
  await burst(t, world, 3000);
});

forEachBroker(
  test,
  'who is held back is not judged by keepalive, and gets its messages',
  async (t, broker) => {
    const world = await open(t, broker, {
      ws: {
        keepaliveInterval: 200,
        keepaliveGracePeriod: 200,
        messageRate: { messages: 1 },
      },
    });
    const raw = await world.rawOpen('a');
    const numbers = [0, 1, 2];
    raw.socket.write(Buffer.concat(numbers.map((n) => frame(OP.text, `${n}`))));
    await world.heard(1);
    world.client.send('to you', { to: 'a' });
    await until(() => raw.messages.length === 1);
    t.deepEqual(await world.heard(3), numbers);
    t.deepEqual(await world.told(1), [[1, 'a']]);
    t.is(world.gateway.size, 1);
  },
);

forEachBroker(
  test,
  'who is held back is closed with the gateway',
  async (t, broker) => {
    const world = await open(t, broker, {
      ws: { messageRate: { messages: 0.001 } },
    });
    const raw = await world.rawOpen('a');
    raw.socket.write(Buffer.concat([frame(OP.text, '1'), frame(OP.text, '2')]));
    await world.heard(1);
    const closed = world.gateway.close();
    t.is((await raw.closeFrame()).code, 1001);
    raw.socket.write(frame(OP.close, closing(1001)));
    await closed;
    t.is((await world.told(2))[1][2], 1001);
  },
);

forEachBroker(test, "policy 'close' closes", async (t, broker) => {
  const world = await open(t, broker, {
    ws: { messageRate: { messages: 0.001, burst: 5000, policy: 'close' } },
  });
  const { raw } = await burst(t, world, 5);
  const neighbour = await world.connect('b');
  raw.socket.write(frame(OP.text, '"too much"'));
  const { code, reason } = await raw.closeFrame();
  t.is(code, 1008);
  t.is(reason, 'More messages than messageRate allows');
  await until(() => raw.ended);
  t.is(raw.error, undefined);
  neighbour.send('"mine"');
  t.is((await world.heard(6))[5], 'mine');
  t.deepEqual((await world.told(3)).at(-1), [0, 'a', 1008, reason]);
});
