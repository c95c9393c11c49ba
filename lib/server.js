'use strict';

const { randomBytes } = require('node:crypto');
const { EventEmitter } = require('node:events');
const co = require('co');
const { Admission } = require('./upgrade/admission');
const { connectionInfo } = require('./upgrade/connection-info');
const { shown } = require('./checks');
const { Deliveries } = require('./native/delivery-codec');
const { routeUpgrades, warnUnlessListening } = require('./upgrade/router');
const { startGateway, useThreads } = require('./native/addon');
const { fromNative, textOf } = require('./errors');
const { output, takeOver } = require('./upgrade/adopt-socket');
const { refusalOf } = require('./upgrade/handshake');
const { isKey, keysOf, requestKey } = require('./upgrade/keys');
const {
  emitConnectionEvent,
  emitOrWarn,
  safeEmit,
} = require('./connection-events');
const { mqSettings } = require('./options/broker');
const { Request } = require('./upgrade/request');
const { milliseconds } = require('./options/rules');
const { wsSettings } = require('./options/gateway');
const { yieldable } = require('./yieldable');

/**
 * @typedef {import('node:http').IncomingMessage} IncomingMessage
 * @typedef {import('node:net').Socket} Socket
 * @typedef {import('./upgrade/adopt-socket').PendingSocket} PendingSocket
 * @typedef {import('../binding').NativeGateway} NativeGateway
 * @typedef {InstanceType<typeof Request>} KeyRequest
 * @typedef {import('..').Gateway} PublicGateway
 */

const CLOSING = {
  status: 503,
  reason: 'Server is shutting down',
  headers: { 'Retry-After': '1' },
};
/** A drain beyond that is none. */
const MAX_DRAIN = 24 * 3600 * 1000;
const NO_KEY = { status: 404, reason: 'bad request' };
const TOO_LATE = { status: 408, reason: 'Handshake timed out' };

/**
 * Connects to the broker, declares what the gateway needs and takes the
 * WebSocket upgrades of wsConf.httpServer.
 *
 * @type {typeof import('..').server.start}
 */
function start(mqConf, wsConf) {
  return yieldable(open(mqConf, wsConf));
}

/**
 * @param {unknown} mqConf
 * @param {any} wsConf
 */
async function open(mqConf, wsConf) {
  const mq = mqSettings(mqConf, 'gateway');
  const ws = wsSettings(wsConf);
  const threads = useThreads(ws.threads);
  if (wsConf.threads !== undefined && threads !== ws.threads) {
    process.emitWarning(
      `wsConf.threads: this process runs on ${threads} already, which the first gateway or client has set`,
      { type: 'MessageEnginWarning', code: 'MESSAGE_ENGIN_THREADS' },
    );
  }
  const gateway = new Gateway(wsConf, ws);
  try {
    const native = await startGateway(
      JSON.stringify(mq),
      JSON.stringify({ ...ws, httpServers: undefined, key: undefined }),
      randomBytes(12).toString('hex'),
      (...batch) => gateway._keys(...batch),
      (name, details) => emitConnectionEvent(gateway, name, details),
      (id, what, bytes) => gateway._output(id, what, bytes),
    );
    gateway._open(native);
  } catch (error) {
    throw fromNative(error);
  }
  return gateway;
}

