'use strict';

// The broker is killed and comes back, twice, under load.

const test = require('ava');
const { list } = require('../support/rabbit');
const { withVictim } = require('../support/faults/broker');
const { LEAST, MOST, scene } = require('../support/faults/scene');

const victim = withVictim(test);
// A second: half of what a busy machine still carries.
const LOAD = { browsers: 20, up: 1000, down: 500 };
const FEWER = 1000;

/** Kills the broker twice. The times at which it was known to be away. */
async function killTwice(world) {
  const spans = [];
  for (let round = 0; round < 2; round += 1) {
    const marks = world.marks();
    await victim.kill();
    await world.all('reconnecting', marks);
    const since = Date.now();
    const { up, down } = world.ledger;
    const enough = [up.sent + FEWER, down.sent + FEWER / 2];
    await world.sends(enough);
    const until = Date.now();
    const again = world.marks();
    await victim.restore();
    await world.all('ready', again);
    const ready = Date.now();
    await world.traffic();
    spans.push({ since, until, ready });
  }
  return spans;
}

test('at-least-once: nothing is lost', async (t) => {
  t.timeout(300_000);
  const world = await scene(t, { ...victim.settings(), ...LEAST }, LOAD);
  await world.begin();
  const spans = await killTwice(world);
  await world.settle({ all: true });
  if (world.ledger.up.missing || world.ledger.down.missing) {
    // Lost, or held up somewhere?
    const columns = ['messages_ready', 'messages_unacknowledged', 'consumers'];
    const queues = await list(victim.rabbit(), 'queues', 'name', ...columns);
    t.log(queues, world.client.stats(), world.gateway.stats());
    const times = world.ledger.ways.map((way) => {
      const all = way.lost().map(({ at }) => at);
      return all.length ? [Math.min(...all), Math.max(...all)] : [];
    });
    t.log('away', spans, 'lost', times);
  }
  world.ledger.isWhole(t);
  world.nobodyLeft(t);
});

test('at-most-once: nothing is lost that was sent meanwhile', async (t) => {
  t.timeout(300_000);
  const world = await scene(t, { ...victim.settings(), ...MOST }, LOAD);
  await world.begin();
  const spans = await killTwice(world);
  await world.settle({ all: false });
  for (const span of spans) world.ledger.isWhole(t, span);
  // What was in the broker when it was killed: more where its consumer is slow.
  for (const { name, missing, sent } of world.ledger.ways) {
    t.true(missing < sent / 4, `${name}: ${missing} of ${sent} are lost`);
  }
  world.nobodyLeft(t);
});
