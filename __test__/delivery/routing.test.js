'use strict';

// Messages keep their order and go to the connections that messageKeyFn names,
// whatever that function does.

const test = require('ava');
const { embedded, forEachBroker, rabbitmq } = require('../support/brokers');
const { until } = require('../support/until');
const { open } = require('../support/world');

const COUNT = 3000;

forEachBroker(
  test,
  `${COUNT} messages of one connection come back complete and in order`,
  async (t, broker) => {
    const world = await open(t, broker);
    world.client.on('message', (message, headers) => {
      world.client.send(message, headers);
    });
    const peer = await world.connect('a');
    const numbers = Array.from({ length: COUNT }, (_, n) => n);
    for (const n of numbers) peer.sendJson({ n, pad: 'x'.repeat(n % 300) });
    const messages = await peer.received(COUNT);
    t.deepEqual(
      messages.map((text) => JSON.parse(text).n),
      numbers,
    );
    t.deepEqual(
      (await world.heard(COUNT)).map(({ n }) => n),
      numbers,
    );
    const { received, sent, unmatched, undeliverable, overflowed } =
      world.gateway.stats();
    t.deepEqual(
      { received, sent, unmatched, undeliverable, overflowed },
      {
        received: COUNT,
        sent: COUNT,
        unmatched: 0,
        undeliverable: 0,
        overflowed: 0,
      },
    );
  },
);

forEachBroker(
  test,
  'connections that talk at the same time keep their own order',
  async (t, broker) => {
    const world = await open(t, broker);
    world.client.on('message', (message, headers) => {
      world.client.send(message, headers);
    });
    const keys = ['a', 'b', 'c', 'd', 'e'];
    const peers = await Promise.all(keys.map((key) => world.connect(key)));
    for (let n = 0; n < 200; n += 1) {
      for (const [index, peer] of peers.entries()) peer.send(keys[index] + n);
    }
    for (const [index, peer] of peers.entries()) {
      const wanted = Array.from({ length: 200 }, (_, n) => keys[index] + n);
      t.deepEqual(await peer.received(200), wanted);
    }
  },
);

forEachBroker(test, 'several keys are a multicast', async (t, broker) => {
  const world = await open(t, broker, {
    ws: { messageKeyFn: (message) => message.to },
  });
  const keys = ['a', 'b', '3', 'silent'];
  const peers = await Promise.all(keys.map((key) => world.connect(key)));
  const sent = [
    { to: ['a', 'b'] },
    { to: ['a', 'a', 'b', 'a'] },
    { to: [3, '3', 'a'] },
    { to: ['nobody', 'b', null, '', undefined] },
    { to: [] },
    { to: 'b' },
    { to: ['a', 'b', '3'], end: true },
  ];
  for (const message of sent) world.client.send(message);
  const json = (...indexes) => indexes.map((n) => JSON.stringify(sent[n]));
  for (const peer of peers.slice(0, 3)) {
    await until(() => peer.messages.at(-1)?.includes('end'));
  }
  t.deepEqual(peers[0].messages, json(0, 1, 2, 6));
  t.deepEqual(peers[1].messages, json(0, 1, 3, 5, 6));
  t.deepEqual(peers[2].messages, json(2, 6));
  t.deepEqual(peers[3].messages, []);
  t.is(world.gateway.stats().sent, 11);
});

forEachBroker(
  test,
  'a message for a key that is not here is counted',
  async (t, broker) => {
    const world = await open(t, broker, {
      ws: { messageKeyFn: (message) => message.to },
    });
    const peer = await world.connect('a');
    for (const to of ['b', ['b', 'c'], 'constructor', '__proto__', 'a']) {
      world.client.send({ to });
    }
    t.deepEqual(await peer.received(1), ['{"to":"a"}']);
    t.is(world.gateway.stats().unmatched, 4);
    t.is(world.gateway.stats().sent, 1);
  },
);

/** What user code throws, and worse. */
const FAULTS = {
  error: () => {
    throw new TypeError('no key today');
  },
  string: () => {
    throw 'a string';
  },
  undefined: () => {
    throw undefined;
  },
  null: () => {
    throw null;
  },
  symbol: () => {
    throw Symbol('sign');
  },
  'object without text': () => {
    throw Object.create(null);
  },
  'a promise': async () => 'a',
  'a rejection': () => Promise.reject(new Error('late')),
  'a key without text': () => Object.create(null),
  'keys without text': () => ['a', Object.create(null)],
};

const faulty = {
  messageKeyFn: ({ fault }, { to }) => (fault ? FAULTS[fault]() : to),
};

forEachBroker(
  test,
  'a fault of messageKeyFn loses that message alone and is told',
  async (t, broker) => {
    const world = await open(t, broker, { ws: faulty });
    const told = [];
    world.gateway.on('messageKeyError', (...args) => told.push(args));
    const peer = await world.connect('a');
    const names = Object.keys(FAULTS);
    for (const fault of names) {
      world.client.send({ fault }, { to: 'a' });
      world.client.send({ after: fault }, { to: 'a' });
    }
    t.deepEqual(
      await peer.received(names.length),
      names.map((after) => JSON.stringify({ after })),
    );
    t.deepEqual(
      told.map(([, message, headers]) => [message.fault, headers.to]),
      names.map((name) => [name, 'a']),
    );
    t.is(told[0][0].message, 'no key today');
    t.is(told[1][0], 'a string');
    t.regex(told[names.indexOf('a promise')][0].message, /promise/);
    t.is(world.gateway.stats().keyErrors, names.length);
  },
);

// A warning is the process's, so these two see each other's if they run at
// once.
for (const broker of [embedded, rabbitmq]) {
  for (const first of ['error', 'symbol', 'object without text']) {
    test.serial(
      `${broker.name}: without a listener, a fault (${first}) is one warning`,
      async (t) => {
        const warnings = [];
        const listen = (warning) => {
          if (warning.code === 'MESSAGE_ENGIN_MESSAGE_KEY_ERROR') {
            warnings.push(warning);
          }
        };
        process.on('warning', listen);
        t.teardown(() => process.removeListener('warning', listen));
        const world = await open(t, broker, { ws: faulty });
        const peer = await world.connect('a');
        for (const fault of [first, 'error', 'a rejection']) {
          world.client.send({ fault }, { to: 'a' });
        }
        world.client.send('after', { to: 'a' });
        t.deepEqual(await peer.received(1), ['after']);
        await until(() => warnings.length > 0);
        t.is(warnings.length, 1);
        t.is(world.gateway.stats().keyErrors, 3);
      },
    );
  }
}

forEachBroker(
  test,
  'messages to very many connections come to each, in order',
  async (t, broker) => {
    const KEYS = Array.from({ length: 400 }, (_, n) => `key ${n}`);
    const ways = {
      function: { messageKeyFn: () => KEYS },
      declared: { messageKey: { json: '/to' }, messageKeyFn: undefined },
    };
    for (const [way, ws] of Object.entries(ways)) {
      const world = await open(t, broker, { ws });
      const peers = await Promise.all(KEYS.map((key) => world.connect(key)));
      const sent = [];
      for (let n = 0; n < 20; n += 1) {
        sent.push({ to: KEYS, n });
        world.client.send(sent.at(-1));
      }
      for (const peer of peers) {
        const received = await peer.received(sent.length);
        const numbers = received.map((text) => JSON.parse(text).n);
        t.deepEqual(numbers, [...sent.keys()], way);
      }
      t.is(world.gateway.stats().sent, KEYS.length * sent.length, way);
    }
  },
);
