'use strict';

// Whatever a browser or a worker sends arrives as what it was.

const test = require('ava');
const { forEachBroker, unique } = require('../support/brokers');
const { until } = require('../support/until');
const { open } = require('../support/world');

const NESTED = {
  text: 'Grüße, 世界 👩‍👩‍👧‍👦 \u2028\u2029\u0000\u001f"\\/',
  'ключ 🔑': [{ a: [[], {}, null, true, -0.5, 1e300, 9007199254740991] }],
  __proto__: null,
  constructor: 'x',
};

const FROM_BROWSERS = [
  [JSON.stringify(NESTED), { ...NESTED }],
  ['{"a" : 1.0 }\n', { a: 1 }],
  [
    '{"__proto__": {"polluted": true}}',
    JSON.parse('{"__proto__":{"polluted":true}}'),
  ],
  ['[]', []],
  ['"abc"', 'abc'],
  ['"{\\"a\\":1}"', '{"a":1}'],
  ['', ''],
  ['""', ''],
  [' ', ' '],
  ['5', 5],
  ['-1.5e3', -1500],
  ['null', null],
  ['true', true],
  ['not JSON', 'not JSON'],
  ['{"a":', '{"a":'],
  ['NaN', 'NaN'],
  ['\ufeff{}', '\ufeff{}'],
  ['zero \u0000 byte, line\nbreak', 'zero \u0000 byte, line\nbreak'],
  ['👩‍👩‍👧‍👦 世界', '👩‍👩‍👧‍👦 世界'],
];

forEachBroker(test, 'texts of browsers', async (t, broker) => {
  const world = await open(t, broker);
  const peer = await world.connect('a');
  for (const [text] of FROM_BROWSERS) peer.send(text);
  const heard = await world.heard(FROM_BROWSERS.length);
  for (const [index, [text, value]] of FROM_BROWSERS.entries()) {
    t.deepEqual(heard[index], value, JSON.stringify(text));
    t.is(world.messages[index].info.raw.toString(), text);
  }
  t.is({}.polluted, undefined);
  t.is(world.gateway.stats().received, FROM_BROWSERS.length);
});

forEachBroker(
  test,
  'the echo of the raw text is the text, byte for byte',
  async (t, broker) => {
    const world = await open(t, broker);
    world.client.on('message', (message, headers, { raw }) => {
      world.client.send(raw.toString(), headers);
    });
    const peer = await world.connect('a');
    const texts = FROM_BROWSERS.map(([text]) => text);
    for (const text of texts) peer.send(text);
    t.deepEqual(await peer.received(texts.length), texts);
  },
);

const FROM_WORKERS = [
  [NESTED, JSON.stringify(NESTED)],
  [[], '[]'],
  [5, '5'],
  [-0.5, '-0.5'],
  [null, 'null'],
  [false, 'false'],
  [NaN, 'null'],
  [new Date(0), '1970-01-01T00:00:00.000Z'],
  [{ toJSON: () => ({ own: 1 }) }, '{"own":1}'],
  ['', ''],
  ['a text', 'a text'],
  ['"quoted"', '"quoted"'],
  ['{"a":1}', '{"a":1}'],
  [NESTED.text, NESTED.text],
  ['half a pair: \ud83d', 'half a pair: \ufffd'],
  [Buffer.alloc(0), Buffer.alloc(0)],
  [Buffer.from('{"a":1}'), Buffer.from('{"a":1}')],
  [Buffer.from([0, 255, 128, 10]), Buffer.from([0, 255, 128, 10])],
  [Buffer.from('xabcx').subarray(1, 4), Buffer.from('abc')],
  [new Uint8Array([1, 2, 3]), Buffer.from([1, 2, 3])],
];

forEachBroker(test, 'values of workers', async (t, broker) => {
  const world = await open(t, broker);
  const peer = await world.connect('a');
  for (const [value] of FROM_WORKERS) world.client.send(value, { to: 'a' });
  const received = await peer.received(FROM_WORKERS.length);
  for (const [index, [, frame]] of FROM_WORKERS.entries()) {
    t.deepEqual(received[index], frame, `value ${index}`);
  }
});

