'use strict';

// A browser that does not read, for each slowConsumer: what it gets when it
// reads on, and what the others get meanwhile.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { until } = require('../support/until');
const { open } = require('../support/world');

const MODES = ['at-most-once', 'at-least-once'];
const SIZE = 20_000;
const FILLER = 'z'.repeat(SIZE);
const range = (count) => Array.from({ length: count }, (_, n) => n);
const numbers = ({ messages }) => messages.map((text) => parseInt(text, 10));

/** A gateway, a browser that does not read, and one that does. */
async function stage(t, broker, delivery, ws) {
  const world = await open(t, broker, {
    mq: { delivery },
    ws: { maxBackpressure: 10 * SIZE, closeTimeout: 500, ...ws },
  });
  const slow = await world.rawOpen('slow');
  slow.socket.pause();
  const neighbour = await world.connect('neighbour');
  let sent = 0;
  return {
    ...world,
    slow,
    neighbour,
    /** The next number, for the one that does not read. */
    say() {
      sent += 1;
      return world.client.send(`${sent - 1} ${FILLER}`, { to: 'slow' });
    },
    /** Some more, and whatever the gateway does with them is done. */
    async some() {
      for (let n = 0; n < 20; n += 1) this.say();
      world.client.send(`${sent}`, { to: 'neighbour' });
      const last = `${sent}`;
      await until(() => neighbour.messages.at(-1) === last);
    },
    get sent() {
      return sent;
    },
  };
}

for (const delivery of MODES) {
  forEachBroker(test, `${delivery}: 'drop'`, async (t, broker) => {
    const slowConsumer = 'drop';
    const world = await stage(t, broker, delivery, { slowConsumer });
    const { slow, client, gateway, neighbour } = world;
    const overflowed = () => gateway.stats().overflowed;
    while (overflowed() === 0) await world.some();
    await world.some();
    const kept = world.sent - overflowed();
    t.true(kept > 0 && overflowed() >= 20);
    // Those that were there first are kept, and the newest are not.
    slow.socket.resume();
    await until(() => slow.messages.length >= kept);
    t.deepEqual(numbers(slow), range(kept));
    // It is a browser like any other from now on.
    client.send('1000000', { to: 'slow' });
    await until(() => numbers(slow).at(-1) === 1_000_000);
    t.is(slow.messages.length, kept + 1);
    t.deepEqual(await world.told(2), [
      [1, 'slow'],
      [1, 'neighbour'],
    ]);
    t.is(gateway.size, 2);
    t.is(neighbour.messages.length, world.sent / 20);
  });

  forEachBroker(test, `${delivery}: 'wait'`, async (t, broker) => {
    const COUNT = 1000;
    const slowConsumer = 'wait';
    const world = await stage(t, broker, delivery, { slowConsumer });
    const { slow, client, gateway, neighbour } = world;
    let held = 0;
    async function sayAll() {
      while (world.sent < COUNT) {
        if (world.say()) continue;
        held += 1;
        await new Promise((resolve) => client.once('drain', resolve));
      }
      client.send('mine', { to: 'neighbour' });
    }
    const saying = sayAll();
    // All that can be on its way is, or all there is.
    await until(() => held > 0 || world.sent === COUNT);
    slow.socket.resume();
    await saying;
    await until(() => slow.messages.length >= COUNT);
    t.deepEqual(numbers(slow), range(COUNT));
    // Who waited with it gets everything too.
    t.deepEqual(await neighbour.received(1), ['mine']);
    t.is(gateway.stats().overflowed, 0);
    t.is(gateway.size, 2);
    t.is(world.statuses.length, 2);
  });

  forEachBroker(test, `${delivery}: 'close'`, async (t, broker) => {
    const world = await stage(t, broker, delivery, {});
    const { slow, gateway } = world;
    while (gateway.size === 2) await world.some();
    t.deepEqual((await world.told(3))[2].slice(0, 3), [0, 'slow', 1013]);
    t.true(gateway.stats().overflowed > 0);
    // What the system had taken already comes, in order, and nothing later.
    slow.socket.resume();
    await slow.closed;
    t.deepEqual(numbers(slow), range(slow.messages.length));
  });
}
