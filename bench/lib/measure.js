'use strict';

const { setTimeout: delay } = require('node:timers/promises');
const { Child } = require('./child');
const { cpu, rss } = require('./proc');
const { program } = require('./prepare');

// For connecting, measuring, and echoes that are late.
const PATIENCE = 120_000;
// Beyond the time that the whole run has.
const LENIENCE = 8_000;
const SETTLING = 500;
const FIRST_CONNECTIONS = 200;

/** @typedef {import('./session').Session} Session */

/** How long the load generator may take, in ms. */
function patience(/** @type {Session} */ { world }) {
  return Math.min(PATIENCE, world.options.deadline + LENIENCE - Date.now());
}

/**
 * Runs the load generator on a session, and reads CPU times when it says so.
 *
 * @param {Session} session
 * @param {Record<string, string | number>} settings
 */
async function runLoad(session, settings) {
  const args = Object.entries({ targets: session.targets.join(), ...settings });
  const load = new Child('load', [
    program('load'),
    ...args.flatMap(([name, value]) => [`--${name}`, String(value)]),
  ]);
  const pids = {
    gateway: session.gateways.map(({ pid }) => pid),
    worker: [session.worker.pid],
    broker: session.world.brokerPids,
    load: [load.pid],
  };
  const read = () =>
    Object.entries(pids).map(([name, list]) => [name, cpu(list)]);
  const times = {};
  load.onEvent = ({ event }) => {
    if (event === 'begin' || event === 'end') times[event] = read();
  };
  try {
    const result = await load.next(['result'], patience(session));
    const used = times.begin.map(([name, before], index) => [
      name,
      times.end[index][1] - before,
    ]);
    return { result, used: Object.fromEntries(used) };
  } finally {
    await load.end();
  }
}

/**
 * @param {Record<string, number>} used microseconds of CPU
 * @param {number} count of what they were used for
 * @param {number} seconds
 * @param {import('./session').World} world
 */
function costs(used, count, seconds, world) {
  const each = (name) => (count > 0 ? used[name] / count : null);
  return {
    gatewayCpu: each('gateway'),
    workerCpu: each('worker'),
    brokerCpu: world.brokerPids.length > 0 ? each('broker') : null,
    // Of one core: near 1, it was this that limited the rest.
    loadShare: used.load / seconds / 1e6,
    workerShare: used.worker / seconds / 1e6,
    gatewayShare: used.gateway / seconds / 1e6,
  };
}

/**
 * Messages there and back: as many as can be, or `rate` a second.
 *
 * @param {Session} session
 * @param {object} [settings]
 * @param {number} [settings.rate]
 * @param {number} [settings.connections]
 * @param {number} [settings.size]
 * @param {number} [settings.inFlight]
 * @param {number} [settings.seconds]
 */
async function roundTrips(session, settings = {}) {
  const { options } = session.world;
  const {
    rate = 0,
    connections = options.connections,
    size = 200,
    inFlight = options.inFlight,
    seconds = options.seconds,
  } = settings;
  const { result, used } = await runLoad(session, {
    mode: 'echo',
    connections,
    size,
    rate,
    'in-flight': inFlight,
    warmup: options.warmup,
    seconds,
  });
  const { latency, roundTrips: count } = result;
  return {
    rate: count / result.seconds,
    ...costs(used, count, result.seconds, session.world),
    p50: latency.p50 / 1000,
    p99: latency.p99 / 1000,
    p999: latency.p999 / 1000,
    maxLatency: latency.max / 1000,
    unanswered: result.unanswered,
    wrong: result.misrouted + result.broken + result.closed,
    lag: result.lag / 1000,
  };
}

/** @param {Session} session */
async function handshakes(session) {
  const { options } = session.world;
  const { result, used } = await runLoad(session, {
    mode: 'handshakes',
    'in-flight': 64,
    warmup: options.warmup / 2,
    seconds: options.seconds,
  });
  return {
    rate: result.handshakes / result.seconds,
    ...costs(used, result.handshakes, result.seconds, session.world),
    p50: result.latency.p50 / 1000,
    p99: result.latency.p99 / 1000,
    wrong: result.failed,
  };
}

/**
 * Holds connections that have had a message each way.
 *
 * @param {Session} session
 * @param {number} connections
 */
async function hold(session, connections) {
  const [gateway] = session.gateways;
  const args = ['--mode', 'idle', '--targets', session.targets.join()];
  const load = new Child('load', [
    program('load'),
    ...args,
    ...['--connections', String(connections)],
  ]);
  try {
    await load.next(['held'], patience(session));
    await delay(SETTLING);
    await gateway.settle();
    await delay(SETTLING);
    const bytes = rss(gateway.pid);
    load.tell('go on');
    const { closed, misrouted, broken } = await load.next(['result']);
    return { bytes, wrong: closed + misrouted + broken };
  } finally {
    await load.end();
  }
}

/**
 * What connections that are idle cost in memory. The first ones, with all that
 * they bring up once, are what the others are counted against.
 *
 * @param {Session} session
 * @param {number} connections
 */
async function idle(session, connections) {
  const first = await hold(session, FIRST_CONNECTIONS);
  const all = await hold(session, connections);
  const more = connections - FIRST_CONNECTIONS;
  return {
    perConnection: (all.bytes - first.bytes) / more,
    rss: all.bytes,
    rssOfFirst: first.bytes,
    connections,
    wrong: first.wrong + all.wrong,
  };
}

module.exports = { handshakes, idle, roundTrips };
