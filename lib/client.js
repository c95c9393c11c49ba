'use strict';

const { randomBytes } = require('node:crypto');
const { EventEmitter } = require('node:events');
const { Consumer } = require('./listeners/queue-consumer');
const { Deliveries } = require('./native/delivery-codec');
const { startClient } = require('./native/addon');
const { MessageEnginError, fromNative, textOf } = require('./errors');
const { Info } = require('./listeners/info');
const {
  emitConnectionEvent,
  emitOrWarn,
  safeEmit,
  safely,
} = require('./connection-events');
const { AutoAck } = require('./listeners/auto-ack');
const { AGAIN, DONE, ManualAck } = require('./listeners/manual-ack');
const { checkHeaderSize } = require('./native/header-limit');
const { encodeHeaders, encodeMessage } = require('./native/message-codec');
const { mqSettings } = require('./options/broker');
const { SendQueue } = require('./send/send-queue');
const { NO_TIMEOUT, milliseconds } = require('./options/rules');
const { yieldable } = require('./yieldable');

/**
 * @typedef {import('../binding').NativeClient} NativeClient
 * @typedef {import('..').Client} PublicClient
 * @typedef {import('..').MqConf} MqConf
 * @typedef {InstanceType<typeof AutoAck> | InstanceType<typeof ManualAck>} ListenerRunner
 * @typedef {InstanceType<typeof import('./native/delivery-codec').Delivery>} Delivery
 * @typedef {(error: Error | null, flushed?: boolean) => void} Done
 */

/** How long close() tries to publish what waits, in ms. */
const CLOSE_PATIENCE = 5000;
/** What a message takes in a queue beside its own, as the native side counts. */
const SLOT_BYTES = 192;
/** How long it waits for listeners that have something in hand, in ms. */
const LISTENERS_PATIENCE = 30000;

/** The methods of an EventEmitter that change its listeners. */
const LISTENER_METHODS = /** @type {const} */ ([
  'on',
  'addListener',
  'prependListener',
  'off',
  'removeListener',
  'removeAllListeners',
]);

/**
 * The back-office side: gets what browsers send and whether they are there,
 * and sends to them. Clients that share a broker compete for the messages.
 *
 * @implements {PublicClient}
 */
