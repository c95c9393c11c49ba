'use strict';

const { Socket: NativeSocket } = require('../native/addon');

/**
 * @typedef {import('node:net').Socket} Socket
 * @typedef {import('../../binding').Bridge} Bridge
 * @typedef {import('../../binding').NativeGateway} NativeGateway
 */

// How long a refused client has to take its answer and close, in ms.
const REFUSAL_PATIENCE = 2000;

/**
 * What becomes of a connection once keyFn has spoken. `head` and the like are
 * bytes of the HTTP response, in latin1.
 *
 * @typedef {object} PendingSocket
 * @property {() => boolean} isGone whether the client has left meanwhile
 * @property {(response: Buffer) => void} reject answers and closes
 * @property {() => void} destroy closes without a word
 * @property {(native: NativeGateway, bridges: Bridges, upgrade: AcceptedUpgrade) => void} accept
 */

/**
 * @typedef {object} AcceptedUpgrade
 * @property {string} key
 * @property {string} keyJson the value that keyFn returned
 * @property {string} headers the request's, as JSON
 * @property {Buffer} response the whole 101
 */

/**
 * Sockets that stay with Node, by the id of their bridge.
 *
 * @typedef {Map<number, { socket: Socket, bridge: Bridge }>} Bridges
 */

/**
 * Takes a socket out of Node's hands, synchronously, within its 'upgrade'
 * event: there is then no moment in which Node could read from it.
 *
 * @param {Socket} socket
 * @param {Buffer} head what Node has read behind the request
 * @param {import('../options/gateway').WsSettings} settings
 * @returns {PendingSocket}
 */
function takeOver(socket, head, settings) {
  // Node has taken its own listeners off: without this one, a reset while
  // keyFn runs would be an uncaught exception.
  socket.on('error', () => {});
  const early = [head];
  for (let chunk; (chunk = socket.read()) !== null;) early.push(chunk);
  const bytes = early.length > 1 ? Buffer.concat(early) : head;
  setOptions(socket, settings);
  if (isPlainTcp(socket)) {
    try {
      const { fd } = /** @type {any} */ (socket)._handle;
      return reserved(socket, NativeSocket.reserve(fd, bytes));
    } catch {
      // No descriptor to share here after all; the bridge always works.
    }
  }
  return bridged(socket, bytes);
}

/**
 * Sets what a duplicate of the descriptor shares; TLS sockets pass it on, and
 * pipes do nothing.
 *
 * @param {Socket} socket
 * @param {import('../options/gateway').WsSettings} settings
 */
function setOptions(socket, settings) {
  // Node passes on only what it takes for a change, and a TLS socket does not
  // know what the http server has set on the one below it.
  socket.setNoDelay?.(true);
  socket.setNoDelay?.(settings.disableNagleAlgorithm);
  if (settings.keepalive && settings.useNativeKeepalive) {
    // Node cuts it down to seconds, and none of them would mean two hours.
    socket.setKeepAlive?.(true, Math.max(1000, settings.keepaliveInterval));
  }
}

/**
 * A TLS socket has a descriptor too, and writing to that would break TLS; a
 * pipe's is not a TCP socket. Windows has none that could be shared.
 *
 * @param {any} socket
 */
function isPlainTcp(socket) {
  return (
    process.platform !== 'win32' &&
    !socket.encrypted &&
    socket._handle?.constructor?.name === 'TCP' &&
    socket._handle.fd >= 0
  );
}

/**
 * @param {Socket} socket
 * @param {NativeSocket} native
 * @returns {PendingSocket}
 */
function reserved(socket, native) {
  keepEnds(socket);
  // Only destroy() is safe: everything else would shut the shared socket down.
  socket.destroy();
  return {
    isGone: () => native.isGone(),
    reject: (response) => native.reject(response),
    destroy: () => native.destroy(),
    accept(gateway, bridges, { key, keyJson, headers, response }) {
      gateway.accept(native, key, keyJson, headers, response);
    },
  };
}

/**
 * keyFn may ask where a client came in, and a socket that is destroyed has
 * forgotten it. (The other end it remembers once it was asked.)
 *
 * @param {Socket} socket
 */
function keepEnds(socket) {
  const { localAddress, localPort, localFamily } = socket;
  for (const [name, value] of Object.entries({
    localAddress,
    localPort,
    localFamily,
  })) {
    Object.defineProperty(socket, name, { value, configurable: true });
  }
}

/**
 * @param {Socket} socket
 * @param {Buffer} head
 * @returns {PendingSocket}
 */
function bridged(socket, head) {
  // A stream that the http server was given need not have it.
  socket.setTimeout?.(0);
  claim(socket);
  return {
    isGone: () => socket.destroyed || socket.readableEnded,
    reject(response) {
      unclaim(socket);
      socket.end(response);
      // Closed at once, what the client still sends would be answered by a
      // reset, which can overtake the answer. It ends with the client's FIN.
      socket.resume();
      const late = setTimeout(() => socket.destroy(), REFUSAL_PATIENCE).unref();
      socket.once('close', () => clearTimeout(late));
    },
    destroy: () => socket.destroy(),
    accept(gateway, bridges, { key, keyJson, headers, response }) {
      const bridge = gateway.acceptBridged(
        key,
        keyJson,
        headers,
        response,
        head,
      );
      const { id } = bridge;
      bridges.set(id, { socket, bridge });
      socket.on('data', (chunk) => {
        if (!bridge.input(chunk)) socket.pause();
      });
      socket.on('end', () => bridge.end());
      socket.on('close', () => {
        bridges.delete(id);
        bridge.closed();
      });
    },
  };
}

/**
 * Other listeners on the same server must not take this for an upgrade that
 * nobody answers while keyFn runs: engine.io, and so socket.io, ends a socket
 * that can be written to and that nobody has written to for a second. As on a
 * plain TCP socket, which is destroyed by now, nobody else may write here.
 *
 * Only the property is hidden. Written to, it would reach the stream's own
 * state, and a FIN of the client would then destroy the socket.
 *
 * @param {Socket} socket
 */
function claim(socket) {
  Object.defineProperty(socket, 'writable', {
    value: false,
    writable: true,
    configurable: true,
  });
}

/** @param {any} socket */
function unclaim(socket) {
  delete socket.writable;
}

/**
 * Carries out what the native end of a bridge asks for.
 *
 * @param {Bridges} bridges
 * @param {number} id
 * @param {'write' | 'resume' | 'measure' | 'end' | 'destroy'} what
 * @param {Buffer} [bytes]
 */
function output(bridges, id, what, bytes) {
  const { socket, bridge } = bridges.get(id) ?? {};
  if (!socket || !bridge) return;
  if (what === 'write' && bytes) {
    unclaim(socket);
    socket.write(bytes, () => bridge.written(bytes.length));
  } else if (what === 'resume') {
    socket.resume();
  } else if (what === 'measure') {
    // A TLS socket's is that of the TCP socket below it.
    const { fd } = /** @type {any} */ (socket)._handle ?? {};
    if (fd >= 0) bridge.measure(fd);
  } else if (what === 'end') {
    unclaim(socket);
    socket.end();
  } else {
    socket.destroy();
  }
}

module.exports = { output, takeOver };
