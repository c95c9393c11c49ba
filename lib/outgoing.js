'use strict';

/** @typedef {import('../binding').NativeClient} NativeClient */

/**
 * Messages or bytes after which a burst is handed over at once, so that a
 * loop that never lets go of the event loop does not pile up here.
 */
const BURST_MESSAGES = 256;
const BURST_BYTES = 256 * 1024;

/**
 * What one tick sends, handed to the native side in one call.
 */
class Outgoing {
  #native;
  #bufferSize;
  #onDropped;
  #onDrain;
  /** @type {(string | Buffer)[]} */
  #bodies = [];
  /** @type {string[]} */
  #headers = [];
  /** What the caller gave, for those that are not taken. @type {[unknown, unknown][]} */
  #given = [];
  #bytes = 0;
  /** The native side said to hold on; its drain comes. */
  #full = false;
  /** Somebody was told to hold on. */
  #owed = false;

  /**
   * @param {NativeClient} native
   * @param {number} bufferSize bytes
   * @param {(message: any, headers: any) => void} onDropped not taken
   * @param {() => void} onDrain there is room again
   */
  constructor(native, bufferSize, onDropped, onDrain) {
    this.#native = native;
    this.#bufferSize = bufferSize;
    this.#onDropped = onDropped;
    this.#onDrain = onDrain;
  }

  /**
   * @param {string | Buffer} body
   * @param {string} headerJson
   * @param {[unknown, unknown]} given
   * @returns {boolean} false: hold on until drain
   */
  push(body, headerJson, given) {
    if (this.#bodies.length === 0) process.nextTick(() => this.flush());
    this.#bodies.push(body);
    this.#headers.push(headerJson);
    this.#given.push(given);
    this.#bytes += body.length;
    if (
      this.#bodies.length >= BURST_MESSAGES ||
      this.#bytes >= Math.min(BURST_BYTES, this.#bufferSize)
    ) {
      this.flush();
    }
    if (this.#full) this.#owed = true;
    return !this.#full;
  }

  flush() {
    if (this.#bodies.length === 0) return;
    const given = this.#given;
    const answer = this.#native.send(this.#bodies, this.#headers);
    this.#bodies = [];
    this.#headers = [];
    this.#given = [];
    this.#bytes = 0;
    if (answer >= 0) return;
    this.#full = true;
    // Whoever sent in this tick has been told that there is room.
    this.#owed = true;
    const taken = -answer - 1;
    for (const [message, headers] of given.slice(taken)) {
      this.#onDropped(message, headers);
    }
  }

  /** The native side has room again. */
  drained() {
    this.#full = false;
    if (!this.#owed) return;
    this.#owed = false;
    this.#onDrain();
  }
}

module.exports = { Outgoing };
