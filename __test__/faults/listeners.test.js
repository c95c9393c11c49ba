'use strict';

// At least once: a message is done when its listeners are, and one that no
// listener can cope with is kept or told, and holds nobody up.

const test = require('ava');
const { rabbitmq, unique, withRabbit } = require('../support/brokers');
const { LASTS } = require('../support/faults/broker');
const { openRoad } = require('../support/faults/proxy');
const { LEAST, PATIENCE } = require('../support/faults/scene');
const { LegacyLine } = require('../support/legacy');
const { gate, until } = require('../support/until');
const { door } = require('../support/world');
const { Client } = require('../..');

const rabbit = withRabbit(test);
const conf = (more) => ({ ...rabbitmq.settings(), ...LEAST, ...more });
const range = (count) => Array.from({ length: count }, (_, n) => n);

/** A client whose listener is `listen`, and all that it was given. */
async function employ(t, mqConf, listen) {
  const client = new Client(mqConf);
  /** @type {{ message: any, headers: any, info: any }[]} */
  const given = [];
  /** @type {any[][]} */
  const refused = [];
  client.on('message', (message, headers, info) => {
    given.push({ message, headers, info });
    return listen(message, info);
  });
  client.on('undeliverable', (...args) => refused.push(args));
  t.teardown(() => client.close());
  await client.init();
  const numbers = () => given.map(({ message }) => message);
  return { client, given, refused, numbers };
}

async function visitor(t, mqConf) {
  const front = await door(t, mqConf);
  const browser = await front.connect('k');
  return { ...front, browser };
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
  test(`a listener that ${what} once gets the message again`, async (t) => {
    const mqConf = conf();
    const { given, refused, client } = await employ(
      t,
      mqConf,
      (message, { redelivered }) => {
        if (message === 3 && !redelivered) return fail();
      },
    );
    const { browser } = await visitor(t, mqConf);
    for (const n of range(10)) browser.sendJson(n);
    await until(() => given.length >= 11);
    const third = given.filter(({ message }) => message === 3);
    t.deepEqual(
      third.map(({ info }) => info.redelivered),
      [false, true],
    );
    t.is(third[0].info.messageId, third[1].info.messageId);
    t.deepEqual(third[0].headers, third[1].headers);
    const others = given.filter(({ message }) => message !== 3);
    t.deepEqual(
      others.map(({ message }) => message),
      range(10).filter((n) => n !== 3),
    );
    t.true(others.every(({ info }) => !info.redelivered));
    // And not once more.
    browser.sendJson('last');
    await until(() => given.at(-1).message === 'last');
    t.is(given.length, 12);
    t.deepEqual(refused, []);
    t.is(client.stats().undeliverable, 0);
  });

  test(`a listener that always ${what} costs that message alone`, async (t) => {
    const mqConf = conf();
    const { given, refused, client } = await employ(t, mqConf, (message) => {
      if (message.bad) return fail();
    });
    const { browser } = await visitor(t, mqConf);
    browser.sendJson({ bad: 1 });
    for (const n of range(10)) browser.sendJson({ n });
    await until(() => refused.length > 0);
    await until(() => given.some(({ message }) => message.n === 9));
    const bad = given.filter(({ message }) => message.bad);
    t.deepEqual(
      bad.map(({ info }) => info.redelivered),
      [false, true],
    );
    t.is(refused.length, 1);
    const [message, headers, error] = refused[0];
    t.deepEqual(message, { bad: 1 });
    t.is(headers.to, 'k');
    t.is(error.message, 'cannot');
    t.is(client.stats().undeliverable, 1);
  });

  test(`what a listener always ${what} at goes to the dead letters`, async (t) => {
    const deadLetterExchange = `dead-${unique()}`;
    const line = await LegacyLine.connect({ url: rabbit().url });
    t.teardown(() => line.close());
    await line.exchange(deadLetterExchange, 'fanout', LASTS);
    const queue = await line.queue(deadLetterExchange, LASTS);
    await line.bind(queue, deadLetterExchange, '');
    t.teardown(() => queue.destroy());
    const dead = [];
    await line.consume(queue, (message, headers) =>
      dead.push({ message, headers }),
    );

    const mqConf = conf({ deadLetterExchange });
    const { given } = await employ(t, mqConf, (message) => {
      if (message.bad) return fail();
    });
    const { browser } = await visitor(t, mqConf);
    for (const n of range(6)) browser.sendJson({ n, bad: n % 2 === 0 });
    await until(() => dead.length >= 3);
    await until(() => given.length >= 9);
    t.deepEqual(
      dead.map(({ message }) => message.n),
      [0, 2, 4],
    );
    t.true(dead.every(({ headers }) => headers.to === 'k'));
    t.is(given.length, 9);
  });
}

