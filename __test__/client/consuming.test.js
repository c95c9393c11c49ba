'use strict';

// A client consumes messages while it has a listener for 'message', and
// statuses while it has one for 'status'; a queue that it does not listen to
// is other clients'.

const { once } = require('node:events');
const test = require('ava');
const { Client } = require('../..');
const { forEachBroker } = require('../support/brokers');
const { list, withOwnRabbit } = require('../support/rabbit');
const { until } = require('../support/until');
const { door } = require('../support/world');

const own = withOwnRabbit(test);
const range = (count, from = 0) =>
  Array.from({ length: count }, (_, n) => n + from);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Each broker with each guarantee. */
function forEachLine(title, run) {
  for (const delivery of ['at-most-once', 'at-least-once']) {
    forEachBroker(test, `${delivery}: ${title}`, (t, broker) =>
      run(t, { ...broker.settings(), delivery }),
    );
  }
}

async function start(t, mqConf) {
  const client = new Client(mqConf);
  t.teardown(() => client.close());
  return client.init();
}

/** What a client gets from now on, and a way to stop that. */
function listen(client, event = 'message') {
  const got = [];
  const listener = (value) => void got.push(value);
  client.on(event, listener);
  return Object.assign(got, { stop: () => client.off(event, listener) });
}

const sorted = (...lists) => lists.flat().sort((a, b) => a - b);
const keys = (statuses) => statuses.map(({ key, status }) => [key, status]);

/** Sends numbers, and gives them back. */
function say(browser, numbers) {
  for (const n of numbers) browser.sendJson(n);
  return numbers;
}

forEachLine('a client that only sends takes nothing', async (t, mqConf) => {
  // A REST process that pushes, and a worker.
  const sender = await start(t, mqConf);
  const worker = await start(t, mqConf);
  const messages = listen(worker);
  const statuses = listen(worker, 'status');
  const front = await door(t, mqConf);
  const browsers = [];
  for (const key of ['a', 'b', 'c', 'd']) {
    browsers.push(await front.connect(key));
  }
  const numbers = say(browsers[0], range(100));
  sender.send('pushed', { to: 'b' });
  t.deepEqual(await browsers[1].received(1), ['pushed']);
  await until(() => messages.length >= 100 && statuses.length >= 4);
  t.deepEqual([...messages], numbers);
  t.deepEqual(keys(statuses), [
    ['a', 1],
    ['b', 1],
    ['c', 1],
    ['d', 1],
  ]);
  t.is(sender.stats().received, 0);
});

forEachLine(
  'messages and statuses are consumed each for itself',
  async (t, mqConf) => {
    const worker = await start(t, mqConf);
    const presence = await start(t, mqConf);
    const messages = listen(worker);
    const statuses = listen(presence, 'status');
    const front = await door(t, mqConf);
    for (const key of range(6)) {
      const browser = await front.connect(`${key}`);
      browser.sendJson(key);
    }
    await until(() => messages.length >= 6 && statuses.length >= 6);
    t.deepEqual(sorted(messages), range(6));
    t.deepEqual(
      keys(statuses),
      range(6).map((key) => [`${key}`, 1]),
    );
  },
);

forEachLine(
  'where nobody listens everything waits, for a listener that comes later',
  async (t, mqConf) => {
    const client = await start(t, mqConf);
    const front = await door(t, mqConf);
    const browser = await front.connect('k');
    client.send('works', { to: 'k' });
    t.deepEqual(await browser.received(1), ['works']);
    const numbers = say(browser, range(600));
    await until(() => front.gateway.stats().published >= 601);
    const messages = listen(client);
    await until(() => messages.length >= 600);
    t.deepEqual([...messages], numbers);
    const statuses = listen(client, 'status');
    await until(() => statuses.length > 0);
    t.deepEqual(keys(statuses), [['k', 1]]);
  },
);

forEachLine(
  'a listener that is added when init() is done misses nothing',
  async (t, mqConf) => {
    const front = await door(t, mqConf);
    const browser = await front.connect('k');
    const numbers = say(browser, range(300));
    await until(() => front.gateway.stats().published >= 301);
    const client = new Client(mqConf);
    t.teardown(() => client.close());
    const statuses = listen(client, 'status');
    await client.init();
    const messages = listen(client);
    await until(() => messages.length >= 300 && statuses.length >= 1);
    t.deepEqual([...messages], numbers);
  },
);

forEachLine(
  'a queue that lost its last listener is given back, with what nobody heard',
  async (t, mqConf) => {
    const first = await start(t, { ...mqConf, prefetch: 40 });
    const front = await door(t, mqConf);
    const browser = await front.connect('k');
    const numbers = say(browser, range(100));
    await until(() => front.gateway.stats().published >= 101);
    const heard = [];
    first.once('message', (n) => heard.push(n));
    await until(() => heard.length === 1);
    const second = await start(t, mqConf);
    const messages = listen(second);
    await until(() => messages.length >= 99);
    t.deepEqual(sorted(heard, messages), numbers);
    const more = say(browser, range(50, 100));
    await until(() => messages.length >= 149);
    t.deepEqual(messages.slice(99), more);
    // And here again.
    const again = listen(first);
    messages.stop();
    await until(() => {
      browser.sendJson(-1);
      return again.length > 0;
    });
  },
);

