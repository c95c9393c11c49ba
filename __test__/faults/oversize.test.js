'use strict';

// A message that is larger than the broker takes costs nobody his connection:
// it is dropped and counted, and the others go on.

const test = require('ava');
const { startRabbit } = require('../../scripts/rabbitmq');
const { NAMES, unique } = require('../support/brokers');
const { watch } = require('../support/faults/lines');
const { MODES } = require('../support/faults/scene');
const { isExternal } = require('../support/rabbit');
const { until } = require('../support/until');
const { open } = require('../support/world');

const LIMIT = 2 * 1024 * 1024;
const ours = isExternal ? test.skip : test;
/** @type {import('../../scripts/rabbitmq').Rabbit} */
let rabbit;

test.before('a RabbitMQ that takes little is there', async (t) => {
  t.timeout(180_000);
  if (isExternal) return;
  rabbit = await startRabbit({ settings: { max_message_size: LIMIT } });
});
test.after.always('it is stopped', () => rabbit?.stop());

/** A gateway and a worker there, with limits that are above the broker's. */
function stage(t, mode) {
  const settings = () => {
    const id = unique();
    const names = NAMES.map((name) => [name, `${name}-${id}`]);
    return { url: rabbit.url, ...mode, ...Object.fromEntries(names) };
  };
  return open(
    t,
    { name: 'a small one', settings },
    {
      ws: {
        maxReceivedFrameSize: 4 * LIMIT,
        maxReceivedMessageSize: 4 * LIMIT,
      },
    },
  );
}

const HUGE = 'x'.repeat(2 * LIMIT);

for (const mode of MODES) {
  ours(`${mode.delivery}: what is too large is dropped alone`, async (t) => {
    const world = await stage(t, mode);
    const { gateway, client, messages } = world;
    const lines = [watch(gateway), watch(client)];
    const browser = await world.connect('k');
    const ways = [
      {
        send: (text) => browser.send(text),
        got: () => messages.map(({ message }) => message),
        stats: () => gateway.stats(),
      },
      {
        send: (text) => client.send(text, { to: 'k' }),
        got: () => browser.messages,
        stats: () => client.stats(),
      },
    ];
    for (const { send, got, stats } of ways) {
      send('before');
      await until(() => got().length === 1);
      const sent = ['at once with it'];
      send(sent[0]);
      send(HUGE);
      await until(() => {
        // Texts that are no JSON.
        sent.push(`after ${sent.length}`);
        send(sent.at(-1));
        return got().length > 5;
      });
      await until(() => stats().undeliverable > 0);
      await until(() => got().length === sent.length + 1);
      t.deepEqual(got(), ['before', ...sent]);
      t.is(stats().undeliverable, 1);
    }
    for (const line of lines) {
      t.is(line.count('reconnecting'), 0);
      t.is(line.count('error'), 0);
    }
    t.is(gateway.size, 1);
  });
}
