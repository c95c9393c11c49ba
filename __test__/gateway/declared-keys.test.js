'use strict';

// A declared key names whom the function that reads the same place names.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { until } = require('../support/until');
const { Peer } = require('../support/peers');
const { open } = require('../support/world');

/** How a message's key can be read: by declaration and by function. */
const READERS = [
  [{ header: 'k' }, (message, headers) => headers.k],
  [{ json: '/to/id' }, (message) => message?.to?.id],
  [{ json: '/0' }, (message) => Array.isArray(message) && message[0]],
  [{ json: '/a~1b/m~0n' }, (message) => message?.['a/b']?.['m~n']],
  [
    { template: '{header:dn}:{json:/appid}' },
    (message, headers) =>
      headers.dn && message?.appid && `${headers.dn}:${message.appid}`,
  ],
];

/** Messages and headers, each of which somebody might send. */
const MESSAGES = [
  [{ to: { id: 'a' } }, { k: 'b' }],
  [
    { to: { id: 5 }, appid: 7 },
    { k: 1.5, dn: 'd' },
  ],
  [{ to: { id: ['a', 'b', 'a', 5] } }, { k: ['b', 'a', 'b'] }],
  [
    { to: { id: '' }, appid: '' },
    { k: '', dn: 'd' },
  ],
  [{ to: { id: 0 } }, { k: 0 }],
  [{ to: { id: null } }, { k: null }],
  [{ to: { id: false } }, { k: false }],
  [{ to: { id: true } }, { k: true }],
  [{ to: { id: {} } }, { k: {} }],
  [{ to: 'a' }, {}],
  [{ appid: 'x' }, { dn: 'd' }],
  [{ appid: 'x' }, {}],
  ['a text', { k: 'b', dn: 'd' }],
  ['{"to":{"id":"a"}}', {}],
  [Buffer.from('{"to":{"id":"a"}}'), { k: 'b' }],
  [['a', 'b'], {}],
  [{ 'a/b': { 'm~n': 'a' } }, {}],
  [{ to: { id: 'ü👍' } }, { k: 'ü👍' }],
  [{ to: { id: 1e21 } }, { k: 2 ** 40 }],
  [null, undefined],
];

const KEYS = ['a', 'b', '5', '1.5', 'true', 'd:7', 'd:x', 'ü👍', '1e+21'];
KEYS.push(`${2 ** 40}`, '0', 'false', 'null', 'undefined');

/** How many of a message go out, by the function: to each key that is here. */
function copies(key) {
  const keys = new Set([key].flat().filter(Boolean).map(String));
  return KEYS.filter((here) => keys.has(here)).length;
}

/** Who got which message, with one way to read keys. */
async function heardWith(t, broker, ws, messageKeyFn) {
  const world = await open(t, broker, {
    ws: { messageKeyFn: undefined, ...ws },
  });
  const peers = [];
  for (const key of KEYS) {
    peers.push(await world.connect(key, { headers: { to: 'x' } }));
  }
  let sent = 0;
  let unmatched = 0;
  for (const [message, headers] of MESSAGES) {
    const count = copies(messageKeyFn(message, headers ?? {}));
    sent += count;
    if (count === 0) unmatched += 1;
    world.client.send(message, headers);
  }
  const stats = () => world.gateway.stats();
  await until(() => stats().sent + stats().unmatched === sent + unmatched);
  t.is(stats().sent, sent);
  await until(
    () =>
      peers.reduce((sum, { messages }) => sum + messages.length, 0) === sent,
  );
  return peers.map(({ messages }, n) => [KEYS[n], messages]);
}

for (const [messageKey, messageKeyFn] of READERS) {
  const name = JSON.stringify(messageKey);
  forEachBroker(test, `messages by ${name}`, async (t, broker) => {
    const declared = await heardWith(t, broker, { messageKey }, messageKeyFn);
    const asked = await heardWith(t, broker, { messageKeyFn }, messageKeyFn);
    t.deepEqual(declared, asked);
    t.true(declared.some(([, messages]) => messages.length > 0));
  });
}

for (const [key, keyFn, headers, path] of [
  [
    { header: 'X-User' },
    ({ httpRequest }) => httpRequest.headers['x-user'],
    { 'x-user': 'me' },
    '/',
  ],
  // A name that every object has something under.
  [
    { header: 'constructor' },
    ({ httpRequest }) => httpRequest.headers.constructor,
    { constructor: 'me' },
    '/',
  ],
  [{ query: 'k' }, ({ resourceURL }) => resourceURL.query.k, {}, '/?k=a%20b'],
  [
    { cookie: 'sid' },
    ({ cookies }) => cookies.find(({ name }) => name === 'sid')?.value,
    { cookie: 'x=1; sid=a%20b; y' },
    '/',
  ],
  [
    { template: '{header:dn}:{query:appid}' },
    ({ httpRequest, resourceURL }) =>
      `${httpRequest.headers.dn}:${resourceURL.query.appid}`,
    { dn: 'd' },
    '/?appid=x',
  ],
]) {
  const name = JSON.stringify(key);
  forEachBroker(test, `connections by ${name}`, async (t, broker) => {
    const told = [];
    const declared = { key, keyFn: undefined };
    const unparsed = { ...declared, parseCookies: false };
    for (const ws of [declared, unparsed, { keyFn }]) {
      const world = await open(t, broker, { ws });
      const url = world.url.slice(0, -1) + path;
      const peer = new Peer(url, { headers });
      t.teardown(() => peer.terminate());
      await peer.opened;
      told.push(await world.told(1));
      if (ws.key) {
        const refused = await world.raw();
        t.is((await refused.upgrade('/')).status, 404);
      }
    }
    t.deepEqual(told[0], told[2]);
    t.deepEqual(told[1], told[2]);
  });
}