forEachBroker(
  test,
  'messageKeyFn sees what the worker sent',
  async (t, broker) => {
    const seen = [];
    const world = await open(t, broker, {
      ws: {
        messageKeyFn(message, { to }, info) {
          seen.push([this, message, info]);
          return to;
        },
      },
    });
    const peer = await world.connect('a');
    const values = [{ a: 1 }, 'text', '5', 5, null, Buffer.from('{}')];
    for (const value of values) world.client.send(value, { to: 'a' });
    await peer.received(values.length);
    t.deepEqual(
      seen.map(([, message]) => message),
      values,
    );
    t.true(seen.every(([self]) => self === world.conf));
    t.is(seen[0][2].contentType, 'application/json');
    t.is(seen[5][2].contentType, 'application/octet-stream');
  },
);

const BYTES = [
  Buffer.alloc(0),
  Buffer.from('{"a":1}'),
  Buffer.from([0, 255, 254, 128]),
  Buffer.alloc(20_000, 7),
];

forEachBroker(
  test,
  'binary frames reach workers only where they are asked for',
  async (t, broker) => {
    const off = await open(t, broker);
    const on = await open(t, broker, { ws: { binary: true } });
    for (const world of [off, on]) {
      const peer = await world.connect('a');
      for (const bytes of BYTES) peer.send(bytes);
      peer.send('the end');
    }
    t.deepEqual(await on.heard(BYTES.length + 1), [...BYTES, 'the end']);
    t.deepEqual(await off.heard(1), ['the end']);
    const [info] = on.messages.map((message) => message.info);
    t.is(info.contentType, 'application/octet-stream');
    t.is(on.messages[0].headers.to, 'a');
    t.is(off.gateway.stats().ignoredBinary, BYTES.length);
    t.is(off.gateway.stats().received, 1);
    t.is(on.gateway.stats().ignoredBinary, 0);
    t.is(on.gateway.stats().received, BYTES.length + 1);
  },
);

forEachBroker(test, 'info says how it came', async (t, broker) => {
  const names = {
    receiveExchange: `re-${unique()}-ü`,
    receiveQueue: `rq-${unique()}`,
    statusExchange: `se-${unique()}`,
    statusQueue: `sq-${unique()}`,
  };
  const world = await open(t, broker, { mq: names });
  const peer = await world.connect('a');
  peer.send('{"a": "ü"}');
  await world.heard(1);
  const expected = {
    routingKey: names.receiveQueue,
    exchange: names.receiveExchange,
    redelivered: false,
    contentType: 'application/json',
    messageId: undefined,
    raw: Buffer.from('{"a": "ü"}'),
  };
  for (const [name, value] of Object.entries(expected)) {
    t.true(name in world.messages[0].info);
    t.deepEqual(world.messages[0].info[name], value);
  }
  const { info } = world.statuses[0];
  t.is(info.routingKey, names.statusQueue);
  t.is(info.exchange, names.statusExchange);
  t.is(info.raw.toString(), '{"status":1,"key":"a"}');
});

forEachBroker(
  test,
  'a promise that a listener returns is its own business',
  async (t, broker) => {
    const world = await open(t, broker);
    world.client.on('message', () => {
      const working = Promise.reject(new Error('dealt with'));
      working.catch(() => {});
      return working;
    });
    const peer = await world.connect('a');
    peer.send('1');
    peer.send('2');
    // What is left unhandled would end the process.
    t.deepEqual(await world.heard(2), [1, 2]);
  },
);

forEachBroker(
  test,
  'routing key and delivery tag in the payload',
  async (t, broker) => {
    const world = await open(t, broker, {
      mq: { routingKeyInPayload: true, deliveryTagInPayload: true },
    });
    const peer = await world.connect('a');
    for (const text of ['{"n":1}', '[1]', '"text"', '{"n":2}']) peer.send(text);
    const [first, , text, last] = await world.heard(4);
    t.is(first._routingKey, world.mqConf.receiveQueue ?? 'receiveQueue');
    t.is(typeof first._deliveryTag, 'number');
    t.true(last._deliveryTag > first._deliveryTag);
    t.is(text, 'text');
    const [status] = await until(() => world.statuses.length && world.statuses);
    t.is(status._routingKey, world.mqConf.statusQueue ?? 'statusQueue');
  },
);
