'use strict';

// RabbitMQ as the tests of its special cases need it: killed, asked, refusing.

const { startRabbit } = require('../../scripts/rabbitmq');
const { NAMES, unique } = require('./brokers');

const { AMQP_URL, MESSAGE_ENGIN_TEST_RABBITMQ, ...env } = process.env;

/** The broker of this run refuses transient queues that are not exclusive. */
const refusesTransientQueues =
  env.MESSAGE_ENGIN_TEST_TRANSIENT_QUEUES === 'refused';

/** The broker of this run is somebody else's, and stays up. */
const isExternal = Boolean(AMQP_URL) && MESSAGE_ENGIN_TEST_RABBITMQ !== '4';

/**
 * A broker for one test file alone, which may do to it what it wants.
 *
 * @param {import('ava').TestFn} test
 */
function withOwnRabbit(test) {
  /** @type {import('../../scripts/rabbitmq').Rabbit} */
  let rabbit;
  test.before('a RabbitMQ of its own is there', async (t) => {
    t.timeout(180_000);
    rabbit = await startRabbit();
  });
  test.after.always('it is stopped', () => rabbit?.stop());
  return {
    rabbit: () => rabbit,
    /**
     * The next test finds it running, however this one ends.
     *
     * @param {import('ava').ExecutionContext} t
     */
    async kill9(t) {
      await rabbit.kill9();
      t.teardown(() => rabbit.pid ?? rabbit.restart());
    },
    /** An mqConf with names that no other test has. */
    settings() {
      const id = unique();
      const names = NAMES.map((name) => [name, `${name}-${id}`]);
      return { url: rabbit.url, ...Object.fromEntries(names) };
    },
  };
}

/**
 * What `rabbitmqctl list_...` says.
 *
 * @param {import('../../scripts/rabbitmq').Rabbit} rabbit
 * @param {'queues' | 'exchanges' | 'connections'} what
 * @param {...string} columns
 * @returns {Promise<Record<string, any>[]>}
 */
async function list(rabbit, what, ...columns) {
  const args = [`list_${what}`, '--silent', '--formatter=json', ...columns];
  return JSON.parse(await rabbit.ctl(...args));
}

module.exports = {
  NAMES,
  isExternal,
  list,
  refusesTransientQueues,
  withOwnRabbit,
};
