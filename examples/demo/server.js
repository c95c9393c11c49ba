'use strict';

// A chat in one process: page, gateway and worker on the embedded broker.

const { once } = require('node:events');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { Client, server } = require('../..');

const MAX_NAME = 24;
// How keyFn tells the worker who a connection belongs to.
const NAME_HEADER = 'x-chat-name';

const mqConf = { url: 'memory:' };
const page = fs.readFileSync(path.join(__dirname, 'page.html'));

const httpServer = http.createServer((request, response) => {
  if (request.method !== 'GET' || !/^\/(\?|$)/.test(request.url)) {
    response.writeHead(404).end();
    return;
  }
  response.writeHead(200, {
    'Content-Type': 'text/html; charset=utf-8',
    'Cache-Control': 'no-store',
    'Content-Security-Policy':
      "default-src 'none'; connect-src 'self' ws: wss:; img-src data:; " +
      "style-src 'unsafe-inline'; script-src 'unsafe-inline'",
  });
  response.end(page);
});

const wsConf = {
  httpServer,
  maxReceivedMessageSize: 16 * 1024,

  keyFn(request) {
    // Else any other site could talk here with a visitor's cookie.
    if (isForeign(request)) {
      request.reject(403, 'the page is from elsewhere');
      return null;
    }
    const name = nameOf(request);
    // Workers get these headers with each message and status. What the browser
    // itself says in a message could be somebody else's name.
    request.httpRequest.headers[NAME_HEADER] = name;
    return name;
  },

  messageKeyFn(message, headers) {
    return headers.to;
  },
};

function isForeign({ origin, host }) {
  return origin !== undefined && origin.replace(/^https?:\/\//, '') !== host;
}

function nameOf({ resource, cookies }) {
  const { searchParams } = new URL(resource, 'ws://localhost');
  const cookie = cookies.find(({ name }) => name === 'name');
  const name = (searchParams.get('name') ?? cookie?.value ?? '').trim();
  return name.length <= MAX_NAME ? name : '';
}

function createWorker() {
  const client = new Client(mqConf);
  const present = new Set();

  client.on('status', ({ status, key, reasonCode }) => {
    if (status === 1) present.add(key);
    else present.delete(key);
    const names = [...present];
    client.send(
      { type: 'status', name: key, status, code: reasonCode, present: names },
      { to: names },
    );
  });

  client.on('message', (message, headers) => {
    const { id, to, text } = Object(message);
    if (typeof text !== 'string') return;
    const from = headers[NAME_HEADER];
    const toOne = typeof to === 'string';
    const absent = toOne && !present.has(to);
    const receivers = toOne ? [to] : [...present];
    client.send(
      { type: 'message', id, from, to: toOne ? to : null, text, absent },
      { to: [from, ...receivers] },
    );
  });

  return client;
}

async function main() {
  const client = createWorker();
  await client.init();
  const gateway = await server.start(mqConf, wsConf);
  const host = process.env.HOST ?? '127.0.0.1';
  httpServer.listen(process.env.PORT ?? 0, host);
  await once(httpServer, 'listening');
  const { port } = httpServer.address();
  console.log(`Open http://${host}:${port} in two tabs. Ctrl-C ends it.`);

  let stopping = false;
  async function stop() {
    if (stopping) return;
    stopping = true;
    // Whoever is left is leaving: there is nobody to tell.
    client.removeAllListeners();
    await gateway.close();
    await client.close();
    httpServer.close();
    httpServer.closeAllConnections();
  }
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
}

main();
