'use strict';

// Handshakes as no browser makes them. Each gets a plain answer or none, and
// somebody who is connected meanwhile notices nothing.

const http = require('node:http');
const test = require('ava');
const { embedded } = require('../support/brokers');
const { OP, frame } = require('../support/frames');
const { KEY, RawPeer, upgradeRequest } = require('../support/raw');
const { secureServer } = require('../support/secure');
const { gate, until } = require('../support/until');
const { plainAndSecure } = require('../support/ways');
const { listen, open } = require('../support/world');

const BIG = 'x'.repeat(20_000);
const ACCEPT = 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=';

/**
 * Requests, and the status of the answer.
 *
 * @type {Record<string, [request: string, status: number]>}
 */
const REQUESTS = {
  'no Host': [upgradeRequest('/', { Host: null }), 400],
  'an empty Host': [upgradeRequest('/', { Host: '' }), 400],
  'two Hosts': [upgradeRequest('/', { Host: 'a\r\nhost: b' }), 400],
  'an oversized Host': [upgradeRequest('/', { Host: BIG }), 431],
  'no key': [upgradeRequest('/', { 'Sec-WebSocket-Key': null }), 400],
  'an empty key': [upgradeRequest('/', { 'Sec-WebSocket-Key': '' }), 400],
  'two keys': [
    upgradeRequest('/', {
      'Sec-WebSocket-Key': `${KEY}\r\nSec-WebSocket-Key: ${KEY}`,
    }),
    400,
  ],
  'a key of 15 bytes': [
    upgradeRequest('/', { 'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25j' }),
    400,
  ],
  'a key of 17 bytes': [
    upgradeRequest('/', { 'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZWU=' }),
    400,
  ],
  'a key that is no base64': [
    upgradeRequest('/', { 'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25j!Q==' }),
    400,
  ],
  'an oversized key': [upgradeRequest('/', { 'Sec-WebSocket-Key': BIG }), 431],
  'no version': [upgradeRequest('/', { 'Sec-WebSocket-Version': null }), 400],
  'version 12': [upgradeRequest('/', { 'Sec-WebSocket-Version': '12' }), 426],
  'version -13': [upgradeRequest('/', { 'Sec-WebSocket-Version': '-13' }), 426],
  'version 1e400': [
    upgradeRequest('/', { 'Sec-WebSocket-Version': `1${'0'.repeat(400)}` }),
    426,
  ],
  ...Object.fromEntries(
    ['13, 8', '8, 13', '013', '13.0', '13abc', '0x0d', '+13', '1e1', '13,'].map(
      (version) => [
        `version ${version}`,
        [upgradeRequest('/', { 'Sec-WebSocket-Version': version }), 426],
      ],
    ),
  ),
  'two versions': [
    upgradeRequest('/', {
      'Sec-WebSocket-Version': '13\r\nSec-WebSocket-Version: 13',
    }),
    426,
  ],
  'version 8': [upgradeRequest('/', { 'Sec-WebSocket-Version': '8' }), 101],
  'an empty version': [
    upgradeRequest('/', { 'Sec-WebSocket-Version': '' }),
    400,
  ],
  'another upgrade': [upgradeRequest('/', { Upgrade: 'h2c' }), 400],
  'upgrades among which is no WebSocket': [
    upgradeRequest('/', { Upgrade: 'websockets, xwebsocket' }),
    400,
  ],
  'an upgrade among others': [
    upgradeRequest('/', { Upgrade: 'foo/1, WebSocket' }),
    101,
  ],
  'two Upgrades': [
    upgradeRequest('/', { Upgrade: 'websocket\r\nUpgrade: websocket' }),
    101,
  ],
  'no Upgrade': [upgradeRequest('/', { Upgrade: null }), 200],
  'no Connection': [upgradeRequest('/', { Connection: null }), 200],
  'a Connection that lives on': [
    upgradeRequest('/', { Connection: 'keep-alive' }),
    200,
  ],
  'a Connection of several': [
    upgradeRequest('/', { Connection: 'keep-alive, UPGRADE' }),
    101,
  ],
  POST: [upgradeRequest('/', {}, 'POST'), 405],
  OPTIONS: [upgradeRequest('*', {}, 'OPTIONS'), 405],
  'a body': [upgradeRequest('/', { 'Content-Length': '5' }) + 'hello', 400],
  'a body of nothing': [upgradeRequest('/', { 'Content-Length': '0' }), 101],
  'a chunked body': [
    upgradeRequest('/', { 'Transfer-Encoding': 'chunked' }) +
      '5\r\nhello\r\n0\r\n\r\n',
    400,
  ],
  'two lengths': [
    upgradeRequest('/', { 'Content-Length': '1\r\nContent-Length: 2' }),
    400,
  ],
  'HTTP/1.0': [upgradeRequest('/').replace('HTTP/1.1', 'HTTP/1.0'), 400],
  'HTTP/9.9': [upgradeRequest('/').replace('HTTP/1.1', 'HTTP/9.9'), 400],
  'no HTTP': ['\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 400],
  'an oversized resource': [upgradeRequest(`/?${BIG}`), 431],
  'too many headers': [
    upgradeRequest('/', { 'X-Many': 'x\r\nX: '.repeat(9000) }),
    431,
  ],
  'a header with NUL': [upgradeRequest('/', { 'X-Nul': 'a\0b' }), 400],
  'a header with a lonely CR': [upgradeRequest('/', { 'X-Cr': 'a\rb' }), 400],
  'a header of two lines': [upgradeRequest('/', { 'X-Fold': 'a\r\n b' }), 400],
};

/** A gateway with somebody who talks, before and after. */
async function withNeighbour(way, ws, options) {
  const world = await way.open({
    keyFn: ({ resourceURL: { query } }) => query.key ?? 'hostile',
    ...ws,
  });
  const neighbour = await way.connect('neighbour', options);
  let count = 0;
  return {
    ...world,
    async hears() {
      count += 1;
      neighbour.send(`in ${count}`);
      await until(() =>
        world.messages.some(({ message }) => message === `in ${count}`),
      );
      world.client.send(`out ${count}`, { to: 'neighbour' });
      return (await neighbour.received(count)).at(-1) === `out ${count}`;
    },
  };
}

plainAndSecure(test, 'requests', async (t, way) => {
  const world = await withNeighbour(way);
  let refused = 0;
  for (const [what, [request, status]] of Object.entries(REQUESTS)) {
    const raw = await way.raw();
    raw.socket.write(request, 'latin1');
    const response = await raw.response();
    t.is(response.status, status, what);
    const { headers } = response;
    t.is(headers['sec-websocket-accept'], status === 101 ? ACCEPT : undefined);
    t.is(
      headers['sec-websocket-version'],
      status === 426 ? '13' : undefined,
      what,
    );
    // Node's own refusals have no reason.
    if (headers['x-websocket-reject-reason']) refused += 1;
    if (status >= 400) await until(() => raw.ended);
    t.true(await world.hears(), what);
    await raw.leave();
  }
  t.is(world.gateway.stats().rejected, refused);
});

plainAndSecure(test, 'what goes back holds one header each', async (t, way) => {
  const world = await withNeighbour(
    way,
    { protocol: 'chat' },
    { protocols: ['chat'], headers: { to: 'neighbour' } },
  );
  const usual = ['connection', 'origin', 'sec-websocket-accept', 'upgrade'];
  for (const origin of [
    'https://a\tb',
    'https://\u00fc\u00ff\u0080\u0085',
    Buffer.from('https://ü/\u2028💥').toString('latin1'),
    '%0d%0aX-Evil:%201',
    'x: y',
  ]) {
    const raw = await way.raw();
    const headers = { Origin: origin, 'Sec-WebSocket-Protocol': 'a, chat' };
    raw.socket.write(upgradeRequest('/', headers), 'latin1');
    const response = await raw.response();
    t.is(response.status, 101);
    t.deepEqual(
      Object.keys(response.headers).sort(),
      [...usual, 'sec-websocket-protocol'].sort(),
    );
    t.regex(response.headers.origin, /^[\t\x20-\x7e\xa0-\xff]*$/);
  }
  for (const protocols of ['a b', 'x\u00fc', '"chat"', 'chat/1', ';chat']) {
    const raw = await way.raw();
    const headers = { 'Sec-WebSocket-Protocol': protocols };
    raw.socket.write(upgradeRequest('/', headers), 'latin1');
    const response = await raw.response();
    t.is(response.status, 500, protocols);
    t.deepEqual(Object.keys(response.headers).sort(), [
      'connection',
      'content-length',
      'x-websocket-reject-reason',
    ]);
  }
  t.true(await world.hears());
});

const ODD = {
  null: () => null,
  'a symbol': () => Symbol('odd'),
  'a revoked proxy'() {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    return proxy;
  },
  'a getter that throws': () => ({
    get status() {
      throw new Error('status');
    },
  }),
  'a toString that throws': () => ({
    status: 402,
    reason: {
      toString() {
        throw new Error('reason');
      },
    },
  }),
  'a thenable': () => ({ then: (resolve) => resolve('key'), status: 402 }),
  'a status of text': () => ({ status: '402', reason: 5 }),
  'a status of NaN': () => ({ status: NaN }),
  'a status of 101': () => ({ status: 101 }),
  'a bigint': () => 5n,
  'a frozen error': () => Object.freeze(new Error('frozen')),
};

plainAndSecure(test, 'whatever keyFn throws or returns', async (t, way) => {
  const throwing = {};
  const world = await withNeighbour(way, {
    keyFn({ resourceURL: { query } }) {
      const [name, how] = String(query.odd ?? '').split(',');
      if (!name) return query.key;
      const value = ODD[name]();
      if (how === 'throws') throw value;
      if (how === 'rejects') return Promise.reject(value);
      return value;
    },
  });
  const errors = [];
  world.gateway.on('keyError', (error) => errors.push(error));
  for (const name of Object.keys(ODD)) {
    for (const how of ['throws', 'rejects', 'returns']) {
      const raw = await way.raw();
      const odd = encodeURIComponent(`${name},${how}`);
      const { status } = await raw.upgrade(`/?odd=${odd}`);
      throwing[`${name} ${how}`] = status;
      if (how !== 'returns') t.true(status >= 400, `${name} ${how}`);
      t.true(status === 101 || status >= 400, `${name} ${how}`);
      t.true(await world.hears(), `${name} ${how}`);
    }
  }
  t.true(errors.length >= 2 * Object.keys(ODD).length);
});

/**
 * What keyFn does to its request, and the status of the answer; null for none.
 *
 * @type {Record<string, [spoil: (request: any) => any, status: number | null]>}
 */
const SPOILT = {
  'headers of a refusal that cannot be read': [
    (request) =>
      request.reject(402, 'pay', {
        get 'X-Price'() {
          throw new Error('price');
        },
      }),
    402,
  ],
  'a key that has no text': [
    (request) => {
      request.key = Symbol('key');
      return 'a';
    },
    500,
  ],
  'no request at all': [
    (request) => {
      request.httpRequest = null;
      return 'a';
    },
    500,
  ],
  'a refusal that cannot be read': [
    (request) => {
      Object.defineProperty(request, 'rejection', {
        get() {
          throw new Error('rejection');
        },
      });
      return 'a';
    },
    null,
  ],
};

plainAndSecure(test, 'whatever keyFn makes of its request', async (t, way) => {
  const names = Object.keys(SPOILT);
  const world = await withNeighbour(way, {
    keyFn(request) {
      const { query } = request.resourceURL;
      return query.key ?? SPOILT[names[query.spoil]][0](request);
    },
  });
  for (const [index, name] of names.entries()) {
    const [, status] = SPOILT[name];
    const raw = await way.raw();
    raw.socket.write(upgradeRequest(`/?spoil=${index}`));
    await until(() => raw.ended);
    t.is(raw.head?.status ?? null, status, name);
    t.true(await world.hears(), name);
  }
  t.is(world.gateway.stats().handshakes, 0);
});

/** Ways to go, and what is left of the client. */
const LEAVING = {
  'FIN and gone': (raw) => raw.leave(),
  RST: (raw) => raw.reset(),
  'half closed': (raw) => raw.socket.end(),
};

plainAndSecure(test, 'gone at every stage', async (t, way) => {
  const held = new Map();
  const world = await withNeighbour(way, {
    handshakeTimeout: 0,
    async keyFn({ resourceURL: { query } }) {
      if (query.key) return query.key;
      held.set(query.hold, gate());
      return held.get(query.hold).promise;
    },
  });
  const before = await connections(way.httpServer);
  for (const [how, go] of Object.entries(LEAVING)) {
    const text = upgradeRequest(`/?hold=${encodeURIComponent(how)}`);
    // Nothing, half a request, all but the last byte.
    for (const size of [0, 1, 20, text.length - 1]) {
      const raw = await way.raw();
      if (size > 0) await raw.write(text.slice(0, size));
      go(raw);
      await raw.closed;
      t.true(await world.hears(), `${how} ${size}`);
    }
    // While keyFn thinks; it says yes afterwards.
    const raw = await way.raw();
    raw.socket.write(text);
    await until(() => held.has(how));
    go(raw);
    if (how !== 'half closed') await raw.closed;
    held.get(how).open(`${how} 1`);
    t.true(await world.hears(), how);
    await raw.closed;
    // In the same moment in which keyFn says yes.
    held.clear();
    const other = await way.raw();
    other.socket.write(text);
    await until(() => held.has(how));
    held.get(how).open(`${how} 2`);
    go(other);
    t.true(await world.hears(), how);
    await other.closed;
    held.clear();
    // With the request, so that all of it comes at once.
    const third = await way.raw();
    third.socket.write(upgradeRequest('/?key=third'));
    go(third);
    await third.closed;
    t.true(await world.hears(), how);
  }
  await until(() => world.gateway.size === 1);
  t.is(world.gateway.stats().handshakes, 0);
  await until(async () => (await connections(way.httpServer)) === before);
});

/** Sockets that Node holds. */
function connections(httpServer) {
  return new Promise((resolve, reject) => {
    httpServer.getConnections((error, count) => {
      if (error) reject(error);
      else resolve(count);
    });
  });
}

plainAndSecure(test, '100 KB behind the request', async (t, way) => {
  const asked = gate();
  const held = gate();
  const world = await withNeighbour(way, {
    keyFn({ resourceURL: { query } }) {
      if (query.key) return query.key;
      asked.open();
      return held.promise;
    },
  });
  const raw = await way.raw();
  const texts = Array.from({ length: 25 }, (_, n) => `${n}:`.padEnd(4096, '.'));
  raw.socket.write(upgradeRequest('/'));
  for (const text of texts) raw.socket.write(frame(OP.text, text));
  await asked.promise;
  t.true(await world.hears());
  held.open('early');
  await until(() => world.messages.length >= texts.length + 1);
  t.deepEqual(
    world.messages.map(({ message }) => message).filter((m) => /^\d/.test(m)),
    texts,
  );
  t.true(await world.hears());
});

for (const [name, create] of Object.entries({
  tcp: (options) => http.createServer(options),
  tls: (options) => secureServer(undefined, options),
})) {
  test(`${name}: Node's own timeouts end who stalls before that`, async (t) => {
    const httpServer = await listen(
      t,
      create({
        headersTimeout: 2000,
        requestTimeout: 2000,
        connectionsCheckingInterval: 50,
      }),
    );
    const world = await open(t, embedded, { ws: { httpServer } });
    const { port } = httpServer.address();
    const where = { host: '127.0.0.1', port, secure: name === 'tls' };
    const opened = await RawPeer.connect(where);
    t.is((await opened.upgrade('/?key=a', { to: 'a' })).status, 101);
    for (const text of ['G', upgradeRequest('/').slice(0, -2)]) {
      const raw = await RawPeer.connect(where);
      raw.socket.write(text);
      t.is((await raw.response()).status, 408);
      await raw.closed;
    }
    // They are over for who has come in.
    world.client.send('still here', { to: 'a' });
    await until(() => opened.frames.length === 1);
    await opened.leave();
  });
}

plainAndSecure(test, 'who is refused and stays is let go', async (t, way) => {
  const world = await withNeighbour(way);
  const raw = await RawPeer.connect({ ...way.where, allowHalfOpen: true });
  t.teardown(() => raw.leave());
  t.is((await raw.upgrade('/?key=')).status, 404);
  // Nobody answers that until the socket is closed at the other end.
  await until(() => {
    raw.socket.write(Buffer.alloc(10_000));
    return raw.error || raw.socket.destroyed;
  });
  t.true(await world.hears());
});
