'use strict';

// What fails in short: `npm run test:faults` has all of it, and under load.

const test = require('ava');
const { withVictim } = require('../support/faults/broker');
const { openRoad } = require('../support/faults/proxy');
const { LEAST, MODES, scene } = require('../support/faults/scene');
const { isExternal } = require('../support/rabbit');
const { until } = require('../support/until');
const { door, worker } = require('../support/world');

const victim = withVictim(test);
const breaking = isExternal ? test.skip : test.serial;

for (const mode of MODES) {
  breaking(
    `${mode.delivery}: the broker is killed and comes back`,
    async (t) => {
      t.timeout(180_000);
      const world = await scene(t, { ...victim.settings(), ...mode });
      await world.begin();
      const marks = world.marks();
      await victim.kill();
      await world.all('reconnecting', marks);
      const since = Date.now();
      const { up, down } = world.ledger;
      await world.sends([up.sent + 100, down.sent + 100]);
      const until = Date.now();
      await victim.restore();
      await world.all('ready', marks);
      await world.traffic();
      const all = mode === LEAST;
      await world.settle({ all });
      world.ledger.isWhole(t, all ? {} : { since, until });
      world.nobodyLeft(t);
    },
  );

  breaking(
    `${mode.delivery}: connections are reset, three times`,
    async (t) => {
      t.timeout(180_000);
      const { port } = victim.rabbit();
      const road = await openRoad(t, port);
      const conf = { ...victim.settings(), ...mode };
      const world = await scene(t, victim.through(conf, road));
      await world.begin();
      for (let round = 0; round < 3; round += 1) {
        const marks = world.marks();
        road.reset();
        await world.all('ready', marks);
        await world.traffic();
      }
      await world.ends(t, mode);
    },
  );
}

breaking('at-least-once: what waits in the broker outlives it', async (t) => {
  t.timeout(180_000);
  const mqConf = { ...victim.settings(), ...LEAST };
  const front = await door(t, mqConf);
  const browser = await front.connect('k');
  const COUNT = 2000;
  for (let n = 0; n < COUNT; n += 1) browser.sendJson(n);
  const { gateway } = front;
  await until(
    () => gateway.stats().received === COUNT && gateway.stats().buffered === 0,
  );
  await victim.kill();
  await victim.restore();
  const { messages } = await worker(t, mqConf);
  const distinct = () => new Set(messages.map(({ message }) => message));
  await until(() => distinct().size >= COUNT).catch(() => {});
  t.deepEqual([...distinct()], [...Array(COUNT).keys()]);
  // What the broker had, and had not confirmed yet, comes once more, and says so.
  const heard = new Set();
  const again = messages.filter(
    ({ message }) => heard.size === heard.add(message).size,
  );
  t.true(again.every(({ info }) => info.redelivered));
});