/** Warnings of that code while the test runs. */
function warnings(t, code) {
  const seen = [];
  const listener = (warning) => warning.code === code && seen.push(warning);
  process.on('warning', listener);
  t.teardown(() => process.off('warning', listener));
  return seen;
}

for (const [what, fail] of Object.entries(WAYS)) {
  test(`a listener that ${what}: the event and no warning`, async (t) => {
    const warned = warnings(t, 'MESSAGE_ENGIN_LISTENER_ERROR');
    const mqConf = conf();
    const { client, given, refused } = await employ(t, mqConf, (message) => {
      if (message.bad) return fail();
    });
    const told = [];
    client.on('listenerError', (...args) => told.push(args));
    const { browser } = await visitor(t, mqConf);
    browser.sendJson({ bad: 1 });
    browser.sendJson({ good: 1 });
    // The first time, and when it came again.
    await until(() => told.length >= 2 && refused.length === 1);
    for (const [error, message, headers] of told) {
      t.is(error.message, 'cannot');
      t.deepEqual(message, { bad: 1 });
      t.is(headers.to, 'k');
    }
    const infos = told.map(([, , , info]) => info);
    t.deepEqual(
      infos.map(({ redelivered }) => redelivered),
      [false, true],
    );
    t.is(infos[0].messageId, infos[1].messageId);
    t.is(infos[0].routingKey, mqConf.receiveQueue);
    t.is(infos[0].raw.toString(), '{"bad":1}');
    browser.sendJson('last');
    await until(() => given.at(-1).message === 'last');
    t.is(told.length, 2);
    t.deepEqual(warned, []);
  });

  test(`a listener that ${what}: one warning where nobody listens`, async (t) => {
    const warned = warnings(t, 'MESSAGE_ENGIN_LISTENER_ERROR');
    const mqConf = conf();
    const { given, refused } = await employ(t, mqConf, (message) => {
      if (message.bad) return fail();
    });
    const { browser } = await visitor(t, mqConf);
    for (const bad of [1, 2, 3]) browser.sendJson({ bad });
    await until(() => refused.length === 3 && warned.length > 0);
    browser.sendJson('last');
    await until(() => given.at(-1).message === 'last');
    t.is(warned.length, 1);
    t.is(warned[0].name, 'MessageEnginWarning');
    t.regex(warned[0].message, /cannot/);
    t.regex(warned[0].message, /listenerError/);
  });
}

test('a listener of statuses that fails gets the status again', async (t) => {
  const mqConf = conf();
  const { client } = await employ(t, mqConf, () => {});
  const told = [];
  const statuses = [];
  client.on('listenerError', (...args) => told.push(args));
  client.on('status', ({ status, key }, headers, { redelivered }) => {
    statuses.push([status, key, redelivered]);
    if (!redelivered) WAYS.throws();
  });
  const { browser } = await visitor(t, mqConf);
  await until(() => statuses.length === 2);
  t.deepEqual(statuses, [
    [1, 'k', false],
    [1, 'k', true],
  ]);
  t.is(told.length, 1);
  t.deepEqual(told[0][1], { status: 1, key: 'k' });
  t.is(told[0][3].routingKey, mqConf.statusQueue);
  await browser.close(1000);
  await until(() => statuses.length === 4);
});

