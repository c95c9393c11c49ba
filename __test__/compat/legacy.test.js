'use strict';

// Gateways and clients of 0.0.5 and ours share one RabbitMQ in every mixture.

const http = require('node:http');
const test = require('ava');
const { Client, server } = require('../..');
const { rabbitmq, withRabbit } = require('../support/brokers');
const { legacyClient, legacyGateway } = require('../support/legacy');
const { Peer } = require('../support/peers');
const { refusesTransientQueues } = require('../support/rabbit');
const { until } = require('../support/until');
const { listen, usual } = require('../support/world');

withRabbit(test);
/** The original's queues are all transient, so it needs a broker with those. */
const mixture = refusesTransientQueues ? test.skip : test;

const COUNT = 200;
const numbers = Array.from({ length: COUNT }, (_, n) => n);

const openGateway = { legacy: legacyGateway, ours: server.start };
const openClient = {
  legacy: legacyClient,
  ours: (conf) => new Client(conf).init(),
};

async function gatewayFor(t, kind, conf, wsConf) {
  const httpServer = await listen(t, http.createServer());
  const all = { ...usual, httpServer, ...wsConf };
  const gateway = await openGateway[kind](conf, all);
  t.teardown(() => gateway.close());
  const url = `ws://127.0.0.1:${httpServer.address().port}/`;
  return {
    gateway,
    connect: (key, headers) =>
      new Peer(`${url}?key=${key}`, { headers: { to: key, ...headers } })
        .opened,
  };
}

/** A client that keeps what comes. */
async function clientFor(t, kind, conf) {
  const client = await openClient[kind](conf);
  t.teardown(() => client.close());
  const received = { messages: [], statuses: [] };
  client.on('message', (message, headers) => {
    received.messages.push({ message, headers });
  });
  client.on('status', (message, headers) => {
    received.statuses.push({ message, headers });
  });
  return { client, ...received };
}

const payload = (key, n) => ({
  key,
  n,
  text: `ä€😀\u0000\u2028"\\ ${'\u{1F468}\u200D\u{1F469}'.repeat(n % 5)}`,
  nested: { list: [n, [null, true, { 'ключ.с точкой': 1.5e-7 }]], empty: {} },
});

for (const [gatewayKind, clientKind, first] of [
  ['legacy', 'ours', 'gateway'],
  ['legacy', 'ours', 'client'],
  ['ours', 'legacy', 'gateway'],
  ['ours', 'legacy', 'client'],
  // What this file takes for 0.0.5 must at least understand itself.
  ['legacy', 'legacy', 'client'],
]) {
  const title = `gateway: ${gatewayKind}, client: ${clientKind}, ${first} first: messages and statuses`;
  mixture(title, async (t) => {
    const conf = rabbitmq.settings();
    const early = first === 'client' && (await clientFor(t, clientKind, conf));
    const { gateway, connect } = await gatewayFor(t, gatewayKind, conf);
    const { client, messages, statuses } =
      early || (await clientFor(t, clientKind, conf));

    const browser = await connect('k', { 'X-Mixed': 'Case', 'x-latin': 'é' });
    await until(() => statuses.length);
    t.deepEqual(statuses[0].message, { status: 1, key: 'k' });
    const latin = { 'x-latin': 'é' };
    t.like(statuses[0].headers, { to: 'k', 'x-mixed': 'Case', ...latin });

    for (const n of numbers) browser.sendJson(payload('k', n));
    await until(() => messages.length >= COUNT);
    t.deepEqual(
      messages.map(({ message }) => message),
      numbers.map((n) => payload('k', n)),
    );
    for (const { headers } of messages) {
      t.deepEqual(headers, statuses[0].headers);
    }

    for (const n of numbers) client.send(payload('k', n), { to: 'k', n });
    const frames = await browser.received(COUNT);
    t.deepEqual(
      frames.map((frame) => JSON.parse(frame)),
      numbers.map((n) => payload('k', n)),
    );

    await browser.close(4321, 'bye');
    await until(() => statuses.length > 1);
    const why = { reasonCode: 4321, description: 'bye' };
    t.deepEqual(statuses[1].message, { status: 0, key: 'k', ...why });
    t.deepEqual(statuses[1].headers, statuses[0].headers);
    t.deepEqual([gateway.errors ?? [], client.errors ?? []], [[], []]);
  });
}

mixture('both gateways and both clients on the same names', async (t) => {
  const conf = rabbitmq.settings();
  const clients = [
    await clientFor(t, 'ours', conf),
    await clientFor(t, 'legacy', conf),
  ];
  const gateways = [
    await gatewayFor(t, 'legacy', conf),
    await gatewayFor(t, 'ours', conf),
  ];
  for (const { client } of clients) {
    client.on('message', (message, { to }) => client.send(message, { to }));
  }
  const keys = ['a', 'b', 'c', 'd', 'e', 'f'];
  const browsers = await Promise.all(
    keys.map((key, index) => gateways[index % 2].connect(key)),
  );
  for (const n of numbers) {
    for (const [index, browser] of browsers.entries()) {
      browser.sendJson(payload(keys[index], n));
    }
  }
  for (const [index, browser] of browsers.entries()) {
    const frames = await browser.received(COUNT);
    const values = frames.map((frame) => JSON.parse(frame));
    t.deepEqual(
      // Two competing clients keep no order between them.
      values.sort((a, b) => a.n - b.n),
      numbers.map((n) => payload(keys[index], n)),
    );
  }
  const shares = clients.map(({ messages }) => messages.length);
  t.is(shares[0] + shares[1], COUNT * keys.length);
  t.true(Math.min(...shares) > 0, `both had their share: ${shares}`);
});

