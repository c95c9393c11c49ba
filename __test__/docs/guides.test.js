'use strict';

// What the guides of docs/ advise does what they say.

const { once } = require('node:events');
const { Worker } = require('node:worker_threads');
const test = require('ava');
const { forEachBroker, rabbitmq, withRabbit } = require('../support/brokers');
const { LegacyLine } = require('../support/legacy');
const { until } = require('../support/until');
const { door, open, worker } = require('../support/world');

withRabbit(test);

forEachBroker(test, 'a key for each tab of a user', async (t, broker) => {
  const ws = {
    keyFn: ({ resourceURL, httpRequest }) =>
      `${resourceURL.query.key}/${httpRequest.headers['x-tab']}`,
    messageKeyFn: (message) => message.to,
  };
  const world = await open(t, broker, { ws });
  const other = await door(t, world.mqConf, ws);
  const tab = (place, user, id) =>
    place.connect(user, { headers: { 'x-tab': id } });
  const tabs = [
    await tab(world, 'alice', 1),
    await tab(world, 'alice', 2),
    await tab(other, 'alice', 3),
  ];
  const bob = await tab(world, 'bob', 1);

  // A worker knows the tabs from the statuses.
  await world.told(4);
  const keys = () => {
    const connected = new Set();
    for (const { status, key } of world.statuses) {
      if (status) connected.add(key);
      else connected.delete(key);
    }
    return [...connected].filter((key) => key.startsWith('alice/')).sort();
  };
  t.deepEqual(keys(), ['alice/1', 'alice/2', 'alice/3']);
  const message = { to: keys(), text: 'hello' };
  world.client.send(message);
  world.client.send({ to: ['bob/1'] });
  for (const each of tabs) {
    t.deepEqual(await each.received(1), [JSON.stringify(message)]);
  }
  t.deepEqual(await bob.received(1), ['{"to":["bob/1"]}']);

  await tabs[1].close(1000);
  await until(() => keys().length === 2);
  t.deepEqual(keys(), ['alice/1', 'alice/3']);
});

forEachBroker(test, 'a client in a worker thread', async (t, broker) => {
  const mqConf = broker.settings();
  const program = `
    const { parentPort, threadId, workerData } = require('node:worker_threads');
    const { Client } = require(workerData.package);
    const client = new Client(workerData.mqConf);
    client.on('message', (message) => {
      client.send({ ...message, threadId });
    });
    client.init().then(() => parentPort.postMessage('ready'));
    parentPort.once('message', async () => {
      await client.close();
      parentPort.close();
    });
  `;
  const workerData = { package: require.resolve('../..'), mqConf };
  const thread = new Worker(program, { eval: true, workerData });
  const ended = once(thread, 'exit');
  t.deepEqual(await once(thread, 'message'), ['ready']);
  const { connect } = await door(t, mqConf, {
    messageKeyFn: (message) => message.to,
  });
  const peer = await connect('a');
  peer.send('{"to":"a"}');
  const [text] = await peer.received(1);
  t.deepEqual(JSON.parse(text), { to: 'a', threadId: thread.threadId });
  thread.postMessage('close');
  t.deepEqual(await ended, [0]);
});

forEachBroker(test, 'headers that keyFn removes', async (t, broker) => {
  const seen = [];
  const world = await open(t, broker, {
    ws: {
      keyFn({ cookies, httpRequest, resourceURL }) {
        const { headers } = httpRequest;
        if (resourceURL.query.key === 'kept') return 'kept';
        seen.push(cookies);
        delete headers.cookie;
        delete headers.authorization;
        headers['x-user'] = cookies[0].value;
        return cookies[0].value;
      },
    },
  });
  const headers = { cookie: 'user=alice', authorization: 'Bearer abc' };
  for (const key of ['kept', 'removed']) {
    const peer = await world.connect(key, { headers });
    peer.send('"hello"');
    await world.heard(key === 'kept' ? 1 : 2);
    await peer.close(1000);
  }
  await world.told(4);
  t.deepEqual(seen, [[{ name: 'user', value: 'alice' }]]);
  const [kept, removed] = world.messages;
  // Everything travels, unless it is removed.
  t.like(kept.headers, headers);
  for (const each of world.statuses.slice(0, 2)) t.like(each.headers, headers);
  for (const each of [removed, ...world.statuses.slice(2)]) {
    t.false('cookie' in each.headers);
    t.false('authorization' in each.headers);
    t.is(each.headers['x-user'], 'alice');
  }
});

