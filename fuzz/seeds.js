'use strict';

// Writes seeds/<target>/: small inputs of every kind that a target reads. Run
// by hand after a change here; what it writes is committed.

const fs = require('node:fs');
const path = require('node:path');

/** @typedef {Record<string, Buffer>} Seeds by file name */

const bytes = (/** @type {(number | string | Buffer)[]} */ ...parts) =>
  Buffer.concat(
    parts.map((part) =>
      typeof part === 'number' ? Buffer.from([part]) : Buffer.from(part),
    ),
  );
const u16 = (/** @type {number} */ value) => bytes(value >> 8, value & 255);
const u32 = (/** @type {number} */ value) =>
  bytes(u16(value >>> 16), u16(value & 0xffff));
const u64 = (/** @type {number} */ value) =>
  bytes(u32(Math.floor(value / 2 ** 32)), u32(value % 2 ** 32));
const short = (/** @type {string | Buffer} */ text) =>
  bytes(Buffer.byteLength(text), text);
const long = (/** @type {string | Buffer} */ text) =>
  bytes(u32(Buffer.byteLength(text)), text);

// A client's frames. A mask of 0 leaves the payload readable.
function frame(/** @type {number} */ first, payload = bytes(), mask = u32(0)) {
  const length =
    payload.length < 126
      ? bytes(0x80 | payload.length)
      : payload.length < 65536
        ? bytes(0xfe, u16(payload.length))
        : bytes(0xff, u64(payload.length));
  const masked = payload.map((byte, index) => byte ^ mask[index % 4]);
  return bytes(first, length, mask, Buffer.from(masked));
}
const text = (/** @type {string} */ payload) =>
  frame(0x81, Buffer.from(payload));
const close = (/** @type {number} */ code, reason = '') =>
  frame(0x88, bytes(u16(code), reason));

/** Limits, pieces and what happens beside them; see src/frames.rs. */
const PLAIN = bytes(0, 0, 1, 0, 0);
const BUSY = bytes(0, 0, 7, 0xef, 3);
const NARROW = bytes(1, 2, 9, 0x4d, 0);

const conversations = {
  'text-close': bytes(text('hello'), text(''), close(1000, 'bye')),
  binary: bytes(frame(0x82, bytes(0, 255, 128)), frame(0x88)),
  masked: frame(0x81, Buffer.from('mäsked'), bytes(1, 2, 3, 4)),
  fragments: bytes(
    frame(0x01, Buffer.from('grü').subarray(0, 3)),
    frame(0x89, Buffer.from('ping')),
    frame(0x00, Buffer.from('ü').subarray(1)),
    frame(0x80, Buffer.from('ße')),
    close(3000),
  ),
  pings: bytes(...Array.from({ length: 40 }, () => frame(0x89, bytes('pp')))),
  long: bytes(text('l'.repeat(126)), text('m'.repeat(300)), close(1001)),
  'at-the-limit': frame(0x82, Buffer.alloc(125, 1)),
  'too-big': bytes(text('ok'), frame(0x82, Buffer.alloc(401, 1))),
  'too-big-in-parts': bytes(
    frame(0x02, Buffer.alloc(120)),
    frame(0x80, Buffer.alloc(120)),
  ),
  huge: bytes(0x82, 0xff, Buffer.alloc(8, 0xff), u32(0)),
  'not-utf8': bytes(text('ok'), frame(0x81, bytes(0xed, 0xa0, 0x80))),
  'not-utf8-early': bytes(frame(0x01, bytes(0xff)), close(1000)),
  unmasked: bytes(0x81, 1, 'x'),
  reserved: frame(0xc1, bytes('x')),
  opcode: frame(0x83),
  'lone-continuation': frame(0x80),
  'text-in-text': bytes(frame(0x01), text('x')),
  'long-ping': frame(0x89, Buffer.alloc(126)),
  'parted-ping': frame(0x09),
  'short-close': frame(0x88, bytes(3)),
  'bad-close': close(1005),
  'bad-reason': frame(0x88, bytes(u16(1000), 0xff)),
  'behind-close': bytes(close(4000), text('late'), frame(0xff)),
  cut: text('cut off').subarray(0, 9),
};

