'use strict';

/**
 * @typedef {object} Summary
 * @property {number} median
 * @property {number} min
 * @property {number} max
 * @property {number} rounds
 */

/**
 * @param {(number | null | undefined)[]} values those that are none are left out
 * @returns {Summary | null}
 */
function summary(values) {
  const sorted = values
    .filter((value) => Number.isFinite(value))
    .sort((a, b) => a - b);
  if (sorted.length === 0) return null;
  const middle = (sorted.length - 1) / 2;
  const median = (sorted[Math.floor(middle)] + sorted[Math.ceil(middle)]) / 2;
  const [min, max] = [sorted[0], sorted[sorted.length - 1]];
  return { median, min, max, rounds: sorted.length };
}

/**
 * Summaries of all numbers that the rounds have, by name.
 *
 * @param {Record<string, any>[]} rounds
 * @returns {Record<string, Summary>}
 */
function summaries(rounds) {
  const names = new Set(rounds.flatMap((round) => Object.keys(round)));
  const found = {};
  for (const name of names) {
    const one = summary(rounds.map((round) => round[name]));
    if (one) found[name] = one;
  }
  return found;
}

module.exports = { summaries, summary };
