'use strict';

// Deliveries are worked on in Node's own event loop: what its other users do
// there costs no message, and where it is not to be had all goes on without.

const test = require('ava');
const { forEachBroker, rabbitmq } = require('./support/brokers');
const { run } = require('./support/children');

const CLEAN = { code: 0, signal: null };

const start = (t, what, conf) =>
  run(t, 'processes/event-loop.js', {
    MQ_CONF: JSON.stringify(conf),
    WHAT: what,
  });

const plain = (t, broker) => start(t, 'plain', broker.settings());

forEachBroker(
  test,
  'what messageKeyFn and listeners leave behind and throws later costs no message',
  async (t, broker) => {
    const script = start(t, 'throws later', broker.settings());
    t.deepEqual(await script.tells('answers'), 300);
    // One for each key and one for each message heard, of each kind.
    t.deepEqual(await script.tells('caught'), { tick: 600, promise: 600 });
    t.deepEqual(await script.end(), CLEAN);
    t.is(script.stderr, '');
  },
);

forEachBroker(
  test,
  'where the event loop cannot be had, everything crosses',
  async (t, broker) => {
    const script = start(t, 'elsewhere', broker.settings());
    t.deepEqual(await script.tells('answers'), 300);
    t.deepEqual(await script.end(), CLEAN);
    t.is(script.stderr, '');
  },
);

forEachBroker(
  test,
  'other callbacks get their turn under a flood',
  async (t, broker) => {
    const script = start(t, 'flood', broker.settings());
    const { answers, turns } = await script.tells('flood');
    t.is(answers, 20_000);
    t.true(turns > 10, `${turns} turns`);
    t.deepEqual(await script.end(), CLEAN);
  },
);

test('whoever blocks the event loop for longer than a heartbeat keeps the connection', async (t) => {
  const conf = { ...rabbitmq.settings(), heartbeat: 1 };
  const script = start(t, 'blocks', conf);
  t.deepEqual(await script.tells('answers'), 300);
  t.deepEqual(await script.tells('events'), []);
  t.deepEqual(await script.end(), CLEAN);
  t.is(script.stderr, '');
});

forEachBroker(
  test,
  'a thread is terminated in the middle of its work, again and again',
  async (t, broker) => {
    const script = start(t, 'threads', broker.settings());
    t.is(await script.tells('terminated'), 10);
    t.deepEqual(await script.end(), CLEAN);
    t.is(script.stderr, '');
  },
);

forEachBroker(test, 'nothing of it keeps a process', async (t, broker) => {
  const script = plain(t, broker);
  t.is(await script.tells('answers'), 300);
  t.deepEqual(await script.end(), CLEAN);
});
