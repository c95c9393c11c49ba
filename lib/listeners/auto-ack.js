'use strict';

const { isAsyncFunction } = require('node:util/types');
const { safely } = require('../connection-events');

/**
 * Deliveries that are done with when they are given away. Async functions have
 * them in hand a while longer, for which close() waits. What other functions
 * return is theirs: somebody may deal with its rejection already.
 */
class AutoAck {
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
   * Calls the listeners, in their order, and none behind one that throws.
   *
   * @param {unknown} delivery
   * @param {string} event
   * @param {any[]} values
   */
  hear(delivery, event, values) {
    safely(() => {
      for (const listener of this.#emitter.rawListeners(event)) {
        const result = listener.apply(this.#emitter, values);
        if (isAsyncFunction(original(listener))) this.#hold(result);
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

/** What once() was given. @param {any} listener */
function original(listener) {
  return listener.listener ?? listener;
}

module.exports = { AutoAck };