/** @returns {Seeds} */
function frames() {
  /** @type {Seeds} */
  const seeds = { 'big-busy': bytes(BUSY, frame(0x82, Buffer.alloc(66))) };
  for (const [name, conversation] of Object.entries(conversations)) {
    seeds[name] = bytes(PLAIN, conversation);
    seeds[`${name}-busy`] = bytes(BUSY, conversation);
    seeds[`${name}-narrow`] = bytes(NARROW, conversation);
  }
  return seeds;
}

// AMQP frames.
const amqp = (
  /** @type {number} */ kind,
  /** @type {number} */ channel,
  /** @type {Buffer} */ payload,
) => bytes(kind, u16(channel), long(payload), 0xce);

const deliver = (tag = 'c', exchange = 'e', key = 'k') =>
  bytes(u16(60), u16(60), short(tag), u64(7), 1, short(exchange), short(key));
const header = (/** @type {number} */ size, properties = u16(0)) =>
  bytes(u16(60), u16(0), u64(size), properties);
const properties = (type = 'application/json', table = bytes()) =>
  bytes(u16(0xa000), short(type), long(table));

function delivery(/** @type {string[]} */ ...bodies) {
  const size = bodies.join('').length;
  return bytes(
    amqp(1, 1, deliver()),
    amqp(2, 1, header(size, properties())),
    ...bodies.map((body) => amqp(3, 1, Buffer.from(body))),
  );
}
const heartbeat = amqp(8, 0, bytes());

/** @returns {Seeds} */
function deliveries() {
  const streams = {
    one: delivery('{"a":1}'),
    empty: delivery(),
    several: bytes(delivery('a'), heartbeat, delivery('b'), heartbeat),
    parts: delivery('first', 'second', 'third'),
    cut: delivery('first', 'second').subarray(0, -20),
    'other-methods': bytes(
      amqp(1, 1, bytes(u16(60), u16(21), short('c'))),
      amqp(1, 0, bytes(u16(10), u16(60), short('why'))),
      amqp(1, 1, bytes(u16(20), u16(40), u16(404), short('no'), u32(0))),
    ),
    'body-too-long': bytes(
      amqp(1, 1, deliver()),
      amqp(2, 1, header(2)),
      amqp(3, 1, bytes('four')),
    ),
    'size-of-the-world': bytes(
      amqp(1, 1, deliver()),
      amqp(2, 1, bytes(u16(60), u16(0), Buffer.alloc(8, 255), u16(0))),
      amqp(3, 1, bytes('x')),
    ),
    'no-consumer': bytes(amqp(1, 0, deliver()), amqp(2, 0, header(0))),
    'not-amqp': bytes('HTTP/1.1 400 Bad Request\r\n\r\n'),
    'no-end': bytes(amqp(8, 0, bytes()).subarray(0, -1), 0),
    'between-frames': bytes(
      amqp(1, 1, deliver()),
      heartbeat,
      amqp(2, 1, header(0)),
    ),
  };
  /** @type {Seeds} */
  const seeds = {};
  for (const [name, stream] of Object.entries(streams)) {
    seeds[name] = bytes(0, 1, 0, stream);
    seeds[`${name}-pieces`] = bytes(3, 6, 0, stream);
  }
  // Kind, channel and length; the target makes the frames.
  const part = (/** @type {number} */ kind, /** @type {Buffer} */ payload) =>
    bytes(kind, 1, payload.length, payload);
  seeds['made'] = bytes(
    ...[0, 1, 1],
    part(0, deliver()),
    part(1, header(4, properties('text/plain'))),
    part(2, bytes('ab')),
    part(2, bytes('cd')),
    part(4, bytes()),
  );
  return seeds;
}

const field = (/** @type {string} */ name, /** @type {Buffer} */ value) =>
  bytes(short(name), value);
