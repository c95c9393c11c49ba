'use strict';

// At least once on each broker: a message is done when its listeners are, and
// comes again once where one fails.

const test = require('ava');
const { Client } = require('../..');
const { forEachBroker } = require('../support/brokers');
const { gate, until } = require('../support/until');
const { door } = require('../support/world');

const range = (count) => Array.from({ length: count }, (_, n) => n);

/** A browser, and a client whose listener is `listen`. */
async function stage(t, broker, listen, more = {}) {
  const mqConf = { ...broker.settings(), delivery: 'at-least-once', ...more };
  /** @type {{ message: any, info: any }[]} */
  const given = [];
  /** @type {any[][]} */
  const failed = [];
  /** @type {any[][]} */
  const dropped = [];
  const hire = async () => {
    const client = new Client(mqConf);
    client.on('message', (message, headers, info) => {
      given.push({ message, info });
      return listen(message, info, client);
    });
    client.on('listenerError', (...args) => failed.push(args));
    client.on('undeliverable', (...args) => dropped.push(args));
    t.teardown(() => client.close());
    return client.init();
  };
  const client = await hire();
  const front = await door(t, mqConf);
  const browser = await front.connect('k');
  const numbers = () => given.map(({ message }) => message);
  return { ...front, client, hire, browser, given, failed, dropped, numbers };
}

/** How a listener fails. */
const WAYS = {
  throws: () => {
    throw new Error('cannot');
  },
  rejects: async () => {
    await new Promise((resolve) => setImmediate(resolve));
    throw new Error('cannot');
  },
};

for (const [what, fail] of Object.entries(WAYS)) {
  forEachBroker(
    test,
    `a listener that ${what} once has a second try`,
    async (t, broker) => {
      const { browser, given, failed, dropped, numbers } = await stage(
        t,
        broker,
        (n, { redelivered }) => {
          if (n === 3 && !redelivered) return fail();
        },
      );
      for (const n of range(10)) browser.sendJson(n);
      await until(() => given.length >= 11);
      const third = given.filter(({ message }) => message === 3);
      t.deepEqual(
        third.map(({ info }) => info.redelivered),
        [false, true],
      );
      const ids = given.map(({ info }) => info.messageId);
      t.is(third[0].info.messageId, third[1].info.messageId);
      t.is(new Set(ids).size, 10);
      t.true(ids.every((id) => typeof id === 'string' && id !== ''));
      browser.sendJson('last');
      await until(() => numbers().at(-1) === 'last');
      t.deepEqual(
        numbers().filter((n) => n !== 3),
        [...range(10).filter((n) => n !== 3), 'last'],
      );
      t.is(failed.length, 1);
      t.deepEqual(dropped, []);
    },
  );

  forEachBroker(
    test,
    `a listener that always ${what} has no third`,
    async (t, broker) => {
      const { browser, client, failed, dropped, numbers } = await stage(
        t,
        broker,
        (message) => {
          if (message.bad) return fail();
        },
      );
      browser.sendJson({ bad: 1 });
      for (const n of range(10)) browser.sendJson(n);
      await until(() => dropped.length > 0);
      browser.sendJson('last');
      await until(() => numbers().at(-1) === 'last');
      t.deepEqual(
        numbers().filter(({ bad }) => !bad),
        [...range(10), 'last'],
      );
      t.deepEqual(
        failed.map(([error, message, headers, info]) => [
          error.message,
          message,
          headers.to,
          info.redelivered,
        ]),
        [
          ['cannot', { bad: 1 }, 'k', false],
          ['cannot', { bad: 1 }, 'k', true],
        ],
      );
      t.is(dropped.length, 1);
      const [message, headers, error] = dropped[0];
      t.deepEqual(message, { bad: 1 });
      t.is(headers.to, 'k');
      t.is(error.message, 'cannot');
      t.is(client.stats().undeliverable, 1);
    },
  );
}

forEachBroker(
  test,
  'no more than the prefetch is in hand',
  async (t, broker) => {
    const gates = [];
    const { browser, gateway, given, numbers } = await stage(
      t,
      broker,
      () => {
        const each = gate();
        gates.push(each);
        return each.promise;
      },
      { prefetch: 5 },
    );
    for (const n of range(50)) browser.sendJson(n);
    await until(() => gateway.stats().received === 50);
    let done = 0;
    await until(() => gates.length === 5);
    while (done < 50) {
      t.true(given.length - done <= 5);
      gates[done].open();
      done += 1;
      await until(() => gates.length > done || done === 50);
    }
    t.deepEqual(numbers(), range(50));
  },
);

forEachBroker(
  test,
  'close() waits for listeners, and others get the rest',
  async (t, broker) => {
    const held = gate();
    const world = await stage(
      t,
      broker,
      async (n, info, client) => {
        await held.promise;
        client.send(`${n}`, { to: 'k' });
      },
      { prefetch: 5 },
    );
    const { browser, client, given, hire, numbers } = world;
    for (const n of range(20)) browser.sendJson(n);
    await until(() => given.length === 5);
    let isClosed = false;
    const closing = client.close().then(() => (isClosed = true));
    await hire();
    await until(() => given.length === 10);
    t.false(isClosed);
    held.open();
    await closing;
    const answers = await browser.received(20);
    t.deepEqual(
      answers.map(Number).sort((a, b) => a - b),
      range(20),
    );
    t.deepEqual(numbers(), range(20));
  },
);
