'use strict';

const { step } = require('../../scripts/lib/steps');
const { handshakes, roundTrips } = require('./measure');
const { rss } = require('./proc');

const HANDSHAKES = 200_000;
const MESSAGES = 5_000_000;
/** How long the load lasts between two looks, in seconds. */
const STRETCH = 20;

/**
 * What gateway and worker hold after so many connections and so many messages:
 * what leaks shows in the long run alone.
 *
 * @param {import('./session').Session} session
 * @param {(seconds: number) => boolean} hasTime
 */
async function endurance(session, hasTime) {
  const { gateways, worker, world } = session;
  const looks = [];
  let connections = 0;
  let messages = 0;
  const look = async () => {
    for (const child of [...gateways, worker]) await child.settle();
    const gateway = rss(gateways[0].pid);
    const bytes = { gateway, worker: rss(worker.pid) };
    looks.push({ connections, messages, ...bytes });
    const [mine, its] = Object.values(bytes).map((n) => (n / 1e6).toFixed(0));
    step(
      `${connections} handshakes, ${messages} messages: gateway ${mine} MB, worker ${its} MB`,
    );
  };
  const stretch = { ...world.options, seconds: STRETCH };
  const during = { ...session, world: { ...world, options: stretch } };
  // Everything is compiled, and every pool has its size.
  await roundTrips(session, { seconds: 5 });
  await look();
  while (connections < HANDSHAKES && hasTime(STRETCH)) {
    connections += Math.round((await handshakes(during)).rate * STRETCH);
    await look();
  }
  while (messages < MESSAGES && hasTime(STRETCH)) {
    const { rate } = await roundTrips(session, { seconds: STRETCH });
    messages += Math.round(rate * STRETCH);
    await look();
  }
  return looks;
}

module.exports = { endurance };
