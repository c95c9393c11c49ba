'use strict';

// The option that was meant by a name that is not known.

/** Names that other libraries have for our options. */
const ALIASES = new Map([
  ['hostname', 'host'],
  ['pass', 'password'],
  ['tls', 'ssl'],
  ['user', 'login'],
  ['username', 'login'],
  ['virtualhost', 'vhost'],
]);

/**
 * @param {string} name
 * @param {string[]} known
 * @returns {string | undefined}
 */
function nearName(name, known) {
  const wanted = plainOf(name);
  const alias = ALIASES.get(wanted);
  if (alias !== undefined && known.includes(alias)) return alias;
  let near;
  // Half of a short name may not be wrong.
  let least = wanted.length < 5 ? 2 : 3;
  for (const each of known) {
    const distance = distanceOf(wanted, plainOf(each), least);
    if (distance < least) [near, least] = [each, distance];
  }
  return near;
}

/** Without case, '_' and '-'. @param {string} name */
function plainOf(name) {
  return name.toLowerCase().replace(/[_-]/g, '');
}

/**
 * How many characters are left out, added, replaced or swapped with their
 * neighbour.
 *
 * @param {string} a
 * @param {string} b
 * @param {number} enough beyond which the number does not matter
 */
function distanceOf(a, b, enough) {
  if (Math.abs(a.length - b.length) >= enough) return enough;
  const start = Array.from({ length: b.length + 1 }, (_, j) => j);
  /** @type {number[]} */
  let before = [];
  let row = start;
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const same = a[i - 1] === b[j - 1];
      const swapped = a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      next[j] = Math.min(
        row[j] + 1,
        next[j - 1] + 1,
        row[j - 1] + (same ? 0 : 1),
        swapped ? before[j - 2] + 1 : Infinity,
      );
    }
    [before, row] = [row, next];
  }
  return row[b.length];
}

/**
 * A question that ends an error or a warning.
 *
 * @param {string} name
 * @param {string[]} known
 */
function didYouMean(name, known) {
  const near = nearName(name, known);
  return near === undefined ? '' : `. Did you mean '${near}'?`;
}

module.exports = { didYouMean, nearName };
