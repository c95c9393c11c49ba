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
  const isClaimed = watch(socket);
  process.nextTick(() => {
    if (!isClaimed()) callback();
  });
}

/**
 * Calls back unless somebody takes the socket within that time, and meanwhile
 * holds it for somebody who shows nothing of his plans.
 *
 * @param {Socket} socket before other listeners have seen it
 * @param {number} patience ms, 0 for no limit
 * @param {() => void} callback
 */
function unlessTaken(socket, patience, callback) {
  const isClaimed = watch(socket);
  // Without it, a reset would be an uncaught exception.
  const ignore = () => {};
  const hold = () => {
    if (isClaimed()) return;
    socket.on('error', ignore);
    if (patience === 0) return;
    setTimeout(() => {
      socket.removeListener('error', ignore);
      if (!isClaimed()) callback();
    }, patience).unref();
  };
  // Those who look one tick later must not take this for a claim.
  process.nextTick(() => process.nextTick(hold));
}

/**
 * @param {Socket} socket
 * @returns {() => boolean} whether somebody has laid hands on it since
 */
function watch(socket) {
  const written = socket.bytesWritten;
  const signs = signsOn(socket);
  return () =>
    socket.destroyed ||
    socket.bytesWritten !== written ||
    socket.writableLength > 0 ||
    socket.readableFlowing !== null ||
    signsOn(socket) > signs;
}

/** @param {Socket} socket */
function signsOn(socket) {
  const listeners = SIGNS.flatMap((name) => socket.listeners(name));
  return listeners.filter((listener) => !isDisclaimer(listener)).length;
}

/**
 * engine.io, and so socket.io, listens for errors of each socket that is not
 * its own, and ends the socket after `destroyUpgradeTimeout` unless somebody
 * has answered. Nothing else tells that listener from one of a server that asks
 * somebody before it answers, so it is known by the text that it logs.
 *
 * @param {Function} listener
 */
function isDisclaimer(listener) {
  return Function.prototype.toString
    .call(listener)
    .includes('error while destroying upgrade');
}

module.exports = { unlessClaimed, unlessTaken };
