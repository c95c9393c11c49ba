'use strict';

// At least once needs exchanges and queues that stay. Where others stand in
// their place, the start says so, with both sides' properties and a way out.

const http = require('node:http');
const test = require('ava');
const { Client, server } = require('../..');
const { rabbitmq, unique, withRabbit } = require('../support/brokers');
const { LASTS } = require('../support/faults/broker');
const { LEAST, MOST } = require('../support/faults/scene');
const { LegacyLine } = require('../support/legacy');
const { refusesTransientQueues } = require('../support/rabbit');
const { usual, worker } = require('../support/world');

const rabbit = withRabbit(test);

/** @param {(line: LegacyLine) => Promise<any>} declare */
async function occupy(t, declare) {
  const line = await LegacyLine.connect({ url: rabbit().url });
  t.teardown(() => line.close());
  const thing = await declare(line);
  t.teardown(() => thing.destroy());
}

/** @type {Record<string, (mqConf: object) => Promise<any>>} */
const START = {
  gateway: (mqConf) =>
    server.start(mqConf, { ...usual, httpServer: http.createServer() }),
  client: (mqConf) => new Client(mqConf).init(),
};

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
  for (const [who, start] of Object.entries(START)) {
    test(`${title}: the ${who} says so`, async (t) => {
      const mqConf = { ...rabbitmq.settings(), ...LEAST };
      const name = mqConf[option];
      await occupy(t, (line) => line.exchange(name, type, properties));
      const error = await t.throwsAsync(() => start(mqConf));
      isRefusal(t, error, { option, name, pattern });
    });
  }
}

/** It says what is there, what is wrong with it, and what to do about it. */
function isRefusal(t, error, { option, name, pattern }) {
  t.log(error.message);
  t.is(error.code, 'PRECONDITION_FAILED');
  t.true(error.message.includes(name));
  t.regex(error.message, pattern);
  t.regex(error.message, /delete/);
  t.true(error.message.includes(`mqConf.${option}`));
}

const typed = (type) => ({ arguments: { 'x-queue-type': type } });

/**
 * A queue in the place of a shared one, what is asked for, and what is wrong.
 *
 * @type {[string, { durable?: boolean, autoDelete?: boolean, arguments?: object },
 *   object, RegExp][]}
 */
const QUEUES = [
  ['is transient', { ...LASTS, durable: false }, {}, /durable/],
  ['is autoDelete', { ...LASTS, autoDelete: true }, {}, /auto.?delete/i],
  ['is a quorum queue', { ...LASTS, ...typed('quorum') }, {}, /type/],
  ['is a classic queue', LASTS, { queueType: 'quorum' }, /type/],
  [
    'has a dead letter exchange',
    { ...LASTS, arguments: { 'x-dead-letter-exchange': 'elsewhere' } },
    {},
    /dead-letter-exchange/,
  ],
  [
    'has no dead letter exchange',
    LASTS,
    // One that every broker has.
    { deadLetterExchange: 'amq.fanout' },
    /dead-letter-exchange/,
  ],
];

for (const option of ['receiveQueue', 'statusQueue']) {
  for (const [what, properties, more, pattern] of QUEUES) {
    // Some brokers have none, and it is the durable ones that are asked about.
    const allowed =
      refusesTransientQueues && !properties.durable ? test.skip : test;
    for (const [who, start] of Object.entries(START)) {
      allowed(`the ${option} ${what}: the ${who} says so`, async (t) => {
        const mqConf = { ...rabbitmq.settings(), ...LEAST, ...more };
        const name = mqConf[option];
        await occupy(t, (line) => line.queue(name, properties));
        const error = await t.throwsAsync(() => start(mqConf));
        isRefusal(t, error, { option, name, pattern });
      });
    }
  }
}

for (const [who, start] of Object.entries(START)) {
  test(`a dead letter exchange that is not there: the ${who} says so`, async (t) => {
    const deadLetterExchange = `nowhere-${unique()}`;
    const mqConf = { ...rabbitmq.settings(), ...LEAST, deadLetterExchange };
    const error = await t.throwsAsync(() => start(mqConf));
    t.log(error.message);
    t.is(error.code, 'NOT_FOUND');
    t.true(error.message.includes(deadLetterExchange));
    t.regex(error.message, /mqConf\.deadLetterExchange/);
  });
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