class Client extends EventEmitter {
  #settings;
  /** @type {NativeClient | undefined} */
  #native;
  /** @type {InstanceType<typeof SendQueue> | undefined} */
  #outgoing;
  /** @type {import('..').Yieldable<this> | undefined} */
  #started;
  /** @type {import('..').Yieldable<void> | undefined} */
  #closed;
  #counters = {
    received: 0,
    receivedBytes: 0,
    sent: 0,
    sentBytes: 0,
    undeliverable: 0,
    listenerErrors: 0,
  };
  /**
   * Deliveries that came before whoever waits for init() could add listeners.
   *
   * @type {(() => void)[] | null}
   */
  #early = [];
  #deliveries = new Deliveries({ returning: true });
  /** @type {Promise<void> | undefined} */
  #replayed;
  /** Callbacks of $send that wait for room. @type {Done[]} */
  #held = [];
  /** Why nothing is taken where nothing is taken. */
  #refusal = noRoomError;
  /** Bytes that headers may have, as agreed with the broker last. */
  #headerLimit = 0;
  /** Listeners have a batch in hand. */
  #delivering = false;
  #messages = this.#consumer('message');
  #statuses = this.#consumer('status');
  /** Null once it does not matter any more. @type {ListenerRunner | null} */
  #listening;

  static {
    // In place of the events 'newListener' and 'removeListener', since
    // removeAllListeners() takes their listeners along. once() and
    // prependOnceListener() go through these methods, both ways.
    for (const name of LISTENER_METHODS) {
      Object.defineProperty(Client.prototype, name, {
        /** @this {Client} @param {[any, any]} args */
        value(...args) {
          const result = EventEmitter.prototype[name].apply(this, args);
          this.#messages.listenersChanged();
          this.#statuses.listenersChanged();
          return result;
        },
        writable: true,
        configurable: true,
      });
    }
  }

  /** @param {MqConf} [mqConf] */
  constructor(mqConf) {
    super();
    this.#settings = mqSettings(mqConf, 'worker');
    this.#listening = this.#settles
      ? new ManualAck(
          this,
          (numbers) => this.#native?.settle(numbers),
          (failure) => this.#listenerFailed(failure),
        )
      : new AutoAck(this);
  }

  init() {
    if (this.#closed) return yieldable(Promise.reject(closedError()));
    this.#started ??= yieldable(this.#init());
    return this.#started;
  }

  async #init() {
    try {
      // What it throws at once must not come before init() has the promise.
      await null;
      this.#native = await startClient(
        JSON.stringify(this.#settings),
        randomBytes(12).toString('hex'),
        this.#messages.wanted,
        this.#statuses.wanted,
        (...batch) => this.#deliver(...batch),
        (name, details) => this.#onLineEvent(name, details),
      );
    } catch (error) {
      // The broker may be there the next time.
      this.#started = undefined;
      throw fromNative(error);
    }
    // Listeners may have come or gone since.
    this.#consume();
    this.#headerLimit = this.#native.headerLimit();
    this.#outgoing = new SendQueue(
      this.#native,
      this.#settings.bufferSize,
      ({ body, message, given, failure }) => {
        this.#counters.undeliverable += 1;
        this.#counters.sent -= 1;
        this.#counters.sentBytes -= Buffer.byteLength(body);
        // A listener may send it again, and must neither be called within its
        // own call nor keep the broker's answers out.
        const text = () => (failure ?? this.#refusal()).message;
        const values = failure ? [message, given, failure] : [message, given];
        setImmediate(() => emitOrWarn(this, 'undeliverable', text, ...values));
      },
      () => {
        this.#release();
        safeEmit(this, 'drain');
      },
    );
    this.#replayed = new Promise((resolve) => {
      setImmediate(() => {
        const early = this.#early ?? [];
        this.#early = null;
        for (const deliver of early) deliver();
        resolve();
      });
    });
    return this;
  }

  /**
   * @param {string} name
   * @param {string} details
   */
  #onLineEvent(name, details) {
    if (name === 'failed') {
      this.#outgoing?.ended();
      this.#refusal = goneError;
      this.#release(goneError);
    }
    // Another broker, or the same one with other settings.
    if (name === 'ready') this.#headerLimit = this.#native?.headerLimit() ?? 0;
    if (name === 'blocked') this.#outgoing?.blocked();
    if (name === 'reconnecting') {
      this.#messages.sessionLost();
      this.#statuses.sessionLost();
    }
    if (name === 'givenBack') {
      const { isStatus } = JSON.parse(details);
      (isStatus ? this.#statuses : this.#messages).givenBack();
    } else if (name === 'drain') this.#outgoing?.drained();
    else emitConnectionEvent(this, name, details);
  }

  /**
   * @param {unknown} message
   * @param {Record<string, unknown>} [headers]
   */
  send(message, headers) {
    const { outgoing } = this.#open();
    return outgoing.push(this.#sending(message, headers));
  }

  /**
   * @param {unknown} message
   * @param {Record<string, unknown>} [headers]
   */
  $send(message, headers) {
    return (/** @type {Done} */ done) => {
      let sending;
      let room;
      try {
        const { outgoing } = this.#open();
        sending = this.#sending(message, headers);
        // Whether there was room for it must be known before it is said.
        room = outgoing.push(sending, { atOnce: true });
      } catch (error) {
        done(/** @type {Error} */ (error));
        return;
      }
      if (sending.failure) done(sending.failure);
      else if (sending.dropped) done(this.#refusal());
      else if (room) done(null, true);
      else this.#held.push(done);
    };
  }

  /**
   * Lets those go who wait for room.
   *
   * @param {() => Error} [refusal] why in vain
   */
  #release(refusal) {
    for (const done of this.#held.splice(0)) {
      safely(() => (refusal ? done(refusal()) : done(null, true)));
    }
  }

  /**
   * @param {unknown} message
   * @param {Record<string, unknown>} [given]
   * @returns {import('./send/send-queue').Sending}
   */
  #sending(message, given) {
    const body = encodeMessage(message);
    const headers = this.#deliveries.entryOf(given) ?? encodeHeaders(given);
    const length = this.#deliveries.sizeOf(headers);
    const octets = typeof body !== 'string';
    checkHeaderSize(length, this.#headerLimit, () =>
      this.#initialized().native.headerSize(headers, octets),
    );
    const overhead = SLOT_BYTES + length;
    this.#counters.sent += 1;
    this.#counters.sentBytes += Buffer.byteLength(body);
    return { body, headers, overhead, message, given };
  }

  stats() {
    const { lost, ...native } = this.#initialized().native.stats();
    const { undeliverable, ...counters } = this.#counters;
    return { ...counters, ...native, undeliverable: undeliverable + lost };
  }

  /** @param {{ timeout?: number }} [options] */
  close(options) {
    if (!this.#closed) {
      const timeout = milliseconds(
        'timeout',
        options?.timeout ?? LISTENERS_PATIENCE,
        NO_TIMEOUT,
      );
      this.#closed = yieldable(this.#close(timeout));
    }
    return this.#closed;
  }

  /** @param {number} timeout ms */
  async #close(timeout) {
    // What is being started must be ended, and what failed to start is ended.
    // The listeners that have something in hand finish it first, and may send.
    await this.#started?.catch(() => {});
    this.#native?.stopReceiving();
    await this.#replayed;
    this.#messages.close();
    this.#statuses.close();
    if (this.#listening) await within(timeout, this.#listening.done());
    this.#outgoing?.flush();
    this.#refusal = closedError;
    await this.#native?.close(CLOSE_PATIENCE);
    this.#listening = null;
    safeEmit(this, 'close');
  }

  #open() {
    const inHand = this.#delivering || (this.#listening?.size ?? 0) > 0;
    if (this.#closed && !inHand) throw closedError();
    return this.#initialized();
  }

  #initialized() {
    if (!this.#native || !this.#outgoing) {
      throw new MessageEnginError(
        'ERR_NOT_INITIALIZED',
        'the client is not initialized: call init() and wait for it first',
      );
    }
    return { native: this.#native, outgoing: this.#outgoing };
  }

  /**
   * @param {Parameters<InstanceType<typeof Deliveries>['open']>} batch
   * @returns {boolean | null} whether all of it is done with; null: not looked
   *   at, since the client closes
   */
  #deliver(...batch) {
    const deliveries = this.#deliveries.open(...batch);
    if (this.#early) {
      // They count as heard, so a close() in the meantime waits for them.
      this.#early.push(() => this.#settleDone(this.#hear(deliveries)));
      return false;
    }
    if (this.#closed) return null;
    const heard = this.#hear(deliveries);
    if (heard.length === deliveries.length) return !this.#settles;
    this.#settleDone(heard);
    return false;
  }

  /** @param {Delivery[]} deliveries that the listeners have returned from */
  #settleDone(deliveries) {
    if (!this.#settles) this.#settle(deliveries, DONE);
  }

  /**
   * @param {Delivery[]} deliveries
   * @param {number} outcome
   */
  #settle(deliveries, outcome) {
    const numbers = deliveries.flatMap((each) => each.settlement(outcome));
    if (numbers.length > 0) this.#native?.settle(numbers);
  }

  /** @param {string} event */
  #consumer(event) {
    return new Consumer(this, event, {
      changed: () => this.#consume(),
      tell: (delivery) => {
        this.#delivering = true;
        this.#tell(delivery);
        this.#delivering = false;
        this.#settleDone([delivery]);
      },
      giveBack: (deliveries) => this.#settle(deliveries, AGAIN),
    });
  }

  #consume() {
    this.#native?.consume(this.#messages.wanted, this.#statuses.wanted);
  }

  /** A delivery is done with when its listeners are. */
  get #settles() {
    return this.#settings.delivery === 'at-least-once';
  }

  /**
   * @param {Delivery[]} deliveries
   * @returns {Delivery[]} those for which there were listeners
   */
  #hear(deliveries) {
    this.#delivering = true;
    const heard = deliveries.filter((delivery) => {
      const consumer = delivery.isStatus ? this.#statuses : this.#messages;
      const isHeard = consumer.take(delivery);
      if (isHeard) this.#tell(delivery);
      return isHeard;
    });
    this.#delivering = false;
    return heard;
  }

  /** @param {Delivery} delivery */
  #tell(delivery) {
    const message = delivery.message();
    this.#addToPayload(message, delivery);
    if (!delivery.isStatus) {
      this.#counters.received += 1;
      this.#counters.receivedBytes += delivery.bytes;
    }
    const event = delivery.isStatus ? 'status' : 'message';
    const headers = delivery.headers();
    const info = new Info(delivery);
    this.#listening?.hear(delivery, event, [message, headers, info]);
  }

  /** @param {import('./listeners/manual-ack').Failure} failure */
  #listenerFailed({ error, dropped, values }) {
    this.#counters.listenerErrors += 1;
    const failed = () => `A listener of a client failed: ${textOf(error)}`;
    const text = () =>
      dropped ? failed() : `${failed()}. The message is delivered once more`;
    emitOrWarn(this, 'listenerError', text, error, ...values);
    if (!dropped || this.#settings.deadLetterExchange !== null) return;
    this.#counters.undeliverable += 1;
    const [message, headers] = values;
    const lost = () => `${failed()}, a second time. The message is lost`;
    emitOrWarn(this, 'undeliverable', lost, message, headers, error);
  }

  /**
   * @param {any} message
   * @param {Delivery} delivery
   */
  #addToPayload(message, delivery) {
    const { routingKeyInPayload, deliveryTagInPayload } = this.#settings;
    if (typeof message !== 'object' || message === null) return;
    if (Buffer.isBuffer(message)) return;
    if (routingKeyInPayload) message._routingKey = delivery.routingKey;
    if (deliveryTagInPayload) message._deliveryTag = delivery.tag;
  }
}

/**
 * @param {number} ms
 * @param {Promise<void>} promise
 */
async function within(ms, promise) {
  /** @type {NodeJS.Timeout | undefined} */
  let timer;
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([promise, late]);
  clearTimeout(timer);
}

function noRoomError() {
  return new MessageEnginError(
    'ERR_BUFFER_FULL',
    'the message was not taken: twice mqConf.bufferSize waits for the broker',
  );
}

function goneError() {
  return new MessageEnginError(
    'ERR_CONNECTION_LOST',
    'the message was not sent: the broker connection is lost for good',
  );
}

function closedError() {
  return new MessageEnginError('ERR_CLOSED', 'the client is closed');
}

module.exports = { Client };
