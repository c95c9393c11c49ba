'use strict';

const { setTimeout: delay } = require('node:timers/promises');
const { step } = require('../../scripts/lib/steps');
const { endurance } = require('./endurance');
const { handshakes, idle, roundTrips } = require('./measure');
const { Session, Unavailable } = require('./session');
const { summaries } = require('./stats');
const { GATEWAYS, WORKERS } = require('./variants');

const PACED = 2000;
const SHARES = [25, 50, 75];
const CONNECTIONS = [1, 10, 100, 1000, 10_000];
const SIZES = [20, 200, 1024, 4096, 16_384, 65_536];
const GATEWAY_COUNTS = [1, 2, 3, 4];
// What is on its way in large messages: enough to saturate, and no more.
const BYTES_IN_FLIGHT = 4 << 20;
const GROWTH_SECONDS = 3;
const WARMING = 1;
const PAUSE = 300;
// By when a paced message must be sent, in ms, or the latencies are those of a
// machine that was busy with something else.
const LATE = 20;
// What the parts of a measurement that are not timed take.
const OVERHEAD = 4;
// The idle connections come and go at this many a second at least.
const CONNECT_RATE = 500;

/**
 * All measurements of a run. What fails or finds no time is noted, and the rest
 * goes on.
 */
class Plan {
  /**
   * @param {import('./session').World} world
   * @param {string[]} notes
   */
  constructor(world, notes) {
    this.world = world;
    this.options = world.options;
    this.notes = notes;
    /** @type {Map<string, any[]>} measurements by where they belong */
    this.rounds = new Map();
    /** @type {Record<string, number>[] | null} */
    this.looks = null;
    this.gateways = [...world.options.gateways];
    this.workers = Object.keys(WORKERS).filter(
      (name) => !world.options.quick || WORKERS[name].main,
    );
  }

  /** @param {string} text */
  note(text) {
    if (this.notes.includes(text)) return;
    this.notes.push(text);
    step(`NOTE: ${text}`);
  }

  /** Whether so many seconds more are allowed. */
  hasTime(seconds, what) {
    if (Date.now() + seconds * 1000 < this.options.deadline) return true;
    this.note(`left out for want of time: ${what}`);
    return false;
  }

  /**
   * Opens a session, has it measured, and closes it.
   *
   * @param {string} what
   * @param {Parameters<typeof Session.open>[1]} parts
   * @param {(session: Session) => Promise<void>} measure
   */
  async during(what, parts, measure) {
    let session;
    try {
      session = await Session.open(this.world, parts);
      await measure(session);
    } catch (error) {
      if (error instanceof Unavailable) {
        this.gateways = this.gateways.filter((name) => name !== parts.gateway);
        this.note(`not available: ${parts.gateway} (${error.message})`);
      } else {
        this.note(`failed: ${what}: ${error.message}`);
      }
    } finally {
      await session?.close();
      // The broker still has to tidy up.
      await delay(PAUSE);
    }
  }

  /**
   * One measurement.
   *
   * @param {Session} session
   * @param {string[]} place where its numbers belong
   * @param {number} seconds that it takes
   * @param {() => Promise<Record<string, any>>} measure
   */
  async take(session, place, seconds, measure) {
    const what = place.join(' ');
    if (!this.hasTime(seconds, what)) return;
    const numbers = await measure();
    session.check();
    const key = JSON.stringify(place);
    this.rounds.set(key, [...(this.rounds.get(key) ?? []), numbers]);
    step(`${what}: ${inWords(numbers)}`);
    const { wrong, unanswered, lag, loadShare, workerShare } = numbers;
    if (wrong > 0) this.note(`${what}: ${wrong} went wrong`);
    if (unanswered > 0) {
      this.note(`${what}: ${unanswered} unanswered 5 s after the last one`);
    }
    if (lag > LATE) {
      this.note(`${what}: sent ${Math.round(lag)} ms late, for want of CPU`);
    }
    if (loadShare > 0.9) this.note(`${what}: the load generator was too slow`);
    if (workerShare > 0.9 && place[0] !== 'workers') {
      this.note(`${what}: the worker was too slow`);
    }
  }

  /** Each round in another order, so that none always comes after the same. */
  async eachRound(names, visit) {
    for (let round = 0; round < this.options.rounds; round += 1) {
      step(`round ${round + 1} of ${this.options.rounds}`);
      const list = names();
      const at = round % list.length;
      for (const name of [...list.slice(at), ...list.slice(0, at)]) {
        await visit(name);
      }
    }
  }

  get length() {
    return this.options.seconds + this.options.warmup + OVERHEAD;
  }

  async main() {
    await this.eachRound(
      () => this.gateways,
      (gateway) =>
        this.during(`${gateway} main`, { gateway }, async (session) => {
          const take = (name, measure) =>
            this.take(session, [name, gateway], this.length, measure);
          await take('saturated', () => roundTrips(session));
          await take('paced', () => roundTrips(session, { rate: PACED }));
          await take('handshakes', () => handshakes(session));
        }),
    );
  }

  /** What the weakest peer does at its most, by the rounds so far. */
  weakest() {
    const rates = this.gateways
      .filter((name) => GATEWAYS[name].peer)
      .map((name) => this.summary(['saturated', name])?.rate?.median)
      .filter(Boolean);
    return rates.length ? Math.min(...rates) : null;
  }

