'use strict';

/**
 * How long the queue of an event is still consumed whose last listener was
 * removed, in ms: once() in a loop removes its listener with every message, and
 * each change means a round trip and messages that come again.
 */
const GRACE = 500;
/**
 * How often messages that wait for a listener are returned to the broker, in
 * ms, where it gives them to this client again: it closes the channel when one
 * is not acknowledged for long (RabbitMQ's consumer_timeout, 30 minutes).
 */
const RENEWAL = 5 * 60_000;

/** @typedef {InstanceType<typeof import('../native/delivery-codec').Delivery>} Delivery */

/**
 * Consumes the queue of one event ('message', 'status') while the event has
 * listeners. Deliveries that come when it has none wait here, in order and not
 * acknowledged: for the next listener, or until the queue has been given back
 * and they can go to another client.
 */
class Consumer {
  #emitter;
  #event;
  #calls;
  #wanted = false;
  /** The native side does not consume the queue any more. */
  #isGivenBack = false;
  /** Deliveries without a listener. @type {Delivery[]} */
  #waiting = [];
  #draining = false;
  /** @type {NodeJS.Timeout | undefined} */
  #timer;

  /**
   * @param {import('node:events').EventEmitter} emitter
   * @param {string} event
   * @param {object} calls
   * @param {() => void} calls.changed `wanted` has changed
   * @param {(delivery: Delivery) => void} calls.tell a delivery that has
   *   waited, for the listeners
   * @param {(deliveries: Delivery[]) => void} calls.giveBack deliveries, for
   *   other clients
   */
  constructor(emitter, event, calls) {
    this.#emitter = emitter;
    this.#event = event;
    this.#calls = calls;
  }

  /** Whether the queue is to be consumed. */
  get wanted() {
    return this.#wanted;
  }

  get #hasListeners() {
    return this.#emitter.listenerCount(this.#event) > 0;
  }

  /** To be called after every change of the emitter's listeners. */
  listenersChanged() {
    if (!this.#hasListeners) {
      if (this.#wanted) this.#timer ??= setTimeout(this.#leave, GRACE).unref();
      return;
    }
    this.#stopTimer();
    this.#isGivenBack = false;
    if (this.#waiting.length > 0 && !this.#draining) {
      this.#draining = true;
      // Others may be added beside this listener.
      process.nextTick(this.#drain);
    }
    if (this.#wanted) return;
    this.#wanted = true;
    this.#calls.changed();
  }

  /**
   * @param {Delivery} delivery
   * @returns {boolean} whether listeners are to get it now; otherwise it is
   *   kept here, or has been given back
   */
  take(delivery) {
    if (this.#waiting.length === 0 && this.#hasListeners) return true;
    if (this.#isGivenBack) {
      this.#calls.giveBack([delivery]);
      return false;
    }
    // Those of a session that is over will be delivered again.
    if (this.#waiting[0]?.session !== delivery.session) this.#waiting = [];
    this.#waiting.push(delivery);
    return false;
  }

  #drain = () => {
    this.#draining = false;
    while (this.#waiting.length > 0 && this.#hasListeners) {
      this.#calls.tell(/** @type {Delivery} */ (this.#waiting.shift()));
    }
  };

  /** The native side does not consume the queue any more. */
  givenBack() {
    if (this.#wanted) return;
    this.#isGivenBack = true;
    this.#stopTimer();
    this.#return();
  }

  /** The session with the broker is over; its deliveries come again. */
  sessionLost() {
    this.#waiting = [];
    // The next session does not consume what is not wanted.
    if (!this.#wanted) {
      this.#isGivenBack = true;
      this.#stopTimer();
    }
  }

  /** Returns what waits, for good. */
  close() {
    this.#stopTimer();
    this.#wanted = false;
    this.#isGivenBack = true;
    this.#return();
  }

  #leave = () => {
    this.#wanted = false;
    this.#timer = setInterval(this.#return, RENEWAL).unref();
    this.#calls.changed();
  };

  #return = () => {
    const waiting = this.#waiting;
    this.#waiting = [];
    if (waiting.length > 0) this.#calls.giveBack(waiting);
  };

  #stopTimer() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

module.exports = { Consumer };
