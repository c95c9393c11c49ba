'use strict';

// What the gateways and workers written in JavaScript share: settings come in
// an environment variable, readiness goes out as a line of JSON, and the end of
// standard input ends the process.

const http = require('node:http');
const readline = require('node:readline');

/**
 * @typedef {object} Settings
 * @property {{ host: string, port: number, login: string, password: string }} broker
 * @property {string} prefix of all names on the broker
 * @property {string} [package] the folder of message-engin
 */

/** @type {Settings} */
const settings = JSON.parse(process.env.MESSAGE_ENGIN_BENCH ?? '{}');

// The same for all that acknowledge; see acknowledger.
const PREFETCH = 256;
const ACK_COUNT = 128;
const ACK_DELAY = 10;

const names = Object.fromEntries(
  [
    'receiveExchange',
    'receiveQueue',
    'statusExchange',
    'statusQueue',
    'messageExchange',
    'messageQueue',
  ].map((name) => [name, `${settings.prefix}${name}`]),
);

// The two functions that users write. A browser says who it is with a header,
// and workers send back the headers that came.
const keyFn = ({ headers }) => headers.k;
const messageKeyFn = (message, headers) => headers.k;

function say(event) {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

/** Tells the parent, and follows it from then on. */
function ready(more) {
  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    if (line !== 'settle') return;
    globalThis.gc?.();
    // What finalizers freed goes with a second run.
    setImmediate(() => {
      globalThis.gc?.();
      say({ event: 'settled' });
    });
  });
  process.stdin.on('end', () => process.exit(0));
  say({ event: 'ready', pid: process.pid, ...more });
}

/** @param {object} reason */
function unavailable(reason) {
  say({ event: 'unavailable', reason: String(reason.message ?? reason) });
  process.exit(0);
}

/** Ends this process: what is measured never reconnects. */
function fail(error) {
  console.error(error);
  process.exit(1);
}

/** @param {http.Server} httpServer */
function listen(httpServer) {
  return new Promise((resolve) => {
    // Thousands come at once.
    const where = { host: '127.0.0.1', port: 0, backlog: 4096 };
    httpServer.listen(where, () => resolve(httpServer.address().port));
  });
}

function createHttpServer() {
  return http.createServer((request, response) => {
    response.writeHead(404).end();
  });
}

/**
 * Acknowledges in multiples: when half of the prefetch is used, or a moment
 * after the first that is not acknowledged.
 *
 * @template T
 * @param {(last: T) => void} ackAllUpTo
 */
function acknowledger(ackAllUpTo) {
  let count = 0;
  let last;
  let timer = null;
  function flush() {
    clearTimeout(timer);
    timer = null;
    count = 0;
    ackAllUpTo(last);
  }
  return (/** @type {T} */ delivery) => {
    last = delivery;
    count += 1;
    if (count >= ACK_COUNT) flush();
    else timer ??= setTimeout(flush, ACK_DELAY);
  };
}

/** Our own package, and its settings for the broker. */
function messageEngin() {
  return { ...require(settings.package), mqConf: mqConf() };
}

/** What node-amqp and our package both understand. */
function mqConf() {
  return { ...settings.broker, ...names };
}

module.exports = {
  PREFETCH,
  acknowledger,
  createHttpServer,
  fail,
  keyFn,
  listen,
  messageEngin,
  messageKeyFn,
  mqConf,
  names,
  ready,
  settings,
  unavailable,
};