/** A connection of another program to the broker, and the names there. */
async function line(t, mqConf) {
  const { url, ...names } = mqConf;
  const { hostname: host, port } = new URL(url);
  const opened = await LegacyLine.connect({ host, port: Number(port) });
  t.teardown(() => opened.close());
  return { opened, names };
}

for (const delivery of ['at-most-once', 'at-least-once']) {
  const settings = () => ({ ...rabbitmq.settings(), delivery });
  const persists = delivery === 'at-least-once';
  // As the page on the wire says; an exchange may also not be declared at all.
  const exchange = { durable: persists, autoDelete: !persists };

  test(`${delivery}: another program sends to browsers`, async (t) => {
    const mqConf = settings();
    const front = await door(t, mqConf);
    const peer = await front.connect('a');
    const { opened, names } = await line(t, mqConf);
    const target = await opened.exchange(
      names.messageExchange,
      'fanout',
      exchange,
    );
    const bodies = [
      ['application/json', '{"a":[1]}', '{"a":[1]}'],
      ['application/json', '"text"', 'text'],
      ['application/json', 'no JSON', 'no JSON'],
      ['text/plain', '"quoted"', '"quoted"'],
      ['application/octet-stream', 'bytes', Buffer.from('bytes')],
    ];
    for (const [index, [contentType, body]] of bodies.entries()) {
      target.publish('', Buffer.from(body), {
        contentType,
        headers: { to: 'a' },
        messageId: `id-${index}`,
        deliveryMode: 2,
      });
    }
    t.deepEqual(
      await peer.received(bodies.length),
      bodies.map(([, , wanted]) => wanted),
    );
    t.deepEqual(opened.errors, []);
  });

  test(`${delivery}: another program sends to workers`, async (t) => {
    const mqConf = settings();
    const { messages } = await worker(t, mqConf);
    const { opened, names } = await line(t, mqConf);
    const target = await opened.exchange(
      names.receiveExchange,
      'direct',
      exchange,
    );
    for (const [contentType, body] of [
      ['application/json', '{"a":[1]}'],
      ['application/json', 'no JSON'],
      ['text/plain', 'text'],
      ['application/octet-stream', 'bytes'],
    ]) {
      target.publish(names.receiveQueue, Buffer.from(body), {
        contentType,
        headers: { from: 'elsewhere' },
        messageId: 'mine',
      });
    }
    await until(() => messages.length === 4);
    t.deepEqual(
      messages.map(({ message }) => message),
      [{ a: [1] }, 'no JSON', 'text', Buffer.from('bytes')],
    );
    for (const { headers, info } of messages) {
      t.deepEqual(headers, { from: 'elsewhere' });
      t.is(info.messageId, 'mine');
      t.is(info.redelivered, false);
    }
  });

  test(`${delivery}: another program is a worker`, async (t) => {
    const mqConf = settings();
    // Declares what it consumes from.
    const front = await door(t, mqConf);
    const { opened, names } = await line(t, mqConf);
    const got = [];
    for (const name of ['receiveQueue', 'statusQueue']) {
      const queue = opened.connection.queue(names[name], { passive: true });
      await once(queue, 'open');
      await opened.consume(queue, (message, headers, info) => {
        got.push([name, info.contentType, message.data?.toString() ?? message]);
      });
    }
    const peer = await front.connect('a');
    await until(() => got.length === 1);
    peer.send('{"a":1}');
    await until(() => got.length === 2);
    await peer.close(1000);
    await until(() => got.length === 3);
    t.deepEqual(got, [
      ['statusQueue', 'application/json', { status: 1, key: 'a' }],
      ['receiveQueue', 'application/json', { a: 1 }],
      [
        'statusQueue',
        'application/json',
        {
          status: 0,
          key: 'a',
          reasonCode: 1000,
          description: 'Normal connection closure',
        },
      ],
    ]);
    t.deepEqual(opened.errors, []);
  });
}

test('at-most-once: the exchange for browsers goes with the last gateway', async (t) => {
  const mqConf = rabbitmq.settings();
  const front = await door(t, mqConf);
  const { opened, names } = await line(t, mqConf);
  const passive = () =>
    opened.exchange(names.messageExchange, 'fanout', { passive: true });
  await t.notThrowsAsync(passive());
  await front.gateway.close();
  await t.throwsAsync(passive(), { message: /NOT_FOUND/ });
});
