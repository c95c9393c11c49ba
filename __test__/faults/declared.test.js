'use strict';

// At least once needs exchanges and queues that stay. Where others stand in
// their place, the start says so, with both sides' properties and a way out.

const test = require('ava');
const { Client } = require('../..');
const { rabbitmq, withRabbit } = require('../support/brokers');
const { LASTS } = require('../support/faults/broker');
const { LEAST, MOST } = require('../support/faults/scene');
const { LegacyLine } = require('../support/legacy');
const { door, worker } = require('../support/world');

const rabbit = withRabbit(test);

async function occupy(t, name, type, options) {
  const line = await LegacyLine.connect({ url: rabbit().url });
  t.teardown(() => line.close());
  const exchange = await line.exchange(name, type, options);
  t.teardown(() => exchange.destroy());
}

/** Each exchange, and what is in its place. */
const OCCUPIED = [
  [
    'receiveExchange',
    'direct',
    { durable: false, autoDelete: true },
    /durable/,
  ],
  [
    'messageExchange',
    'fanout',
    { durable: false, autoDelete: true },
    /durable/,
  ],
  ['statusExchange', 'direct', { ...LASTS, autoDelete: true }, /auto.?delete/i],
  ['messageExchange', 'topic', LASTS, /fanout[^]*topic|topic[^]*fanout/],
];

for (const [option, type, properties, pattern] of OCCUPIED) {
  const title = `${option} is there as ${type} ${JSON.stringify(properties)}`;
  for (const who of ['gateway', 'client']) {
    test(`${title}: the ${who} says so`, async (t) => {
      const mqConf = { ...rabbitmq.settings(), ...LEAST };
      const name = mqConf[option];
      await occupy(t, name, type, properties);
      const start = () =>
        who === 'gateway' ? door(t, mqConf) : new Client(mqConf).init();
      const error = await t.throwsAsync(start);
      t.log(error.message);
      t.is(error.code, 'PRECONDITION_FAILED');
      t.true(error.message.includes(name));
      t.regex(error.message, pattern);
      // What to do about it.
      t.regex(error.message, /delete|remove|another name|mqConf\./i);
    });
  }
}

test('a client at least once after one at most once is told', async (t) => {
  const mqConf = rabbitmq.settings();
  await worker(t, { ...mqConf, ...MOST });
  const late = new Client({ ...mqConf, ...LEAST });
  t.teardown(() => late.close());
  const error = await t.throwsAsync(() => late.init());
  t.is(error.code, 'PRECONDITION_FAILED');
  const taken = ['receiveExchange', 'statusExchange', 'messageExchange'];
  t.true(taken.some((option) => error.message.includes(mqConf[option])));
});
