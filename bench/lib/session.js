'use strict';

const path = require('node:path');
const { bench, program } = require('./prepare');
const { Child } = require('./child');
const { GATEWAYS, WORKERS } = require('./variants');

/**
 * @typedef {object} World what all measurements of a run share
 * @property {import('../../scripts/rabbitmq').Rabbit} rabbit
 * @property {number[]} brokerPids
 * @property {import('./options').Options} options
 */

let counter = 0;

/**
 * A worker and one or more gateways, on names of their own so that what ran
 * before leaves no trace.
 */
class Session {
  /**
   * @param {World} world
   * @param {object} parts
   * @param {string} parts.gateway
   * @param {string} [parts.worker] without it the one that no gateway waits for
   * @param {number} [parts.gateways]
   * @param {boolean} [parts.garbage] whether they can be told to collect it
   */
  static async open(
    world,
    { gateway, worker = 'worker', gateways = 1, garbage },
  ) {
    const session = new Session(world);
    try {
      session.worker = session.start('workers', worker, WORKERS, garbage);
      await session.worker.next(['ready']);
      for (let count = 0; count < gateways; count += 1) {
        const child = session.start('gateways', gateway, GATEWAYS, garbage);
        const answer = await child.next(['ready', 'unavailable']);
        if (answer.event === 'unavailable') {
          throw new Unavailable(answer.reason);
        }
        session.targets.push(`127.0.0.1:${answer.port}`);
        session.gateways.push(child);
      }
      return session;
    } catch (error) {
      await session.close();
      throw error;
    }
  }

  /** @param {World} world */
  constructor(world) {
    this.world = world;
    counter += 1;
    this.prefix = `bench-${process.pid}-${counter}.`;
    /** @type {Child | null} */
    this.worker = null;
    /** @type {Child[]} */
    this.gateways = [];
    /** @type {string[]} */
    this.targets = [];
    /** @type {Child[]} */
    this.children = [];
  }

  /**
   * @param {string} folder
   * @param {string} name
   * @param {Record<string, import('./variants').Variant>} variants
   * @param {boolean} [garbage]
   */
  start(folder, name, variants, garbage) {
    const { host, port, url } = this.world.rabbit;
    const { username, password } = new URL(url);
    const [login, secret] = [username, password].map(decodeURIComponent);
    const child = variants[name].rust
      ? new Child(name, [
          program(name),
          ...['--broker', `${host}:${port}`],
          ...['--login', login, '--password', secret],
          ...['--prefix', this.prefix],
        ])
      : new Child(
          name,
          [
            process.execPath,
            // Only node-amqp needs this, for its `new Buffer`.
            '--no-deprecation',
            ...(garbage ? ['--expose-gc'] : []),
            path.join(bench, folder, `${name}.js`),
          ],
          {
            MESSAGE_ENGIN_BENCH: JSON.stringify({
              broker: { host, port, login, password: secret },
              prefix: this.prefix,
              package: this.world.options.package,
            }),
          },
        );
    this.children.push(child);
    return child;
  }

  /** Nobody measures what is not there any more. */
  check() {
    for (const child of this.children) {
      if (child.over) throw child.error('ended too early');
    }
  }

  async close() {
    await Promise.all(this.children.map((child) => child.end()));
  }
}

class Unavailable extends Error {}

module.exports = { Session, Unavailable };
