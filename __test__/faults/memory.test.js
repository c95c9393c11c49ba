'use strict';

// Memory stays bounded with a browser that does not read, and with a broker
// that takes nothing; those who have nothing to do with it get everything.

const test = require('ava');
const { withVictim } = require('../support/faults/broker');
const { gatewayChild } = require('../support/faults/children');
const { gather, percentile } = require('../support/faults/crowd');
const { Hand, inLedger } = require('../support/faults/hand');
const { Ledger } = require('../support/faults/ledger');
const { watch } = require('../support/faults/lines');
const { pace } = require('../support/faults/pace');
const { LEAST, MODES, PATIENCE, settled } = require('../support/faults/scene');
const { Peer } = require('../support/peers');
const { RawPeer } = require('../support/raw');
const { until } = require('../support/until');

const victim = withVictim(test);
const MB = 1024 * 1024;
const SIZE = 60_000;
/** In ms: those who wait for one that does not read wait for seconds. */
const FLOOR = 250;
const ROUNDS = 5;

/** A gateway in a process of its own, a worker, and browsers that read. */
async function stage(t, mqConf, wsConf, crowdOptions) {
  const ledger = new Ledger();
  const conf = { ...victim.settings(), reconnectBackoffTime: 100, ...mqConf };
  const hand = new Hand(conf, 'w', inLedger(ledger));
  t.teardown(() => hand.client.close());
  await hand.client.init();
  const gateway = await gatewayChild(t, conf, wsConf);
  const crowd = await gather(t, gateway.url, ledger, crowdOptions);
  t.teardown(() => hand.stop());
  return { conf, ledger, hand, gateway, crowd };
}

/** A browser that is connected and reads when it is told to. */
async function lazy(t, { port }, key) {
  const raw = await RawPeer.connect({ host: '127.0.0.1', port });
  t.teardown(() => raw.leave());
  const { status } = await raw.upgrade(`/?key=${key}`, { to: key });
  t.is(status, 101);
  raw.socket.pause();
  return raw;
}

/**
 * Sends so many bytes to a key, as fast as there is room.
 *
 * @returns {Promise<number>} in how many messages
 */
