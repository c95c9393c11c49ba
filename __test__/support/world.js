'use strict';

const http = require('node:http');
const { Client, server } = require('../..');
const { Peer } = require('./peers');
const { RawPeer } = require('./raw');
const { until } = require('./until');

/** The usual keys: of a connection in its url, of a message in its headers. */
const usual = {
  keyFn: ({ resourceURL }) => resourceURL.query.key,
  messageKeyFn: (message, { to }) => to,
};

/**
 * In ms: a peer that is paused, or that answers no pings, is dropped by
 * keepalive in no test but those about it, however slow the machine is.
 */
const QUIET = 600_000;

/**
 * @param {import('ava').ExecutionContext} t
 * @param {http.Server} httpServer
 * @param {...any} where for listen; a free port of this machine without it
 */
async function listen(t, httpServer, ...where) {
  const args = where.length ? where : [0, '127.0.0.1'];
  const sockets = new Set();
  httpServer.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise((resolve) => httpServer.listen(...args, () => resolve()));
  t.teardown(() => {
    // Those that were upgraded are no business of closeAllConnections().
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => httpServer.close(() => resolve()));
  });
  return httpServer;
}

/**
 * A client, and all that it gets.
 *
 * @param {import('ava').ExecutionContext} t
 * @param {Record<string, any>} mqConf
 */
async function worker(t, mqConf) {
  const client = new Client(mqConf);
  /** @type {{ message: any, headers: any, info: any }[]} */
  const messages = [];
  /** @type {any[]} */
  const statuses = [];
  client.on('message', (message, headers, info) => {
    messages.push({ message, headers, info });
  });
  client.on('status', (status, headers, info) => {
    statuses.push(Object.assign(status, { headers, info }));
  });
  t.teardown(() => client.close());
  await client.init();
  return { client, messages, statuses };
}

/**
 * A gateway on a server of its own.
 *
 * @param {import('ava').ExecutionContext} t
 * @param {Record<string, any>} mqConf
 * @param {Record<string, any>} [wsConf]
 */
async function door(t, mqConf, wsConf = {}) {
  const httpServer =
    wsConf.httpServer ?? (await listen(t, http.createServer()));
  const defaults = { ...usual, keepaliveGracePeriod: QUIET, httpServer };
  const conf = Object.assign(defaults, wsConf);
  const gateway = await server.start(mqConf, conf);
  t.teardown(() => gateway.close());
  const { port } = [httpServer].flat()[0].address();
  const url = `ws://127.0.0.1:${port}/`;

  /** A browser that is on its way. */
  function knock(key, { path = '', headers = {}, ...options } = {}) {
    const query = new URLSearchParams({ key });
    const peer = new Peer(`${url}${path}?${query}`, {
      // So that what goes back with the same headers comes home.
      headers: { to: encodeURIComponent(key), ...headers },
      ...options,
    });
    t.teardown(() => peer.terminate());
    return peer;
  }

  async function raw() {
    const peer = await RawPeer.connect({ host: '127.0.0.1', port });
    t.teardown(() => peer.leave());
    return peer;
  }

  /** A raw client that is connected. */
  async function rawOpen(key) {
    const peer = await raw();
    const { status } = await peer.upgrade(`/?key=${key}`, { to: key });
    t.is(status, 101);
    return peer;
  }

  return {
    conf,
    gateway,
    httpServer,
    port,
    url,
    knock,
    /** A browser that is connected. */
    connect: (key, options) => knock(key, options).opened,
    raw,
    rawOpen,
  };
}

/**
 * A worker and a gateway, in the order in which nothing is lost.
 *
 * @param {import('ava').ExecutionContext} t
 * @param {import('./brokers').TestBroker} broker
 * @param {{ mq?: Record<string, any>, ws?: Record<string, any> }} [confs]
 */
async function open(t, broker, { mq = {}, ws = {} } = {}) {
  const mqConf = { ...broker.settings(), ...mq };
  const back = await worker(t, mqConf);
  const front = await door(t, mqConf, ws);
  return {
    mqConf,
    ...back,
    ...front,

    /** The messages that the worker got, once there are as many. */
    async heard(count) {
      await until(() => back.messages.length >= count);
      return back.messages.map(({ message }) => message);
    },

    /** `[status, key, reasonCode, description]` of each, once there are as many. */
    async told(count) {
      await until(() => back.statuses.length >= count);
      return back.statuses.map(({ status, key, reasonCode, description }) =>
        status ? [status, key] : [status, key, reasonCode, description],
      );
    },
  };
}

module.exports = { door, listen, open, usual, worker };
