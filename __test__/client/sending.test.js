'use strict';

// send() takes what can be carried while the client is open, says when to hold
// on, and close() sends what waits.

const co = require('co');
const test = require('ava');
const { Client, MessageEnginError } = require('../..');
const { embedded, forEachBroker } = require('../support/brokers');
const { run } = require('../support/children');
const { until } = require('../support/until');
const { open } = require('../support/world');

const range = (count) => Array.from({ length: count }, (_, n) => n);

forEachBroker(
  test,
  'however many are sent at once, those that found room arrive',
  async (t, broker) => {
    const world = await open(t, broker, { mq: { bufferSize: 16 * 1024 } });
    const peer = await world.connect('a');
    const headers = { to: 'a', filler: 'x'.repeat(500) };
    let sent = 0;
    do sent += 1;
    while (world.client.send(sent, headers) && sent < 1000);
    t.is((await peer.received(sent)).length, sent);
    t.is(world.client.stats().undeliverable, 0);
  },
);

forEachBroker(test, 'send before init and after close', async (t, broker) => {
  const client = new Client(broker.settings());
  const early = { instanceOf: MessageEnginError, code: 'ERR_NOT_INITIALIZED' };
  t.throws(() => client.send({}), early);
  t.throws(() => client.stats(), early);
  await t.throwsAsync(
    co(function* () {
      yield client.$send({});
    }),
    early,
  );
  t.is(await client.init(), client);
  t.true(client.send({}));
  const closing = client.close();
  const late = { instanceOf: MessageEnginError, code: 'ERR_CLOSED' };
  t.throws(() => client.send({}), late);
  await closing;
  t.throws(() => client.send({}), late);
  await t.throwsAsync(
    co(function* () {
      yield client.$send({});
    }),
    late,
  );
  t.is(client.close(), client.close());
});

forEachBroker(
  test,
  'what was counted is there after close',
  async (t, broker) => {
    const world = await open(t, broker);
    const peer = await world.connect('a');
    peer.send('1');
    await world.heard(1);
    world.client.send('and back', { to: 'a' });
    await world.client.close();
    t.deepEqual(world.client.stats(), {
      received: 1,
      receivedBytes: 1,
      sent: 1,
      sentBytes: 10,
      published: 1,
      buffered: 0,
      undeliverable: 0,
      unreadableHeaders: 0,
      listenerErrors: 0,
      reconnects: 0,
    });
  },
);

test('an init that fails at once can be tried again', async (t) => {
  // Deeper than the core reads.
  let nested = {};
  for (let level = 0; level < 200; level += 1) nested = { nested };
  const mqConf = { ...embedded.settings(), clientProperties: { nested } };
  const client = new Client(mqConf);
  const first = client.init();
  await t.throwsAsync(first);
  const second = client.init();
  t.not(second, first);
  await t.throwsAsync(second);
});

forEachBroker(test, 'init twice, close at once', async (t, broker) => {
  const client = new Client(broker.settings());
  const started = client.init();
  t.is(client.init(), started);
  const closed = client.close();
  t.is(await started, client);
  await closed;
  const never = new Client(broker.settings());
  await never.close();
  await t.throwsAsync(() => never.init(), { code: 'ERR_CLOSED' });
});

forEachBroker(test, 'what cannot be carried', async (t, broker) => {
  const world = await open(t, broker);
  const peer = await world.connect('a');
  const circular = {};
  circular.self = circular;
  const { client } = world;
  const thrower = {
    toJSON() {
      throw new Error('my own');
    },
  };
  for (const value of [
    circular,
    1n,
    { deep: [1n] },
    undefined,
    () => {},
    Symbol('s'),
    thrower,
  ]) {
    const error = t.throws(() => client.send(value, { to: 'a' }), {
      instanceOf: TypeError,
      code: 'ERR_INVALID_ARG_VALUE',
    });
    t.regex(error.message, /message/);
    await t.throwsAsync(
      co(function* () {
        yield client.$send(value, { to: 'a' });
      }),
      { code: 'ERR_INVALID_ARG_VALUE' },
    );
  }
  t.is(client.stats().sent, 0);
  client.send('fine', { to: 'a' });
  t.deepEqual(await peer.received(1), ['fine']);
});

forEachBroker(
  test,
  'send says to hold on at bufferSize, and drain when to go on',
  async (t, broker) => {
    const world = await open(t, broker, { mq: { bufferSize: 4000 } });
    const peer = await world.connect('a');
    const { client } = world;
    let drains = 0;
    client.on('drain', () => (drains += 1));
    const pad = 'x'.repeat(5000);
    for (const n of range(30)) {
      t.false(client.send(`${n} ${pad}`, { to: 'a' }));
      await until(() => drains === n + 1);
      t.true(client.stats().buffered < 4000);
    }
    t.true(client.send('small', { to: 'a' }));
    const received = await peer.received(31);
    t.deepEqual(
      received.slice(0, 30).map((text) => parseInt(text, 10)),
      range(30),
    );
    t.is(client.stats().sent, 31);
    t.is(client.stats().undeliverable, 0);
  },
);

