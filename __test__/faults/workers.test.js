'use strict';

// Workers are killed with messages in hand, close in good order, leave and
// come: another one gets what they had.

const test = require('ava');
const { gather } = require('../support/faults/crowd');
const { untilCopied, workerChild } = require('../support/faults/children');
const { Ledger } = require('../support/faults/ledger');
const { LEAST, MODES, PATIENCE, settled } = require('../support/faults/scene');
const { withRabbit, rabbitmq } = require('../support/brokers');
const { door } = require('../support/world');

withRabbit(test);

/** A gateway with browsers that talk, and workers in processes of their own. */
async function stage(t, mode, rate = 500) {
  const ledger = new Ledger();
  const conf = { ...rabbitmq.settings(), ...mode, prefetch: 50 };
  const workers = [];
  const hire = async (name, options) => {
    const child = await workerChild(t, conf, name, ledger, options);
    workers.push(child);
    return child;
  };
  return {
    conf,
    ledger,
    workers,
    hire,
    async open() {
      const front = await door(t, conf);
      const crowd = await gather(t, front.url, ledger, { rate });
      return { ...front, crowd };
    },
    until: (condition) => untilCopied(workers, condition, PATIENCE),
    settle: () =>
      settled(ledger, {
        all: true,
        copy: () => workers.forEach(({ copy }) => copy()),
      }),
  };
}

for (const mode of MODES) {
  test(`${mode.delivery}: a worker is killed, another one goes on`, async (t) => {
    t.timeout(240_000);
    const { ledger, hire, open, until, settle } = await stage(t, mode);
    const stays = await hire('stays');
    let victim = await hire('victim 0');
    const { crowd, gateway } = await open();
    crowd.start();
    await stays.ask('start', crowd.keys, 100);
    for (let round = 1; round <= 3; round += 1) {
      await until(() => victim.got.length > 100);
      await victim.kill9();
      const { distinct } = ledger.up;
      await until(() => ledger.up.distinct > distinct + 300);
      victim = await hire(`victim ${round}`);
    }
    crowd.stop();
    await stays.ask('stop');
    await settle();
    t.log(ledger.table());
    for (const way of ledger.ways) t.is(way.missing, 0, way.name);
    // What the dead had in hand comes again, and says so.
    t.is(ledger.up.unmarked, 0);
    t.is(ledger.down.doubled, 0);
    t.is(gateway.size, crowd.browsers.length);
  });

  test(`${mode.delivery}: a worker closes in good order`, async (t) => {
    t.timeout(240_000);
    const { ledger, hire, open, until, settle } = await stage(t, mode);
    const stays = await hire('stays');
    let leaver = await hire('leaver 0');
    const { crowd } = await open();
    crowd.start();
    for (let round = 1; round <= 3; round += 1) {
      await leaver.ask('start', crowd.keys, 100);
      await until(() => leaver.got.length > 100);
      await leaver.ask('stop');
      await leaver.ask('close');
      leaver = await hire(`leaver ${round}`);
    }
    crowd.stop();
    await settle();
    t.log(ledger.table());
    for (const way of ledger.ways) t.is(way.missing, 0, way.name);
    t.is(ledger.up.unmarked, 0);
    t.is(ledger.down.doubled, 0);
    t.true(stays.got.length > 0);
  });
}

test('at-least-once: a worker that waits for something is killed', async (t) => {
  t.timeout(240_000);
  const { ledger, hire, open, until, settle } = await stage(t, LEAST, 100);
  const options = { slow: 100 };
  let victim = await hire('victim 0', options);
  const { crowd } = await open();
  crowd.start();
  for (let round = 1; round <= 3; round += 1) {
    await until(() => victim.got.length > 20);
    while ((await victim.ask('inHand')) === 0);
    await victim.kill9();
    // Nobody is there for a while: all waits in the queue.
    const { sent } = ledger.up;
    await until(() => ledger.up.sent > sent + 50);
    victim = await hire(`victim ${round}`, options);
  }
  crowd.stop();
  await settle();
  t.log(ledger.table());
  t.is(ledger.up.missing, 0);
  t.is(ledger.up.unmarked, 0);
  t.is(ledger.up.renamed, 0);
  // Those that were in hand are marked, though nobody had finished with them.
  const marked = victim.got.filter(([, , redelivered]) => redelivered);
  t.true(marked.length > 0);
});

for (const mode of MODES) {
  test(`${mode.delivery}: nobody is there yet, or any more`, async (t) => {
    t.timeout(240_000);
    const { ledger, hire, open, until, settle } = await stage(t, mode, 300);
    const { crowd, gateway } = await open();
    crowd.start();
    const enough = () => {
      const { sent } = ledger.up;
      return until(() => ledger.up.sent > sent + 300);
    };
    for (let round = 0; round < 3; round += 1) {
      // What the broker has is not what waits here.
      await enough();
      const worker = await hire(`w${round}`);
      const { sent } = ledger.up;
      await until(() => ledger.up.distinct > sent);
      // The last round's stays.
      if (round < 2) await worker.ask('close');
    }
    crowd.stop();
    await settle();
    if (mode === LEAST) {
      ledger.isWhole(t);
    } else {
      // An autoDelete queue takes along what comes while its last consumer
      // leaves; before and after that moment everything waits.
      t.log(ledger.table());
      t.true(ledger.up.missing < ledger.up.sent / 4);
      t.is(ledger.up.disorder, 0);
    }
    t.is(ledger.up.unmarked, 0);
    t.is(gateway.stats().undeliverable, 0);
  });
}
