'use strict';

// With at-least-once, what no gateway is there to take waits in the client:
// within bounds, and in order.

const { once } = require('node:events');
const test = require('ava');
const { rabbitmq, withRabbit } = require('../support/brokers');
const { until } = require('../support/until');
const { door, worker } = require('../support/world');

withRabbit(test);

/** More than the client may hold, whatever is on its way to the broker. */
const TOO_MANY = 2500;
/** In ms: much more than it takes to look once more for a gateway. */
const A_WHILE = 2000;

test('a client without a gateway holds its sender back', async (t) => {
  const mqConf = {
    ...rabbitmq.settings(),
    delivery: 'at-least-once',
    bufferSize: 64 * 1024,
  };
  const { client } = await worker(t, mqConf);
  const filler = 'x'.repeat(1000);
  let sent = 0;
  for (let held = false; !held && sent < TOO_MANY;) {
    const room = client.send({ n: sent, filler });
    sent += 1;
    if (room) continue;
    const signal = AbortSignal.timeout(A_WHILE);
    held = await once(client, 'drain', { signal }).then(
      () => false,
      () => true,
    );
  }
  t.true(sent < TOO_MANY, `${sent} were taken`);
  t.true(client.stats().buffered > 0);

  const heard = [];
  await door(t, mqConf, {
    messageKeyFn({ n }) {
      heard.push(n);
    },
  });
  await until(() => heard.length >= sent);
  t.deepEqual(heard, [...Array(sent).keys()]);
  await until(() => client.stats().buffered === 0);
  t.is(client.stats().undeliverable, 0);
  t.is(client.stats().published, sent);
});
