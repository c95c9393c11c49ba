'use strict';

// What becomes of messages whose listeners take longer than RabbitMQ's
// consumer_timeout.

const test = require('ava');
const { withOwnRabbit } = require('../support/rabbit');
const { until } = require('../support/until');
const { door, worker } = require('../support/world');

const { rabbit, settings } = withOwnRabbit(test);

/** A world in which the listeners of 'slow' end when they are told to. */
async function slow(t, delivery) {
  await rabbit().ctl(
    'eval',
    'application:set_env(rabbit, consumer_timeout, 1000),' +
      'application:set_env(rabbit, channel_tick_interval, 200).',
  );
  const mqConf = { ...settings(), delivery, reconnectBackoffTime: 100 };
  const { client, messages } = await worker(t, mqConf);
  const errors = [];
  client.on('reconnecting', ({ error }) => errors.push(error));
  let finish;
  const finished = new Promise((resolve) => {
    finish = () => resolve();
  });
  client.on('message', (message) => message === 'slow' && finished);
  const { connect } = await door(t, mqConf);
  const peer = await connect('a');
  peer.send('slow');
  await until(() => messages.length === 1);
  return { client, messages, errors, peer, finish };
}

test('at-least-once: the message comes again while its listener runs', async (t) => {
  const { client, messages, errors, peer, finish } = await slow(
    t,
    'at-least-once',
  );
  await until(() => messages.length >= 2);
  t.regex(errors[0].message, /PRECONDITION_FAILED.*timed out/);
  t.true(messages[1].info.redelivered);
  t.is(messages[1].info.messageId, messages[0].info.messageId);
  finish();
  // It has not been in vain: the client goes on.
  peer.send('next');
  await until(() => messages.some(({ message }) => message === 'next'));
  await client.close();
});

test('at-most-once: a promise is not waited for', async (t) => {
  const { messages, errors, peer, finish } = await slow(t, 'at-most-once');
  // Longer than the broker waits for an acknowledgement.
  await new Promise((resolve) => setTimeout(resolve, 2500));
  peer.send('next');
  await until(() => messages.length === 2);
  t.deepEqual(errors, []);
  t.deepEqual(
    messages.map(({ message }) => message),
    ['slow', 'next'],
  );
  finish();
});
