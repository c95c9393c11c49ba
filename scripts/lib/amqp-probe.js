'use strict';

const net = require('node:net');

const HEADER = Buffer.from('AMQP\0\0\x09\x01', 'latin1');
const START_METHOD = Buffer.from([1, 0, 0]);
const VERSION_FIELD = Buffer.from('\x07versionS', 'latin1');

/**
 * Says the AMQP greeting to a port and reads the answer, which carries the
 * version of the broker.
 *
 * @param {number} port
 * @param {string} host
 * @param {number} [timeout] in milliseconds
 * @returns {Promise<string | null>} null when no broker answers
 */
function probe(port, host, timeout = 2000) {
  return new Promise((resolve) => {
    let received = Buffer.alloc(0);
    const socket = net.connect(port, host);
    const end = (/** @type {string | null} */ version) => {
      socket.destroy();
      resolve(version);
    };
    socket.setTimeout(timeout, () => end(null));
    socket.on('error', () => end(null));
    socket.on('close', () => end(null));
    socket.on('connect', () => socket.write(HEADER));
    socket.on('data', (data) => {
      received = Buffer.concat([received, data]);
      if (!received.subarray(0, 3).equals(START_METHOD)) return end(null);
      if (received.length < 7) return;
      if (received.length < 8 + received.readUInt32BE(3)) return;
      const field = received.indexOf(VERSION_FIELD);
      if (field < 0) return end('unknown');
      const start = field + VERSION_FIELD.length + 4;
      const length = received.readUInt32BE(start - 4);
      end(received.toString('utf8', start, start + length));
    });
  });
}

module.exports = { probe };
