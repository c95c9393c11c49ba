'use strict';

// Ways to a gateway: plain TCP, whose sockets leave Node, and TLS and Unix
// sockets, which Node keeps.

const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');
const { embedded, forEachBroker } = require('./brokers');
const { Peer } = require('./peers');
const { RawPeer } = require('./raw');
const { secureServer } = require('./secure');
const { listen, open } = require('./world');

/** @typedef {{ httpServer: any, url: (pathname: string) => string, where: any }} Way */

/** @param {any} t @returns {Promise<Way>} */
async function tcp(t) {
  const httpServer = await listen(
    t,
    http.createServer((request, response) => response.end('just http')),
  );
  const { port } = httpServer.address();
  return {
    httpServer,
    url: (pathname) => `ws://127.0.0.1:${port}${pathname}`,
    where: { host: '127.0.0.1', port },
  };
}

/**
 * Ways that do not hand a plain TCP socket over.
 *
 * @type {Record<string, (t: any) => Promise<Way>>}
 */
const WAYS = {
  async tls(t) {
    const httpServer = await listen(
      t,
      secureServer((request, response) => response.end('just https')),
    );
    const { port } = httpServer.address();
    return {
      httpServer,
      url: (pathname) => `wss://127.0.0.1:${port}${pathname}`,
      where: { host: '127.0.0.1', port, secure: true },
    };
  },
  async 'unix socket'(t) {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-'));
    t.teardown(() => fs.rmSync(folder, { recursive: true }));
    const file = path.join(folder, 'http');
    return {
      httpServer: await listen(t, http.createServer(), file),
      url: (pathname) => `ws+unix://${file}:${pathname}`,
      where: { path: file },
    };
  },
};

/** A test for each way that is not plain TCP and each broker. */
function forEachWay(test, title, run) {
  for (const [name, way] of Object.entries(WAYS)) {
    forEachBroker(test, `${name}: ${title}`, async (t, broker) => {
      await run(t, kit(t, broker, await way(t)));
    });
  }
}

/** A test over plain TCP and the same over TLS, without RabbitMQ. */
function plainAndSecure(test, title, run) {
  for (const [name, way] of Object.entries({ tcp, tls: WAYS.tls })) {
    test(`${name}: ${title}`, async (t) => {
      await run(t, kit(t, embedded, await way(t)));
    });
  }
}

/** A test for each way, plain TCP included, without RabbitMQ. */
function everyWay(test, title, run) {
  for (const [name, way] of Object.entries({ tcp, ...WAYS })) {
    test(`${name}: ${title}`, async (t) => {
      await run(t, kit(t, embedded, await way(t)));
    });
  }
}

/** @param {any} t @param {import('./brokers').TestBroker} broker @param {Way} way */
function kit(t, broker, { httpServer, url, where }) {
  return {
    open: (ws = {}) =>
      open(t, broker, { ws: { closeTimeout: 500, ...ws, httpServer } }),
    httpServer,
    where,
    url,
    async connect(key, options) {
      const peer = new Peer(url(`/chat?key=${key}`), {
        rejectUnauthorized: false,
        headers: { to: key },
        ...options,
      });
      t.teardown(() => peer.terminate());
      return peer.opened;
    },
    async raw() {
      const raw = await RawPeer.connect(where);
      t.teardown(() => raw.leave());
      return raw;
    },
    async rawOpen(key) {
      const raw = await this.raw();
      t.is((await raw.upgrade(`/?key=${key}`, { to: key })).status, 101);
      return raw;
    },
  };
}

module.exports = { everyWay, forEachWay, plainAndSecure };
