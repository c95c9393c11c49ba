'use strict';

// Three brokers are one, with quorum queues: they die one after the other,
// under load, and nothing is lost.

const test = require('ava');
const { startCluster, stopCluster } = require('../../scripts/rabbitmq');
const { unique } = require('../support/brokers');
const { LEAST, PATIENCE, scene } = require('../support/faults/scene');
const { NAMES, isExternal, list } = require('../support/rabbit');
const { until } = require('../support/until');

/** @type {import('../../scripts/rabbitmq').Rabbit[]} */
let nodes = [];
const ours = isExternal ? test.skip : test;

test.before('three brokers are there', async (t) => {
  t.timeout(300_000);
  if (!isExternal) nodes = await startCluster(3);
});
test.after.always('they are stopped', () => stopCluster(nodes));

function settings() {
  const id = unique();
  return {
    ...Object.fromEntries(NAMES.map((name) => [name, `${name}-${id}`])),
    ...LEAST,
    queueType: 'quorum',
    host: nodes.map(({ host, port }) => `${host}:${port}`),
  };
}

/** Each quorum queue is on all three again. */
function whole() {
  return until(async () => {
    const queues = await list(nodes[0], 'queues', 'type', 'online');
    return queues
      .filter(({ type }) => type === 'quorum')
      .every(({ online }) => online.length === nodes.length);
  }, PATIENCE);
}

ours('nodes are killed one after the other', async (t) => {
  t.timeout(360_000);
  const conf = settings();
  const world = await scene(t, conf, { browsers: 10, up: 500, down: 300 });
  const queues = await list(nodes[0], 'queues', 'name', 'type');
  const shared = [conf.receiveQueue, conf.statusQueue];
  for (const { name, type } of queues) {
    if (shared.includes(name)) t.is(type, 'quorum', name);
  }
  await world.begin();
  for (const node of nodes) {
    await node.kill9();
    await world.traffic();
    await node.restart();
    await whole();
    await world.traffic();
  }
  await world.settle({ all: true });
  world.ledger.isWhole(t, { overtaken: true });
  world.nobodyLeft(t);
  // Whoever was connected with the first has been elsewhere.
  for (const line of world.lines) t.true(line.count('ready') > 0);
});

ours('two of three are killed and come back', async (t) => {
  t.timeout(360_000);
  const world = await scene(t, settings(), { up: 200, down: 200 });
  await world.begin();
  await Promise.all([nodes[0].kill9(), nodes[1].kill9()]);
  // A minority takes nothing: all waits.
  const { up, down } = world.ledger;
  await world.sends([up.sent + 400, down.sent + 400]);
  await Promise.all([nodes[0].restart(), nodes[1].restart()]);
  await whole();
  await world.traffic();
  await world.settle({ all: true });
  world.ledger.isWhole(t, { overtaken: true });
  world.nobodyLeft(t);
});
