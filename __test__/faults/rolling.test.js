'use strict';

// Gateways are replaced one after the other: browsers move over little by
// little, and those who stay connected miss nothing.

const test = require('ava');
const { rabbitmq, withRabbit } = require('../support/brokers');
const { balance } = require('../support/faults/balancer');
const { gatewayChild } = require('../support/faults/children');
const { gather } = require('../support/faults/crowd');
const { Hand, inLedger } = require('../support/faults/hand');
const { Ledger } = require('../support/faults/ledger');
const { MODES, PATIENCE, settled } = require('../support/faults/scene');
const { RawPeer } = require('../support/raw');
const { until } = require('../support/until');

withRabbit(test);
const BROWSERS = 200;
/** In ms: a tenth of it is longer than a busy machine stands still. */
const WINDOW = 8000;

for (const mode of MODES) {
  test(`${mode.delivery}: two gateways are replaced`, async (t) => {
    t.timeout(240_000);
    const conf = { ...rabbitmq.settings(), ...mode };
    const ledger = new Ledger();
    const hand = new Hand(conf, 'w', inLedger(ledger));
    t.teardown(() => hand.client.close());
    await hand.client.init();
    const old = [await gatewayChild(t, conf), await gatewayChild(t, conf)];
    const front = await balance(
      t,
      old.map(({ port }) => port),
    );
    const crowd = await gather(t, front.url, ledger, {
      ...{ count: BROWSERS, rate: 400, returns: true },
    });
    t.teardown(() => hand.stop());
    crowd.start();
    hand.start(crowd.keys, 400);
    await until(() => ledger.down.distinct > 400, PATIENCE);

    for (const gateway of old) {
      const size = await gateway.ask('size');
      const others = crowd.browsers.map(({ closes }) => closes.length);
      t.true(size > BROWSERS / 4, `${size} browsers`);
      t.is(await gateway.ask('draining'), false);
      const next = await gatewayChild(t, conf);
      front.putIn(next.port);
      front.takeOut(gateway.port);

      const start = performance.now();
      const closing = gateway.ask('close', { drain: WINDOW });
      await until(() => gateway.ask('draining'));
      const late = await RawPeer.connect({
        ...{ host: '127.0.0.1', port: gateway.port },
      });
      t.is((await late.upgrade('/?key=late')).status, 503);
      await late.leave();
      t.is(await closing, 0);
      const took = performance.now() - start;
      t.true(took > WINDOW / 2 && took < WINDOW * 3, `${took} ms`);

      const closes = crowd.browsers.flatMap((browser, index) =>
        browser.closes.slice(others[index]),
      );
      t.is(closes.length, size);
      t.true(closes.every(({ code }) => code === 1012));
      /** How many in each tenth of the window. @type {number[]} */
      const tenths = Array(10).fill(0);
      for (const { at } of closes) {
        const tenth = Math.floor(((at - start) / WINDOW) * 10);
        tenths[Math.min(Math.max(tenth, 0), 9)] += 1;
      }
      t.log(tenths.join(' '));
      t.true(Math.max(...tenths) <= size / 3, tenths.join(' '));
      const used = tenths.filter((count) => count > 0).length;
      t.true(used >= 6, tenths.join(' '));
      // Everybody finds the way back.
      await until(() => crowd.allOpen, PATIENCE);
    }

    crowd.stop();
    hand.stop();
    await settled(ledger, { all: false });
    t.log(ledger.table());
    // What was sent to a browser while it was away is not the gateway's to
    // keep: those who never were away miss nothing, and neither does the worker.
    const { up, down } = ledger;
    t.is(up.missing, 0);
    t.is(down.disorder, 0);
    const stayed = crowd.browsers.filter(({ closes }) => closes.length === 0);
    const keys = new Set(stayed.map(({ key }) => `w>${key}`));
    t.deepEqual(
      down.lost().filter(({ key }) => keys.has(key)),
      [],
    );
    for (const browser of crowd.browsers) t.true(browser.closes.length <= 2);
  });
}

test('a drain ends early when nobody is left', async (t) => {
  const conf = rabbitmq.settings();
  const gateway = await gatewayChild(t, conf);
  const start = performance.now();
  await gateway.ask('close', { drain: 60_000 });
  t.true(performance.now() - start < 40_000);
});
