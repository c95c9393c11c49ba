'use strict';

// A gateway, an echoing client and browsers on an embedded broker.

const { once } = require('node:events');
const http = require('node:http');
const WebSocket = require('ws');
const { Client, server } = require('../..');

/** @param {string} name of the broker */
async function open(name) {
  const conf = { url: `memory://${name}` };
  const client = new Client(conf);
  client.on('message', (message, { to }) => client.send(message, { to }));
  // Without a listener, statuses wait in their queue for the first one.
  client.on('status', () => {});
  await client.init();
  const httpServer = http.createServer();
  httpServer.listen(0, '127.0.0.1');
  await once(httpServer, 'listening');
  const gateway = await server.start(conf, {
    httpServer,
    keyFn: ({ resourceURL }) => resourceURL.query.key,
    messageKeyFn: (message, { to }) => to,
  });
  const { port } = httpServer.address();
  return {
    client,
    gateway,
    async connect(key) {
      const url = `ws://127.0.0.1:${port}/?key=${key}`;
      const socket = new WebSocket(url, { headers: { to: key } });
      await once(socket, 'open');
      return socket;
    },
    async close() {
      await gateway.close();
      await client.close();
      httpServer.close();
      await once(httpServer, 'close');
    },
  };
}

/** Resolves to the next texts. */
function texts(socket, count) {
  const heard = [];
  return new Promise((resolve) => {
    socket.on('message', (data) => {
      if (heard.push(data.toString()) === count) resolve(heard);
    });
  });
}

module.exports = { open, texts };
