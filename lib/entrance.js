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
 * @typedef {object} Taker
 * @property {string | null} path null for all that no one else takes
 * @property {number} patience ms for other listeners to take what is theirs
 * @property {() => boolean} isClosing
 * @property {(httpRequest: IncomingMessage, socket: Socket, head: Buffer,
 *   refusal?: import('./request').Rejection) => void} take
 */

const NOT_HERE = { status: 404, reason: 'Nothing listens at this path.' };

/** @type {WeakMap<Server, Entrance>} */
const entrances = new WeakMap();

class Entrance {
  #server;
  /** The one that came last is first. @type {Taker[]} */
  #takers = [];

  /** @param {Server} server */
  constructor(server) {
    this.#server = server;
  }

  /** @param {Taker} taker */
  add(taker) {
    this.#takers.unshift(taker);
    // First, so as to see the socket before other listeners touch it.
    this.#server.removeListener('upgrade', this.#onUpgrade);
    this.#server.prependListener('upgrade', this.#onUpgrade);
  }

  /** @param {Taker} taker */
  remove(taker) {
    this.#takers = this.#takers.filter((each) => each !== taker);
    if (this.#takers.length > 0) return;
    this.#server.removeListener('upgrade', this.#onUpgrade);
  }

  /**
   * @param {IncomingMessage} httpRequest
   * @param {any} socket
   * @param {Buffer} head
   */
  #onUpgrade = (httpRequest, socket, head) => {
    /** @type {(taker: Taker, refusal?: typeof NOT_HERE) => void} */
    const give = (taker, refusal) =>
      taker.take(httpRequest, socket, head, refusal);
    const [last] = this.#takers;
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
    const found = this.#takers.filter((taker) => taker.path === path);
    return found.find((taker) => !taker.isClosing()) ?? found[0];
  }
}

/**
 * @param {Server} server
 * @param {Taker} taker
 * @returns {() => void} takes it away again
 */
function enter(server, taker) {
  const entrance = entrances.get(server) ?? new Entrance(server);
  entrances.set(server, entrance);
  entrance.add(taker);
  return () => entrance.remove(taker);
}

/** @param {IncomingMessage} httpRequest */
function pathOf({ url = '' }) {
  return url.split('?', 1)[0];
}

module.exports = { enter };
