'use strict';

// A keyFn that was written for WebSocket-Node's requests finds the same in
// ours: both servers get the same bytes.

const http = require('node:http');
const test = require('ava');
const { server: WebSocketServer } = require('websocket');
const { embedded } = require('../support/brokers');
const { KEY, RawPeer, upgradeRequest } = require('../support/raw');
const { until } = require('../support/until');
const { listen, open } = require('../support/world');

const PROPERTIES = [
  'resource',
  'resourceURL',
  'host',
  'key',
  'webSocketVersion',
  'origin',
  'remoteAddress',
  'remoteAddresses',
  'requestedProtocols',
  'protocolFullCaseMap',
  'requestedExtensions',
  'cookies',
];

/** @type {Record<string, Record<string, string | null>>} */
const HEADERS = {
  'nothing special': {},
  'hosts with ports': { Host: '[::1]:8080' },
  'an odd host': { Host: 'EXAMPLE.com.:0' },
  'a cookie without =': { Cookie: 'flag; other ; a=1' },
  'a cookie without a name': { Cookie: '=value; ==' },
  'empty cookies': { Cookie: ';;, a=; ' },
  'no cookie at all': { Cookie: '' },
  'quoted cookies': { Cookie: 'a="x y"; b=" padded "; c=""; d="half; e="' },
  'encoded cookies': { Cookie: 'a=%20b%C3%BC; b=%2525; c="%22"; %61=name' },
  'duplicate cookies': { Cookie: 'a=1; a=2, a=3' },
  'cookies with commas': { Cookie: 'a=1,b=2,  c=3' },
  'values with =': { Cookie: 'a=b=c; d = e = f ' },
  'two Cookie headers': { Cookie: 'a=1\r\nCookie: b=2' },
  'names of prototypes in cookies': { Cookie: '__proto__=1; constructor=2' },
  'latin1 in cookies': { Cookie: 'a=\u00fc\u00e9; b=\u00a0x\u00a0' },
  'one hop': { 'X-Forwarded-For': '10.0.0.1' },
  hops: { 'X-Forwarded-For': '10.0.0.1,10.0.0.2,   10.0.0.3' },
  'odd hops': { 'X-Forwarded-For': 'unknown, , [::1]:5 , _hidden' },
  'hops in two headers': {
    'X-Forwarded-For': '1.1.1.1\r\nX-Forwarded-For: 2.2.2.2, 3.3.3.3',
  },
  'an empty hop': { 'X-Forwarded-For': '' },
  'version 8': {
    'Sec-WebSocket-Version': '8',
    'Sec-WebSocket-Origin': 'https://old.example',
  },
  'version 8 with both origins': {
    'Sec-WebSocket-Version': '8',
    'Sec-WebSocket-Origin': 'https://old.example',
    Origin: 'https://new.example',
  },
  'version 8 with the wrong origin': {
    'Sec-WebSocket-Version': '8',
    Origin: 'https://new.example',
  },
  'version 13 with the wrong origin': {
    'Sec-WebSocket-Origin': 'https://old.example',
  },
  'an origin': { Origin: 'HTTPS://Page.Example' },
  'an empty origin': { Origin: '' },
  'two origins': { Origin: 'https://a\r\nOrigin: https://b' },
  'a latin1 origin': { Origin: 'https://b\u00fccher' },
  'one protocol': { 'Sec-WebSocket-Protocol': 'chat' },
  'protocols in odd case': {
    'Sec-WebSocket-Protocol': 'cHaT,  SOAP, v1.Example.COM,x',
  },
  'the same protocol twice': { 'Sec-WebSocket-Protocol': 'Chat, CHAT' },
  'protocols in two headers': {
    'Sec-WebSocket-Protocol': 'one\r\nSec-WebSocket-Protocol: two',
  },
  'odd protocols': { 'Sec-WebSocket-Protocol': ',, a b ,"q", \u00c4' },
  extensions: {
    'Sec-WebSocket-Extensions':
      'permessage-deflate; client_max_window_bits, x-foo;a=1;  b="2"',
  },
  'odd extensions': {
    'Sec-WebSocket-Extensions': 'A;;B=;=c;d=e=f, ,; ,Permessage-DEFLATE ; X',
  },
  'extensions in two headers': {
    'Sec-WebSocket-Extensions': 'a; b\r\nSec-WebSocket-Extensions: c',
  },
  'an empty extension': { 'Sec-WebSocket-Extensions': '' },
};

/** Those that no keyFn gets to see. @type {typeof HEADERS} */
const UNFIT = {
  'no host': { Host: null },
  'an empty host': { Host: '' },
  'no key': { 'Sec-WebSocket-Key': null },
  'no version': { 'Sec-WebSocket-Version': null },
  'version 7': { 'Sec-WebSocket-Version': '7' },
  'version 14': { 'Sec-WebSocket-Version': '14' },
  'nothing but the upgrade': {
    Host: null,
    'Sec-WebSocket-Key': null,
    'Sec-WebSocket-Version': null,
  },
};

