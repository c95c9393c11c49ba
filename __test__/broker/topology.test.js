'use strict';

// Exchanges and queues are shared as they stand: they come and go with those
// who use them, and what exists with other properties is used as it is.

const http = require('node:http');
const test = require('ava');
const { Client, server } = require('../..');
const { rabbitmq, withRabbit } = require('../support/brokers');
const {
  LegacyLine,
  legacyClient,
  legacyGateway,
} = require('../support/legacy');
const { Peer } = require('../support/peers');
const {
  isExternal,
  list,
  refusesTransientQueues,
} = require('../support/rabbit');
const { until } = require('../support/until');
const { door, listen, usual, worker } = require('../support/world');

const rabbit = withRabbit(test);
const startClient = {
  legacy: legacyClient,
  ours: (conf) => new Client(conf).init(),
};
const startGateway = { legacy: legacyGateway, ours: server.start };

for (const kind of ['legacy', 'ours']) {
  const mixture =
    kind === 'legacy' && refusesTransientQueues ? test.skip : test;

  mixture(
    `our gateway goes on when the last client (${kind}) has left and another comes`,
    async (t) => {
      const conf = rabbitmq.settings();
      const front = await door(t, conf);
      const { gateway } = front;
      let reconnects = 0;
      gateway.on('reconnecting', () => (reconnects += 1));
      const browser = await front.connect('k');
      for (const round of [1, 2, 3]) {
        const client = await startClient[kind](conf);
        t.teardown(() => client.close());
        const got = [];
        const statuses = [];
        client.on('message', (message, { to }) => {
          got.push(message);
          if (!message.waits) client.send({ round }, { to });
        });
        client.on('status', ({ status, key }) => statuses.push([status, key]));
        browser.sendJson({ round });
        const guest = await front.connect('guest');
        await until(() => got.some(({ waits }) => !waits));
        await until(() =>
          statuses.some(([up, key]) => up === 1 && key === 'guest'),
        );
        t.deepEqual(got.at(-1), { round });
        t.deepEqual(statuses.at(-1), [1, 'guest']);
        if (kind === 'ours') {
          // What came while nobody was there has waited; a legacy client may
          // get it before anybody listens.
          const waited = round > 1 ? [{ round: round - 1, waits: true }] : [];
          t.deepEqual(got.slice(0, -1), waited);
          t.deepEqual(statuses, [
            round > 1 ? [0, 'guest'] : [1, 'k'],
            [1, 'guest'],
          ]);
        }
        await browser.received(round);
        t.deepEqual(JSON.parse(browser.messages.at(-1)), { round });

        await client.close();
        const before = gateway.stats().published;
        browser.sendJson({ round, waits: true });
        await guest.close(1000);
        await until(() => gateway.stats().published === before + 2);
      }
      t.is(browser.messages.length, 3);
      t.is(reconnects, 0);
    },
  );

  mixture(
    `our client goes on when the last gateway (${kind}) has left and another comes`,
    async (t) => {
      const conf = rabbitmq.settings();
      const { client, messages, statuses } = await worker(t, conf);
      let reconnects = 0;
      client.on('reconnecting', () => (reconnects += 1));
      for (const round of [1, 2, 3]) {
        const httpServer = await listen(t, http.createServer());
        const gateway = await startGateway[kind](conf, {
          ...usual,
          httpServer,
        });
        t.teardown(() => gateway.close());
        const { port } = httpServer.address();
        const browser = new Peer(`ws://127.0.0.1:${port}/?key=k`);
        await browser.opened;
        browser.sendJson({ round });
        await until(() => messages.length === round);
        t.deepEqual(messages.at(-1).message, { round });
        client.send({ back: round }, { to: 'k' });
        t.deepEqual(await browser.received(1), [`{"back":${round}}`]);

        await gateway.close();
        await until(() => statuses.length === 2 * round);
        t.is(statuses.at(-1).status, 0);
        // Nobody is there for it, and that is counted.
        const before = client.stats().undeliverable;
        client.send({ lost: round }, { to: 'k' });
        await until(() => client.stats().undeliverable > before);
      }
      t.is(reconnects, 0);
    },
  );
}

