'use strict';

/** @typedef {import('node:net').Socket} Socket */

// Who listens to a socket has plans for it, perhaps after a question to
// somebody else.
const SIGNS = ['data', 'readable', 'end', 'error', 'close'];

/**
 * Calls back unless another 'upgrade' listener takes the socket in this same
 * turn. Node cannot read from it before the next tick is over, so nothing is
 * lost by waiting.
 *
 * @param {Socket} socket before other listeners have seen it
 * @param {() => void} callback
 */
function unlessClaimed(socket, callback) {
  const written = socket.bytesWritten;
  const signs = signsOn(socket);
  process.nextTick(() => {
    const claimed =
      socket.destroyed ||
      socket.bytesWritten !== written ||
      socket.writableLength > 0 ||
      socket.readableFlowing !== null ||
      signsOn(socket) > signs;
    if (!claimed) callback();
  });
}

/** @param {Socket} socket */
function signsOn(socket) {
  return SIGNS.reduce((sum, name) => sum + socket.listenerCount(name), 0);
}

module.exports = { unlessClaimed };
