'use strict';

// https servers: what the gateway promises over TCP holds over TLS, and what
// Node's TLS can do stays there to be used.

const { execFile } = require('node:child_process');
const http = require('node:http');
const net = require('node:net');
const tls = require('node:tls');
const test = require('ava');
const { which } = require('../../scripts/lib/project');
const { embedded } = require('../support/brokers');
const { OP, closing, frame } = require('../support/frames');
const { Peer } = require('../support/peers');
const { KEY, RawPeer } = require('../support/raw');
const { certificate, secureServer } = require('../support/secure');
const { until } = require('../support/until');
const { plainAndSecure } = require('../support/ways');
const { listen, open } = require('../support/world');

const { text, binary, more, close, ping } = OP;

/**
 * What a client sends, and the code that it gets and that is told.
 *
 * @type {Record<string, [bytes: Buffer[], code: number, told?: number]>}
 */
const ENDS = {
  unmasked: [[frame(text, 'x', { masked: false })], 1002],
  'a reserved bit': [[frame(text, 'x', { rsv: 4 })], 1002],
  'an unknown opcode': [[frame(3, 'x')], 1002],
  'a continuation of nothing': [[frame(more, 'x')], 1002],
  'a text within a text': [
    [frame(text, 'x', { fin: false }), frame(text, 'y')],
    1002,
  ],
  'a ping in pieces': [[frame(ping, 'x', { fin: false })], 1002],
  'a large ping': [[frame(ping, 'x'.repeat(126))], 1002],
  'no UTF-8': [[frame(text, Buffer.of(0xff))], 1007],
  'half a character': [[frame(text, Buffer.of(0xe2, 0x82))], 1007],
  'a large frame': [[frame(text, 'x'.repeat(65_537))], 1009],
  'a frame that says it is large': [
    [frame(binary, '', { length: 2 ** 31 })],
    1009,
  ],
  'a large message': [
    [
      frame(text, 'x'.repeat(65_536), { fin: false }),
      ...Array(16).fill(frame(more, 'x'.repeat(65_536), { fin: false })),
    ],
    1009,
  ],
  'a normal close': [[frame(close, closing(1000, 'bye'))], 1000],
  'a close of its own': [[frame(close, closing(4999, 'ü'))], 4999],
  'a close without a code': [[frame(close)], undefined, 1005],
  'a forbidden code': [[frame(close, closing(1006))], 1002],
};

plainAndSecure(test, 'each end has its code', async (t, way) => {
  const world = await way.open();
  const keys = Object.keys(ENDS);
  for (const [index, what] of keys.entries()) {
    const [frames, code, toldCode = code] = ENDS[what];
    const raw = await way.rawOpen(String(index));
    for (const bytes of frames) raw.socket.write(bytes);
    t.is((await raw.closeFrame()).code, code, what);
    await until(() => raw.ended);
    await raw.leave();
    const told = await world.told(2 * (index + 1));
    t.deepEqual(told.at(-1).slice(0, 3), [0, String(index), toldCode], what);
  }
  t.is(world.gateway.size, 0);
});

test('SNI: the certificate is chosen by name', async (t) => {
  const names = ['a.example', 'b.example'];
  const contexts = new Map(
    names.map((name) => [name, tls.createSecureContext(certificate(name))]),
  );
  const httpServer = await listen(
    t,
    secureServer(undefined, {
      SNICallback: (name, done) => done(null, contexts.get(name)),
    }),
  );
  const keyFn = ({ socket }) => /** @type {any} */ (socket).servername;
  const world = await open(t, embedded, { ws: { httpServer, keyFn } });
  const { port } = httpServer.address();
  for (const servername of names) {
    const where = { host: '127.0.0.1', port, secure: true, servername };
    const raw = await RawPeer.connect(where);
    t.teardown(() => raw.leave());
    const { subject } = raw.socket.getPeerCertificate();
    t.is(subject.CN, servername);
    t.is((await raw.upgrade('/')).status, 101);
  }
  t.deepEqual(await world.told(2), [
    [1, 'a.example'],
    [1, 'b.example'],
  ]);
});

