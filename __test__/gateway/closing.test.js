'use strict';

// Closing amid traffic ends what is open in good order: nothing throws, and
// nothing that others could still have is lost.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { run } = require('../support/children');
const { gate, until } = require('../support/until');
const { door, worker } = require('../support/world');

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
  'a closing client lets its async listeners finish, and send',
  async (t, broker) => {
    const conf = broker.settings();
    const { client } = await worker(t, conf);
    const front = await door(t, conf);
    const held = gate();
    const asked = [];
    const answer = async (message) => {
      asked.push(message);
      await held.promise;
      client.send(`${message} answered`, { to: 'k' });
    };
    client.on('message', answer);
    client.once('status', () => answer('status'));
    const browser = await front.connect('k');
    browser.send('first');
    browser.send('second');
    await until(() => asked.length === 3);
    t.is(client.listenerCount('status'), 1);
    let isClosed = false;
    const closed = client.close().then(() => (isClosed = true));
    client.send('more is allowed meanwhile', { to: 'k' });
    t.deepEqual(await browser.received(1), ['more is allowed meanwhile']);
    t.false(isClosed);
    held.open();
    await closed;
    t.deepEqual((await browser.received(4)).slice(1).sort(), [
      'first answered',
      'second answered',
      'status answered',
    ]);
    t.throws(() => client.send('late'), { code: 'ERR_CLOSED' });
  },
);

forEachBroker(
  test,
  'a closing client waits for its listeners no longer than it was told to',
  async (t, broker) => {
    const conf = broker.settings();
    const { client } = await worker(t, conf);
    const front = await door(t, conf);
    const asked = gate();
    const held = gate();
    const late = gate();
    client.on('message', async () => {
      asked.open();
      await held.promise;
      late.open(t.throws(() => client.send('late')).code);
    });
    (await front.connect('k')).send('x');
    await asked.promise;
    await client.close({ timeout: 50 });
    held.open();
    t.is(await late.promise, 'ERR_CLOSED');
  },
);

forEachBroker(
  test,
  'what an async listener rejects with is an unhandled rejection',
  async (t, broker) => {
    const env = { MQ_CONF: JSON.stringify(broker.settings()) };
    const script = run(t, 'processes/rejects.js', env);
    t.deepEqual(await script.end(), { code: 1, signal: null });
    t.regex(script.stderr, /a listener of messages/);
    t.is(script.stdout, '');
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
