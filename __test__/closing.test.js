'use strict';

// Closing amid traffic ends what is open in good order: nothing throws, and
// nothing that others could still have is lost.

const test = require('ava');
const { forEachBroker } = require('./support/brokers');
const { run } = require('./support/children');
const { until } = require('./support/until');
const { door, worker } = require('./support/world');

forEachBroker(
  test,
  'an echoing client closes amid traffic',
  async (t, broker) => {
    const env = { MQ_CONF: JSON.stringify(broker.settings()) };
    const script = run(t, 'processes/closes.js', env);
    const end = await script.end();
    t.is(script.stderr, '');
    t.is(script.stdout, 'closed\n');
    t.deepEqual(end, { code: 0, signal: null });
  },
);

forEachBroker(
  test,
  'what a closing client has not heard goes to another',
  async (t, broker) => {
    const COUNT = 3000;
    const conf = broker.settings();
    const first = await worker(t, conf);
    const second = await worker(t, conf);
    const front = await door(t, conf);
    const browser = await front.connect('k');
    for (let n = 0; n < COUNT; n += 1) browser.sendJson(n);
    await until(() => first.messages.length > 20);
    await first.client.close();
    const atClose = first.messages.length;
    const heard = () =>
      new Set(
        [first, second].flatMap(({ messages }) =>
          messages.map(({ message }) => message),
        ),
      );
    await until(() => heard().size === COUNT);
    t.is(first.messages.length, atClose, 'none comes after the close');
    t.true(atClose < COUNT - 20);
  },
);
