'use strict';

// The road between our code and a broker, which can be broken in every way in
// which a network breaks.

const { once } = require('node:events');
const net = require('node:net');
const { setTimeout: delay } = require('node:timers/promises');

const HOST = '127.0.0.1';

/** 'up' is from our code to the broker, 'down' from the broker to our code. */
const DIRECTIONS = /** @type {const} */ (['up', 'down']);

/** One connection and its other half. */
class Link {
  /**
   * @param {net.Socket} near our code's end
   * @param {number} port
   * @param {Road} road
   */
  constructor(near, port, road) {
    this.near = near;
    this.far = net.connect({ port, host: HOST, allowHalfOpen: true });
    this.road = road;
    /** @type {Set<string>} */
    this.held = new Set();
    this.#carry('up', near, this.far);
    this.#carry('down', this.far, near);
  }

  /**
   * @param {'up' | 'down'} direction
   * @param {net.Socket} from
   * @param {net.Socket} to
   */
  #carry(direction, from, to) {
    /** So that what was delayed stays in order. */
    let last = Promise.resolve();
    const later = (act) => {
      const ms = this.road.lag;
      if (!ms) return act();
      const due = delay(ms);
      last = last.then(() => due).then(() => !to.destroyed && act());
    };
    from.setNoDelay(true);
    from.on('error', () => {});
    from.on('data', (chunk) => {
      later(() => {
        if (to.write(chunk)) return;
        from.pause();
        to.once('drain', () => !this.held.has(direction) && from.resume());
      });
    });
    from.on('end', () => later(() => to.end()));
    from.on('close', () => {
      // A black hole tells the other end nothing.
      if (this.held.size === 0) to.destroy();
      if (this.near.destroyed && this.far.destroyed) {
        this.road.links.delete(this);
      }
    });
  }

  /** @param {'up' | 'down'} direction */
  hold(direction) {
    this.held.add(direction);
    (direction === 'up' ? this.near : this.far).pause();
  }

  release() {
    this.held.clear();
    for (const [one, other] of [
      [this.near, this.far],
      [this.far, this.near],
    ]) {
      if (one.destroyed) other.destroy();
      else one.resume();
    }
  }

  reset() {
    for (const socket of [this.near, this.far]) {
      if (!socket.destroyed) socket.resetAndDestroy();
    }
  }
}

class Road {
  /** @param {number} port where it leads to */
  constructor(port) {
    this.target = port;
    /** Where it begins. */
    this.port = 0;
    this.host = HOST;
    /** ms that each chunk is under way. */
    this.lag = 0;
    /** Connections that came, since the beginning. */
    this.accepted = 0;
    /** @type {Set<Link>} */
    this.links = new Set();
    /** @type {Set<'up' | 'down'>} */
    this.swallows = new Set();
    /** @type {net.Server | null} */
    this.server = null;
  }

  async open() {
    this.server = net.createServer({ allowHalfOpen: true }, (near) => {
      this.accepted += 1;
      const link = new Link(near, this.target, this);
      this.links.add(link);
      for (const direction of this.swallows) link.hold(direction);
    });
    this.server.listen(this.port, HOST);
    await once(this.server, 'listening');
    const address = /** @type {net.AddressInfo} */ (this.server.address());
    this.port = address.port;
  }

  /** Ends connections with an RST: all of them, or as many. */
  reset(count = Infinity) {
    for (const link of [...this.links].slice(0, count)) link.reset();
  }

  /**
   * Forwards nothing any more on the connections that are there and closes
   * none of them; new ones go through.
   */
  stall() {
    for (const direction of DIRECTIONS) this.cut(direction);
  }

  /** The same in one direction. @param {'up' | 'down'} direction */
  cut(direction) {
    for (const link of this.links) link.hold(direction);
  }

  /** Forwards nothing, on new connections neither: all is a black hole. */
  swallow() {
    for (const direction of DIRECTIONS) this.swallows.add(direction);
    this.stall();
  }

  /** What was held back goes on, as after a long delay. */
  release() {
    this.swallows.clear();
    for (const link of this.links) link.release();
  }

  /** New connections are refused. */
  async refuse() {
    const { server } = this;
    if (!server) return;
    this.server = null;
    server.close();
  }

  /** They are accepted again. */
  async accept() {
    if (!this.server) await this.open();
  }

  /** New connections lead elsewhere. @param {number} port */
  move(port) {
    this.target = port;
  }

  close() {
    for (const link of this.links) {
      link.near.destroy();
      link.far.destroy();
    }
    return this.refuse();
  }
}

/**
 * @param {import('ava').ExecutionContext} t
 * @param {number} port
 */
async function openRoad(t, port) {
  const road = new Road(port);
  await road.open();
  t.teardown(() => road.close());
  return road;
}

module.exports = { openRoad };
