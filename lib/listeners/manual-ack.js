'use strict';

// What becomes of a delivery, in step with src/node/client.rs.
const DONE = 0;
const AGAIN = 1;
const DROP = 2;

/** @typedef {InstanceType<typeof import('../native/delivery-codec').Delivery>} Delivery */

/**
 * A listener threw or rejected.
 *
 * @typedef {object} Failure
 * @property {unknown} error
 * @property {boolean} dropped it had come again already, and does no more
 * @property {any[]} values what the listener got
 */

/**
 * Deliveries that count as done only when their listeners are done with them:
 * when they have returned, and the promises of async ones have been resolved.
 */
class ManualAck {
  #emitter;
  #settle;
  #failed;
  /** Deliveries whose listeners have not ended. @type {Set<Promise<void>>} */
  #inHand = new Set();
  /** @type {number[]} */
  #settled = [];

  /**
   * @param {import('node:events').EventEmitter} emitter
   * @param {(numbers: number[]) => void} settle tells the native side
   * @param {(failure: Failure) => void} failed
   */
  constructor(emitter, settle, failed) {
    this.#emitter = emitter;
    this.#settle = settle;
    this.#failed = failed;
  }

  get size() {
    return this.#inHand.size;
  }

  /**
   * Calls the listeners, in their order, and none behind one that throws.
   *
   * @param {Delivery} delivery
   * @param {string} event
   * @param {any[]} values
   */
  hear(delivery, event, values) {
    /** @type {PromiseLike<unknown>[]} */
    const promises = [];
    try {
      for (const listener of this.#emitter.rawListeners(event)) {
        const result = listener.apply(this.#emitter, values);
        if (typeof result?.then === 'function') promises.push(result);
      }
    } catch (error) {
      // What the others have begun must not become an unhandled rejection.
      for (const promise of promises) promise.then(null, () => {});
      this.#fail(error, delivery, values);
      return;
    }
    if (promises.length === 0) {
      this.#tell(delivery, DONE);
      return;
    }
    const ended = Promise.all(promises).then(
      () => this.#tell(delivery, DONE),
      (error) => this.#fail(error, delivery, values),
    );
    const left = ended.finally(() => this.#inHand.delete(left));
    this.#inHand.add(left);
  }

  /** Resolves when nothing is in hand any more. */
  async done() {
    while (this.#inHand.size > 0) await Promise.all(this.#inHand);
    this.#flush();
  }

  /**
   * It comes again once; who fails twice will fail always.
   *
   * @param {unknown} error
   * @param {Delivery} delivery
   * @param {any[]} values
   */
  #fail(error, delivery, values) {
    const dropped = delivery.returned;
    this.#tell(delivery, dropped ? DROP : AGAIN);
    this.#failed({ error, dropped, values });
  }

  /**
   * @param {Delivery} delivery
   * @param {number} outcome
   */
  #tell(delivery, outcome) {
    if (this.#settled.length === 0) process.nextTick(() => this.#flush());
    this.#settled.push(...delivery.settlement(outcome));
  }

  #flush() {
    const settled = this.#settled;
    this.#settled = [];
    if (settled.length > 0) this.#settle(settled);
  }
}

module.exports = { AGAIN, DONE, ManualAck };
