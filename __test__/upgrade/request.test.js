'use strict';

// keyFn gets what WebSocket-Node's request has, and requests that are no
// WebSocket handshake never reach it.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { KEY, RawPeer } = require('../support/raw');
const { until } = require('../support/until');
const { plainAndSecure } = require('../support/ways');
const { open } = require('../support/world');

/** A world whose keyFn keeps the requests. */
async function witness(t, broker, ws = {}) {
  const requests = [];
  const world = await open(t, broker, {
    ws: {
      keyFn(request) {
        requests.push(request);
        return String(requests.length);
      },
      ...ws,
    },
  });
  return { ...world, requests };
}

const HEADERS = {
  Host: 'chat.example:8080',
  Origin: 'https://page.example',
  'Sec-WebSocket-Protocol': 'Chat,  superChat',
  'Sec-WebSocket-Extensions':
    'Permessage-Deflate; client_max_window_bits; x=15, foo',
  Cookie: 'sid=a%20b; flag; q="quoted"; sid=again, bad=%E0%A4%A',
  'X-Forwarded-For': '10.0.0.1, 10.0.0.2',
  AppId: 'appid1',
};

forEachBroker(test, 'the request has every property', async (t, broker) => {
  const { raw, requests } = await witness(t, broker);
  const { status } = await (
    await raw()
  ).upgrade('/chat/../room?a=1&b=x%20y&a=2', HEADERS);
  t.is(status, 101);
  const [request] = requests;
  t.is(request.httpRequest.method, 'GET');
  t.is(request.httpRequest.headers.appid, 'appid1');
  t.is(request.host, 'chat.example:8080');
  t.is(request.resource, '/chat/../room?a=1&b=x%20y&a=2');
  t.is(request.resourceURL.pathname, '/chat/../room');
  t.deepEqual({ ...request.resourceURL.query }, { a: ['1', '2'], b: 'x y' });
  t.is(request.remoteAddress, '10.0.0.1');
  t.deepEqual(request.remoteAddresses, ['10.0.0.1', '10.0.0.2', '127.0.0.1']);
  t.is(request.webSocketVersion, 13);
  t.is(request.origin, 'https://page.example');
  t.deepEqual(request.requestedProtocols, ['chat', 'superchat']);
  t.deepEqual(request.protocolFullCaseMap, {
    chat: 'Chat',
    superchat: 'superChat',
  });
  t.deepEqual(request.requestedExtensions, [
    {
      name: 'permessage-deflate',
      params: [
        { name: 'client_max_window_bits', value: undefined },
        { name: 'x', value: '15' },
      ],
    },
    { name: 'foo', params: [] },
  ]);
  t.deepEqual(request.cookies, [
    { name: 'sid', value: 'a b' },
    { name: 'flag', value: null },
    { name: 'q', value: 'quoted' },
    { name: 'sid', value: 'again' },
    { name: 'bad', value: '%E0%A4%A' },
  ]);
  t.is(request.key, KEY);
  t.is(request.socket, request.httpRequest.socket);
  t.is(typeof request.accept, 'function');
  t.is(typeof request.reject, 'function');
  t.throws(() => {
    request.reject();
    request.reject();
  });
});

forEachBroker(
  test,
  'settings leave parts of the request out',
  async (t, broker) => {
    const { raw, requests } = await witness(t, broker, {
      ignoreXForwardedFor: true,
      parseCookies: false,
      parseExtensions: false,
    });
    await (await raw()).upgrade('/', HEADERS);
    const [request] = requests;
    t.is(request.remoteAddress, '127.0.0.1');
    t.deepEqual(request.remoteAddresses, ['127.0.0.1']);
    t.deepEqual(request.cookies, []);
    t.deepEqual(request.requestedExtensions, []);
  },
);