/** @implements {PublicGateway} */
class Gateway extends EventEmitter {
  #conf;
  #settings;
  /** @type {NativeGateway | undefined} */
  #native;
  /** @type {import('./upgrade/adopt-socket').Bridges} */
  #bridges = new Map();
  #deliveries = new Deliveries();
  #admission;
  /** Takes the listeners off each server. @type {(() => void)[]} */
  #leave = [];
  /**
   * Connections whose keyFn has not answered, and what ends their waiting.
   *
   * @type {Map<PendingSocket, NodeJS.Timeout | undefined>}
   */
  #pending = new Map();
  #rejected = 0;
  #rejectedBy = {
    origins: 0,
    maxConnections: 0,
    connectionRate: 0,
    handshakeTimeout: 0,
  };
  #keyErrors = 0;
  #keyFnErrors = 0;
  /** @type {import('..').Yieldable<void> | undefined} */
  #closed;
  #draining = false;

  /**
   * @param {any} conf the user's own wsConf: its functions are its methods
   * @param {import('./options/gateway').WsSettings} settings
   */
  constructor(conf, settings) {
    super();
    this.#conf = conf;
    this.#settings = settings;
    this.#admission = new Admission(settings, conf);
  }

  /** Connections that hold a key here. */
  get size() {
    return this.#native?.stats().connections ?? 0;
  }

  stats() {
    const native = /** @type {NativeGateway} */ (this.#native);
    const { lost, ...stats } = native.stats();
    const by = this.#rejectedBy;
    return {
      ...stats,
      undeliverable: lost,
      handshakes: this.#pending.size,
      rejected: this.#rejected,
      rejectedByOrigins: by.origins,
      rejectedByMaxConnections: by.maxConnections,
      rejectedByConnectionRate: by.connectionRate,
      rejectedByHandshakeTimeout: by.handshakeTimeout,
      keyErrors: this.#keyErrors,
      keyFnErrors: this.#keyFnErrors,
    };
  }

  /** @param {{ drain?: number }} [options] */
  close(options) {
    if (!this.#closed) {
      const drain = milliseconds('drain', options?.drain ?? 0, MAX_DRAIN);
      this.#draining = true;
      this.#closed = yieldable(this.#close(drain));
    }
    return this.#closed;
  }

  get draining() {
    return this.#draining;
  }

  /** @param {number} drain ms */
  async #close(drain) {
    // While it drains, whoever comes is told to go elsewhere.
    if (drain === 0) for (const leave of this.#leave) leave();
    for (const pending of [...this.#pending.keys()]) {
      if (this.#settled(pending)) this.#refuse(pending, CLOSING);
    }
    await this.#native?.close(drain);
    for (const leave of this.#leave) leave();
    safeEmit(this, 'close');
  }

  /**
   * @param {NativeGateway} native
   * @internal
   */
  _open(native) {
    this.#native = native;
    const { httpServers, path, handshakeTimeout } = this.#settings;
    /** @type {import('./upgrade/router').UpgradeTarget} */
    const target = {
      path,
      patience: handshakeTimeout,
      isClosing: () => this.#draining,
      take: (...upgrade) => this.#upgrade(...upgrade),
    };
    this.#leave = [
      ...httpServers.map((server) => routeUpgrades(server, target)),
      warnUnlessListening(httpServers, handshakeTimeout),
    ];
  }

  /**
   * @param {IncomingMessage} httpRequest
   * @param {Socket} socket
   * @param {Buffer} head
   * @param {import('./upgrade/request').Rejection | null} [refusal]
   */
  #upgrade(httpRequest, socket, head, refusal = refusalOf(httpRequest)) {
    if (socket.destroyed) return;
    const request = new Request(httpRequest, socket, this.#settings);
    const pending = takeOver(socket, head, this.#settings);
    if (refusal) this.#refuse(pending, refusal);
    else if (this.#draining) this.#refuse(pending, CLOSING);
    else if (this.#admits(request, pending))
      void this.#decide(request, pending);
  }

  /**
   * @param {KeyRequest} request
   * @param {PendingSocket} pending
   */
  #admits(request, pending) {
    const native = /** @type {NativeGateway} */ (this.#native);
    const denial = this.#admission.check(
      request,
      () => native.running() + this.#pending.size,
    );
    if (!denial) return true;
    this.#rejectedBy[denial.limit] += 1;
    this.#refuse(pending, denial.rejection);
    if ('error' in denial) {
      this.#keyFailed('wsConf.origins threw', denial.error, request);
    }
    return false;
  }

  /**
   * Holds a connection until #settled() or until its time is up.
   *
   * @param {PendingSocket} pending
   */
  #hold(pending) {
    const { handshakeTimeout } = this.#settings;
    const late = () => {
      if (!this.#settled(pending)) return;
      this.#rejectedBy.handshakeTimeout += 1;
      this.#refuse(pending, TOO_LATE);
    };
    this.#pending.set(
      pending,
      handshakeTimeout > 0 ? setTimeout(late, handshakeTimeout) : undefined,
    );
  }

  /**
   * @param {PendingSocket} pending
   * @returns {boolean} false when somebody else has answered it
   */
  #settled(pending) {
    clearTimeout(this.#pending.get(pending));
    return this.#pending.delete(pending);
  }

  /**
   * @param {KeyRequest} request
   * @param {PendingSocket} pending
   */
  async #decide(request, pending) {
    this.#hold(pending);
    try {
      const answer = await this.#answerTo(request);
      // Closing or the timeout may have answered for it.
      if (!this.#settled(pending)) return;
      const rejection = answer.upgrade
        ? this.#accept(request, pending, answer.upgrade)
        : answer.rejection;
      if (rejection) this.#refuse(pending, rejection);
    } catch (error) {
      // The request is keyFn's to write to: it can throw wherever it is read.
      this.#settled(pending);
      pending.destroy();
      this.#keyFailed('An upgrade failed', error, request);
    }
  }

  /**
   * @param {KeyRequest} request
   * @returns {Promise<{ upgrade: import('./upgrade/connection-info').UpgradeInfo, rejection?: undefined }
   *   | { upgrade?: undefined, rejection: import('./upgrade/request').Rejection }>}
   */
  async #answerTo(request) {
    let asked = false;
    try {
      const key = await this.#askKey(request);
      asked = true;
      if (request.rejection) return { rejection: request.rejection };
      if (!key) return { rejection: NO_KEY };
      if (!isKey(key)) {
        const what = `wsConf.keyFn returned ${shown(key)}, which is no key`;
        const { reason } = NO_KEY;
        throw Object.assign(new TypeError(what), { reason });
      }
      const native = /** @type {NativeGateway} */ (this.#native);
      return { upgrade: connectionInfo(request, key, native) };
    } catch (error) {
      const rejection = request.rejection ?? rejectionOf(error);
      // An error with a status, or after request.reject(), is keyFn's answer
      // and no failure: it is told, but neither counted nor warned of.
      if (!asked && (request.rejection || isRefusal(error))) {
        safeEmit(this, 'keyError', error, request);
      } else {
        this.#keyFailed('wsConf.keyFn failed', error, request);
      }
      return { rejection };
    }
  }

  /**
   * @param {string} what
   * @param {unknown} error
   * @param {KeyRequest} request
   */
  #keyFailed(what, error, request) {
    this.#keyFnErrors += 1;
    const text = () => `${what}: ${textOf(error)}. The upgrade was refused`;
    emitOrWarn(this, 'keyError', text, error, request);
  }

  /**
   * @param {KeyRequest} request
   * @returns {Promise<unknown>}
   */
  async #askKey(request) {
    if (this.#settings.key) return requestKey(this.#settings.key, request);
    const key = this.#conf.keyFn(request, this);
    const isGenerator =
      typeof key?.next === 'function' && typeof key.throw === 'function';
    return isGenerator ? co(key) : key;
  }

  /**
   * @param {KeyRequest} request
   * @param {PendingSocket} pending
   * @param {import('./upgrade/connection-info').UpgradeInfo} upgrade
   * @returns {import('./upgrade/request').Rejection | null}
   */
  #accept(request, pending, upgrade) {
    const { response, rejection } = this.#responseTo(request);
    if (rejection) return rejection;
    if (pending.isGone()) {
      pending.destroy();
      return null;
    }
    const native = /** @type {NativeGateway} */ (this.#native);
    const bytes = Buffer.from(response, 'latin1');
    try {
      pending.accept(native, this.#bridges, { ...upgrade, response: bytes });
      return null;
    } catch (error) {
      // An 'error' without a listener would end the process.
      if (this.listenerCount('error')) {
        safeEmit(this, 'error', fromNative(error));
      }
      return { status: 500 };
    }
  }

  /**
   * @param {KeyRequest} request
   * @returns {ReturnType<KeyRequest['acceptResponse']>}
   */
  #responseTo(request) {
    const { protocol, origin } = this.#settings;
    try {
      return request.acceptResponse(protocol, origin);
    } catch (error) {
      this.#keyFailed('An upgrade failed', error, request);
      return { rejection: { status: 500 } };
    }
  }

  /**
   * @param {PendingSocket} pending
   * @param {{ status: unknown, reason?: unknown, headers?: unknown }} rejection
   */
  #refuse(pending, rejection) {
    this.#rejected += 1;
    const response = Request.rejectResponse(rejection);
    pending.reject(Buffer.from(response, 'latin1'));
  }

  /**
   * @param {Parameters<InstanceType<typeof Deliveries>['open']>} batch
   * @internal
   */
  _keys(...batch) {
    const keys = this.#deliveries.open(...batch).map(this.#keyOf);
    return keys.length === 1 && typeof keys[0] === 'string' ? keys[0] : keys;
  }

  /** @param {InstanceType<typeof import('./native/delivery-codec').Delivery>} delivery */
  #keyOf = (delivery) => {
    const { contentType } = delivery;
    const message = delivery.message();
    const headers = delivery.headers();
    try {
      const key = this.#conf.messageKeyFn(message, headers, { contentType });
      if (typeof key?.then === 'function') {
        // Its rejection must not end the process either.
        key.then(null, () => {});
        throw new TypeError(
          'wsConf.messageKeyFn returned a promise; it must return the key',
        );
      }
      return keysOf(key);
    } catch (error) {
      this.#keyErrors += 1;
      const text = () =>
        `wsConf.messageKeyFn threw: ${textOf(error)}. The message is lost`;
      emitOrWarn(this, 'messageKeyError', text, error, message, headers);
      return null;
    }
  };

  /**
   * @param {number} id
   * @param {'write' | 'resume' | 'measure' | 'end' | 'destroy'} what
   * @param {Buffer} [bytes]
   * @internal
   */
  _output(id, what, bytes) {
    output(this.#bridges, id, what, bytes);
  }
}

/**
 * Whether keyFn threw it in order to refuse the request: it has a status.
 *
 * @param {unknown} error
 */
function isRefusal(error) {
  try {
    return Boolean(Object(error).status);
  } catch {
    return false;
  }
}

/**
 * The answer to what keyFn throws, which can be anything, proxies and getters
 * that throw included.
 *
 * @param {unknown} error
 */
function rejectionOf(error) {
  try {
    const { status, reason } = Object(error);
    return { status: status || 404, reason };
  } catch {
    return { status: 404 };
  }
}

module.exports = { start };
