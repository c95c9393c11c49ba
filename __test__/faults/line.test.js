'use strict';

// However the line to the broker breaks, both sides notice and come back,
// browsers stay, and nothing is lost that was sent while they knew.

const test = require('ava');
const { list } = require('../support/rabbit');
const { withVictim } = require('../support/faults/broker');
const { openRoad } = require('../support/faults/proxy');
const { LEAST, MODES, PATIENCE, scene } = require('../support/faults/scene');
const { until } = require('../support/until');

const victim = withVictim(test);
/** In seconds; so long that a busy machine's delays are no third interval. */
const HEARTBEAT = 4;
/** Two intervals in ms, and what a busy machine adds. */
const NOTICED = 2 * HEARTBEAT * 1000 + 10_000;

/** The scene, with a road for each side. */
async function onRoads(t, mode, options = {}) {
  const port = victim.rabbit().port;
  const roads = [await openRoad(t, port), await openRoad(t, port)];
  const conf = { ...victim.settings(), ...mode, heartbeat: HEARTBEAT };
  const world = await scene(t, conf, {
    client: victim.through({}, roads[0]),
    gateway: victim.through({}, roads[1]),
    ...options,
  });
  return { ...world, roads };
}

/**
 * What breaks the line, and what mends it, where it does not mend itself.
 * `silent`: nobody is told, so it takes the missing heartbeats.
 *
 * @type {Record<string, { begin: (world: any) => any,
 *   end?: (world: any) => any, silent?: boolean }>}
 */
const FAULTS = {
  'the broker is killed': { begin: victim.kill, end: victim.restore },
  'the broker is stopped and started': { begin: victim.restart },
  'an operator closes all connections': {
    begin: () => victim.rabbit().ctl('close_all_connections', 'maintenance'),
  },
  'the connections are reset': {
    begin: ({ roads }) => roads.forEach((road) => road.reset()),
  },
  'the connections are reset and refused for a while': {
    async begin({ roads }) {
      for (const road of roads) await road.refuse();
      for (const road of roads) road.reset();
    },
    async end({ roads }) {
      for (const road of roads) await road.accept();
    },
  },
  'the connections become black holes': {
    begin: ({ roads }) => roads.forEach((road) => road.stall()),
    silent: true,
  },
  'all becomes a black hole for a while': {
    begin: ({ roads }) => roads.forEach((road) => road.swallow()),
    end: ({ roads }) => roads.forEach((road) => road.release()),
    silent: true,
  },
  'nothing comes from the broker any more': {
    begin: ({ roads }) => roads.forEach((road) => road.cut('down')),
    silent: true,
  },
  'nothing reaches the broker any more': {
    // The broker misses our heartbeats and says good-bye.
    begin: ({ roads }) => roads.forEach((road) => road.cut('up')),
  },
  'the broker stands still for a while': {
    begin: victim.freeze,
    end: victim.thaw,
    silent: true,
  },
  'the address leads elsewhere for a while': {
    begin({ roads }) {
      for (const road of roads) {
        road.move(1);
        road.reset();
      }
    },
    end({ roads }) {
      for (const road of roads) road.move(victim.rabbit().port);
    },
  },
};

