'use strict';

// The original's design, rebuilt on the same two libraries in the same
// versions: node-amqp 0.2.7 and websocket 1.0.35.

const { randomUUID } = require('node:crypto');
const { server: WebSocketServer } = require('websocket');
const {
  createHttpServer,
  fail,
  keyFn,
  listen,
  messageKeyFn,
  names,
  ready,
} = require('../lib/part');
const { consume, openLine } = require('../lib/legacy-line');

async function main() {
  const { connection: line, receive, status } = await openLine();
  const connections = new Map();
  await consume(
    line,
    `${names.messageQueue}-${randomUUID()}`,
    names.messageExchange,
    names.messageQueue,
    (message, headers) => {
      const key = String(messageKeyFn(message, headers));
      connections.get(key)?.sendUTF(JSON.stringify(message));
    },
  );

  const httpServer = createHttpServer();
  const sockets = new WebSocketServer({
    httpServer,
    autoAcceptConnections: false,
  });
  sockets.on('request', async (request) => {
    const key = await keyFn(request.httpRequest);
    if (!key) {
      request.reject(404, 'bad request');
      return;
    }
    const connection = request.accept(undefined, request.origin);
    const { headers } = request.httpRequest;
    const properties = { contentType: 'application/json', headers };
    connections.get(String(key))?.drop();
    connections.set(String(key), connection);
    status.publish(names.statusQueue, { status: 1, key }, properties);
    connection.on('message', ({ type, utf8Data }) => {
      if (type !== 'utf8') return;
      receive.publish(names.receiveQueue, utf8Data, properties);
    });
    connection.on('close', (reasonCode, description) => {
      if (connections.get(String(key)) !== connection) return;
      connections.delete(String(key));
      const message = { status: 0, key, reasonCode, description };
      status.publish(names.statusQueue, message, properties);
    });
  });
  ready({ port: await listen(httpServer) });
}

main().catch(fail);
