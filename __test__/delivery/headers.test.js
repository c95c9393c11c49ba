'use strict';

// Headers keep their values and types on the way from worker to gateway, and
// from the upgrade request to the worker.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { until } = require('../support/until');
const { plainAndSecure } = require('../support/ways');
const { open } = require('../support/world');

const HEADERS = {
  to: 'a',
  text: 'Grüße 世界 👍',
  empty: '',
  long: 'x'.repeat(70_000),
  'Имя 🔑': 'name',
  zero: 0,
  negative: -5,
  int32: 2147483647,
  beyond32: 2147483648,
  below32: -2147483649,
  safe: Number.MAX_SAFE_INTEGER,
  float: 1.5,
  tiny: 5e-324,
  huge: 1.7e308,
  minusZero: -0,
  yes: true,
  no: false,
  nothing: null,
  date: new Date(1_700_000_000_000),
  bytes: Buffer.from([0, 1, 255]),
  noBytes: Buffer.alloc(0),
  list: [1, 'two', null, [true, []], { three: 3 }],
  dates: [new Date(0), { at: new Date(1000), of: [Buffer.from('x')] }],
  // Not to be mistaken for the marks by which dates and bytes cross.
  marks: [['d', 5], ['x', '00'], ['a'], 'd', '!'],
  nested: { a: { b: { c: ['deep', { d: -1 }] } }, empty: {} },
};

/** A world whose gateway keeps the headers of what it delivers. */
async function witness(t, broker) {
  const seen = [];
  const world = await open(t, broker, {
    ws: {
      messageKeyFn(message, headers) {
        seen.push(headers);
        return headers.to;
      },
    },
  });
  const peer = await world.connect('a');
  return { ...world, seen, peer };
}

forEachBroker(test, 'headers of workers', async (t, broker) => {
  const { client, seen, peer } = await witness(t, broker);
  client.send('all', HEADERS);
  const plain = { to: 'a', list: [['d', 5], 1], nested: { x: [] } };
  client.send('plain', plain);
  client.send('the same again', HEADERS);
  client.send(Buffer.from('bytes'), HEADERS);
  t.is((await peer.received(4)).length, 4);
  t.deepEqual(seen, [HEADERS, plain, HEADERS, HEADERS]);
});

forEachBroker(test, 'what headers make of other values', async (t, broker) => {
  const { client, seen, peer } = await witness(t, broker);
  client.send('x', {
    to: 'a',
    skipped: undefined,
    seconds: new Date(1_700_000_000_999),
    typed: new Uint8Array([1, 2]),
    own: { toJSON: () => 'text' },
    nothing: { toJSON() {} },
    boxed: new Number(-0),
    half: 'abc\ud83d',
  });
  await peer.received(1);
  t.deepEqual(seen, [
    {
      to: 'a',
      // AMQP counts whole seconds.
      seconds: new Date(1_700_000_000_000),
      typed: Buffer.from([1, 2]),
      own: 'text',
      boxed: -0,
      half: 'abc\ufffd',
    },
  ]);
});

forEachBroker(test, 'no headers are empty headers', async (t, broker) => {
  const seen = [];
  const world = await open(t, broker, {
    ws: {
      messageKeyFn(message, headers) {
        seen.push(headers);
        return 'a';
      },
    },
  });
  const peer = await world.connect('a');
  world.client.send(1);
  world.client.send(2, null);
  world.client.send(3, {});
  t.deepEqual(await peer.received(3), ['1', '2', '3']);
  t.deepEqual(seen, [{}, {}, {}]);
});