test('ALPN: http/1.1 is agreed on, and nothing else', async (t) => {
  const httpServer = await listen(t, secureServer());
  const keyFn = ({ socket }) =>
    String(/** @type {any} */ (socket).alpnProtocol);
  const world = await open(t, embedded, { ws: { httpServer, keyFn } });
  const { port } = httpServer.address();
  const where = { host: '127.0.0.1', port, secure: true };
  for (const ALPNProtocols of [['http/1.1'], ['h2', 'http/1.1'], undefined]) {
    const raw = await RawPeer.connect({ ...where, ALPNProtocols });
    t.teardown(() => raw.leave());
    t.is((await raw.upgrade('/')).status, 101);
  }
  await t.throwsAsync(RawPeer.connect({ ...where, ALPNProtocols: ['h2'] }));
  t.deepEqual(
    (await world.told(3)).map(([, key]) => key),
    ['http/1.1', 'http/1.1', 'false'],
  );
});

test("who stalls in the TLS handshake is the https server's", async (t) => {
  const httpServer = await listen(
    t,
    secureServer(undefined, { handshakeTimeout: 2000 }),
  );
  const failures = [];
  httpServer.on('tlsClientError', (error) => failures.push(error));
  const world = await open(t, embedded, { ws: { httpServer } });
  const { port } = httpServer.address();
  const where = { host: '127.0.0.1', port };
  // Says nothing; says that 512 bytes of a handshake come, and some of them.
  const beginnings = [Buffer.alloc(0), Buffer.from('160301020001', 'hex')];
  const stalled = beginnings.map((bytes) => {
    const socket = net.connect(where);
    socket.on('error', () => {});
    socket.resume();
    socket.write(bytes);
    return new Promise((resolve) => socket.on('close', () => resolve()));
  });
  const raw = await RawPeer.connect({ ...where, secure: true });
  t.teardown(() => raw.leave());
  t.is((await raw.upgrade('/?key=a')).status, 101);
  await Promise.all(stalled);
  await until(() => failures.length === 2);
  t.true(failures.every(({ code }) => code === 'ERR_TLS_HANDSHAKE_TIMEOUT'));
  t.like(world.gateway.stats(), { accepted: 1, rejected: 0, handshakes: 0 });
  raw.socket.write(frame(text, '"still here"'));
  t.deepEqual(await world.heard(1), ['still here']);
});

test('client certificates name the connection', async (t) => {
  const mine = certificate('someone');
  const httpServer = await listen(
    t,
    secureServer(undefined, {
      requestCert: true,
      rejectUnauthorized: true,
      ca: [mine.cert],
    }),
  );
  const world = await open(t, embedded, {
    ws: {
      httpServer,
      async keyFn({ socket }) {
        await new Promise((resolve) => setImmediate(resolve));
        const { subject } = /** @type {any} */ (socket).getPeerCertificate();
        return socket.authorized && subject.CN;
      },
    },
  });
  const { port } = httpServer.address();
  const url = `wss://localhost:${port}/`;
  const options = { rejectUnauthorized: false, headers: { to: 'someone' } };
  const peer = await new Peer(url, { ...options, ...mine }).opened;
  t.teardown(() => peer.terminate());
  world.client.send('hello', { to: 'someone' });
  t.deepEqual(await peer.received(1), ['hello']);
  await t.throwsAsync(new Peer(url, options).opened);
  const stranger = { ...options, ...certificate('someone') };
  await t.throwsAsync(new Peer(url, stranger).opened);
  t.deepEqual(await world.told(1), [[1, 'someone']]);
});

