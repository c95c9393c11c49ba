'use strict';

// Ways to a gateway on which Node keeps the socket: TLS and Unix sockets.

const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');
const { forEachBroker } = require('./brokers');
const { Peer } = require('./peers');
const { RawPeer } = require('./raw');
const { secureServer } = require('./secure');
const { listen, open } = require('./world');

/**
 * Ways to a gateway that do not hand a plain TCP socket over.
 *
 * @type {Record<string, (t: any) => Promise<{ httpServer: any, url: (pathname: string) => string, where: any }>>}
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

/** A test for each way and each broker. */
function forEachWay(test, title, run) {
  for (const [name, way] of Object.entries(WAYS)) {
    forEachBroker(test, `${name}: ${title}`, async (t, broker) => {
      const { httpServer, url, where } = await way(t);
      await run(t, {
        open: (ws = {}) =>
          open(t, broker, { ws: { closeTimeout: 500, ...ws, httpServer } }),
        httpServer,
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
      });
    });
  }
}

module.exports = { forEachWay };
