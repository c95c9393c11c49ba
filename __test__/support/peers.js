'use strict';

const { WebSocket } = require('ws');
const { client: WebSocketClient } = require('websocket');
const { until } = require('./until');

/** A browser, played by the client of `ws`. */
class Peer {
  /**
   * @param {string} url
   * @param {{ protocols?: string[], [option: string]: any }} [options]
   */
  constructor(url, { protocols = [], ...options } = {}) {
    /** Texts as strings, binary frames as Buffers. @type {any[]} */
    this.messages = [];
    this.socket = new WebSocket(url, protocols, options);
    this.socket.on('message', (data, isBinary) => {
      this.messages.push(isBinary ? data : data.toString());
    });
    this.closed = new Promise((resolve) => {
      this.socket.once('close', (code, reason) => {
        resolve({ code, reason: String(reason) });
      });
    });
    this.opened = new Promise((resolve, reject) => {
      this.socket.once('open', () => resolve(this));
      this.socket.on('error', reject);
    });
    // Who does not wait for the opening has another way to see that it failed.
    this.opened.catch(() => {});
  }

  /** @param {any} data @param {object} [options] */
  send(data, options) {
    this.socket.send(data, options ?? {});
  }

  /** @param {any} value */
  sendJson(value) {
    this.send(JSON.stringify(value));
  }

  /** The messages, once there are as many. @param {number} count */
  async received(count) {
    await until(() => this.messages.length >= count);
    return this.messages;
  }

  /** @param {number} [code] @param {string} [reason] */
  close(code, reason) {
    this.socket.close(code, reason);
    return this.closed;
  }

  terminate() {
    this.socket.terminate();
    return this.closed;
  }
}

/**
 * A connection of WebSocket-Node, the library of the original's users.
 *
 * @param {string} url
 * @param {{ config?: object, headers?: object, protocols?: string[], origin?: string }} [options]
 * @returns {Promise<import('websocket').connection & { messages: any[] }>}
 */
function connectOld(url, { config, headers, protocols, origin } = {}) {
  return new Promise((resolve, reject) => {
    const client = new WebSocketClient(config);
    client.on('connectFailed', reject);
    client.on('connect', (connection) => {
      const messages = [];
      connection.on('error', () => {});
      connection.on('message', (message) => {
        messages.push(
          message.type === 'utf8' ? message.utf8Data : message.binaryData,
        );
      });
      resolve(Object.assign(connection, { messages }));
    });
    client.connect(url, protocols, origin, headers);
  });
}

module.exports = { Peer, connectOld };
