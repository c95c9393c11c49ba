'use strict';

// socket.io on the same http server. It ends every upgrade that is not its own
// and that nobody has answered after `destroyUpgradeTimeout`.

const http = require('node:http');
const { setTimeout: delay } = require('node:timers/promises');
const test = require('ava');
const { Server } = require('socket.io');
const { io } = require('socket.io-client');
const { embedded } = require('../support/brokers');
const { RawPeer } = require('../support/raw');
const { secureServer } = require('../support/secure');
const { gate, until } = require('../support/until');
const { listen, open } = require('../support/world');

const TIMEOUT = 50;

/** socket.io that echoes, with the default path and timeouts that are short. */
function attach(t, httpServer) {
  const other = new Server(httpServer, { destroyUpgradeTimeout: TIMEOUT });
  other.on('connection', (socket) => {
    socket.on('echo', (text, answer) => answer(text));
  });
  t.teardown(() => other.disconnectSockets(true));
}

/** Whether a client of socket.io is connected and answered. */
async function speaks(t, url, transports) {
  const client = io(url, {
    transports,
    rejectUnauthorized: false,
    reconnection: false,
    forceNew: true,
  });
  t.teardown(() => client.close());
  // The upgrade from polling is over when this is emitted.
  const upgraded = gate();
  if (transports[0] === 'websocket') upgraded.open();
  client.io.engine.once('upgrade', upgraded.open);
  client.on('connect_error', upgraded.fail);
  await upgraded.promise;
  t.is(await client.timeout(20_000).emitWithAck('echo', 'hello'), 'hello');
  return client;
}

for (const secure of [false, true]) {
  for (const attached of ['before', 'after']) {
    for (const path of [undefined, '/ws']) {
      const title =
        `${secure ? 'https' : 'http'}, attached ${attached} the gateway, ` +
        `path ${path}`;
      test(`socket.io, ${title}`, async (t) => {
        const httpServer = await listen(
          t,
          secure ? secureServer() : http.createServer(),
        );
        const held = gate();
        let isAsked = false;
        const keyFn = () => {
          isAsked = true;
          return held.promise;
        };
        if (attached === 'before') attach(t, httpServer);
        const world = await open(t, embedded, {
          ws: { httpServer, path, keyFn },
        });
        if (attached === 'after') attach(t, httpServer);
        const { port } = httpServer.address();
        const url = `${secure ? 'https' : 'http'}://127.0.0.1:${port}`;

        const clients = [
          await speaks(t, url, ['websocket']),
          await speaks(t, url, ['polling', 'websocket']),
        ];
        const raw = await RawPeer.connect({ host: '127.0.0.1', port, secure });
        t.teardown(() => raw.leave());
        const response = raw.upgrade(`${path ?? '/'}?key=a`, { to: 'a' });
        await until(() => isAsked);
        // Timers of one process run in the order in which they are due, so
        // that of socket.io is over after this.
        await delay(2 * TIMEOUT);
        held.open('a');
        t.is((await response).status, 101);
        world.client.send('hello', { to: 'a' });
        t.deepEqual(await world.told(1), [[1, 'a']]);

        for (const client of clients) {
          t.true(client.connected);
          t.is(await client.timeout(20_000).emitWithAck('echo', 'x'), 'x');
        }
        t.is(world.gateway.stats().rejected, 0);
      });
    }
  }
}
