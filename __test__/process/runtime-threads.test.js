'use strict';

// wsConf.threads: several threads carry the messages of a process, and nobody
// sees that, unless it is in the speed. The first start decides.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { run } = require('../support/children');
const { Peer } = require('../support/peers');
const { until } = require('../support/until');

const BROWSERS = 20;
const COUNT = 500;

/** A process with two gateways that want as many threads. */
async function start(t, broker, first, second) {
  const script = run(t, 'processes/pool.js', {
    MQ_CONF: JSON.stringify(broker.settings()),
    FIRST: first,
    SECOND: second,
  });
  await script.tells('ports');
  return script.told[0];
}

forEachBroker(
  test,
  'two threads: everything comes back, in order',
  async (t, broker) => {
    const { ports, warnings, threads } = await start(t, broker, '2', '2');
    t.deepEqual(warnings, []);
    if (process.platform === 'linux') t.true(threads > 2, `${threads} threads`);
    const peers = Array.from({ length: BROWSERS }, (_, n) => {
      // To both gateways: what is for one passes by the other.
      const url = `ws://127.0.0.1:${ports[n % 2]}/?key=k${n}`;
      const peer = new Peer(url, { headers: { to: `k${n}` } });
      t.teardown(() => peer.terminate());
      return peer;
    });
    await Promise.all(peers.map(({ opened }) => opened));
    for (let n = 0; n < COUNT; n += 1) {
      for (const peer of peers) peer.sendJson(n);
    }
    await until(() => peers.every(({ messages }) => messages.length >= COUNT));
    const wanted = Array.from({ length: COUNT }, (_, n) => String(n));
    for (const { messages } of peers) t.deepEqual(messages, wanted);
    const [codes] = [await Promise.all(peers.map((peer) => peer.close(1000)))];
    t.true(codes.every(({ code }) => code === 1000));
  },
);

for (const [first, second, has] of [
  ['2', '3', '2'],
  // Who says nothing gets one, and is content with any number.
  ['', '2', '1'],
  ['2', '', null],
  ['2', '2', null],
]) {
  const title = `${first || 'no word'}, then ${second || 'no word'}`;
  forEachBroker(test, `${title}: a warning or none`, async (t, broker) => {
    const { warnings } = await start(t, broker, first, second);
    if (!has) {
      t.deepEqual(warnings, []);
      return;
    }
    t.is(warnings.length, 1);
    const [{ name, code, message }] = warnings;
    t.is(name, 'MessageEnginWarning');
    t.is(code, 'MESSAGE_ENGIN_THREADS');
    t.regex(message, /^wsConf\.threads: /);
    t.true(message.includes(` ${has} `), message);
  });
}
