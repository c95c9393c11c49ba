'use strict';

const { until } = require('../until');

const EVENTS = [
  'reconnecting',
  'ready',
  'blocked',
  'unblocked',
  'drain',
  'undeliverable',
  'error',
];

/**
 * All that a gateway or client tells of its line to the broker.
 *
 * @param {import('node:events').EventEmitter} emitter
 */
function watch(emitter) {
  /** @type {{ event: string, args: any[], at: number }[]} */
  const seen = [];
  for (const event of EVENTS) {
    emitter.on(event, (...args) => {
      seen.push({ event, args, at: performance.now() });
    });
  }
  return {
    seen,
    /** Where it stands, for `next`. */
    mark: () => seen.length,
    /** @param {string} event */
    count: (event) => seen.filter((each) => each.event === event).length,
    /**
     * The first such event after the mark, once there is one.
     *
     * @param {string} event
     * @param {number} mark
     * @param {number} [ms]
     */
    next: (event, mark, ms = 60_000) =>
      until(() => seen.slice(mark).find((each) => each.event === event), ms),
  };
}

/** @typedef {ReturnType<typeof watch>} Line */

module.exports = { watch };