forEachLine(
  'messages taken one by one with once() come in order, and once',
  async (t, mqConf) => {
    const client = await start(t, mqConf);
    const front = await door(t, mqConf);
    const browser = await front.connect('k');
    say(browser, range(300));
    const seen = [];
    for (const n of range(300)) {
      const [message, , info] = await once(client, 'message');
      seen.push([message, info.redelivered]);
      if (n % 50 === 0) await pause(20);
    }
    t.deepEqual(
      seen,
      range(300).map((n) => [n, false]),
    );
    t.is(client.stats().received, 300);
  },
);

forEachLine(
  'a pause of the only listener keeps everything, in its order',
  async (t, mqConf) => {
    const client = await start(t, { ...mqConf, prefetch: 20 });
    const front = await door(t, mqConf);
    const browser = await front.connect('k');
    const before = listen(client);
    say(browser, range(10));
    await until(() => before.length >= 10);
    before.stop();
    say(browser, range(100, 10));
    await until(() => front.gateway.stats().published >= 111);
    // Longer than the queue is held for a listener that comes back soon.
    await pause(1500);
    const after = listen(client);
    await until(() => after.length >= 100);
    t.deepEqual([...before, ...after], range(110));
  },
);

forEachLine(
  'nothing is lost when listeners come and go under load',
  async (t, mqConf) => {
    const clients = [
      await start(t, { ...mqConf, prefetch: 30 }),
      await start(t, { ...mqConf, prefetch: 30 }),
    ];
    const front = await door(t, mqConf);
    const browser = await front.connect('k');
    const got = new Set();
    const listener = (n) => void got.add(n);
    clients[1].on('message', listener);
    const LAST = 3000;
    let n = 0;
    for (let round = 0; n < LAST; round += 1) {
      say(browser, range(100, n));
      n += 100;
      if (round % 2) clients[0].off('message', listener);
      else clients[0].on('message', listener);
      // Some breaks are longer than the time for which a queue is kept.
      await pause(round % 8 === 7 ? 700 : 10);
    }
    clients[0].off('message', listener);
    await until(() => got.size >= LAST, 30_000);
    t.deepEqual(sorted([...got]), range(LAST));
  },
);

forEachLine(
  'every way to add and to remove a listener counts',
  async (t, mqConf) => {
    const client = await start(t, mqConf);
    const other = await start(t, mqConf);
    const front = await door(t, mqConf);
    const browser = await front.connect('k');
    const got = [];
    const listener = (n) => void got.push(n);
    let n = 0;
    /** The next message comes here. */
    const hears = async (list) => {
      const { length } = list;
      browser.sendJson(++n);
      await until(() => list.length > length);
      t.is(list.at(-1), n);
    };
    for (const add of ['on', 'addListener', 'prependListener']) {
      for (const remove of ['off', 'removeListener', 'removeAllListeners']) {
        client[add]('message', listener);
        await hears(got);
        if (remove === 'removeAllListeners') client.removeAllListeners();
        else client[remove]('message', listener);
      }
    }
    for (const add of ['once', 'prependOnceListener']) {
      client[add]('message', listener);
      await hears(got);
    }
    t.is(client.listenerCount('message'), 0);
    const others = listen(other);
    browser.sendJson('to the other');
    await until(() => others.includes('to the other'));
  },
);

test.serial('what is consumed is the same after a reconnect', async (t) => {
  for (const delivery of ['at-most-once', 'at-least-once']) {
    const mqConf = {
      ...own.settings(),
      delivery,
      reconnectBackoffTime: 100,
    };
    const sender = await start(t, mqConf);
    const worker = await start(t, mqConf);
    const messages = listen(worker);
    const front = await door(t, mqConf);
    const browser = await front.connect('k');
    for (const each of [sender, worker, front.gateway]) {
      each.on('reconnecting', () => {});
    }
    await own.kill9(t);
    await own.rabbit().restart();
    const all = [sender, worker, front.gateway];
    await until(() => all.every((each) => each.stats().reconnects > 0), 60_000);
    const numbers = say(browser, range(100));
    await until(() => messages.length >= 100);
    t.deepEqual([...messages], numbers);
    const statuses = listen(sender, 'status');
    await front.connect('late');
    await until(() => statuses.some(({ key }) => key === 'late'));
    const rows = await list(own.rabbit(), 'queues', 'name', 'consumers');
    const consumers = (name) =>
      rows.find((row) => row.name === name)?.consumers;
    t.is(consumers(mqConf.receiveQueue), 1);
    t.is(consumers(mqConf.statusQueue), 1);
  }
});
