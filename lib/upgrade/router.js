'use strict';

// An http server with its gateways: which of them takes an upgrade, and what
// becomes of those that none takes.

const { unlessClaimed, unlessTaken } = require('./claims');
const { isWebSocket } = require('./handshake');

/**
 * @typedef {import('node:http').IncomingMessage} IncomingMessage
 * @typedef {import('node:http').Server} Server
 * @typedef {import('node:net').Socket} Socket
 */

/**
 * A gateway, as its servers see it.
 *
 * @typedef {object} UpgradeTarget
 * @property {string | null} path null for all that no one else takes
 * @property {number} patience ms for other listeners to take what is theirs
 * @property {() => boolean} isClosing
 * @property {(httpRequest: IncomingMessage, socket: Socket, head: Buffer,
 *   refusal?: import('./request').Rejection) => void} take
 */

// How long a server may take to listen where handshakeTimeout is off, in ms.
const LISTEN_TIMEOUT = 10_000;
const NOT_HERE = { status: 404, reason: 'Nothing listens at this path.' };

/** @type {WeakMap<Server, UpgradeRouter>} */
const routers = new WeakMap();

class UpgradeRouter {
  #server;
  /** The one that came last is first. @type {UpgradeTarget[]} */
  #targets = [];
  /** Whether an upgrade has ever come. */
  isUsed = false;

  /** @param {Server} server */
  constructor(server) {
    this.#server = server;
  }

  /** @param {UpgradeTarget} target */
  add(target) {
    if (this.#targets.some((each) => isRival(each, target)))
      warnOfRival(target);
    this.#targets.unshift(target);
    // First, so as to see the socket before other listeners touch it.
    this.#server.removeListener('upgrade', this.#onUpgrade);
    this.#server.prependListener('upgrade', this.#onUpgrade);
  }

  /** @param {UpgradeTarget} target */
  remove(target) {
    this.#targets = this.#targets.filter((each) => each !== target);
    if (this.#targets.length > 0) return;
    this.#server.removeListener('upgrade', this.#onUpgrade);
  }

  /**
   * @param {IncomingMessage} httpRequest
   * @param {any} socket
   * @param {Buffer} head
   */
  #onUpgrade = (httpRequest, socket, head) => {
    this.isUsed = true;
    /** @type {(target: UpgradeTarget, refusal?: typeof NOT_HERE) => void} */
    const give = (target, refusal) =>
      target.take(httpRequest, socket, head, refusal);
    const [last] = this.#targets;
    // A listener before this one may have closed it.
    if (!last) return;
    const own = this.#find(pathOf(httpRequest));
    if (own) {
      give(own);
      return;
    }
    const alone = (this.#server.listenerCount?.('upgrade') ?? 1) < 2;
    const any = this.#find(null);
    if (any && !alone && isWebSocket(httpRequest)) {
      unlessClaimed(socket, () => give(any));
      return;
    }
    const answer = () => (any ? give(any) : give(last, NOT_HERE));
    if (alone) answer();
    else unlessTaken(socket, last.patience, answer);
  };

  /** @param {string | null} path */
  #find(path) {
    const found = this.#targets.filter((target) => target.path === path);
    return found.find((target) => !target.isClosing()) ?? found[0];
  }
}

/**
 * @param {Server} server
 * @param {UpgradeTarget} target
 * @returns {() => void} takes it away again
 */
function routeUpgrades(server, target) {
  const router = routers.get(server) ?? new UpgradeRouter(server);
  routers.set(server, router);
  router.add(target);
  return () => router.remove(target);
}

/**
 * @param {UpgradeTarget} one
 * @param {UpgradeTarget} other
 */
function isRival(one, other) {
  return one.path === other.path && !one.isClosing();
}

/** @param {UpgradeTarget} target */
function warnOfRival({ path }) {
  const which = path === null ? 'without a path' : `with the path ${path}`;
  process.emitWarning(
    `wsConf.httpServer has another gateway ${which}, which gets no more ` +
      'upgrades: the one that started last takes them all. Give each gateway ' +
      'a wsConf.path of its own, or close the other one first.',
    { type: 'MessageEnginWarning', code: 'MESSAGE_ENGIN_SAME_PATH' },
  );
}

/**
 * Warns of servers that do not listen in time: nobody can connect, and nothing
 * else says so. A server that has got an upgrade is given its connections in
 * some other way.
 *
 * @param {Server[]} servers
 * @param {number} patience ms, 0 for the default
 * @returns {() => void} calls it off
 */
function warnUnlessListening(servers, patience) {
  // What is no server of Node's may not have the property at all.
  const idle = new Set(servers.filter(({ listening }) => listening === false));
  if (idle.size === 0) return () => {};
  const ms = patience || LISTEN_TIMEOUT;
  const listeners = [...idle].map((server) => {
    const onListening = () => idle.delete(server);
    server.once('listening', onListening);
    return () => server.removeListener('listening', onListening);
  });
  const timer = setTimeout(() => {
    stop();
    const silent = [...idle].filter((each) => !routers.get(each)?.isUsed);
    if (silent.length === 0) return;
    const which =
      servers.length === 1 ? '' : ` (${silent.length} of ${servers.length})`;
    process.emitWarning(
      `wsConf.httpServer${which} does not listen ${ms} ms after ` +
        'server.start, so nobody can connect. Call its listen().',
      { type: 'MessageEnginWarning', code: 'MESSAGE_ENGIN_NOT_LISTENING' },
    );
  }, ms).unref();
  const stop = () => {
    clearTimeout(timer);
    for (const remove of listeners) remove();
  };
  return stop;
}

/** @param {IncomingMessage} httpRequest */
function pathOf({ url = '' }) {
  return url.split('?', 1)[0];
}

module.exports = { routeUpgrades, warnUnlessListening };
