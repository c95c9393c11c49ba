'use strict';

const { setTimeout: delay } = require('node:timers/promises');

/**
 * Waits for what must become true.
 *
 * @template T
 * @param {() => T | Promise<T>} condition
 * @param {number} [ms] so long that only a fault reaches it, on a machine that
 *   does much else too
 * @returns {Promise<T>}
 */
async function until(condition, ms = 60_000) {
  const limit = performance.now() + ms;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (performance.now() > limit) {
      throw new Error(`not so after ${ms} ms: ${condition}`);
    }
    await delay(4);
  }
}

/**
 * A promise with its handles outside, to hold somebody up with.
 *
 * @returns {{ promise: Promise<any>, open: (value?: any) => void, fail: (error: any) => void }}
 */
function gate() {
  let open, fail;
  const promise = new Promise((resolve, reject) => {
    open = resolve;
    fail = reject;
  });
  return { promise, open, fail };
}

/**
 * A keyFn that does not answer yet: `asked` tells that it was called, and with
 * `held` the test answers for it.
 */
function heldKey() {
  const asked = gate();
  const held = gate();
  const keyFn = () => {
    asked.open();
    return held.promise;
  };
  return { asked, held, keyFn };
}

module.exports = { gate, heldKey, until };