const deep = (/** @type {number} */ levels, kind = 'F') => {
  let value = bytes('V');
  for (let level = 0; level < levels; level++) {
    value = bytes(kind, long(kind === 'F' ? field('k', value) : value));
  }
  return value;
};
const tables = {
  empty: bytes(),
  request: bytes(
    field('host', bytes('S', long('example.org'))),
    field('accept', bytes('S', long('"\\\u0001é'))),
    field('n', bytes('I', u32(0xfffffff0))),
    field('t', bytes('t', 1)),
    field('v', bytes('V')),
  ),
  numbers: bytes(
    field('b', bytes('b', 0x80)),
    field('B', bytes('B', 0x80)),
    field('s', bytes('s', u16(0x8000))),
    field('u', bytes('u', u16(0x8000))),
    field('i', bytes('i', u32(0x80000000))),
    field('l', bytes('l', Buffer.alloc(8, 0x81))),
    field('L', bytes('L', u64(2 ** 53))),
    field('f', bytes('f', u32(0x3fc00000))),
    field('d', bytes('d', Buffer.from('3ff8000000000000', 'hex'))),
    field('D', bytes('D', 2, u32(12345))),
  ),
  'odd-numbers': bytes(
    field('nan', bytes('d', Buffer.alloc(8, 0xff))),
    field('inf', bytes('d', Buffer.from('7ff0000000000000', 'hex'))),
    field('-0', bytes('d', Buffer.from('8000000000000000', 'hex'))),
    field('small', bytes('d', u64(1))),
    field('D', bytes('D', 255, u32(1))),
  ),
  tagged: bytes(
    field('T', bytes('T', u64(1_700_000_000))),
    field('T2', bytes('T', Buffer.alloc(8, 0xff))),
    field('x', bytes('x', long(bytes(0, 255)))),
    field('A', bytes('A', long(bytes('V', 'S', long('a'), 't', 0)))),
    field('F', bytes('F', long(field('k', bytes('x', long('z')))))),
  ),
  twice: bytes(field('k', bytes('V')), field('k', bytes('t', 1))),
  'not-utf8': bytes(1, 0xff, 'S', long(bytes(0xff, 0xc3))),
  deep: field('k', deep(64)),
  'too-deep': field('k', deep(66)),
  'deep-arrays': field('k', deep(66, 'A')),
  'too-long': bytes(field('k', bytes('S', u32(0xffffffff), 'x'))),
  'unknown-type': bytes(field('a', bytes('V')), field('k', bytes('Z'))),
};

/** @returns {Seeds} */
function tableSeeds() {
  /** @type {Seeds} */
  const seeds = {};
  // Persistent, with a message id, and perhaps a second time.
  seeds.tracked = bytes(
    bytes(0, short(''), short('')),
    bytes(u16(0x30a0), long(tables.request), 2),
    bytes(short('p-1f'), short('redelivered')),
  );
  for (const [name, table] of Object.entries(tables)) {
    seeds[name] = bytes(2, table);
    seeds[`${name}-in-properties`] = bytes(
      bytes(0, short(''), short('')),
      bytes(u16(0xe000), short('text/json'), short('gzip'), long(table)),
    );
  }
  return seeds;
}

const headerTexts = {
  empty: '{}',
  plain: '{"a":"x","n":-5,"t":true,"z":null,"e":"\\u0001\\"\\\\é"}',
  nested: '{"l":[1,"b",[null]],"o":{"k":{"d":false}}}',
  tagged:
    '!{"at":["d",1700000000000],"raw":["x","00ff"],"l":["a",["a"],"d",5]}',
  'bad-tags': '!{"at":["d","x"],"raw":["x","+f"],"q":["q"],"e":[]}',
  numbers:
    '{"a":9223372036854775807,"b":-9223372036854775808,"c":18446744073709551615,"d":5.0,"e":-0.0}',
  doubles: '{"a":1e308,"b":5e-324,"c":0.1,"d":2.638344616030823e-256,"e":1e21}',
  late: '!{"a":["d",9223372036854775807],"b":["d",-1]}',
  twice: '{"a":1,"a":2}',
  surrogates: '{"a":"\\ud83d\\ude00","b":"\\ud83d"}',
  deep: `{"a":${'['.repeat(30)}${']'.repeat(30)}}`,
  'too-deep': `{"a":${'['.repeat(200)}${']'.repeat(200)}}`,
  array: '[]',
};