forEachBroker(
  test,
  'headers that cannot be carried are an error of the sender',
  async (t, broker) => {
    const { client, seen, peer } = await witness(t, broker);
    const circular = { to: 'a' };
    circular.self = circular;
    const noFields = [
      Buffer.from('a'),
      new Date(),
      new String('a'),
      { toJSON: () => 'a' },
      { toJSON: () => ['a'] },
      { toJSON() {} },
    ];
    const name = '😀'.repeat(64);
    const values = [
      ...[1n, Object(1n), () => {}, Symbol('s'), Object(Symbol('s'))],
      ...[new Date(NaN), new Date(-1), [1, undefined], [() => {}]],
      // RabbitMQ would end the connection (INTERNAL_ERROR).
      ...[NaN, Infinity, -Infinity, [NaN], new Number(NaN)],
      // An array with a hole.
      Array(1),
      ...[new Map([['a', 1]]), new Set([1]), new URLSearchParams('a=1')],
      ...[new globalThis.Headers({ a: 'b' }), new Uint16Array(1), /a/],
      ...[Promise.resolve(), new ArrayBuffer(1), new Error('e')],
      ...[{ [name]: 1 }, { toJSON: () => ({ [name]: 1 }) }],
      { toJSON: () => new Map() },
    ];
    const wrong = [
      ...['text', 5, [], circular, { [name]: 1 }, new Map(), ...noFields],
      ...values.flatMap((value) => [
        { to: 'a', value },
        // Beside a Buffer, everything crosses in another form.
        { to: 'a', bytes: Buffer.from('b'), value },
        { to: 'a', list: [{ value }] },
      ]),
    ];
    client.send('before', { to: 'a' });
    for (const headers of wrong) {
      const error = t.throws(() => client.send('x', headers), {
        instanceOf: TypeError,
      });
      t.regex(error.code, /^ERR_INVALID_ARG_(TYPE|VALUE)$/);
      t.regex(error.message, /headers/);
    }
    client.send('fine', { to: 'a', [name.slice(2) + 'abc']: 1 });
    t.deepEqual(await peer.received(2), ['before', 'fine']);
    t.is(seen.length, 2);
    t.is(seen[1][name.slice(2) + 'abc'], 1);
    t.is(client.stats().sent, 2);
  },
);

forEachBroker(
  test,
  'headers that nobody could foresee are lost alone',
  async (t, broker) => {
    const { client, peer } = await witness(t, broker);
    let deep = {};
    for (let level = 0; level < 200; level += 1) deep = { deep };
    const moody = () => {
      let reads = 0;
      return {
        to: 'a',
        get mood() {
          reads += 1;
          return reads > 1 ? deep : 'good';
        },
      };
    };
    const lost = [];
    client.on('undeliverable', (message, headers, error) =>
      lost.push([message, error?.code]),
    );
    client.send('before', { to: 'a' });
    client.send('lost', moody());
    const answers = [];
    client.$send('lost too', moody())((error) => answers.push(error?.code));
    t.true(client.send('after', { to: 'a' }));
    t.deepEqual(await peer.received(2), ['before', 'after']);
    await until(() => lost.length === 2);
    const code = 'ERR_INVALID_ARG_VALUE';
    t.deepEqual(lost, [
      ['lost', code],
      ['lost too', code],
    ]);
    t.deepEqual(answers, ['ERR_INVALID_ARG_VALUE']);
    t.is(client.stats().undeliverable, 2);
    t.is(client.stats().sent, 2);
    t.true(client.send('last', { to: 'a' }));
  },
);

forEachBroker(
  test,
  'what a value says of itself does not depend on its neighbours',
  async (t, broker) => {
    const { client, seen, peer } = await witness(t, broker);
    const values = {
      to: 'a',
      url: new URL('https://a.example/'),
      boxed: [new String('text'), new Number(5)],
      named: { inner: { toJSON: (name) => `as ${name}` } },
    };
    const said = {
      to: 'a',
      url: 'https://a.example/',
      boxed: ['text', 5],
      named: { inner: 'as inner' },
    };
    const at = new Date(1000);
    client.send('alone', values);
    client.send('beside a date', { ...values, at });
    client.send('a date of its own', { to: 'a', own: { toJSON: () => at } });
    const self = {
      to: 'a',
      toJSON() {
        return this;
      },
    };
    client.send('itself', self);
    client.send('itself within', { to: 'a', self });
    await peer.received(5);
    const inner = { to: 'a' };
    t.deepEqual(seen, [
      said,
      { ...said, at },
      { to: 'a', own: at },
      inner,
      { to: 'a', self: inner },
    ]);
  },
);

