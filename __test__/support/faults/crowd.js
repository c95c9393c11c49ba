'use strict';

// Browsers that send numbered messages, and enter what they get in a ledger.

const { WebSocket } = require('ws');
const { pace } = require('./pace');
const { until } = require('../until');

class Browser {
  /**
   * @param {string} url
   * @param {string} key
   * @param {import('./ledger').Ledger} ledger
   */
  constructor(url, key, ledger) {
    this.url = url;
    this.key = key;
    this.ledger = ledger;
    /** ms from a worker's send until here, of each. @type {number[]} */
    this.latencies = [];
    /** @type {{ code: number, reason: string, at: number }[]} */
    this.closes = [];
    /** Statuses of upgrades that were refused. @type {number[]} */
    this.refusals = [];
    this.returns = false;
    this.opened = this.connect();
  }

  connect() {
    const socket = new WebSocket(`${this.url}?key=${this.key}`, {
      headers: { to: this.key },
      perMessageDeflate: false,
    });
    this.socket = socket;
    socket.on('message', (data) => this.#hear(String(data)));
    socket.on('close', (code, reason) => {
      const { closes } = this;
      closes.push({ code, reason: String(reason), at: performance.now() });
      this.#comeBack();
    });
    socket.on('unexpected-response', (request, response) => {
      this.refusals.push(response.statusCode);
      response.resume();
      request.destroy();
      socket.emit('close', 1006, '');
    });
    return new Promise((resolve, reject) => {
      socket.on('open', () => resolve(this));
      socket.on('error', reject);
    });
  }

  /** As browsers do: at once, and then once in a while. */
  #comeBack() {
    if (!this.returns) return;
    const wait = 20 + Math.random() * 200;
    setTimeout(() => {
      if (!this.returns || this.isOpen) return;
      this.opened = this.connect();
      this.opened.catch(() => {});
    }, wait).unref();
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  /** @param {string} text */
  #hear(text) {
    const { w, n, at } = JSON.parse(text);
    if (w === undefined) return;
    this.latencies.push(Date.now() - at);
    this.ledger.down.got(`${w}>${this.key}`, n);
  }

  /** @param {string} filler */
  say(filler) {
    if (!this.isOpen) return;
    const n = this.ledger.up.send(this.key);
    this.socket.send(JSON.stringify({ k: this.key, n, filler }));
  }
}

class Crowd {
  /**
   * @param {Browser[]} browsers
   * @param {number} rate messages a second of all together
   * @param {string} filler
   */
  constructor(browsers, rate, filler) {
    this.browsers = browsers;
    this.rate = rate;
    this.filler = filler;
    this.turn = 0;
    this.stop = () => {};
  }

  start() {
    this.stop = pace(this.rate, () => {
      const { browsers } = this;
      browsers[this.turn % browsers.length].say(this.filler);
      this.turn += 1;
    });
  }

  get keys() {
    return this.browsers.map(({ key }) => key);
  }

  get closes() {
    return this.browsers.flatMap(({ closes }) => closes);
  }

  get allOpen() {
    return this.browsers.every(({ isOpen }) => isOpen);
  }

  /** What has not left this process. */
  get unsent() {
    return this.browsers.reduce(
      (sum, { socket }) => sum + socket.bufferedAmount,
      0,
    );
  }
}

/**
 * @param {import('ava').ExecutionContext} t
 * @param {string} url
 * @param {import('./ledger').Ledger} ledger
 * @param {{ count?: number, rate?: number, size?: number, name?: string,
 *   returns?: boolean }} [options] `rate`: messages a second of all together;
 *   `size`: bytes of a message, beyond its number
 */
async function gather(t, url, ledger, options = {}) {
  const { count = 5, rate = 200, size = 0, name = 'k' } = options;
  const { returns = false } = options;
  const browsers = Array.from(
    { length: count },
    (_, n) => new Browser(url, `${name}${n}`, ledger),
  );
  const crowd = new Crowd(browsers, rate, 'x'.repeat(size));
  t.teardown(async () => {
    crowd.stop();
    for (const browser of browsers) {
      browser.returns = false;
      browser.socket.terminate();
    }
    await until(() => browsers.every(({ isOpen }) => !isOpen));
  });
  await Promise.all(browsers.map(({ opened }) => opened));
  for (const browser of browsers) browser.returns = returns;
  return crowd;
}

/** @param {number[]} values @param {number} share 0.99 for the 99th percentile */
function percentile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

module.exports = { gather, percentile };