/** @returns {Seeds} */
function keys() {
  const seed = (
    /** @type {string[]} */ at,
    /** @type {string} */ headers,
    /** @type {string} */ body,
    kind = 0,
  ) => bytes(0, kind, at.length, ...at.map(short), short(headers), body);
  return {
    id: seed(['id'], '{"id":"h"}', '{"id":"b"}'),
    nested: seed(['to', 'id'], '{"to":5}', '{"x":[{"to":1}],"to":{"id":7}}'),
    array: seed(['to'], '{"to":["a",7,"a",null]}', '{"to":["a","b","a",[1]]}'),
    index: seed(['1', 'k'], '{}', '[{"k":"a"},{"k":"b"}]'),
    'zero-index': seed(['01'], '{}', '[1,2,3]'),
    escaped: seed(['a/b~c'], '{}', '{"a\\/b~c":"\\u00e9\\n"}'),
    twice: seed(['a', 'b'], '{}', '{"a":{"b":1},"a":7,"a":{"b":2,"b":"x"}}'),
    numbers: seed(
      ['n'],
      '{"n":1.5e-7}',
      '{"n":[1e21,1.5e-7,0,-0.0,12345678901234567890,0.1,2.638344616030823e-256]}',
    ),
    whole: seed([], '{}', '"me"'),
    'not-json': seed(['id'], '{}', '{"id":"me"} x'),
    surrogate: seed(['id'], '{}', '{"id":"\\ud800","x":1}'),
    huge: seed(['id'], '{}', '{"id":1e999}'),
    template: seed([], '{}', '[{"header":"a"},{"text":"-"},{"json":["b"]}]', 1),
  };
}

/** @returns {Seeds} */
function content() {
  const bodies = {
    string: '"a\\nb\\u00e9"',
    object: ' {"a":"b"}',
    broken: '"broken',
    surrogate: '"\\ud800"',
    spaces: ' \t\r\n"x" ',
    empty: '',
    octets: bytes(0, 255, 254),
    long: 'x'.repeat(70_000).slice(0, 200),
  };
  /** @type {Seeds} */
  const seeds = {};
  for (const [name, body] of Object.entries(bodies)) {
    for (const type of [0, 1, 3]) {
      seeds[`${name}-${type}`] = bytes(0, type, body);
    }
    seeds[`${name}-named`] = bytes(1, short('application/json'), body);
  }
  return seeds;
}

const settingTexts = {
  none: '{}',
  numbers:
    '{"prefetch":65535,"heartbeat":0,"connectionTimeout":18446744073709551615,"bufferSize":0,"maxBackpressure":18446744073709551615,"closeTimeout":0}',
  'out-of-range': '{"prefetch":65536,"heartbeat":-1,"bufferSize":1.5}',
  kinds:
    '{"kind":"memory","authMechanism":"EXTERNAL","reconnectBackoffStrategy":"exponential"}',
  'other-kinds': '{"kind":"Memory","authMechanism":"plain"}',
  hosts:
    '{"hosts":[{"host":"a","port":1},{"host":"b","port":65535}],"clientProperties":{"a":[{"b":null}]}}',
  names: '{"receiveQueue":"","messageQueue":"\\u0000","address":"é"}',
  key: '{"messageKey":[{"header":"a"},{"text":"-"},{"json":["b","0"]}]}',
  rate: '{"messageRate":{"messages":5,"bytes":null,"burst":1.5,"policy":"slow"},"slowConsumer":"wait"}',
  delivery:
    '{"delivery":"at-least-once","queueType":"quorum","deadLetterExchange":"x","queueExpires":1}',
  'bad-key': '{"messageKey":[{"header":1}]}',
  'wrong-types': '{"kind":1,"hosts":{},"vhost":null,"keepalive":"yes"}',
};

function texts(/** @type {Record<string, string>} */ of) {
  return Object.fromEntries(
    Object.entries(of).map(([name, content]) => [name, Buffer.from(content)]),
  );
}

/** @type {Record<string, Seeds>} */
const targets = {
  frames: frames(),
  delivery: deliveries(),
  table: tableSeeds(),
  headers_json: texts(headerTexts),
  keys: keys(),
  content: content(),
  settings: texts(settingTexts),
};

for (const [target, seeds] of Object.entries(targets)) {
  const folder = path.join(__dirname, 'seeds', target);
  fs.mkdirSync(folder, { recursive: true });
  for (const [name, content] of Object.entries(seeds)) {
    fs.writeFileSync(path.join(folder, name), content);
  }
}
