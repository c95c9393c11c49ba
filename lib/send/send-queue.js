'use strict';

const { fromNative } = require('../errors');

/** @typedef {import('../../binding').NativeClient} NativeClient */

/**
 * Messages or bytes after which a burst is handed over at once, so that a
 * loop that never lets go of the event loop does not pile up here.
 */
const BURST_MESSAGES = 256;
const BURST_BYTES = 256 * 1024;
/** A larger Buffer costs more to copy than to hand over by itself. */
const COPIED_BYTES = 4096;

/**
 * A message on its way to the native side.
 *
 * @typedef {object} Sending
 * @property {string | Buffer} body
 * @property {string | number} headers as JSON, or as an entry of those that
 *   came
 * @property {number} overhead bytes that it takes beside its body
 * @property {unknown} message what the caller gave
 * @property {any} given the headers that the caller gave
 * @property {boolean} [dropped] not taken: no room
 * @property {Error} [failure] not taken: it cannot be carried
 */

/**
 * What one tick sends, handed to the native side in one call.
 */
class SendQueue {
  #native;
  #bufferSize;
  #onDropped;
  #onDrain;
  /** @type {Sending[]} */
  #waiting = [];
  #bytes = 0;
  /** Bytes that waited for the broker at the last look; less by now. */
  #level = 0;
  /** The native side said to hold on; its drain comes. */
  #full = false;
  /** Somebody was told to hold on. */
  #owed = false;
  #ended = false;

  /**
   * @param {NativeClient} native
   * @param {number} bufferSize bytes
   * @param {(sending: Sending) => void} onDropped not taken
   * @param {() => void} onDrain there is room again
   */
  constructor(native, bufferSize, onDropped, onDrain) {
    this.#native = native;
    this.#bufferSize = bufferSize;
    this.#onDropped = onDropped;
    this.#onDrain = onDrain;
  }

  /**
   * @param {Sending} sending
   * @param {{ atOnce?: boolean }} [options] atOnce: the answer is to be exact
   * @returns {boolean} false: hold on until drain
   */
  push(sending, { atOnce = false } = {}) {
    if (this.#ended) {
      sending.dropped = true;
      this.#onDropped(sending);
      return false;
    }
    if (this.#waiting.length === 0) process.nextTick(() => this.flush());
    this.#waiting.push(sending);
    const { body } = sending;
    this.#bytes += body.length + sending.overhead;
    // Where it may get tight, each answer is to be exact too.
    const isTight =
      this.#full || this.#level + this.#bytes > this.#bufferSize / 4;
    const isLarge = typeof body !== 'string' && body.length > COPIED_BYTES;
    if (
      atOnce ||
      isTight ||
      isLarge ||
      this.#waiting.length >= BURST_MESSAGES ||
      this.#bytes >= BURST_BYTES
    ) {
      this.flush();
    } else if (typeof body !== 'string') {
      // The caller may write to it again before it is handed over.
      sending.body = Buffer.from(body);
    }
    if (this.#full) this.#owed = true;
    return !this.#full;
  }

  flush() {
    const sendings = this.#waiting;
    if (sendings.length === 0) return;
    this.#waiting = [];
    this.#bytes = 0;
    this.#hand(sendings);
  }

  /** @param {Sending[]} sendings */
  #hand(sendings) {
    let answer;
    try {
      answer = this.#native.send(
        sendings.map(({ body }) => body),
        sendings.map(({ headers }) => headers),
      );
    } catch (error) {
      // None was taken, and the others must not be lost with the one that
      // cannot be carried.
      if (sendings.length > 1) for (const each of sendings) this.#hand([each]);
      else this.#fail(sendings[0], fromNative(error));
      return;
    }
    this.#level = answer;
    if (answer >= 0) return;
    this.#full = true;
    for (const sending of sendings.slice(-1 - answer)) {
      sending.dropped = true;
      this.#onDropped(sending);
    }
  }

  /**
   * @param {Sending} sending
   * @param {any} error
   */
  #fail(sending, error) {
    sending.failure = error;
    this.#onDropped(sending);
  }

  /** The broker takes nothing for now: what is sent next is to be told so. */
  blocked() {
    this.#level = Infinity;
  }

  /** Nothing is taken any more: the broker is gone for good. */
  ended() {
    this.#full = true;
    this.#ended = true;
  }

  /** The native side has room again. */
  drained() {
    // What is gone for good makes room for nobody.
    if (this.#ended) return;
    this.#full = false;
    this.#level = 0;
    if (!this.#owed) return;
    this.#owed = false;
    this.#onDrain();
  }
}

module.exports = { SendQueue };
