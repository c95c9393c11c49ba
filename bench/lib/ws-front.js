'use strict';

// The browsers' side of the gateways that are made with `ws`, as its own
// documentation has it: one server without a port of its own, no compression,
// no list of clients beside ours, and pings that find dead connections.

const { WebSocketServer } = require('ws');
const { createHttpServer, keyFn, listen } = require('./part');

const MAX_MESSAGE = 1 << 20;
const KEEPALIVE = 20_000;
const REFUSAL =
  'HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n';

function markAlive() {
  this.isAlive = true;
}

/**
 * @param {object} back
 * @param {(text: Buffer, headers: object) => void} back.publishMessage
 * @param {(status: object, headers: object) => void} back.publishStatus
 */
async function wsFront({ publishMessage, publishStatus }) {
  const connections = new Map();
  const sockets = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: MAX_MESSAGE,
  });

  function connect(ws, key, headers) {
    connections.get(key)?.terminate();
    connections.set(key, ws);
    publishStatus({ status: 1, key }, headers);
    ws.isAlive = true;
    ws.on('pong', markAlive);
    ws.on('error', () => {});
    ws.on('message', (data, isBinary) => {
      if (!isBinary) publishMessage(data, headers);
    });
    ws.on('close', (reasonCode, reason) => {
      if (connections.get(key) !== ws) return;
      connections.delete(key);
      const description = reason.toString();
      publishStatus({ status: 0, key, reasonCode, description }, headers);
    });
  }

  const httpServer = createHttpServer();
  httpServer.on('upgrade', (request, socket, head) => {
    const key = keyFn(request);
    if (!key) {
      socket.on('error', () => {});
      socket.end(REFUSAL);
      return;
    }
    const { headers } = request;
    sockets.handleUpgrade(request, socket, head, (ws) =>
      connect(ws, String(key), headers),
    );
  });

  setInterval(() => {
    for (const ws of connections.values()) {
      if (!ws.isAlive) {
        ws.terminate();
      } else {
        ws.isAlive = false;
        ws.ping();
      }
    }
  }, KEEPALIVE);

  return {
    port: await listen(httpServer),
    /** @param {Buffer | string} text */
    send(key, text) {
      connections.get(String(key))?.send(text, { binary: false });
    },
  };
}

module.exports = { wsFront };
