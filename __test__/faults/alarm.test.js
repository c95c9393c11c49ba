'use strict';

// A memory alarm of the broker: everybody waits, for as long as it takes, and
// what the broker has already still goes where it belongs.

const test = require('ava');
const { setTimeout: delay } = require('node:timers/promises');
const { Client } = require('../..');
const { withVictim } = require('../support/faults/broker');
const { gatewayChild } = require('../support/faults/children');
const { gather } = require('../support/faults/crowd');
const { Hand, inLedger } = require('../support/faults/hand');
const { Ledger } = require('../support/faults/ledger');
const { watch } = require('../support/faults/lines');
const { LEAST, MODES, PATIENCE, settled } = require('../support/faults/scene');
const { RawPeer } = require('../support/raw');
const { gate, until } = require('../support/until');
const { door, worker } = require('../support/world');

const victim = withVictim(test);
const MB = 1024 * 1024;
/** Longer than heartbeats and confirmations are waited for, in ms. */
const LONG = 35_000;
/** More than any prefetch. */
const BACKLOG = 1000;

/** From now on, until the function that it returns is called. */
async function alarm(t) {
  const watermark = (share) =>
    victim.rabbit().ctl('set_vm_memory_high_watermark', share);
  await watermark('0.0000001');
  const end = () => watermark('0.4');
  t.teardown(end);
  return end;
}

const range = (count) => Array.from({ length: count }, (_, n) => n);

for (const mode of MODES) {
  test(`${mode.delivery}: a broker without memory is waited for`, async (t) => {
    t.timeout(300_000);
    const bufferSize = 2 * MB;
    const conf = {
      ...{ ...victim.settings(), ...mode, bufferSize },
      ...{ heartbeat: 2, reconnectBackoffTime: 100 },
    };
    const ledger = new Ledger();
    const hand = new Hand(conf, 'w', inLedger(ledger));
    t.teardown(() => hand.client.close());
    await hand.client.init();
    const gateway = await gatewayChild(t, conf);
    const crowd = await gather(t, gateway.url, ledger, {
      ...{ count: 10, rate: 500, size: 2000 },
    });
    t.teardown(() => hand.stop());
    const line = watch(hand.client);
    crowd.start();
    hand.start(crowd.keys, 500, 2000);
    await until(() => ledger.down.distinct > 2000, PATIENCE);
    await gateway.ask('peak');
    const before = await gateway.ask('memory');

    const end = await alarm(t);
    const { args } = await line.next('blocked', 0, PATIENCE);
    t.is(typeof args[0], 'string');
    t.regex(args[0], /memory/);
    await until(() => gateway.events('blocked').length > 0, PATIENCE);
    // The fault's own time.
    await delay(LONG);
    await until(() => hand.held, PATIENCE);
    const { buffered } = await gateway.ask('stats');
    t.true(buffered <= bufferSize + 64 * 1024, `${buffered} bytes wait`);
    t.true(crowd.allOpen);

    await end();
    await line.next('unblocked', 0, PATIENCE);
    await until(() => gateway.events('unblocked').length > 0, PATIENCE);
    const { distinct } = ledger.up;
    await until(() => ledger.up.distinct > distinct + 1000, PATIENCE);
    crowd.stop();
    hand.stop();
    await settled(ledger, { all: true });
    ledger.isWhole(t);
    for (const way of ledger.ways) t.is(way.doubled, 0);
    t.is(ledger.down.refused, 0);
    t.deepEqual(crowd.closes, []);
    t.is(await gateway.ask('size'), crowd.browsers.length);
    t.is(line.count('reconnecting'), 0);
    t.is(gateway.events('reconnecting').length, 0);
    const peak = await gateway.ask('peak');
    t.log(`grew by ${((peak - before) / MB).toFixed(1)} MiB`);
    t.true(peak - before < 32 * MB, `${(peak - before) / MB} MiB`);
  });

  test(`${mode.delivery}: a gateway that may not publish still delivers`, async (t) => {
    t.timeout(240_000);
    const conf = { ...victim.settings(), ...mode };
    const { client } = await worker(t, conf);
    const front = await door(t, conf, { slowConsumer: 'wait' });
    const line = watch(front.gateway);
    const slow = await RawPeer.connect({ host: '127.0.0.1', port: front.port });
    t.teardown(() => slow.leave());
    t.is((await slow.upgrade('/?key=slow')).status, 101);
    slow.socket.pause();
    const filler = 'z'.repeat(20_000);
    for (const n of range(BACKLOG)) {
      if (client.send(`${n} ${filler}`, { to: 'slow' })) continue;
      await new Promise((resolve) => client.once('drain', resolve));
    }
    await until(() => client.stats().buffered === 0, PATIENCE);

    const end = await alarm(t);
    // Who does not publish is not told.
    const other = await front.connect('other');
    await until(() => {
      other.send('"hello"');
      return line.count('blocked') > 0;
    }, PATIENCE);
    slow.socket.resume();
    await until(() => slow.messages.length >= BACKLOG, PATIENCE);
    t.is(line.count('unblocked'), 0);
    t.deepEqual(
      slow.messages.map((message) => parseInt(message, 10)),
      range(BACKLOG),
    );
    await end();
    await line.next('unblocked', 0, PATIENCE);
    t.is(line.count('reconnecting'), 0);
  });
}

test('at-least-once: a worker that may not publish still gets all', async (t) => {
  t.timeout(240_000);
  const conf = { ...victim.settings(), ...LEAST };
  const held = gate();
  const got = [];
  const client = new Client(conf);
  t.teardown(() => client.close());
  client.on('message', async (message) => {
    got.push(message);
    await held.promise;
  });
  await client.init();
  const line = watch(client);
  const front = await door(t, conf);
  const browser = await front.connect('k');
  for (const n of range(BACKLOG)) browser.sendJson(n);
  const { gateway } = front;
  await until(
    () =>
      gateway.stats().received === BACKLOG && gateway.stats().buffered === 0,
    PATIENCE,
  );

  const end = await alarm(t);
  await until(() => {
    client.send('hello', { to: 'nobody' });
    return line.count('blocked') > 0;
  }, PATIENCE);
  t.true(got.length < BACKLOG);
  held.open();
  await until(() => got.length >= BACKLOG, PATIENCE);
  t.is(line.count('unblocked'), 0);
  t.deepEqual(got, range(BACKLOG));
  await end();
  await line.next('unblocked', 0, PATIENCE);
  t.is(line.count('reconnecting'), 0);
});