forEachBroker(
  test,
  'who does not hold on is told what was not taken',
  async (t, broker) => {
    const world = await open(t, broker, { mq: { bufferSize: 2000 } });
    const peer = await world.connect('a');
    const { client } = world;
    const refused = [];
    let drains = 0;
    client.on('drain', () => (drains += 1));
    client.on('undeliverable', (message, headers) => {
      t.is(headers.to, 'a');
      refused.push(message.n);
    });
    const pad = 'x'.repeat(900);
    for (const n of range(2000)) client.send({ n, pad }, { to: 'a' });
    await until(() => refused.length > 0 && drains > 0);
    client.send({ n: 'last' }, { to: 'a' });
    await until(() => peer.messages.at(-1)?.includes('last'));
    const taken = peer.messages.slice(0, -1).map((text) => JSON.parse(text).n);
    t.deepEqual(
      taken,
      range(2000).filter((n) => !refused.includes(n)),
    );
    t.is(client.stats().undeliverable, refused.length);
    t.is(client.stats().sent, taken.length + 1);
  },
);

forEachBroker(test, '$send waits for room', async (t, broker) => {
  const world = await open(t, broker, { mq: { bufferSize: 3000 } });
  const peer = await world.connect('a');
  const { client } = world;
  await co(function* () {
    yield client.$send('one', { to: 'a' });
    for (const n of range(40)) {
      yield client.$send({ n, pad: 'x'.repeat(4000) }, { to: 'a' });
      t.true(client.stats().buffered < 3000);
    }
    yield range(15).map((n) => client.$send(`last ${n}`, { to: 'a' }));
  });
  const received = await peer.received(56);
  t.is(received[0], 'one');
  t.deepEqual(
    received.slice(1, 41).map((text) => JSON.parse(text).n),
    range(40),
  );
  t.is(received[55], 'last 14');
  t.is(client.stats().undeliverable, 0);
});

forEachBroker(
  test,
  '$send of what finds no room is an error or waits, and is never lost in silence',
  async (t, broker) => {
    const world = await open(t, broker, { mq: { bufferSize: 3000 } });
    const peer = await world.connect('a');
    const { client } = world;
    const warned = [];
    const warning = ({ name }) => warned.push(name);
    process.on('warning', warning);
    t.teardown(() => process.removeListener('warning', warning));
    const outcomes = await Promise.allSettled(
      range(200).map((n) =>
        co(function* () {
          const flushed = yield client.$send(
            { n, pad: 'x'.repeat(1500) },
            { to: 'a' },
          );
          return flushed;
        }),
      ),
    );
    await co(function* () {
      yield client.$send('last', { to: 'a' });
    });
    await until(() => peer.messages.at(-1) === 'last');
    const arrived = new Set(
      peer.messages.slice(0, -1).map((text) => JSON.parse(text).n),
    );
    for (const [n, { status }] of outcomes.entries()) {
      t.is(status === 'fulfilled', arrived.has(n), `message ${n}: ${status}`);
    }
    t.false(warned.includes('MaxListenersExceededWarning'));
  },
);

forEachBroker(
  test,
  'a callback of $send that throws leaves the others and drain alone',
  async (t, broker) => {
    const mqConf = { ...broker.settings(), bufferSize: 3000 };
    const MQ_CONF = JSON.stringify(mqConf);
    const held = run(t, 'processes/held.js', { MQ_CONF });
    t.deepEqual(await held.tells('told'), ['one', 'two', 'three', 'drain']);
    t.deepEqual(await held.tells('uncaught'), ['one', 'three']);
  },
);

forEachBroker(
  test,
  'a Buffer may be written to again once it is sent',
  async (t, broker) => {
    const world = await open(t, broker);
    const peer = await world.connect('a');
    for (const size of [1, 100, 10_000, 300_000]) {
      const buffer = Buffer.alloc(size);
      const views = [buffer, new Uint8Array(buffer.buffer, 0, size)];
      for (const [index, view] of views.entries()) {
        for (const n of range(5)) {
          view.fill(index * 10 + n);
          world.client.send(view, { to: 'a' });
        }
      }
      const received = await peer.received(10);
      t.deepEqual(
        received.splice(0).map((bytes) => [...new Set(bytes)]),
        [0, 1, 2, 3, 4, 10, 11, 12, 13, 14].map((n) => [n]),
      );
    }
  },
);

forEachBroker(test, 'close() sends what waits', async (t, broker) => {
  const world = await open(t, broker);
  const peer = await world.connect('a');
  for (const n of range(1000)) {
    world.client.send(`${n} ${'x'.repeat(500)}`, { to: 'a' });
  }
  let closed = false;
  world.client.on('close', () => (closed = true));
  await world.client.close();
  t.true(closed);
  const received = await peer.received(1000);
  t.deepEqual(
    received.map((text) => parseInt(text, 10)),
    range(1000),
  );
});

forEachBroker(
  test,
  'headers that JSON cannot carry as they are do no harm to others',
  async (t, broker) => {
    const world = await open(t, broker);
    const peer = await world.connect('a');
    const to = { to: 'a' };
    world.client.send('before', to);
    world.client.send('half a pair', { ...to, name: 'abc\ud83d' });
    let deep = {};
    for (let level = 0; level < 200; level += 1) deep = { deep };
    const round = { ...to };
    round.round = round;
    for (const headers of [{ deep }, round]) {
      t.throws(() => world.client.send('x', headers), {
        code: 'ERR_INVALID_ARG_VALUE',
      });
    }
    world.client.send('after', to);
    t.deepEqual(await peer.received(3), ['before', 'half a pair', 'after']);
    t.is(world.client.stats().sent, 3);
  },
);
