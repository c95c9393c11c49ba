'use strict';

// Deliveries are worked on in Node's own event loop: what its other users do
// there costs no message, and where it is not to be had all goes on without.

const test = require('ava');
const { forEachBroker, rabbitmq } = require('../support/brokers');
const { endsWell, flood, share } = require('../support/event-loop');

forEachBroker(
  test,
  'what messageKeyFn and listeners leave behind and throws later costs no message',
  async (t, broker) => {
    const script = share(t, 'throws later', broker.settings());
    t.deepEqual(await script.tells('answers'), 300);
    // One for each key and one for each message heard, of each kind.
    t.deepEqual(await script.tells('caught'), { tick: 600, promise: 600 });
    await endsWell(t, script);
  },
);

/** What else the event loop is used for. */
const USES = {
  nothing: 'nothing of it keeps a process',
  elsewhere: 'where the event loop cannot be had, everything crosses',
};

for (const [what, title] of Object.entries(USES)) {
  forEachBroker(test, title, async (t, broker) => {
    const script = share(t, what, broker.settings());
    t.deepEqual(await script.tells('answers'), 300);
    await endsWell(t, script);
  });
}

forEachBroker(
  test,
  'other callbacks get their turn under a flood',
  (t, broker) => flood(t, broker.settings()),
);

test('whoever blocks the event loop for longer than a heartbeat keeps the connection', async (t) => {
  const script = share(t, 'blocks', { ...rabbitmq.settings(), heartbeat: 2 });
  t.deepEqual(await script.tells('answers'), 300);
  t.deepEqual(await script.tells('events'), []);
  await endsWell(t, script);
});

forEachBroker(
  test,
  'a thread is terminated in the middle of its work, again and again',
  async (t, broker) => {
    const script = share(t, 'threads', broker.settings());
    t.is(await script.tells('terminated'), 10);
    await endsWell(t, script);
  },
);
