'use strict';

// What message-engin must reach, as ratios within one run.

const median = (tree, path, name) => {
  const found = path.reduce((branch, key) => branch?.[key], tree);
  return found?.[name]?.median ?? null;
};

const PEERS = ['ws-amqplib', 'ws-rabbitmq-client', 'legacy'];

/**
 * @param {string} what
 * @param {string[]} path without its last part, which is who
 * @param {string} name
 * @param {string} ours
 * @param {string} theirs
 * @param {number} limit the ratio must be this at most, or at least when it is
 *   better to have more
 * @param {boolean} [more]
 */
function ratio(what, path, name, ours, theirs, limit, more = false) {
  return (tree) => {
    const mine = median(tree, place(path, ours), name);
    const other = median(tree, place(path, theirs), name);
    if (!mine || !other) return null;
    const value = mine / other;
    return {
      what,
      who: ours,
      against: theirs,
      value,
      wanted: `${more ? '>=' : '<='} ${Number(limit.toFixed(2))}`,
      reached: more ? value >= limit : value <= limit,
    };
  };
}

/** A path names the place of who with '*', or ends with it. */
function place(path, who) {
  return path.includes('*')
    ? path.map((key) => (key === '*' ? who : key))
    : [...path, who];
}

const declared = 'ours-declared';
const fn = 'ours-fn';
const cpu = 'gatewayCpu';
const saturated = 'gateway CPU a round trip, saturated';
const paced = 'gateway CPU a round trip, 2,000/s';
const worker = 'worker CPU a message';

const TARGETS = [
  ratio(saturated, ['saturated'], cpu, fn, 'ws-amqplib', 1 / 3),
  ratio(saturated, ['saturated'], cpu, fn, 'legacy', 1 / 10),
  ratio(saturated, ['saturated'], cpu, declared, 'limit', 1.25),
  ratio(paced, ['paced'], cpu, fn, 'ws-amqplib', 1 / 2),
  ratio(paced, ['paced'], cpu, declared, 'limit', 1.25),
  ...PEERS.flatMap((peer) => [
    ratio('round trips/s', ['saturated'], 'rate', fn, peer, 1, true),
    ...['p50', 'p99'].flatMap((quantile) => [
      ratio(`${quantile}, 2,000/s`, ['paced'], quantile, fn, peer, 1),
      ...['25', '50', '75'].map((share) =>
        ratio(
          `${quantile}, ${share} % of the weakest`,
          ['shares', '*', share],
          quantile,
          fn,
          peer,
          1,
        ),
      ),
    ]),
  ]),
  ratio(worker, ['workers'], 'workerCpu', 'ours', 'legacy', 1 / 4),
  ratio(worker, ['workers'], 'workerCpu', 'ours', 'amqplib', 1),
  ratio('handshakes/s', ['handshakes'], 'rate', fn, 'ws-amqplib', 1, true),
  ratio('idle memory', ['idle'], 'perConnection', fn, 'ws-amqplib', 1),
];

/** @param {object} tree of summaries */
const targets = (tree) => TARGETS.map((target) => target(tree)).filter(Boolean);

module.exports = { median, targets };