forEachBroker(
  test,
  'what keyFn writes into the headers reaches the worker as it is',
  async (t, broker) => {
    const values = {
      half: 'abc\ud83d',
      date: new Date(1_700_000_000_000),
      bytes: Buffer.from([0, 255]),
      list: [1, ['two']],
    };
    const { connect, messages, heard } = await open(t, broker, {
      ws: {
        keyFn({ httpRequest: { headers } }) {
          Object.assign(headers, values);
          return 'a';
        },
      },
    });
    const peer = await connect('a');
    peer.send('hello');
    await heard(1);
    t.like(messages[0].headers, { ...values, half: 'abc\ufffd' });
  },
);

plainAndSecure(
  test,
  'what keyFn writes into the headers and nobody can carry is a keyError',
  async (t, way) => {
    const { gateway } = await way.open({
      keyFn({ httpRequest: { headers }, resourceURL: { query } }) {
        if (query.key === 'bad') headers.big = 1n;
        return query.key;
      },
    });
    const errors = [];
    gateway.on('keyError', ({ code, message }) => errors.push([code, message]));
    const raw = await way.raw();
    t.is((await raw.upgrade('/?key=bad')).status, 500);
    await until(() => errors.length === 1);
    t.is(errors[0][0], 'ERR_INVALID_ARG_VALUE');
    t.regex(errors[0][1], /headers/);
    await way.rawOpen('good');
  },
);

forEachBroker(
  test,
  'the headers of a connection come with each message and go back',
  async (t, broker) => {
    const { client, seen, connect, messages } = await witness(t, broker);
    client.on('message', (message, headers) => client.send(message, headers));
    const peer = await connect('b', {
      headers: { appId: 'x1', 'X-List': ['one', 'two'] },
    });
    peer.send('1');
    peer.send('2');
    t.deepEqual(await peer.received(2), ['1', '2']);
    t.is(messages[0].headers.appid, 'x1');
    t.is(messages[0].headers['x-list'], 'one, two');
    t.is(messages[0].headers.upgrade, 'websocket');
    t.deepEqual(messages[1].headers, messages[0].headers);
    t.deepEqual(seen[0], messages[0].headers);
    t.not(messages[1].headers, messages[0].headers);
  },
);

forEachBroker(
  test,
  'headers are right however many different ones there are',
  async (t, broker) => {
    const { client, seen, peer } = await witness(t, broker);
    const large = (n) => ({ to: 'a', n, pad: `${n}`.repeat(4096) });
    const small = (n) => ({ to: 'a', n });
    // More than are remembered, some of them again, and then so many others
    // that nobody needs those any more.
    const sent = [
      ...Array.from({ length: 1200 }, (_, n) => large(1000 + n)),
      ...Array.from({ length: 100 }, (_, n) => large(1000 + n * 12)),
      ...Array.from({ length: 10_000 }, (_, n) => small(n)),
      ...Array.from({ length: 100 }, (_, n) => small(n * 100)),
      ...Array.from({ length: 100 }, (_, n) => large(1000 + n * 12)),
    ];
    for (const headers of sent) {
      // False says that it was taken, and to hold on.
      if (!client.send(headers.n, headers)) {
        await new Promise((resolve) => client.once('drain', resolve));
      }
    }
    await peer.received(sent.length);
    t.is(seen.length, sent.length);
    const wrong = sent.findIndex(
      ({ n, pad }, index) => seen[index].n !== n || seen[index].pad !== pad,
    );
    t.is(wrong, -1);
  },
);

forEachBroker(
  test,
  'headers go back to each of many connections',
  async (t, broker) => {
    const { client, connect, seen } = await witness(t, broker);
    client.on('message', (message, headers) => client.send(message, headers));
    const keys = Array.from({ length: 180 }, (_, n) => `k${n}`);
    const peers = await Promise.all(
      keys.map((key) => connect(key, { headers: { pad: key.repeat(3500) } })),
    );
    for (const round of ['first', 'second']) {
      for (const peer of peers) peer.send(round);
    }
    for (const peer of peers) {
      t.deepEqual(await peer.received(2), ['first', 'second']);
    }
    t.is(seen.length, 2 * keys.length);
    t.true(seen.every(({ to, pad }) => pad === to.repeat(3500)));
  },
);