forEachBroker(test, 'a request with nothing special', async (t, broker) => {
  const { raw, requests } = await witness(t, broker);
  const { headers } = await (await raw()).upgrade('/');
  t.deepEqual(headers, {
    upgrade: 'websocket',
    connection: 'Upgrade',
    'sec-websocket-accept': 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=',
  });
  const [request] = requests;
  t.is(request.origin, undefined);
  t.is(request.resourceURL.pathname, '/');
  t.deepEqual({ ...request.resourceURL.query }, {});
  t.deepEqual(request.requestedProtocols, []);
  t.deepEqual(request.requestedExtensions, []);
  t.deepEqual(request.cookies, []);
  t.deepEqual(request.remoteAddresses, ['127.0.0.1']);
});

forEachBroker(
  test,
  'the headers of the request go along to workers',
  async (t, broker) => {
    const world = await open(t, broker);
    const raw = await world.raw();
    await raw.upgrade('/?key=a', {
      ...HEADERS,
      'X-Latin': 'caf\u00e9',
      'X-Twice': 'one\r\nX-Twice: two',
      'X-Empty': '',
      ['X-Long-' + 'n'.repeat(240)]: 'v'.repeat(4000),
    });
    await world.told(1);
    const [{ headers }] = world.statuses;
    const { host, upgrade, ...rest } = headers;
    t.is(host, 'chat.example:8080');
    t.is(upgrade, 'websocket');
    t.is(rest.appid, 'appid1');
    t.is(rest.cookie, HEADERS.Cookie);
    t.is(rest['sec-websocket-key'], KEY);
    // The bytes c3 a9, each of which is a character to Node's http.
    t.is(rest['x-latin'], 'caf\u00c3\u00a9');
    t.is(rest['x-twice'], 'one, two');
    t.is(rest['x-empty'], '');
    t.is(rest['x-long-' + 'n'.repeat(240)], 'v'.repeat(4000));
  },
);

plainAndSecure(test, 'the socket knows both of its ends', async (t, way) => {
  const ends = [];
  await way.open({
    async keyFn({ socket }) {
      await new Promise((resolve) => setImmediate(resolve));
      ends.push([socket.localAddress, socket.localPort, socket.localFamily]);
      ends.push([socket.remoteAddress, socket.remotePort, socket.remoteFamily]);
      return 'a';
    },
  });
  const { wire } = await way.rawOpen('a');
  t.deepEqual(ends, [
    [wire.remoteAddress, wire.remotePort, wire.remoteFamily],
    [wire.localAddress, wire.localPort, wire.localFamily],
  ]);
});

const UNFIT = {
  'no Host': [{ Host: null }, 400, /Host/],
  'no Sec-WebSocket-Key': [{ 'Sec-WebSocket-Key': null }, 400, /-Key/],
  'a short Sec-WebSocket-Key': [{ 'Sec-WebSocket-Key': 'abc' }, 400, /-Key/],
  'no Sec-WebSocket-Version': [
    { 'Sec-WebSocket-Version': null },
    400,
    /-Version/,
  ],
  'another version': [{ 'Sec-WebSocket-Version': '12' }, 426, /version: 12/],
  'a version that is none': [
    { 'Sec-WebSocket-Version': 'new' },
    426,
    /version: new/,
  ],
};

forEachBroker(
  test,
  'what is no handshake is refused before keyFn',
  async (t, broker) => {
    const { raw, requests, port, told, connect } = await witness(t, broker);
    for (const [name, [headers, status, reason]] of Object.entries(UNFIT)) {
      const peer = await raw();
      const response = await peer.upgrade('/?key=a', headers);
      t.is(response.status, status, name);
      t.regex(response.headers['x-websocket-reject-reason'], reason, name);
      const version = response.headers['sec-websocket-version'];
      t.is(version, status === 426 ? '13' : undefined, name);
      await until(() => peer.ended);
    }
    const poster = await RawPeer.connect({ host: '127.0.0.1', port });
    const { status } = await poster.upgrade('/?key=a', {}, 'POST');
    t.is(status, 405);
    t.is(requests.length, 0);
    await connect('a');
    t.deepEqual(await told(1), [[1, '1']]);
  },
);