test('durable exchanges and queues that exist already are used as they are', async (t) => {
  const conf = rabbitmq.settings();
  const line = await LegacyLine.connect(conf);
  t.teardown(() => line.close());
  const stays = { durable: true, autoDelete: false };
  const ttl = { arguments: { 'x-message-ttl': 600_000 } };
  const things = [];
  for (const [exchange, queue] of [
    [conf.receiveExchange, conf.receiveQueue],
    [conf.statusExchange, conf.statusQueue],
  ]) {
    things.push(await line.exchange(exchange, 'direct', stays));
    const declared = await line.queue(queue, { ...stays, ...ttl });
    await line.bind(declared, exchange, queue);
    things.unshift(declared);
  }
  things.push(await line.exchange(conf.messageExchange, 'fanout', stays));
  t.teardown(async () => {
    for (const thing of things) {
      await new Promise((resolve) => thing.destroy().addCallback(resolve));
    }
  });

  const front = await door(t, conf);
  const { gateway } = front;
  const browser = await front.connect('k');
  browser.sendJson({ n: 1 });
  // Nobody consumes yet: what stays does keep it.
  await until(() => gateway.stats().published === 2);
  const first = await worker(t, conf);
  await until(() => first.messages.length && first.statuses.length);
  t.deepEqual(first.messages[0].message, { n: 1 });
  first.client.send({ n: 2 }, { to: 'k' });
  t.deepEqual(await browser.received(1), ['{"n":2}']);
  await first.client.close();

  browser.sendJson({ n: 3 });
  await browser.close(1000);
  const second = await worker(t, conf);
  await until(() => second.messages.length && second.statuses.length);
  t.deepEqual(second.messages[0].message, { n: 3 });
  t.is(second.statuses[0].status, 0);

  // Declaring them again is refused unless they are still the same.
  const again = await LegacyLine.connect(conf);
  t.teardown(() => again.close());
  await again.queue(conf.receiveQueue, { ...stays, ...ttl });
  await again.exchange(conf.receiveExchange, 'direct', stays);
  t.deepEqual(again.errors, []);
});

const askingBroker = isExternal ? test.skip : test;

askingBroker(
  'what is declared has the properties of the original',
  async (t) => {
    const conf = rabbitmq.settings();
    await worker(t, conf);
    await door(t, conf);
    const own = (rows) => {
      const mark = conf.receiveQueue.replace('receiveQueue', '');
      return rows.filter(({ name }) => name.includes(mark));
    };
    const properties = ['durable', 'auto_delete'];
    const exchanges = own(
      await list(rabbit(), 'exchanges', 'name', 'type', ...properties),
    );
    const exchange = (name, type) => {
      return { name: conf[name], type, durable: false, auto_delete: true };
    };
    t.deepEqual(
      exchanges.sort((a, b) => (a.name < b.name ? -1 : 1)),
      [
        exchange('messageExchange', 'fanout'),
        exchange('receiveExchange', 'direct'),
        exchange('statusExchange', 'direct'),
      ],
    );
    const queues = own(
      await list(rabbit(), 'queues', 'name', ...properties, 'exclusive'),
    );
    const [unshared, receive, status] = queues.sort((a, b) =>
      a.name < b.name ? -1 : 1,
    );
    // Where the broker refuses the original's kind, durable ones stand in.
    const shared = { durable: refusesTransientQueues, auto_delete: true };
    const open = { ...shared, exclusive: false };
    t.deepEqual(receive, { name: conf.receiveQueue, ...open });
    t.deepEqual(status, { name: conf.statusQueue, ...open });
    t.like(unshared, { durable: false, auto_delete: true, exclusive: true });
    t.true(unshared.name.startsWith(`${conf.messageQueue}-`));
    t.is(queues.length, 3);
  },
);
