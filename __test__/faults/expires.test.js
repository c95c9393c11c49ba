'use strict';

// At least once: a gateway's queue outlives its gateway's connection and its
// gateway, for queueExpires and no longer, and goes at once when it is closed.

const test = require('ava');
const { rabbitmq, withRabbit } = require('../support/brokers');
const { gatewayChild } = require('../support/faults/children');
const { openRoad } = require('../support/faults/proxy');
const { LEAST, PATIENCE, scene } = require('../support/faults/scene');
const { isExternal, list } = require('../support/rabbit');
const { until } = require('../support/until');
const { door, worker } = require('../support/world');

const rabbit = withRabbit(test);
// A broker of others cannot be asked.
const asking = isExternal ? test.skip : test;

/** The queues of gateways, as the broker has them. */
async function queuesOf({ messageQueue }) {
  const columns = ['durable', 'exclusive', 'auto_delete', 'arguments'];
  const all = await list(rabbit(), 'queues', 'name', ...columns, 'consumers');
  return all
    .filter(({ name }) => name.startsWith(`${messageQueue}-`))
    .map(({ arguments: given, ...queue }) => ({
      ...queue,
      // [name, type, value] of each.
      given: Object.fromEntries(given.map(([name, , value]) => [name, value])),
    }));
}

for (const [what, more, expires] of [
  ['by default', {}, 300_000],
  ['as it is told', { queueExpires: 12_345 }, 12_345],
  ['in a cluster', { queueType: 'quorum' }, 300_000],
]) {
  asking(`the queue of a gateway ${what}`, async (t) => {
    const mqConf = { ...rabbitmq.settings(), ...LEAST, ...more };
    const { gateway } = await door(t, mqConf);
    const [queue, ...others] = await queuesOf(mqConf);
    t.deepEqual(others, []);
    const { durable, exclusive, auto_delete: autoDelete, given } = queue;
    t.true(durable);
    // A quorum queue says nothing, since it never is.
    t.falsy(exclusive);
    t.false(autoDelete);
    t.is(given['x-expires'], expires);
    t.is(given['x-single-active-consumer'], true);
    t.is(given['x-queue-type'] ?? 'classic', more.queueType ?? 'classic');
    await gateway.close();
    t.deepEqual(await queuesOf(mqConf), []);
  });
}

asking('at most once there is nothing that could expire', async (t) => {
  const mqConf = rabbitmq.settings();
  const { gateway } = await door(t, mqConf);
  const [queue] = await queuesOf(mqConf);
  t.deepEqual(queue.given, {});
  t.true(queue.exclusive);
  await gateway.close();
  t.deepEqual(await queuesOf(mqConf), []);
});

asking('a gateway is killed: its queue goes after queueExpires', async (t) => {
  // Longer than rabbitmqctl takes on a busy machine, several times.
  const queueExpires = 30_000;
  const mqConf = { ...rabbitmq.settings(), ...LEAST, queueExpires };
  const gateway = await gatewayChild(t, mqConf);
  const { client } = await worker(t, mqConf);
  const killed = performance.now();
  await gateway.kill9();
  const left = await until(async () => {
    const [queue] = await queuesOf(mqConf);
    return !queue?.consumers && { queue };
  }, PATIENCE);
  t.is(left.queue?.given['x-expires'], queueExpires);
  // It takes what is sent to it, since its gateway might come back.
  client.send('hello', { to: 'k' });
  await until(() => client.stats().buffered === 0);
  t.is((await queuesOf(mqConf)).length, 1);
  await until(async () => (await queuesOf(mqConf)).length === 0, PATIENCE);
  const took = performance.now() - killed;
  t.true(took > queueExpires * 0.9, `gone after ${took} ms`);
});

asking('a gateway that comes back too late has another queue', async (t) => {
  const queueExpires = 1000;
  const { hostname: host, port } = new URL(rabbit().url);
  const road = await openRoad(t, Number(port));
  const mqConf = { ...rabbitmq.settings(), ...LEAST, queueExpires };
  const world = await scene(t, mqConf, { gateway: { host, port: road.port } });
  await world.begin();
  const [, line] = world.lines;
  const mark = line.mark();
  await road.refuse();
  road.reset();
  await until(async () => (await queuesOf(mqConf)).length === 0, PATIENCE);
  await road.accept();
  await line.next('ready', mark, PATIENCE);
  await world.traffic();
  // What was sent to the queue is lost with it; the rest is not.
  await world.settle({ all: false });
  const since = Date.now();
  world.crowd.start();
  world.hand.start(world.crowd.keys, 200);
  await world.traffic();
  await world.settle({ all: false });
  world.ledger.isWhole(t, { since });
  world.nobodyLeft(t);
  t.is((await queuesOf(mqConf))[0].given['x-expires'], queueExpires);
});
