'use strict';

// A RabbitMQ of its own for tests and measurements. See startRabbit below.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { aptInstall, aptProblem } = require('./lib/apt');
const { probe } = require('./lib/amqp-probe');
const { RabbitNode, runCtl } = require('./lib/rabbit-node');
const { which } = require('./lib/project');
const { Problem } = require('./lib/steps');

// Debian's own /usr/sbin/rabbitmq-server changes to another user and writes to
// the system's folders; the program that it wraps does neither.
const DEBIAN_BIN = '/usr/lib/rabbitmq/bin';

/**
 * @typedef {object} Rabbit
 * @property {string} url with login and password, for mqConf.url
 * @property {string} host
 * @property {number} port
 * @property {number} tlsPort 0 without TLS
 * @property {string} version
 * @property {number | null} pid of the broker; null when it is not ours
 * @property {(...args: string[]) => Promise<string>} ctl runs rabbitmqctl
 * @property {() => Promise<void>} kill9
 * @property {() => Promise<void>} restart same port, same data
 * @property {() => Promise<void>} stop
 *
 * @typedef {object} RabbitOptions
 * @property {'3' | '4'} [version] '3': what is installed here, or what apt-get
 *   installs; '4': see rabbitmq4.js
 * @property {boolean} [permitTransientQueues] RabbitMQ 4 only: whether it takes
 *   transient queues that are not exclusive
 * @property {Record<string, string | number | boolean>} [settings] further
 *   lines of rabbitmq.conf
 * @property {import('./lib/rabbit-node').RabbitTls} [tls] listens for TLS too
 * @property {string[]} [plugins]
 */

/**
 * Starts a RabbitMQ and waits until it answers. With AMQP_URL set, that broker
 * is used instead, and cannot be killed or restarted.
 *
 * Without a version, the one that the environment names for this test run.
 *
 * @param {RabbitOptions} [options]
 * @returns {Promise<Rabbit>}
 */
async function startRabbit(options = {}) {
  const version =
    options.version || process.env.MESSAGE_ENGIN_TEST_RABBITMQ || '3';
  if (version === '4') return require('./rabbitmq4').startRabbit4(options);
  if (process.env.AMQP_URL) return external(process.env.AMQP_URL);
  const bin = findServer() || (await installServer());
  const node = new RabbitNode(
    { bin, temp: os.tmpdir(), inside: (file) => file, wrapper: [] },
    options,
  );
  await node.start();
  return node;
}

/**
 * Starts a cluster of brokers on this machine, and waits until they are one.
 *
 * @param {number} count
 * @param {RabbitOptions} [options]
 * @returns {Promise<Rabbit[]>}
 */
async function startCluster(count, options = {}) {
  const first = await startRabbit(options);
  if (!(first instanceof RabbitNode)) {
    throw new Problem('A broker that somebody else runs makes no cluster.');
  }
  const nodes = [first];
  try {
    while (nodes.length < count) {
      const { installation, settings } = first;
      const node = new RabbitNode(installation, { settings, first });
      nodes.push(node);
      await node.start();
      await node.join();
    }
    return nodes;
  } catch (error) {
    await stopCluster(nodes);
    throw error;
  }
}

/**
 * The first one last, since the others use its epmd.
 *
 * @param {Rabbit[]} nodes
 */
async function stopCluster(nodes) {
  for (const node of [...nodes].reverse()) await node.stop();
}

/** The folder of rabbitmq-server and rabbitmqctl, or null. */
function findServer() {
  const server = which('rabbitmq-server', [DEBIAN_BIN]);
  return server && path.dirname(fs.realpathSync(server));
}

async function installServer() {
  const problem = aptProblem();
  if (problem) {
    throw new Problem(
      `RabbitMQ is needed: install rabbitmq-server, or set AMQP_URL to a broker that runs (it cannot be installed now: ${problem}).`,
    );
  }
  await aptInstall(['rabbitmq-server']);
  const bin = findServer();
  if (!bin) throw new Problem('apt-get brought no rabbitmq-server.');
  return bin;
}

/**
 * A broker that somebody else runs.
 *
 * @param {string} url
 * @param {import('./lib/rabbit-node').CtlHandle} [handle]
 * @returns {Promise<Rabbit>}
 */
async function external(url, handle) {
  const { hostname, port, protocol } = new URL(url);
  const host = hostname.replace(/^\[|\]$/g, '');
  const number = Number(port) || (protocol === 'amqps:' ? 5671 : 5672);
  const version =
    protocol === 'amqps:' ? 'unknown' : await probe(number, host, 10_000);
  if (!version) {
    throw new Problem(`No AMQP broker answers at ${host}:${number}.`);
  }
  const not = (/** @type {string} */ verb) => async () => {
    throw new Problem(
      `The broker at ${host}:${number} is not this process's own, so it cannot ${verb} it.`,
    );
  };
  return {
    url,
    host,
    port: number,
    tlsPort: 0,
    version,
    pid: null,
    ctl: handle ? (...args) => runCtl(handle, args) : not('control'),
    kill9: not('kill'),
    restart: not('restart'),
    // Being done with a broker of others is leaving it alone.
    stop: async () => {},
  };
}

/** What a process tells its children so that they share its broker. */
function shareEnv(/** @type {Rabbit} */ rabbit) {
  const handle = rabbit instanceof RabbitNode ? rabbit.handle() : null;
  return {
    MESSAGE_ENGIN_TEST_AMQP: rabbit.url,
    MESSAGE_ENGIN_TEST_CTL: handle ? JSON.stringify(handle) : '',
  };
}

/**
 * The broker that `npm test` started for all test files, or, where a test file
 * is run alone, one of its own.
 *
 * @returns {Promise<Rabbit>}
 */
async function sharedRabbit() {
  const { MESSAGE_ENGIN_TEST_AMQP: url, MESSAGE_ENGIN_TEST_CTL: ctl } =
    process.env;
  if (!url) return startRabbit();
  return external(url, ctl ? JSON.parse(ctl) : undefined);
}

module.exports = {
  ...{ startRabbit, sharedRabbit, shareEnv },
  ...{ startCluster, stopCluster },
};
