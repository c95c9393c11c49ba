'use strict';

// A worker under load: it enters what comes, and sends numbered messages to
// every key as long as there is room.

const { setTimeout: delay } = require('node:timers/promises');
const { Client } = require('../../..');
const { pace } = require('./pace');

/**
 * @typedef {object} Book where it enters things: a ledger, or a file
 * @property {(key: string, n: number, marked: boolean, id?: string) => void} got
 * @property {(key: string) => number} send the number of the next one
 * @property {(key: string, n: number) => void} refuse
 */

class Hand {
  /**
   * @param {object} mqConf
   * @param {string} name
   * @param {Book} book
   * @param {{ slow?: number }} [options] `slow`: ms that an async listener
   *   takes for each message; else the listener is a plain one
   */
  constructor(mqConf, name, book, { slow = 0 } = {}) {
    this.name = name;
    this.book = book;
    this.client = new Client(mqConf);
    /** @type {any[]} */
    this.statuses = [];
    /** Listeners that have not finished. */
    this.inHand = 0;
    this.held = false;
    /** Times that send() said to hold on. */
    this.holds = 0;
    this.turn = 0;
    this.stop = () => {};
    const { client } = this;
    client.on('status', (status) => this.statuses.push(status));
    client.on('drain', () => (this.held = false));
    client.on('undeliverable', ({ k, n }, headers, error) => {
      // With an error it is about a listener.
      if (!error) book.refuse(`${name}>${k}`, n);
    });
    const enter = ({ k, n }, { redelivered, messageId }) => {
      if (k !== undefined) book.got(k, n, redelivered, messageId);
    };
    if (slow) {
      client.on('message', async (message, headers, info) => {
        this.inHand += 1;
        await delay(slow);
        enter(message, info);
        this.inHand -= 1;
      });
    } else {
      client.on('message', (message, headers, info) => enter(message, info));
    }
  }

  /**
   * @param {readonly string[]} keys
   * @param {number} rate a second, for all keys together
   * @param {number} [size]
   */
  start(keys, rate, size = 0) {
    const filler = 'y'.repeat(size);
    this.stop = pace(rate, () => {
      if (this.held) return;
      this.say(keys[this.turn % keys.length], filler);
      this.turn += 1;
    });
  }

  /** @param {string} key @param {string} [filler] */
  say(key, filler = '') {
    const { client, name } = this;
    const n = this.book.send(`${name}>${key}`);
    const message = { w: name, k: key, n, at: Date.now(), filler };
    const room = client.send(message, { to: key });
    if (!room) {
      this.held = true;
      this.holds += 1;
    }
    return room;
  }
}

/**
 * A book that is a ledger of this process.
 *
 * @param {import('./ledger').Ledger} ledger
 * @returns {Book}
 */
function inLedger({ up, down }) {
  return {
    got: (key, n, marked, id) => up.got(key, n, { marked, id }),
    send: (key) => down.send(key),
    refuse: (key, n) => down.refuse(key, n),
  };
}

module.exports = { Hand, inLedger };