const RESOURCES = [
  '/',
  '/chat?room=1',
  '/a/../b/./c?x=1&x=2&y&=z&%20=+',
  '//host/path?a',
  '/?a=%E0%A4%A&b=%zz',
  '/caf%C3%A9?%C3%BC=1',
  '/a;b?c=d;e=f#hash?x=1',
  'http://user:pass@other.example:81/path?q=1',
  '/?__proto__=1&constructor=2',
  '*',
  '/\\back\\slash?a=\\',
  '/{curly}|^`"<>?{a}="b"',
];

/** What is the same or not: plain values, in which undefined is one too. */
function shape(request) {
  const entries = PROPERTIES.map((name) => [name, request[name]]);
  return JSON.parse(
    JSON.stringify(Object.fromEntries(entries), (name, value) =>
      value === undefined ? 'undefined' : value,
    ),
  );
}

/**
 * Both servers with the same settings; each keeps what it is asked.
 */
async function both(t, settings = {}) {
  const theirs = [];
  const ours = [];
  const httpServer = await listen(t, http.createServer());
  const old = new WebSocketServer({ httpServer, ...settings });
  old.on('request', (request) => {
    theirs.push(shape(request));
    request.reject(418, 'seen');
  });
  const world = await open(t, embedded, {
    ws: {
      ...settings,
      keyFn(request) {
        ours.push(shape(request));
        request.reject(418, 'seen');
      },
    },
  });

  /** What one of them has to say of a request. */
  async function answer(port, requests, text) {
    const count = requests.length;
    const peer = await RawPeer.connect({ host: '127.0.0.1', port });
    t.teardown(() => peer.leave());
    peer.socket.write(text, 'latin1');
    const { status, headers } = await peer.response();
    await until(() => peer.ended);
    return {
      request: requests[count] ?? null,
      status,
      reason: headers['x-websocket-reject-reason'],
      version: headers['sec-websocket-version'],
    };
  }

  return async (text) => ({
    theirs: await answer(httpServer.address().port, theirs, text),
    ours: await answer(world.port, ours, text),
  });
}

test('headers, whatever they hold', async (t) => {
  const ask = await both(t);
  for (const [what, headers] of Object.entries(HEADERS)) {
    const { ours, theirs } = await ask(upgradeRequest('/?a=1', headers));
    t.deepEqual(ours, theirs, what);
    t.is(theirs.status, 418, what);
  }
});

test('headers that are refused', async (t) => {
  const ask = await both(t);
  for (const [what, headers] of Object.entries(UNFIT)) {
    const { ours, theirs } = await ask(upgradeRequest('/?a=1', headers));
    t.deepEqual(ours, theirs, what);
    t.is(theirs.request, null, what);
  }
});

test('headers, and settings that leave them out', async (t) => {
  const ask = await both(t, {
    ignoreXForwardedFor: true,
    parseCookies: false,
    parseExtensions: false,
  });
  for (const [what, headers] of Object.entries(HEADERS)) {
    const { ours, theirs } = await ask(upgradeRequest('/?a=1', headers));
    t.deepEqual(ours, theirs, what);
  }
});

test('resources, whatever they are', async (t) => {
  const ask = await both(t);
  for (const resource of RESOURCES) {
    const { ours, theirs } = await ask(upgradeRequest(resource));
    t.deepEqual(ours, theirs, resource);
    t.is(ours.request?.resource, resource);
  }
});

// Where WebSocket-Node refuses a request for what keyFn may never look at, or
// takes what RFC 6455 does not allow, we do not follow.
test('what is different, and why', async (t) => {
  const ask = await both(t);
  const cookie = await ask(upgradeRequest('/', { Cookie: 'a=%zz; b=%20c' }));
  t.deepEqual([cookie.theirs.status, cookie.theirs.request], [400, null]);
  t.deepEqual(cookie.ours.request.cookies, [
    { name: 'a', value: '%zz' },
    { name: 'b', value: ' c' },
  ]);
  for (const key of ['abc', `${KEY}x`, 'x'.repeat(24), `${KEY}, ${KEY}`]) {
    const { theirs, ours } = await ask(
      upgradeRequest('/', { 'Sec-WebSocket-Key': key }),
    );
    t.is(theirs.request.key, key);
    t.deepEqual([ours.status, ours.request], [400, null], key);
  }
  for (const [version, status] of [
    ['13, 8', 418],
    ['13\r\nSec-WebSocket-Version: 13', 418],
    ['0', 400],
    ['x', 400],
  ]) {
    const { theirs, ours } = await ask(
      upgradeRequest('/', { 'Sec-WebSocket-Version': version }),
    );
    t.is(theirs.status, status, version);
    t.deepEqual([ours.status, ours.request], [426, null], version);
  }
  const posted = await ask(upgradeRequest('/', {}, 'POST'));
  t.is(posted.theirs.status, 418);
  t.is(posted.ours.status, 405);
});

test('a resource that is no URL gets the same answer', async (t) => {
  const ask = await both(t);
  for (const resource of ['http://[::1', '//a:b:c/', '/caf\u00e9']) {
    const { ours, theirs } = await ask(upgradeRequest(resource));
    t.deepEqual(ours, theirs, resource);
  }
});