const DAY = new Date('2024-02-29T12:34:56Z');
/** What node-amqp can write: S, I, d, t, T, x, A and F, some inside others. */
const HEADERS = {
  to: 'k',
  S: 'ä😀',
  I: -5,
  max: 2 ** 31 - 1,
  d: -1.5,
  yes: true,
  no: false,
  T: DAY,
  x: Buffer.from('raw ä'),
  A: ['a', 1, ['b', false], { c: 'd' }],
  F: { deep: { list: [1, 'x'] }, empty: {} },
  last: 'end',
};

/** Opens both sides, sends one message, and gives what messageKeyFn got. */
async function headersAtGateway(t, gatewayKind, clientKind, headers) {
  const conf = rabbitmq.settings();
  const seen = [];
  const { gateway, connect } = await gatewayFor(t, gatewayKind, conf, {
    messageKeyFn: (message, got) => seen.push(got) && got.to,
  });
  const { client } = await clientFor(t, clientKind, conf);
  const browser = await connect('k');
  client.send({}, headers);
  // node-amqp ends its connection on what it cannot read.
  await until(() => browser.messages.length || gateway.errors?.length);
  t.deepEqual(gateway.errors ?? [], []);
  return seen[0];
}

mixture('a legacy gateway reads every header type of our client', async (t) => {
  const sent = { l: 2 ** 40 + 5, V: null, ...HEADERS };
  const { l, ...others } = await headersAtGateway(t, 'legacy', 'ours', sent);
  // node-amqp mangles large integers, but gets over them.
  t.is(typeof l, 'number');
  // Its way with times, octets and floats.
  const changed = { T: DAY.getTime(), x: 'raw ä', d: [-1.5] };
  t.deepEqual(others, { V: null, ...HEADERS, ...changed });
});

mixture('our gateway reads every header type of a legacy client', async (t) => {
  t.deepEqual(await headersAtGateway(t, 'ours', 'legacy', HEADERS), HEADERS);
});

for (const [gatewayKind, clientKind] of [
  ['legacy', 'ours'],
  ['ours', 'legacy'],
]) {
  const title = `gateway: ${gatewayKind}, client: ${clientKind}: a header that came twice is a list`;
  mixture(title, async (t) => {
    const conf = rabbitmq.settings();
    const { connect } = await gatewayFor(t, gatewayKind, conf);
    const { client, messages } = await clientFor(t, clientKind, conf);
    const browser = await connect('k', { 'Set-Cookie': ['a=1', 'b=2'] });
    browser.sendJson({});
    await until(() => messages.length);
    t.deepEqual(messages[0].headers['set-cookie'], ['a=1', 'b=2']);
    t.deepEqual(client.errors ?? [], []);
  });
}

mixture('strings and octets that meet a legacy peer', async (t) => {
  const conf = rabbitmq.settings();
  const seen = [];
  const messageKeyFn = (message, { to }) => seen.push(message) && to;
  const legacy = await gatewayFor(t, 'legacy', conf, { messageKeyFn });
  const ours = await gatewayFor(t, 'ours', conf, { binary: true });
  const old = await clientFor(t, 'legacy', conf);
  const theirs = await legacy.connect('theirs');
  const browser = await ours.connect('ours');

  browser.send(Buffer.from([0, 255]));
  await until(() => old.messages.length);
  const { data, contentType } = old.messages[0].message;
  t.is(contentType, 'application/octet-stream');
  t.deepEqual([...data], [0, 255]);
  // 0.0.5 sends strings as octets.
  old.client.send('ä😀', { to: 'ours' });
  old.client.send(Buffer.from([1, 0]), { to: 'ours' });
  const frames = [Buffer.from('ä😀'), Buffer.from([1, 0])];
  t.deepEqual(await browser.received(2), frames);

  const { client } = await clientFor(t, 'ours', conf);
  client.send('ä😀', { to: 'theirs' });
  t.deepEqual(await theirs.received(1), ['"ä😀"']);
  t.is(seen.at(-1), 'ä😀');
});

const refusal = refusesTransientQueues ? test : test.skip;

refusal(
  'a broker without transient queues has no place for a legacy client',
  async (t) => {
    const conf = rabbitmq.settings();
    const { connect } = await gatewayFor(t, 'ours', conf);
    const error = await t.throwsAsync(() => legacyClient(conf));
    // Refused for what it is, or for not being what ours has declared.
    t.true([541, 406].includes(error.code), `${error.code}`);
    // Ours gets along there.
    const { messages } = await clientFor(t, 'ours', conf);
    const browser = await connect('k');
    browser.sendJson('for ours');
    await until(() => messages.length);
    t.is(messages[0].message, 'for ours');
  },
);
