'use strict';

const { EventEmitter } = require('node:events');
const { Deliveries } = require('./crossing');
const { startClient } = require('./native');
const { MessageEnginError, fromNative } = require('./errors');
const { emitLineEvent, safeEmit } = require('./line-events');
const { encodeHeaders, encodeMessage } = require('./message');
const { mqSettings } = require('./options');
const { Outgoing } = require('./outgoing');
const { yieldable } = require('./yieldable');

/**
 * @typedef {import('../binding').NativeClient} NativeClient
 * @typedef {import('..').Client} PublicClient
 * @typedef {import('..').MqConf} MqConf
 */

/** How long close() tries to publish what waits, in ms. */
const CLOSE_PATIENCE = 5000;

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
  /** @type {InstanceType<typeof Outgoing> | undefined} */
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
  /** Thunks of $send that wait for room. @type {(() => void)[]} */
  #held = [];
  /** Listeners have a batch in hand. */
  #delivering = false;

  /** @param {MqConf} [mqConf] */
  constructor(mqConf) {
    super();
    this.#settings = mqSettings(mqConf);
  }

  init() {
    if (this.#closed) return yieldable(Promise.reject(closedError()));
    this.#started ??= yieldable(this.#init());
    return this.#started;
  }

  async #init() {
    try {
      this.#native = await startClient(
        JSON.stringify(this.#settings),
        (...batch) => this.#deliver(...batch),
        (name, details) => {
          if (name === 'failed') this.#outgoing?.ended();
          if (name === 'drain') this.#outgoing?.drained();
          else emitLineEvent(this, name, details);
        },
      );
    } catch (error) {
      // The broker may be there the next time.
      this.#started = undefined;
      throw fromNative(error);
    }
    this.#outgoing = new Outgoing(
      this.#native,
      this.#settings.bufferSize,
      ({ body, message, given }) => {
        this.#counters.undeliverable += 1;
        this.#counters.sent -= 1;
        this.#counters.sentBytes -= Buffer.byteLength(body);
        safeEmit(this, 'undeliverable', message, given);
      },
      () => {
        for (const go of this.#held.splice(0)) go();
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
    return (
      /** @type {(error: Error | null, flushed?: boolean) => void} */ done,
    ) => {
      let sending;
      let room;
      try {
        const { outgoing } = this.#open();
        sending = this.#sending(message, headers);
        room = outgoing.push(sending);
        // Whether there was room for it must be known before it is said.
        outgoing.flush();
      } catch (error) {
        done(/** @type {Error} */ (error));
        return;
      }
      if (sending.dropped) done(noRoomError());
      else if (room) done(null, true);
      else this.#held.push(() => done(null, true));
    };
  }

  /**
   * @param {unknown} message
   * @param {Record<string, unknown>} [given]
   * @returns {import('./outgoing').Sending}
   */
  #sending(message, given) {
    const body = encodeMessage(message);
    const headers = this.#deliveries.entryOf(given) ?? encodeHeaders(given);
    this.#counters.sent += 1;
    this.#counters.sentBytes += Buffer.byteLength(body);
    return { body, headers, message, given };
  }

  stats() {
    const { lost, ...native } = this.#open().native.stats();
    const { undeliverable, ...counters } = this.#counters;
    return { ...counters, ...native, undeliverable: undeliverable + lost };
  }

  close() {
    this.#closed ??= yieldable(this.#close());
    return this.#closed;
  }

  async #close() {
    // What is being started must be ended, and what failed to start is ended.
    // The listeners that have a batch in hand finish it first, and may send.
    await this.#started?.catch(() => {});
    await this.#replayed;
    this.#outgoing?.flush();
    await this.#native?.close(CLOSE_PATIENCE);
    safeEmit(this, 'close');
  }

  #open() {
    if (this.#closed && !this.#delivering) throw closedError();
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
   * @returns {boolean} false: not looked at, since the client closes
   */
  #deliver(...batch) {
    const deliveries = this.#deliveries.open(...batch);
    if (this.#early) {
      // They count as heard, so a close() in the meantime waits for them.
      this.#early.push(() => this.#hear(deliveries));
      return true;
    }
    if (this.#closed) return false;
    this.#hear(deliveries);
    return true;
  }

  /** @param {InstanceType<typeof import('./crossing').Delivery>[]} deliveries */
  #hear(deliveries) {
    this.#delivering = true;
    for (const delivery of deliveries) this.#tell(delivery);
    this.#delivering = false;
  }

  /** @param {InstanceType<typeof import('./crossing').Delivery>} delivery */
  #tell(delivery) {
    const message = delivery.message();
    const info = {
      routingKey: delivery.routingKey,
      exchange: delivery.exchange,
      redelivered: delivery.redelivered,
      contentType: delivery.contentType,
      // Made when somebody looks.
      get raw() {
        return delivery.raw;
      },
    };
    this.#addToPayload(message, delivery);
    if (!delivery.isStatus) {
      this.#counters.received += 1;
      this.#counters.receivedBytes += delivery.bytes;
    }
    safeEmit(
      this,
      delivery.isStatus ? 'status' : 'message',
      message,
      delivery.headers(),
      info,
    );
  }

  /**
   * @param {any} message
   * @param {InstanceType<typeof import('./crossing').Delivery>} delivery
   */
  #addToPayload(message, delivery) {
    const { routingKeyInPayload, deliveryTagInPayload } = this.#settings;
    if (typeof message !== 'object' || message === null) return;
    if (Buffer.isBuffer(message)) return;
    if (routingKeyInPayload) message._routingKey = delivery.routingKey;
    if (deliveryTagInPayload) message._deliveryTag = delivery.tag;
  }
}

function noRoomError() {
  return new MessageEnginError(
    'ERR_BUFFER_FULL',
    'the message was not taken: twice mqConf.bufferSize waits for the broker',
  );
}

function closedError() {
  return new MessageEnginError('ERR_CLOSED', 'the client is closed');
}

module.exports = { Client };