test('http and https, and several of them, for one gateway', async (t) => {
  const servers = [
    http.createServer(),
    secureServer(),
    http.createServer(),
    secureServer(),
  ];
  for (const httpServer of servers) await listen(t, httpServer);
  const world = await open(t, embedded, { ws: { httpServer: servers } });
  const peers = [];
  for (const [index, httpServer] of servers.entries()) {
    const scheme = index % 2 ? 'wss' : 'ws';
    const { port } = httpServer.address();
    const peer = new Peer(`${scheme}://127.0.0.1:${port}/?key=${index}`, {
      rejectUnauthorized: false,
    });
    t.teardown(() => peer.terminate());
    peers.push(await peer.opened);
    t.is(world.gateway.size, index + 1);
  }
  for (const [index, peer] of peers.entries()) {
    world.client.send(`to ${index}`, { to: String(index) });
    t.deepEqual(await peer.received(1), [`to ${index}`]);
    peer.send(`from ${index}`);
    t.is((await world.heard(index + 1)).at(-1), `from ${index}`);
  }
  await world.gateway.close();
  for (const peer of peers) t.is((await peer.closed).code, 1001);
  for (const httpServer of servers)
    t.is(httpServer.listenerCount('upgrade'), 0);
});

/** Runs a program that may end as it likes; resolves to what it printed. */
function output(command, args, input = '') {
  return new Promise((resolve) => {
    const child = execFile(command, args, { timeout: 60_000 }, (error, out) => {
      resolve(out);
    });
    child.stdin.on('error', () => {});
    child.stdin.write(input);
    child.stdin.end();
  });
}

const UPGRADE = [
  ...['Connection: Upgrade', 'Upgrade: websocket'],
  ...['Sec-WebSocket-Version: 13', `Sec-WebSocket-Key: ${KEY}`],
];

/** @param {string} tool */
function having(tool, title, body) {
  if (which(tool)) plainAndSecure(test, `${tool}: ${title}`, body);
  else test.skip(`${tool}, which is not on PATH: ${title}`, () => {});
}

having('curl', 'plain requests and upgrades', async (t, way) => {
  const world = await way.open();
  const scheme = way.where.secure ? 'https' : 'http';
  const url = `${scheme}://127.0.0.1:${way.where.port}`;
  const curl = (path, headers, ...args) =>
    output('curl', [
      ...['-sS', '-k', '-i', '-N', '--http1.1', '--max-time', '10', ...args],
      ...headers.flatMap((header) => ['-H', header]),
      url + path,
    ]);
  const status = (answer) => Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1]);

  const plain = await curl('/', []);
  t.is(status(plain), 200);
  t.regex(plain, /just http/);
  t.is(status(await curl('/', UPGRADE.slice(0, 2))), 400);
  const [connection, upgrade, , key] = UPGRADE;
  const old = [connection, upgrade, key, 'Sec-WebSocket-Version: 7'];
  const unknown = await curl('/', old);
  t.is(status(unknown), 426);
  t.regex(unknown, /^Sec-WebSocket-Version: 13\r$/m);
  t.is(status(await curl('/?key=', UPGRADE)), 404);
  t.is(status(await curl('/?key=a', UPGRADE, '--data', 'a=1')), 405);
  t.is(status(await curl('/?key=a', UPGRADE, '--head')), 405);
  const taken = curl('/?key=a', UPGRADE);
  t.deepEqual(await world.told(1), [[1, 'a']]);
  world.client.send('hello curl', { to: 'a' });
  await until(() => world.gateway.stats().sent === 1);
  await world.gateway.close();
  t.is(status(await taken), 101);
  t.regex(await taken, /hello curl/);
});

const openssl = which('openssl') ? test : test.skip;
openssl('openssl s_client: a plain request and an upgrade', async (t) => {
  const httpServer = await listen(
    t,
    secureServer((request, response) => response.end('just https')),
  );
  await open(t, embedded, { ws: { httpServer } });
  const { port } = httpServer.address();
  const args = ['s_client', '-quiet', '-connect', `127.0.0.1:${port}`];
  const get = 'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n';
  t.regex(await output('openssl', args, get), /^HTTP\/1\.1 200[^]*just https$/);
  const head = ['GET /?key= HTTP/1.1', 'Host: x', ...UPGRADE, '', ''];
  const answer = await output('openssl', args, head.join('\r\n'));
  t.regex(answer, /^HTTP\/1\.1 404 Not Found\r\n/);
  t.regex(answer, /X-WebSocket-Reject-Reason: bad request\r\n/);
});