test('a listener that is not done has its messages again after a reset', async (t) => {
  const { hostname: host, port } = new URL(rabbit().url);
  const road = await openRoad(t, Number(port));
  const mqConf = conf();
  const held = gate();
  const isStuck = (info) => !info.redelivered;
  const { given, numbers, client } = await employ(
    t,
    { ...mqConf, host, port: road.port, reconnectBackoffTime: 50 },
    (message, info) => (isStuck(info) ? held.promise : undefined),
  );
  const { browser } = await visitor(t, mqConf);
  for (const n of range(20)) browser.sendJson(n);
  await until(() => given.length === 20);
  road.reset();
  await until(() => given.length === 40, PATIENCE);
  t.deepEqual(numbers(), [...range(20), ...range(20)]);
  const ids = given.map(({ info }) => info.messageId);
  t.true(ids.every((id) => typeof id === 'string' && id !== ''));
  t.deepEqual(ids.slice(20), ids.slice(0, 20));
  t.is(new Set(ids).size, 20);
  // What was in hand before the reset has nobody to be acknowledged to.
  held.open();
  browser.sendJson('last');
  await until(() => numbers().includes('last'));
  t.is(client.stats().reconnects, 1);
});

test('no more than the prefetch is in hand, and all is done in the end', async (t) => {
  const mqConf = conf({ prefetch: 10 });
  let inHand = 0;
  let most = 0;
  const gates = [];
  const { numbers } = await employ(t, mqConf, async () => {
    inHand += 1;
    most = Math.max(most, inHand);
    const each = gate();
    gates.push(each);
    await each.promise;
    inHand -= 1;
  });
  const { browser, gateway } = await visitor(t, mqConf);
  for (const n of range(200)) browser.sendJson(n);
  await until(() => gateway.stats().received === 200);
  await until(() => inHand === 10);
  while (numbers().length < 200 || gates.length) {
    // The last one first: no order of finishing is asked for.
    gates.pop()?.open();
    await until(() => gates.length > 0 || numbers().length === 200);
  }
  t.deepEqual(numbers(), range(200));
  t.is(most, 10);
});

test('close() lets listeners finish and leaves the rest to others', async (t) => {
  const mqConf = conf({ prefetch: 10 });
  const held = gate();
  const done = [];
  const leaver = await employ(t, mqConf, async (message) => {
    await held.promise;
    leaver.client.send({ answer: message }, { to: 'k' });
    done.push(message);
  });
  const { browser } = await visitor(t, mqConf);
  for (const n of range(50)) browser.sendJson(n);
  await until(() => leaver.given.length === 10);
  const closed = leaver.client.close();
  let isClosed = false;
  closed.then(() => (isClosed = true));
  const heir = await employ(t, mqConf, () => {});
  await until(() => heir.given.length >= 40);
  t.false(isClosed);
  t.deepEqual(done, []);
  held.open();
  await closed;
  // Finished before the end, what they sent included, and acknowledged.
  t.deepEqual(done, range(10));
  const answers = await browser.received(10);
  t.deepEqual(
    answers.map((text) => JSON.parse(text).answer),
    range(10),
  );
  browser.sendJson('last');
  await until(() => heir.numbers().includes('last'));
  t.deepEqual(heir.numbers(), [...range(50).slice(10), 'last']);
  t.is(leaver.given.length, 10);
});

test('every message has an id of its own', async (t) => {
  const mqConf = conf();
  const { given, client } = await employ(t, mqConf, () => {});
  const ids = [];
  client.on('status', (status, headers, info) => ids.push(info.messageId));
  const { browser, connect } = await visitor(t, mqConf);
  const other = await connect('o');
  for (const n of range(500)) {
    browser.sendJson(n);
    other.sendJson(n);
  }
  await until(() => given.length === 1000 && ids.length === 2);
  for (const { info } of given) ids.push(info.messageId);
  t.true(ids.every((id) => typeof id === 'string' && id !== ''));
  t.is(new Set(ids).size, 1002);
});
