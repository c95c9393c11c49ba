'use strict';

// When and whether a lost broker connection is tried again is a setting, that
// of node-amqp.

const { once } = require('node:events');
const test = require('ava');
const { isExternal, withOwnRabbit } = require('../support/rabbit');
const { until } = require('../support/until');
const { door, worker } = require('../support/world');

const { rabbit, settings, kill9 } = withOwnRabbit(test);
// One after the other: they share the broker that they end.
const breaking = isExternal ? test.skip : test.serial;

/** Each 'reconnecting', with the time that it came. */
function attempts(emitter) {
  const seen = [];
  emitter.on('reconnecting', (info) => {
    seen.push({ ...info, at: performance.now() });
  });
  return seen;
}

breaking('the time between attempts stays or doubles', async (t) => {
  t.timeout(120_000);
  const conf = settings();
  const linear = { reconnectBackoffTime: 150, reconnectJitter: 0 };
  const exponential = {
    reconnectBackoffStrategy: 'exponential',
    reconnectBackoffTime: 40,
    reconnectExponentialLimit: 250,
    reconnectJitter: 0,
  };
  const { client } = await worker(t, { ...conf, ...exponential });
  const { gateway } = await door(t, { ...conf, ...linear });
  const expected = new Map([
    [attempts(client), [40, 80, 160, 250, 250]],
    [attempts(gateway), [150, 150, 150, 150, 150]],
  ]);
  const killed = performance.now();
  await kill9(t);
  for (const [seen, delays] of expected) {
    await until(() => seen.length > delays.length);
    const first = seen.slice(0, delays.length);
    let waited = 0;
    t.deepEqual(
      first.map(({ attempt, delay }) => [attempt, delay]),
      delays.map((delay, index) => [index + 1, delay]),
    );
    for (const [index, { delay, error }] of first.entries()) {
      // From the kill on, since an event that is seen late must not make the
      // next one look early.
      waited += delay;
      t.true(seen[index + 1].at - killed > waited - 5);
      const code = index === 0 ? 'ERR_CONNECTION_LOST' : 'ECONNREFUSED';
      t.is(error.code, code);
    }
  }

  const ready = [client, gateway].map((emitter) => once(emitter, 'ready'));
  await rabbit().restart();
  await Promise.all(ready);
  for (const seen of expected.keys()) seen.length = 0;
  await rabbit().ctl('close_all_connections', 'once more');
  for (const [seen, [delay]] of expected) {
    await until(() => seen.length);
    t.deepEqual([seen[0].attempt, seen[0].delay], [1, delay]);
  }
});

breaking('nobody comes back in step with the others', async (t) => {
  t.timeout(120_000);
  const conf = { ...settings(), reconnectBackoffTime: 100 };
  const { client } = await worker(t, conf);
  const seen = attempts(client);
  await kill9(t);
  await until(() => seen.length >= 20);
  await rabbit().restart();
  const delays = seen.map(({ delay }) => delay);
  t.true(delays.every((delay) => delay >= 75 && delay <= 125));
  t.true(new Set(delays).size > 5, delays.join());
});

breaking('with reconnect: false a lost connection stays lost', async (t) => {
  const conf = { ...settings(), reconnect: false };
  const { client } = await worker(t, conf);
  const front = await door(t, conf);
  const quiet = await worker(t, conf);
  const browser = await front.connect('k');
  const seen = [attempts(client), attempts(front.gateway)];
  const undeliverable = [];
  client.on('undeliverable', (message) => undeliverable.push(message));
  const warnings = [];
  const warned = (warning) => warnings.push(warning);
  process.on('warning', warned);
  t.teardown(() => process.off('warning', warned));

  const errors = [client, front.gateway].map((each) => once(each, 'error'));
  await rabbit().ctl('close_all_connections', 'for good');
  for (const [error] of await Promise.all(errors)) {
    t.is(error.code, 'ERR_CONNECTION_LOST');
    t.regex(error.message, /for good/);
    t.true(error.address.includes(String(rabbit().port)));
    t.notRegex(JSON.stringify(error) + error.message, /guest/);
  }
  // Nobody listens to this one's errors, and the process goes on.
  await until(() => warnings.length);
  t.is(warnings[0].code, 'ERR_CONNECTION_LOST');
  await quiet.client.close();

  t.is(browser.socket.readyState, 1);
  browser.sendJson('nobody');
  await until(() => front.gateway.stats().received === 1);
  t.notThrows(() => client.send('nobody'));
  t.is(client.stats().undeliverable, 1);
  await until(() => undeliverable.length > 0);
  t.deepEqual(undeliverable, ['nobody']);
  await until(() => front.gateway.stats().undeliverable === 1);

  const start = performance.now();
  await Promise.all([client.close(), front.gateway.close()]);
  t.true(performance.now() - start < 30_000);
  t.like(await browser.closed, { code: 1001 });
  t.deepEqual(seen, [[], []]);
});