for (const mode of MODES) {
  for (const [title, { begin, end, silent }] of Object.entries(FAULTS)) {
    test(`${mode.delivery}: ${title}`, async (t) => {
      t.timeout(240_000);
      const world = await onRoads(t, mode);
      await world.begin();
      const marks = world.marks();
      const start = performance.now();
      const begun = begin(world);
      const told = await world.all('reconnecting', marks);
      const since = Date.now();
      await begun;
      const { up, down } = world.ledger;
      if (end) await world.sends([up.sent + 100, down.sent + 100]);
      const span = { since, until: Date.now() };
      await end?.(world);
      await world.all('ready', marks);
      await world.traffic();
      const all = mode === LEAST;
      await world.settle({ all });
      if (all) world.ledger.isWhole(t);
      else if (end) world.ledger.isWhole(t, span);
      else t.log(world.ledger.table());
      world.nobodyLeft(t);
      if (silent) {
        for (const { at } of told) {
          t.true(at - start < NOTICED, `noticed after ${at - start} ms`);
        }
      }
      for (const { args } of told) {
        const [{ attempt, delay, error }] = args;
        t.is(attempt, 1);
        t.true(delay >= 0);
        t.true(error instanceof Error);
      }
    });
  }

  test(`${mode.delivery}: resets again and again`, async (t) => {
    t.timeout(240_000);
    const world = await onRoads(t, mode);
    await world.begin();
    for (let round = 0; round < 10; round += 1) {
      const marks = world.marks();
      for (const road of world.roads) road.reset();
      await world.all('ready', marks);
      // In the midst of what goes out first.
      if (round % 2) await world.traffic();
    }
    await world.traffic();
    await world.ends(t, mode);
  });

  test(`${mode.delivery}: a slow road loses nothing`, async (t) => {
    const world = await onRoads(t, mode);
    for (const road of world.roads) road.lag = 100;
    await world.begin();
    await world.traffic();
    await world.settle({ all: true });
    world.ledger.isWhole(t);
    for (const way of world.ledger.ways) t.is(way.doubled, 0);
    for (const line of world.lines) t.deepEqual(line.seen, []);
  });

  test(`${mode.delivery}: a host of the list goes away`, async (t) => {
    t.timeout(240_000);
    const port = victim.rabbit().port;
    const roads = [await openRoad(t, port), await openRoad(t, port)];
    const host = roads.map((road) => `127.0.0.1:${road.port}`);
    const world = await scene(t, {
      ...{ ...victim.settings(), ...mode, host },
    });
    await world.begin();
    t.is(roads[1].accepted, 0);
    const marks = world.marks();
    await roads[0].refuse();
    roads[0].reset();
    await world.all('ready', marks);
    t.true(roads[1].accepted >= 2);
    await world.traffic();
    // And back, when it is the other one's turn.
    await roads[0].accept();
    const again = world.marks();
    await roads[1].refuse();
    roads[1].reset();
    await world.all('ready', again);
    await world.traffic();
    await world.ends(t, mode);
  });

  for (const name of ['receiveExchange', 'messageExchange']) {
    test(`${mode.delivery}: ${name} is deleted under its publisher`, async (t) => {
      t.timeout(240_000);
      const world = await scene(t, { ...victim.settings(), ...mode });
      await world.begin();
      await victim.deleteExchange(world.conf[name]);
      await world.traffic();
      await world.ends(t, mode);
    });
  }

  test(`${mode.delivery}: a queue is deleted under its consumer`, async (t) => {
    t.timeout(240_000);
    const world = await scene(t, { ...victim.settings(), ...mode });
    await world.begin();
    const queues = await list(victim.rabbit(), 'queues', 'name');
    const own = queues.find(({ name }) =>
      name.startsWith(world.conf.messageQueue),
    );
    for (const name of [world.conf.receiveQueue, own.name]) {
      await victim.rabbit().ctl('delete_queue', name);
      await world.traffic();
    }
    // What was in the queue is gone by an operator's will; the rest is not.
    const since = Date.now();
    await world.traffic();
    await world.settle({ all: false });
    world.ledger.isWhole(t, { since });
    world.nobodyLeft(t);
  });
}

test('each attempt looks for the host anew', async (t) => {
  const { port } = victim.rabbit();
  const road = await openRoad(t, port);
  const world = await scene(t, victim.through(victim.settings(), road));
  await world.begin();
  const marks = world.marks();
  await road.refuse();
  road.reset();
  // Several attempts fail, and are told.
  for (const line of world.lines) {
    await until(() => line.count('reconnecting') >= 3, PATIENCE);
    const attempts = line.seen.map(({ args }) => args[0].attempt);
    t.deepEqual(attempts.slice(0, 3), [1, 2, 3]);
  }
  await road.accept();
  await world.all('ready', marks);
  await world.traffic();
  await world.settle({ all: false });
  world.nobodyLeft(t);
});

test('attempts are not all at the same time', async (t) => {
  const road = await openRoad(t, victim.rabbit().port);
  const time = 1000;
  const world = await scene(t, {
    ...victim.through(victim.settings(), road),
    reconnectBackoffTime: time,
  });
  await world.begin();
  await road.refuse();
  road.reset();
  for (const line of world.lines) {
    await until(() => line.count('reconnecting') >= 4, PATIENCE);
  }
  const delays = world.lines.flatMap(({ seen }) =>
    seen.map(({ args }) => args[0].delay),
  );
  t.log(delays.join(' '));
  t.true(new Set(delays).size > delays.length / 2);
  t.true(delays.every((delay) => delay > 0 && delay <= time * 2));
  await road.accept();
});
