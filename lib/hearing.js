'use strict';

const { isPromise } = require('node:util/types');
const { safely } = require('./line-events');

/**
 * Deliveries that are done with when they are given away. Async listeners have
 * them in hand a while longer, for which close() waits.
 */
class Hearing {
  #emitter;
  #inHand = 0;
  #idle = () => {};

  /** @param {import('node:events').EventEmitter} emitter */
  constructor(emitter) {
    this.#emitter = emitter;
  }

  get size() {
    return this.#inHand;
  }

  /**
   * Calls the listeners as emit() does.
   *
   * @param {unknown} delivery
   * @param {string} event
   * @param {any[]} values
   */
  hear(delivery, event, values) {
    safely(() => {
      for (const listener of this.#emitter.rawListeners(event)) {
        const result = listener.apply(this.#emitter, values);
        // Other thenables may be questions that are asked by then() alone.
        if (isPromise(result)) this.#hold(result);
      }
    });
  }

  /** @param {Promise<unknown>} promise */
  #hold(promise) {
    this.#inHand += 1;
    promise.then(this.#left, (error) => {
      this.#left();
      // It stays an unhandled rejection.
      throw error;
    });
  }

  #left = () => {
    this.#inHand -= 1;
    if (this.#inHand === 0) this.#idle();
  };

  /** Resolves when nothing is in hand any more. */
  async done() {
    if (this.#inHand === 0) return;
    await /** @type {Promise<void>} */ (
      new Promise((resolve) => {
        this.#idle = resolve;
      })
    );
  }
}

module.exports = { Hearing };
