'use strict';

const TICK = 10;

/**
 * Does something so many times a second, until it is stopped. Who falls behind
 * does not make up for more than a tenth of a second.
 *
 * @param {number} rate a second
 * @param {() => void} act
 * @returns {() => void}
 */
function pace(rate, act) {
  let due = 0;
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    due = Math.min(due + ((now - last) * rate) / 1000, Math.max(rate / 10, 1));
    last = now;
    for (; due >= 1; due -= 1) act();
  }, TICK);
  return () => clearInterval(timer);
}

module.exports = { pace };