  async paced() {
    const most = this.weakest();
    if (!most) {
      this.note('left out: shares of the weakest peer, without a peer');
      return;
    }
    step(`the weakest peer does ${Math.round(most)} round trips/s`);
    await this.eachRound(
      () => this.gateways,
      (gateway) =>
        this.during(`${gateway} paced`, { gateway }, async (session) => {
          // At low rates it would take long until everything is compiled.
          if (this.hasTime(WARMING + OVERHEAD, `${gateway} paced`)) {
            await roundTrips(session, { seconds: WARMING });
          }
          for (const share of SHARES) {
            const rate = Math.round((most * share) / 100);
            await this.take(
              session,
              ['shares', gateway, `${share}`],
              this.length,
              () => roundTrips(session, { rate }),
            );
          }
        }),
    );
  }

  async idle() {
    const count = this.options.idle;
    await this.eachRound(
      () => this.gateways,
      (gateway) =>
        this.during(
          `${gateway} idle`,
          { gateway, garbage: true },
          async (session) => {
            const seconds = OVERHEAD + count / CONNECT_RATE;
            await this.take(session, ['idle', gateway], seconds, () =>
              idle(session, count),
            );
          },
        ),
    );
  }

  async workersPart() {
    const gateway = 'limit';
    await this.eachRound(
      () => this.workers,
      (worker) =>
        this.during(
          `${worker} worker`,
          { gateway, worker },
          async (session) => {
            await this.take(session, ['workers', worker], this.length, () =>
              roundTrips(session),
            );
            await this.take(
              session,
              ['workersPaced', worker],
              this.length,
              () => roundTrips(session, { rate: PACED }),
            );
          },
        ),
    );
  }

  async growth() {
    const seconds = Math.min(GROWTH_SECONDS, this.options.seconds);
    const length = seconds + this.options.warmup + OVERHEAD;
    const chosen = () => this.gateways.filter((name) => GATEWAYS[name].growth);
    await this.eachRound(chosen, async (gateway) => {
      const what = `${gateway} growth`;
      const take = (session, kind, value, measure) =>
        this.take(session, [kind, gateway, `${value}`], length, measure);
      await this.during(what, { gateway }, async (session) => {
        for (const connections of CONNECTIONS) {
          if (connections > this.options.idle) continue;
          await take(session, 'byConnections', connections, () =>
            roundTrips(session, { connections, seconds }),
          );
        }
      });
      await this.during(what, { gateway }, async (session) => {
        for (const size of SIZES) {
          const most = Math.floor(BYTES_IN_FLIGHT / size);
          const inFlight = Math.min(this.options.inFlight, most);
          await take(session, 'bySize', size, () =>
            roundTrips(session, { size, inFlight, seconds }),
          );
        }
      });
      for (const gateways of GATEWAY_COUNTS) {
        await this.during(what, { gateway, gateways }, (session) =>
          take(session, 'byGateways', gateways, () =>
            roundTrips(session, { seconds }),
          ),
        );
      }
    });
  }

  /** Once: what counts is how it goes on, not how it varies. */
  async endurance() {
    const gateway = 'ours-fn';
    const parts = { gateway, worker: 'ours', garbage: true };
    await this.during('endurance', parts, async (session) => {
      const hasTime = (seconds) =>
        this.hasTime(seconds + OVERHEAD, 'the rest of endurance');
      this.looks = await endurance(session, hasTime);
    });
  }

  /** @param {string[]} place */
  summary(place) {
    const rounds = this.rounds.get(JSON.stringify(place));
    return rounds && summaries(rounds);
  }

  /** Everything, as a tree with summaries at its leaves. */
  result() {
    const tree = {};
    for (const key of this.rounds.keys()) {
      const place = JSON.parse(key);
      const last = place.pop();
      let branch = tree;
      for (const name of place) branch = branch[name] ??= {};
      branch[last] = this.summary([...place, last]);
    }
    return tree;
  }
}

/** @param {Record<string, any>} numbers */
function inWords({
  rate,
  gatewayCpu,
  workerCpu,
  brokerCpu,
  p50,
  p99,
  ...rest
}) {
  if (rest.perConnection !== undefined) {
    const { perConnection, connections } = rest;
    return `${Math.round(perConnection)} bytes for each of ${connections}`;
  }
  const us = (value) => (value === null ? '-' : `${value.toFixed(1)} us`);
  return [
    `${Math.round(rate)}/s`,
    `CPU gateway ${us(gatewayCpu)}`,
    `worker ${us(workerCpu)}`,
    `broker ${us(brokerCpu)}`,
    `p50 ${p50.toFixed(2)} ms`,
    `p99 ${p99.toFixed(2)} ms`,
  ].join(', ');
}

/**
 * @param {import('./session').World} world
 * @param {string[]} notes
 */
async function measureAll(world, notes) {
  const plan = new Plan(world, notes);
  const parts = {
    main: () => plan.main(),
    paced: () => plan.paced(),
    idle: () => plan.idle(),
    workers: () => plan.workersPart(),
    growth: () => plan.growth(),
    endurance: () => plan.endurance(),
  };
  for (const part of world.options.parts) {
    step(`part: ${part}`);
    await parts[part]();
  }
  return {
    paced: PACED,
    weakest: plan.weakest(),
    tree: plan.result(),
    endurance: plan.looks,
    notes: plan.notes,
  };
}

module.exports = { measureAll };
