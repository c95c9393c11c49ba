'use strict';

// One suite, two brokers: the embedded one and a real RabbitMQ.

const { sharedRabbit } = require('../../scripts/rabbitmq');

const NAMES = [
  'receiveExchange',
  'receiveQueue',
  'statusExchange',
  'statusQueue',
  'messageExchange',
  'messageQueue',
];

let counter = 0;

/** A name that no other test has, in this process or another. */
function unique() {
  counter += 1;
  return `${process.pid}-${Date.now().toString(36)}-${counter}`;
}

/** @type {Awaited<ReturnType<typeof sharedRabbit>> | undefined} */
let rabbit;
/** Each test file has a process of its own. */
let prepared = false;

/**
 * @typedef {object} TestBroker
 * @property {string} name
 * @property {() => Record<string, any>} settings an mqConf that shares nothing
 *   with any other test; those who are to meet get the same one
 */

/** @type {TestBroker} */
const embedded = {
  name: 'embedded',
  settings: () => ({ url: `memory://test-${unique()}` }),
};

/** @type {TestBroker} */
const rabbitmq = {
  name: 'RabbitMQ',
  settings() {
    const id = unique();
    const names = NAMES.map((name) => [name, `${name}-${id}`]);
    return { url: rabbit.url, ...Object.fromEntries(names) };
  },
};

/**
 * Has a RabbitMQ there before the tests of this file and stops it after them,
 * unless it is shared by all files.
 *
 * @param {import('ava').TestFn} test
 * @returns {() => NonNullable<typeof rabbit>}
 */
function withRabbit(test) {
  if (!prepared) {
    prepared = true;
    test.before('RabbitMQ is there', async (t) => {
      t.timeout(180_000);
      rabbit = await sharedRabbit();
    });
    test.after.always('RabbitMQ is stopped', () => rabbit?.stop());
  }
  return () => rabbit;
}

/**
 * @param {import('ava').TestFn} test
 * @param {string} title
 * @param {(t: import('ava').ExecutionContext, broker: TestBroker) => any} run
 */
function forEachBroker(test, title, run) {
  withRabbit(test);
  for (const broker of [embedded, rabbitmq]) {
    test(`${broker.name}: ${title}`, (t) => run(t, broker));
  }
}

module.exports = {
  NAMES,
  embedded,
  forEachBroker,
  rabbitmq,
  unique,
  withRabbit,
};
