'use strict';

const fs = require('node:fs');
const net = require('node:net');

const HOST = '127.0.0.1';
const FIRST = 10000;

/**
 * Where the system starts taking ports for outgoing connections. A port from
 * there could be taken while a broker is down, between kill and restart: by
 * the very client that tries to reach it, even.
 */
function firstEphemeral() {
  try {
    const file = '/proc/sys/net/ipv4/ip_local_port_range';
    const first = parseInt(fs.readFileSync(file, 'utf8'), 10);
    if (first > FIRST + 1000) return first;
  } catch {
    // Not Linux: the usual range starts at 49152.
  }
  return 32768;
}

/**
 * @param {number} port
 * @returns {Promise<number | null>} the port, when nobody listens on it
 */
function listenOnce(port) {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.on('error', () => resolve(null));
    server.listen(port, HOST, () => {
      const address = /** @type {net.AddressInfo} */ (server.address());
      server.close(() => resolve(address.port));
    });
  });
}

/** A port of the loopback interface that is free now. */
async function freePort() {
  const range = firstEphemeral() - FIRST;
  for (let attempt = 0; attempt < 20; attempt += 1) {
    const port = FIRST + Math.floor(Math.random() * range);
    if (await listenOnce(port)) return port;
  }
  return /** @type {number} */ (await listenOnce(0));
}

module.exports = { HOST, freePort };
