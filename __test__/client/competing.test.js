'use strict';

// Clients share the work, reach every gateway, and come and go without loss.

const test = require('ava');
const { Client } = require('../..');
const { forEachBroker } = require('../support/brokers');
const { until } = require('../support/until');
const { door, open, worker } = require('../support/world');

const range = (count, from = 0) =>
  Array.from({ length: count }, (_, n) => from + n);
const numbers = (...workers) =>
  workers
    .flatMap(({ messages }) => messages.map(({ message }) => message))
    .sort((a, b) => a - b);

forEachBroker(test, 'three clients share 300 messages', async (t, broker) => {
  const world = await open(t, broker, { mq: { prefetch: 5 } });
  const workers = [
    world,
    await worker(t, world.mqConf),
    await worker(t, world.mqConf),
  ];
  const peer = await world.connect('a');
  for (const n of range(300)) peer.send(`${n}`);
  await until(() => numbers(...workers).length >= 300);
  t.deepEqual(numbers(...workers), range(300));
  for (const { messages } of workers) t.true(messages.length > 0);
  for (const { messages } of workers) {
    t.true(messages.every(({ info }) => !info.redelivered));
  }
  await peer.close(1000);
  const statuses = () => workers.flatMap((each) => each.statuses);
  await until(() => statuses().length >= 2);
  t.deepEqual(
    statuses()
      .map(({ status }) => status)
      .sort(),
    [0, 1],
  );
});

forEachBroker(test, 'two gateways deliver across', async (t, broker) => {
  const mqConf = broker.settings();
  const back = await worker(t, mqConf);
  const left = await door(t, mqConf);
  const right = await door(t, mqConf);
  back.client.on('message', ({ to, text }) => back.client.send(text, { to }));
  const l = await left.connect('l');
  const r = await right.connect('r');
  for (const n of range(50)) {
    l.sendJson({ to: 'r', text: `from l ${n}` });
    r.sendJson({ to: 'l', text: `from r ${n}` });
  }
  t.deepEqual(
    await r.received(50),
    range(50).map((n) => `from l ${n}`),
  );
  t.deepEqual(
    await l.received(50),
    range(50).map((n) => `from r ${n}`),
  );
  // Each saw what was for the other too.
  for (const { gateway } of [left, right]) {
    await until(() => gateway.stats().unmatched >= 50);
    t.is(gateway.stats().unmatched, 50);
  }
  t.deepEqual([left.gateway.size, right.gateway.size], [1, 1]);
});

forEachBroker(
  test,
  'the same key on two gateways gets the message on both',
  async (t, broker) => {
    const mqConf = broker.settings();
    const back = await worker(t, mqConf);
    const doors = [await door(t, mqConf), await door(t, mqConf)];
    const peers = [await doors[0].connect('a'), await doors[1].connect('a')];
    back.client.send('hello', { to: 'a' });
    for (const peer of peers) t.deepEqual(await peer.received(1), ['hello']);
  },
);

forEachBroker(
  test,
  'a client that leaves in the midst of it leaves the rest to others',
  async (t, broker) => {
    const world = await open(t, broker, { mq: { prefetch: 4 } });
    const leaver = await worker(t, world.mqConf);
    const peer = await world.connect('a');
    for (const n of range(400)) peer.send(`${n}`);
    await until(() => leaver.messages.length > 0);
    await leaver.client.close();
    const atClose = leaver.messages.length;
    for (const n of range(100, 400)) peer.send(`${n}`);
    await until(() => new Set(numbers(world, leaver)).size >= 500);
    t.deepEqual([...new Set(numbers(world, leaver))], range(500));
    t.is(leaver.messages.length, atClose);
    // Only what was on its way to who left may come twice, and says so.
    const once = world.messages.filter(({ info }) => !info.redelivered);
    t.is(new Set(once.map(({ message }) => message)).size, once.length);
    world.client.send('still here', { to: 'a' });
    t.deepEqual(await peer.received(1), ['still here']);
  },
);

forEachBroker(
  test,
  'when all clients have left and one comes, traffic goes on',
  async (t, broker) => {
    const mqConf = broker.settings();
    const front = await door(t, mqConf);
    const peer = await front.connect('a');
    for (const round of range(3)) {
      const back = await worker(t, mqConf);
      peer.send(`"round ${round}"`);
      // What was sent while nobody was there has waited.
      const waited = round > 0 ? ['nobody hears this yet'] : [];
      await until(() => back.messages.length > waited.length);
      t.deepEqual(
        back.messages.map(({ message }) => message),
        [...waited, `round ${round}`],
      );
      back.client.send(`answer ${round}`, { to: 'a' });
      await peer.received(round + 1);
      await back.client.close();
      peer.send('"nobody hears this yet"');
      const published = 1 + 2 * (round + 1);
      await until(() => front.gateway.stats().published === published);
    }
    t.deepEqual(peer.messages, ['answer 0', 'answer 1', 'answer 2']);
    t.is(front.gateway.size, 1);
    t.is(front.gateway.stats().reconnects, 0);
  },
);

forEachBroker(
  test,
  'whoever waits for init() misses nothing that comes at once',
  async (t, broker) => {
    const world = await open(t, broker, { mq: { prefetch: 10 } });
    const peer = await world.connect('a');
    const late = new Client(world.mqConf);
    t.teardown(() => late.close());
    /** @type {number[]} */
    const heard = [];
    let ready = false;
    const adding = late.init().then(() => {
      ready = true;
      late.on('message', (message) => heard.push(message));
    });
    let count = 0;
    const sendSome = () => {
      for (let n = 0; n < 20; n += 1, count += 1) peer.send(`${count}`);
    };
    // Never idle, so that the first deliveries come with the consumer.
    await until(() => {
      sendSome();
      return ready && heard.length > 0;
    });
    await adding;
    const all = () => [...numbers(world), ...heard].sort((a, b) => a - b);
    await until(() => all().length >= count);
    t.deepEqual(all(), range(count));
  },
);
