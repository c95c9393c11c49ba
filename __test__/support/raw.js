'use strict';

const net = require('node:net');
const tls = require('node:tls');
const { readFrame } = require('./frames');
const { until } = require('./until');

const KEY = 'dGhlIHNhbXBsZSBub25jZQ==';

/**
 * The text of an upgrade request.
 *
 * @param {string} path
 * @param {Record<string, string | null>} [headers] null leaves one of the
 *   usual ones out
 * @param {string} [method]
 */
function upgradeRequest(path, headers = {}, method = 'GET') {
  const all = {
    Host: 'localhost',
    Upgrade: 'websocket',
    Connection: 'Upgrade',
    'Sec-WebSocket-Key': KEY,
    'Sec-WebSocket-Version': '13',
    ...headers,
  };
  const lines = Object.entries(all)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `${name}: ${value}\r\n`);
  return `${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n`;
}

/** A client that says exactly what it is told to, byte by byte. */
class RawPeer {
  /** @param {net.NetConnectOpts & { secure?: boolean }} where */
  static async connect({ secure = false, ...where }) {
    const wire = net.connect(where);
    const socket = secure
      ? tls.connect({ rejectUnauthorized: false, ...where, socket: wire })
      : wire;
    const peer = new RawPeer(socket, wire);
    await new Promise((resolve, reject) => {
      socket.once(secure ? 'secureConnect' : 'connect', () => resolve());
      socket.once('error', reject);
    });
    socket.setNoDelay(true);
    return peer;
  }

  /**
   * @param {net.Socket} socket
   * @param {net.Socket} wire what is below TLS
   */
  constructor(socket, wire) {
    this.socket = socket;
    this.wire = wire;
    this.bytes = Buffer.alloc(0);
    /** @type {NonNullable<ReturnType<typeof readFrame>>[]} */
    this.frames = [];
    /** Payloads of whole messages. @type {Buffer[]} */
    this.messages = [];
    /** @type {Buffer[]} */
    this.fragments = [];
    /** The server's FIN has come. */
    this.ended = false;
    this.head = null;
    socket.on('data', (chunk) => this.#read(chunk));
    socket.on('end', () => (this.ended = true));
    for (const each of new Set([socket, wire])) {
      each.on('error', (error) => (this.error = error));
    }
    this.isClosed = false;
    this.closed = new Promise((resolve) => {
      socket.once('close', (hadError) => {
        this.isClosed = true;
        resolve(hadError);
      });
    });
  }

  /** @param {Buffer} chunk */
  #read(chunk) {
    this.bytes = Buffer.concat([this.bytes, chunk]);
    if (!this.head) {
      const end = this.bytes.indexOf('\r\n\r\n');
      if (end < 0) return;
      this.head = parseHead(this.bytes.toString('latin1', 0, end));
      this.bytes = this.bytes.subarray(end + 4);
    }
    if (this.head.status !== 101) return;
    for (let next; (next = readFrame(this.bytes));) {
      this.bytes = this.bytes.subarray(next.size);
      this.frames.push(next);
      if (next.opcode >= 8) continue;
      this.fragments.push(next.payload);
      if (!next.fin) continue;
      this.messages.push(Buffer.concat(this.fragments));
      this.fragments = [];
    }
  }

  /** Resolves when the kernel has it. @param {string | Buffer} bytes */
  write(bytes) {
    return new Promise((resolve) => this.socket.write(bytes, resolve));
  }

  /** What the condition says; an error once nothing more can come. */
  #wait(condition) {
    return until(() => {
      const value = condition();
      if (!value && this.isClosed) throw new Error('the connection is closed');
      return value;
    });
  }

  /** The response to the upgrade request. */
  response() {
    return this.#wait(() => this.head);
  }

  /**
   * @param {string} path
   * @param {Record<string, string | null>} [headers]
   * @param {string} [method]
   */
  async upgrade(path, headers, method) {
    this.socket.write(upgradeRequest(path, headers, method));
    return this.response();
  }

  /** The close frame of the server, whatever it sent before. */
  closeFrame() {
    return this.#wait(() => this.frames.find(({ opcode }) => opcode === 8));
  }

  /** Leaves with a FIN. */
  leave() {
    this.socket.destroy();
    return this.closed;
  }

  /** Leaves with an RST. */
  reset() {
    this.wire.resetAndDestroy();
    return this.closed;
  }
}

/** @param {string} text */
function parseHead(text) {
  const [first, ...lines] = text.split('\r\n');
  const [, status, reason] = /^HTTP\/1\.1 (\d{3}) (.*)$/.exec(first);
  /** @type {Record<string, string>} */
  const headers = {};
  for (const line of lines) {
    const [, name, value] = /^([^:]+): ?(.*)$/.exec(line);
    const key = name.toLowerCase();
    headers[key] = key in headers ? `${headers[key]}\n${value}` : value;
  }
  return { status: Number(status), reason, headers };
}

module.exports = { KEY, RawPeer, upgradeRequest };
