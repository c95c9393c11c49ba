'use strict';

// A failure that nobody listens to is one process warning of each kind, and
// the later ones are counted.

const test = require('ava');
const { Client } = require('../..');
const { embedded, forEachBroker } = require('../support/brokers');
const { withOwnRabbit } = require('../support/rabbit');
const { until } = require('../support/until');
const { door } = require('../support/world');

const own = withOwnRabbit(test);

/**
 * The warnings of one code while the test runs. They are the process's: tests
 * that expect the same code must be serial.
 */
function warnings(t, code) {
  const seen = [];
  const listener = (warning) => warning.code === code && seen.push(warning);
  process.on('warning', listener);
  t.teardown(() => process.off('warning', listener));
  return seen;
}

async function statusOf(front, key) {
  const peer = await front.raw();
  const { status } = await peer.upgrade(`/?key=${key}`);
  return status;
}

/** What keyFn does for each key, and whether that is a failure. */
const ANSWERS = {
  bug: () => {
    throw new TypeError('cannot read the session');
  },
  rejection: async () => {
    throw new Error('no database');
  },
  object: () => ({ an: 'object' }),
  falsy: () => '',
  refusal: () => {
    throw Object.assign(new Error('not you'), { status: 403 });
  },
  reject: (request) => {
    request.reject(401, 'log in');
    throw new Error('not logged in');
  },
};
const keyFn = (request) => ANSWERS[request.resourceURL.query.key](request);

test.serial('an error of keyFn is one warning and is counted', async (t) => {
  const seen = warnings(t, 'MESSAGE_ENGIN_KEY_ERROR');
  const front = await door(t, embedded.settings(), { keyFn });
  for (const [key, status] of [
    ['falsy', 404],
    ['refusal', 403],
    ['reject', 401],
  ]) {
    t.is(await statusOf(front, key), status);
  }
  t.is(front.gateway.stats().keyFnErrors, 0);
  for (const key of ['bug', 'rejection', 'object', 'bug']) {
    t.is(await statusOf(front, key), 404);
  }
  await until(() => seen.length > 0);
  t.is(seen.length, 1);
  t.is(seen[0].name, 'MessageEnginWarning');
  t.regex(seen[0].message, /keyFn.*cannot read the session.*'keyError'/);
  const { rejected, keyFnErrors } = front.gateway.stats();
  t.deepEqual([rejected, keyFnErrors], [7, 4]);
});

test.serial('each gateway warns of its own first error', async (t) => {
  const seen = warnings(t, 'MESSAGE_ENGIN_KEY_ERROR');
  for (const count of [1, 2]) {
    const front = await door(t, embedded.settings(), {
      origins: () => {
        throw new Error('no list');
      },
    });
    t.is(await statusOf(front, 'a'), 403);
    await until(() => seen.length === count);
    t.regex(seen.at(-1).message, /origins.*no list/);
  }
});

test.serial('with a listener there is no warning', async (t) => {
  const seen = warnings(t, 'MESSAGE_ENGIN_KEY_ERROR');
  const front = await door(t, embedded.settings(), { keyFn });
  const told = [];
  front.gateway.on('keyError', ({ message }) => told.push(message));
  for (const key of ['bug', 'refusal', 'reject']) await statusOf(front, key);
  t.deepEqual(told, ['cannot read the session', 'not you', 'not logged in']);
  t.is(front.gateway.stats().keyFnErrors, 1);
  await new Promise((resolve) => setImmediate(resolve));
  t.deepEqual(seen, []);
});

test.serial(
  'an outage is one warning of each client and gateway',
  async (t) => {
    const seen = warnings(t, 'MESSAGE_ENGIN_RECONNECTING');
    const mqConf = { ...own.settings(), reconnectBackoffTime: 50 };
    const silent = await new Client(mqConf).init();
    t.teardown(() => silent.close());
    const heard = await new Client(mqConf).init();
    t.teardown(() => heard.close());
    let attempts = 0;
    heard.on('reconnecting', () => (attempts += 1));
    const front = await door(t, mqConf);
    await own.kill9(t);
    await until(() => attempts > 3);
    await own.rabbit().restart();
    await until(() =>
      [silent, heard, front.gateway].every(
        (each) => each.stats().reconnects > 0,
      ),
    );
    t.is(seen.length, 2);
    for (const { message } of seen) {
      t.regex(message, /127\.0\.0\.1:\d+.*'reconnecting'/);
      t.false(message.includes('\n'));
    }
  },
);

test.serial('what send does not take is one warning', async (t) => {
  const seen = warnings(t, 'MESSAGE_ENGIN_UNDELIVERABLE');
  const client = new Client({ ...own.settings(), bufferSize: 1000 });
  client.on('reconnecting', () => {});
  await client.init();
  t.teardown(() => client.close());
  await own.kill9(t);
  for (let n = 0; n < 20; n += 1) client.send('x'.repeat(500));
  await until(() => seen.length > 0 && client.stats().undeliverable > 10);
  await new Promise((resolve) => setImmediate(resolve));
  t.is(seen.length, 1);
  t.regex(seen[0].message, /bufferSize.*'undeliverable'/);
  await own.rabbit().restart();
});

forEachBroker(
  test.serial,
  'a listener that fails is one warning, and what is lost with it another',
  async (t, broker) => {
    const failed = warnings(t, 'MESSAGE_ENGIN_LISTENER_ERROR');
    const lost = warnings(t, 'MESSAGE_ENGIN_UNDELIVERABLE');
    const mqConf = { ...broker.settings(), delivery: 'at-least-once' };
    const client = new Client(mqConf);
    client.on('message', () => {
      throw new Error('cannot');
    });
    await client.init();
    t.teardown(() => client.close());
    const front = await door(t, mqConf);
    const browser = await front.connect('k');
    for (const n of [1, 2, 3]) browser.sendJson(n);
    await until(() => client.stats().undeliverable === 3);
    t.is(client.stats().listenerErrors, 6);
    await until(() => failed.length > 0 && lost.length > 0);
    t.deepEqual([failed.length, lost.length], [1, 1]);
    t.regex(failed[0].message, /cannot.*once more.*'listenerError'/);
    t.regex(lost[0].message, /cannot.*lost.*'undeliverable'/);
  },
);