async function flood(hand, key, bytes) {
  const filler = 'z'.repeat(SIZE);
  const count = Math.ceil(bytes / SIZE);
  for (let n = 0; n < count; n += 1) {
    if (!hand.client.send(`${n} ${filler}`, { to: key })) {
      await new Promise((resolve) => hand.client.once('drain', resolve));
    } else if (n % 16 === 0) {
      // Others have their turn.
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  await until(() => hand.client.stats().buffered === 0, PATIENCE);
  return count;
}

/** Its buffers have their size when as much has gone through as can wait. */
async function warmUp(gateway, hand) {
  const warm = new Peer(`${gateway.url}?key=warm`);
  await warm.opened;
  await flood(hand, 'warm', 40 * MB);
  await warm.terminate();
}

for (const [slowConsumer, mode] of [
  ['close', MODES[1]],
  ['close', MODES[0]],
  ['drop', MODES[1]],
  ['drop', MODES[0]],
]) {
  test(`${mode.delivery}, ${slowConsumer}: 240 MB for one that does not read`, async (t) => {
    t.timeout(300_000);
    const crowdOptions = { count: 5, rate: 100 };
    const { ledger, hand, gateway, crowd } = await stage(
      ...[t, mode, { slowConsumer }, crowdOptions],
    );
    crowd.start();
    hand.start(crowd.keys, 200);
    await warmUp(gateway, hand);
    const { distinct } = ledger.down;
    await until(() => ledger.down.distinct > distinct + 400, PATIENCE);

    const slow = await lazy(t, gateway, 'slow');
    await gateway.ask('peak');
    const before = await gateway.ask('memory');
    await flood(hand, 'slow', 240 * MB);
    const after = ledger.down.sent;
    await until(() => ledger.down.distinct > after, PATIENCE);
    const peak = await gateway.ask('peak');
    t.log(`grew by ${((peak - before) / MB).toFixed(1)} MiB`);
    t.true(peak - before < 32 * MB, `${(peak - before) / MB} MiB`);

    crowd.stop();
    hand.stop();
    await settled(ledger, { all: true });
    ledger.isWhole(t);
    t.deepEqual(crowd.closes, []);
    const gone = () =>
      hand.statuses.filter(({ key, status }) => key === 'slow' && !status);
    if (slowConsumer === 'close') {
      await until(() => gone().length > 0, PATIENCE);
      t.is(gone()[0].reasonCode, 1013);
    } else {
      t.deepEqual(gone(), []);
      t.true((await gateway.ask('stats')).overflowed > 0);
      // It may read on, and what comes from now on reaches it.
      slow.socket.resume();
      const last = () =>
        slow.messages.some((message) => String(message) === 'the last');
      await until(() => {
        hand.client.send('the last', { to: 'slow' });
        return last();
      }, PATIENCE);
    }
  });
}

/**
 * The time in which 99 of 100 messages reach the others, while somebody gets
 * many large ones.
 */
async function p99({ crowd, hand }, key) {
  const latencies = () => crowd.browsers.flatMap((each) => each.latencies);
  for (const browser of crowd.browsers) browser.latencies.length = 0;
  const filler = 'z'.repeat(SIZE);
  const stop = pace(200, () => hand.client.send(filler, { to: key }));
  try {
    await until(() => latencies().length >= 600, PATIENCE);
  } finally {
    stop();
  }
  return percentile(latencies(), 0.99);
}

for (const mode of MODES) {
  for (const slowConsumer of ['close', 'drop']) {
    test(`${mode.delivery}, ${slowConsumer}: others do not wait for one that does not read`, async (t) => {
      t.timeout(300_000);
      const world = await stage(t, mode, { slowConsumer }, { rate: 100 });
      const { hand, gateway, crowd } = world;
      crowd.start();
      hand.start(crowd.keys, 200);
      /** Three times as long is a delay, unless both are short. */
      const isFine = ({ reading, stopped }) =>
        stopped <= Math.max(3 * reading, FLOOR);
      const rounds = [];
      // What else a machine does can be in the way of one round.
      while (!rounds.some(isFine) && rounds.length < ROUNDS) {
        const reader = new Peer(`${gateway.url}?key=reader`);
        await reader.opened;
        const reading = await p99(world, 'reader');
        await reader.terminate();
        const key = `stopped ${rounds.length}`;
        const slow = await lazy(t, gateway, encodeURIComponent(key));
        const stopped = await p99(world, key);
        await slow.leave();
        rounds.push({ reading, stopped });
      }
      t.log(JSON.stringify(rounds));
      t.true(rounds.some(isFine), JSON.stringify(rounds));
    });
  }
}

for (const mode of MODES) {
  test(`${mode.delivery}, wait: who does not read gets all 240 MB later`, async (t) => {
    t.timeout(300_000);
    const { hand, gateway } = await stage(
      ...[t, { ...mode, bufferSize: 4 * MB }, { slowConsumer: 'wait' }],
      { count: 1 },
    );
    await warmUp(gateway, hand);
    const slow = await lazy(t, gateway, 'slow');
    await gateway.ask('peak');
    const before = await gateway.ask('memory');
    const count = await flood(hand, 'slow', 240 * MB);
    slow.socket.resume();
    await until(() => slow.messages.length >= count, PATIENCE);
    const peak = await gateway.ask('peak');
    t.log(`grew by ${((peak - before) / MB).toFixed(1)} MiB`);
    t.true(peak - before < 32 * MB, `${(peak - before) / MB} MiB`);
    const numbers = slow.messages.map((message) => parseInt(message, 10));
    t.deepEqual(
      numbers,
      Array.from({ length: count }, (_, n) => n),
    );
    t.is((await gateway.ask('stats')).overflowed, 0);
  });

  test(`${mode.delivery}: a full buffer holds everybody back`, async (t) => {
    t.timeout(300_000);
    const bufferSize = 200_000;
    const { ledger, hand, gateway, crowd } = await stage(
      ...[t, { ...mode, bufferSize }, {}],
      { count: 4, rate: 400, size: 20_000 },
    );
    const line = watch(hand.client);
    await victim.kill();
    await line.next('reconnecting', 0, PATIENCE);
    await until(() => gateway.events('reconnecting').length > 0, PATIENCE);
    // Browsers: their own buffers fill, since they are not read any more.
    crowd.start();
    await until(() => crowd.unsent > 2 * MB, PATIENCE);
    crowd.stop();
    const { buffered } = await gateway.ask('stats');
    t.true(buffered <= bufferSize + 25_000, `${buffered} bytes wait`);
    // The worker: goes on although it is told to hold on.
    const keys = crowd.keys;
    const filler = 'y'.repeat(10_000);
    const answers = [];
    for (let n = 0; n < 60; n += 1) {
      answers.push(hand.say(keys[n % keys.length], filler));
    }
    await until(() => line.count('undeliverable') > 0);
    const held = answers.indexOf(false);
    t.true(held > 10 && held <= 20, `${held} found room`);
    t.true(ledger.down.refused >= 60 - 40 && ledger.down.refused <= 60 - 34);
    t.deepEqual(crowd.closes, []);

    await victim.restore();
    await line.next('drain', 0, PATIENCE);
    await settled(ledger, { all: true });
    ledger.isWhole(t);
    if (mode !== LEAST) {
      for (const way of ledger.ways) t.is(way.doubled, 0);
    }
    t.deepEqual(crowd.closes, []);
  });
}
