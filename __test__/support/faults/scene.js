'use strict';

// A gateway, a worker and browsers that talk all the time, with a ledger of it.

const { door } = require('../world');
const { until } = require('../until');
const { gather } = require('./crowd');
const { Hand, inLedger } = require('./hand');
const { Ledger } = require('./ledger');
const { watch } = require('./lines');

/** As long as a machine that does much else may take. */
const PATIENCE = 120_000;
/** Longer than any heartbeat, backoff or redelivery here takes. */
const SILENCE = 30_000;

const LEAST = { delivery: 'at-least-once' };
const MOST = { delivery: 'at-most-once' };
const MODES = [LEAST, MOST];

/**
 * Resolves when all has come, or, where something may be lost, the last one of
 * each key; and when nothing has come for so long that nothing will.
 *
 * @param {import('./ledger').Ledger} ledger
 * @param {{ all: boolean, copy?: () => void }} options
 */
async function settled(ledger, { all, copy = () => {} }) {
  let before = -1;
  let since = performance.now();
  await until(() => {
    copy();
    const { ways } = ledger;
    if (ways.every((way) => (all ? way.missing <= 0 : way.caughtUp)))
      return true;
    const received = ways.reduce((sum, way) => sum + way.received, 0);
    if (received !== before) since = performance.now();
    before = received;
    return performance.now() - since > SILENCE;
  }, PATIENCE);
}

/**
 * @param {import('ava').ExecutionContext} t
 * @param {Record<string, any>} mqConf
 * @param {{ browsers?: number, up?: number, down?: number, size?: number,
 *   gateway?: object, client?: object, ws?: object, slow?: number }} [options]
 *   `up`, `down`: messages a second; `gateway`, `client`: mqConf for one of
 *   them alone
 */
async function scene(t, mqConf, options = {}) {
  const { browsers = 5, up = 200, down = 200, size = 0, slow = 0 } = options;
  const ledger = new Ledger();
  const conf = { reconnectBackoffTime: 100, ...mqConf };
  const hand = new Hand({ ...conf, ...options.client }, 'w', inLedger(ledger), {
    slow,
  });
  t.teardown(() => hand.client.close());
  await hand.client.init();
  const front = await door(t, { ...conf, ...options.gateway }, options.ws);
  const lines = [watch(hand.client), watch(front.gateway)];
  const crowd = await gather(t, front.url, ledger, {
    ...{ count: browsers, rate: up, size },
  });
  t.teardown(() => hand.stop());

  const world = {
    ...front,
    conf,
    ledger,
    hand,
    client: hand.client,
    lines,
    crowd,

    /** Everybody begins to talk. Resolves when much has been heard. */
    async begin() {
      crowd.start();
      hand.start(crowd.keys, down, size);
      await world.traffic();
    },

    /** Half a second's messages that were sent from now on have come. */
    async traffic() {
      const wanted = ledger.ways.map((way, index) => {
        const rate = [up, down][index];
        return { way, since: Date.now(), count: rate / 2 };
      });
      for (const { way, count } of wanted) {
        const before = way.distinct + way.missing;
        await until(() => way.distinct > before + count, PATIENCE);
      }
    },

    /** As many have been sent. @param {number[]} counts up, down */
    sends: (counts) =>
      until(
        () => ledger.ways.every((way, index) => way.sent >= counts[index]),
        PATIENCE,
      ),

    /** Where the lines stand now, for `all`. */
    marks: () => lines.map((line) => line.mark()),
    /** Both sides have told it since. @param {string} event @param {number[]} marks */
    all: (event, marks) =>
      Promise.all(
        lines.map((line, index) => line.next(event, marks[index], PATIENCE)),
      ),

    /**
     * Nobody sends any more, and what can still come has come: all, or, where
     * something may be lost, the last one of each key.
     *
     * @param {{ all: boolean }} options
     */
    async settle({ all }) {
      crowd.stop();
      hand.stop();
      await settled(ledger, { all });
    },

    /**
     * The end of a fault: all has come, or where something may be lost, a table
     * says what has; and nobody has lost a socket.
     *
     * @param {import('ava').ExecutionContext} t
     * @param {object} mode
     */
    async ends(t, mode) {
      const all = mode === LEAST;
      await world.settle({ all });
      if (all) ledger.isWhole(t);
      else t.log(ledger.table());
      world.nobodyLeft(t);
    },

    /** @param {import('ava').ExecutionContext} t */
    nobodyLeft(t) {
      t.deepEqual(crowd.closes, []);
      t.true(crowd.allOpen);
      t.is(front.gateway.size, browsers);
      const gone = hand.statuses.filter(({ status }) => status === 0);
      t.deepEqual(gone, []);
    },
  };
  return world;
}

module.exports = { LEAST, MODES, MOST, PATIENCE, scene, settled };
