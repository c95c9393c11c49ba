'use strict';

// Who comes too often, too many at once, from the wrong page or with a key that
// never comes is refused, before keyFn has any work with it.

const test = require('ava');
const { embedded, forEachBroker } = require('../support/brokers');
const { forEachWay } = require('../support/ways');
const { gate, heldKey, until } = require('../support/until');
const { open } = require('../support/world');

/** A keyFn that counts its calls. */
function counting(answer = ({ resourceURL }) => resourceURL.query.key) {
  const keyFn = (request) => {
    keyFn.calls += 1;
    return answer(request);
  };
  keyFn.calls = 0;
  return keyFn;
}

/** What a raw client is told. */
async function knock(world, key, headers) {
  const raw = await world.raw();
  const { status, headers: got } = await raw.upgrade(`/?key=${key}`, headers);
  return {
    raw,
    status,
    reason: got['x-websocket-reject-reason'],
    retryAfter: got['retry-after'],
  };
}

/** The counters that are not zero. */
function rejections({ gateway }) {
  const entries = Object.entries(gateway.stats());
  return Object.fromEntries(
    entries.filter(([name, value]) => /^rejected/.test(name) && value > 0),
  );
}

// ---------------------------------------------------------- handshakeTimeout

/** @type {Record<string, (held: ReturnType<typeof gate>) => void>} */
const LATE = {
  'a key': (held) => held.open('late'),
  'no key': (held) => held.open(null),
  'an error': (held) => held.fail(new Error('too late')),
};

for (const [what, answer] of Object.entries(LATE)) {
  forEachBroker(
    test,
    `a key that takes too long is 408, and ${what} after that is nothing`,
    async (t, broker) => {
      const held = gate();
      const errors = [];
      const world = await open(t, broker, {
        ws: {
          handshakeTimeout: 150,
          keyFn: ({ resourceURL: { query } }) =>
            query.key === 'slow' ? held.promise : query.key,
        },
      });
      world.gateway.on('keyError', (error) => errors.push(error.message));
      const neighbour = await world.connect('neighbour');
      const began = performance.now();
      const { status, reason, raw } = await knock(world, 'slow');
      t.true(performance.now() - began >= 149);
      t.deepEqual([status, reason], [408, 'Handshake timed out']);
      await until(() => raw.ended);
      t.is(world.gateway.stats().handshakes, 0);
      answer(held);
      await until(() => what !== 'an error' || errors.length > 0);
      await world.connect('next');
      world.client.send('still here', { to: 'neighbour' });
      t.deepEqual(await neighbour.received(1), ['still here']);
      t.deepEqual(await world.told(2), [
        [1, 'neighbour'],
        [1, 'next'],
      ]);
      t.is(raw.bytes.length, 0);
      t.deepEqual(errors, what === 'an error' ? ['too late'] : []);
      t.deepEqual(rejections(world), {
        rejected: 1,
        rejectedByHandshakeTimeout: 1,
      });
    },
  );
}

forEachWay(test, 'a key that takes too long is 408', async (t, way) => {
  const world = await way.open({
    handshakeTimeout: 100,
    keyFn: () => new Promise(() => {}),
  });
  const raw = await way.raw();
  t.is((await raw.upgrade('/')).status, 408);
  await raw.closed;
  t.is(world.gateway.stats().rejectedByHandshakeTimeout, 1);
});

test('handshakeTimeout 0 waits, and a key in time is no concern of it', async (t) => {
  for (const handshakeTimeout of [0, 60_000]) {
    const { asked, held, keyFn } = heldKey();
    const world = await open(t, embedded, {
      ws: {
        handshakeTimeout,
        keyFn,
      },
    });
    const waiting = knock(world, 'a');
    await asked.promise;
    t.is(world.gateway.stats().handshakes, 1);
    held.open('a');
    t.is((await waiting).status, 101);
    t.is(world.gateway.stats().handshakes, 0);
  }
});

// ------------------------------------------------------------ maxConnections

forEachBroker(
  test,
  'maxConnections counts those who wait and those who are in',
  async (t, broker) => {
    const held = gate();
    const keyFn = counting(({ resourceURL: { query } }) =>
      query.key === 'slow' ? held.promise : query.key,
    );
    const world = await open(t, broker, { ws: { keyFn, maxConnections: 3 } });
    const peer = await world.connect('a');
    await world.connect('b');
    const slow = knock(world, 'slow');
    await until(() => keyFn.calls === 3);
    // Not even in the place of another.
    for (const key of ['c', 'a']) {
      const { status, reason, retryAfter, raw } = await knock(world, key);
      t.deepEqual([status, reason], [503, 'Too many connections']);
      t.regex(retryAfter, /^[1-9]\d*$/);
      await until(() => raw.ended);
    }
    t.is(keyFn.calls, 3);
    held.open('slow');
    t.is((await slow).status, 101);
    t.is((await knock(world, 'c')).status, 503);
    await peer.close();
    await until(async () => (await knock(world, 'd')).status === 101);
    t.is((await knock(world, 'e')).status, 503);
    t.is(world.gateway.size, 3);
    const { rejected, rejectedByMaxConnections } = rejections(world);
    t.is(rejected, rejectedByMaxConnections);
    t.true(rejected >= 4);
    t.is(keyFn.calls, 4);
  },
);

test('a crowd that comes at once does not get past maxConnections', async (t) => {
  const world = await open(t, embedded, { ws: { maxConnections: 10 } });
  const answers = await Promise.all(
    Array.from({ length: 60 }, (_, n) => knock(world, `k${n}`)),
  );
  const count = (wanted) =>
    answers.filter(({ status }) => status === wanted).length;
  t.is(count(101), 10);
  t.is(count(503), 50);
  t.is(world.gateway.size, 10);
});

test('a refused key makes room again', async (t) => {
  const world = await open(t, embedded, {
    ws: { maxConnections: 1, keyFn: counting() },
  });
  for (let n = 0; n < 5; n += 1) t.is((await knock(world, '')).status, 404);
  t.is((await knock(world, 'a')).status, 101);
  t.is((await knock(world, 'b')).status, 503);
});

// ------------------------------------------------------------ connectionRate

forEachBroker(test, 'connectionRate allows a burst', async (t, broker) => {
  const keyFn = counting();
  const world = await open(t, broker, {
    ws: { keyFn, connectionRate: { perSecond: 0.01, burst: 3 } },
  });
  for (const status of [101, 101, 101, 503, 503]) {
    const answer = await knock(world, 'a');
    t.is(answer.status, status);
    if (status === 101) continue;
    t.is(answer.reason, 'Too many connections at once');
    // One in 100 s, of which some have gone by.
    t.true(answer.retryAfter > 80 && answer.retryAfter <= 100);
  }
  t.is(keyFn.calls, 3);
  t.deepEqual(rejections(world), {
    rejected: 2,
    rejectedByConnectionRate: 2,
  });
});

test('connectionRate comes back with time, and a number is a burst too', async (t) => {
  const world = await open(t, embedded, { ws: { connectionRate: 4 } });
  const raws = await Promise.all(Array.from({ length: 40 }, world.raw));
  const began = performance.now();
  const answers = await Promise.all(raws.map((raw) => raw.upgrade('/?key=a')));
  const taken = answers.filter(({ status }) => status === 101).length;
  const elapsed = performance.now() - began;
  t.true(taken >= 4 && taken <= 4 + elapsed / 250, `${taken} in ${elapsed} ms`);
  t.is(rejections(world).rejectedByConnectionRate, 40 - taken);
  await until(async () => (await knock(world, 'a')).status === 101);
});

test('less than one a second still lets the first one in', async (t) => {
  const world = await open(t, embedded, { ws: { connectionRate: 0.001 } });
  t.is((await knock(world, 'a')).status, 101);
  t.is((await knock(world, 'b')).status, 503);
});

// ------------------------------------------------------------------- origins

const LIST = [
  'https://a.example',
  'HTTPS://B.Example:443',
  'http://c.example:8080',
  'https://*.d.example',
  'https://bücher.example',
  'app://Local',
  'http://[::1]:3000',
];

/** @type {[origin: string | null, allowed: boolean][]} */
const ORIGINS = [
  ['https://a.example', true],
  ['https://A.EXAMPLE', true],
  ['https://b.example', true],
  ['http://c.example:8080', true],
  ['https://x.d.example', true],
  ['https://xn--bcher-kva.example', true],
  ['app://local', true],
  ['http://[::1]:3000', true],
  [null, true],
  ['http://a.example', false],
  ['https://a.example:8443', false],
  ['https://a.example.evil', false],
  ['https://evil-a.example', false],
  ['https://x.a.example', false],
  ['http://c.example', false],
  ['https://d.example', false],
  ['https://x.y.d.example', false],
  ['https://.d.example', false],
  ['https://x.d.example.evil', false],
  ['https://x.d.example:444', false],
  ['https://evil/.d.example', false],
  ['https://a.example, https://evil.example', false],
  ['null', false],
  ['', false],
  ['https://a.example/', false],
  ['__proto__', false],
];

forEachBroker(test, 'a list of origins', async (t, broker) => {
  const keyFn = counting();
  const world = await open(t, broker, { ws: { keyFn, origins: LIST } });
  for (const [origin, allowed] of ORIGINS) {
    const { status, reason } = await knock(world, 'a', { Origin: origin });
    t.is(status, allowed ? 101 : 403, String(origin));
    t.is(reason, allowed ? undefined : 'Origin not allowed');
  }
  const count = (wanted) =>
    ORIGINS.filter(([, allowed]) => allowed === wanted).length;
  t.is(keyFn.calls, count(true));
  t.deepEqual(rejections(world), {
    rejected: count(false),
    rejectedByOrigins: count(false),
  });
  const twice = await knock(world, 'a', {
    Origin: 'https://a.example\r\nOrigin: https://a.example',
  });
  t.is(twice.status, 403);
});

test('an opaque origin is allowed where the list says so', async (t) => {
  const world = await open(t, embedded, { ws: { origins: ['null'] } });
  t.is((await knock(world, 'a', { Origin: 'null' })).status, 101);
  t.is((await knock(world, 'a', { Origin: 'https://a' })).status, 403);
});

test('clients of version 8 have another header for it', async (t) => {
  const world = await open(t, embedded, { ws: { origins: LIST } });
  const old = { 'Sec-WebSocket-Version': '8' };
  for (const [origin, status] of [
    ['https://a.example', 101],
    ['https://evil.example', 403],
  ]) {
    const headers = { ...old, 'Sec-WebSocket-Origin': origin };
    t.is((await knock(world, 'a', headers)).status, status);
  }
});

test('origins as a function', async (t) => {
  const calls = [];
  const keyFn = counting();
  const errors = [];
  const world = await open(t, embedded, {
    ws: {
      keyFn,
      origins(origin, request) {
        calls.push([this, origin, request.host]);
        if (origin === 'https://throws') throw new Error('broken');
        if (origin === 'https://promise') return Promise.resolve(true);
        if (origin === 'https://fails') return Promise.reject(new Error('x'));
        return origin === `https://${request.host}`;
      },
    },
  });
  world.gateway.on('keyError', ({ message }, { origin }) => {
    errors.push([origin, message]);
  });
  const statuses = {};
  for (const name of ['localhost', 'other', 'throws', 'promise', 'fails']) {
    const Origin = `https://${name}`;
    statuses[name] = (await knock(world, 'a', { Origin })).status;
  }
  t.deepEqual(statuses, {
    localhost: 101,
    other: 403,
    throws: 403,
    promise: 403,
    fails: 403,
  });
  t.is((await knock(world, 'a')).status, 403);
  t.deepEqual(calls.at(-1), [world.conf, undefined, 'localhost']);
  t.is(keyFn.calls, 1);
  t.is(errors.length, 3);
  t.deepEqual(errors[0], ['https://throws', 'broken']);
  t.regex(errors[1][1], /origins returned a promise/);
  t.is(world.gateway.stats().rejectedByOrigins, 5);
});

// ------------------------------------------------------------------ together

test('a stranger costs neither a place nor a part of the rate', async (t) => {
  const world = await open(t, embedded, {
    ws: {
      origins: ['https://a.example'],
      maxConnections: 2,
      connectionRate: { perSecond: 0.001, burst: 2 },
    },
  });
  const from = (Origin) => knock(world, Math.random(), { Origin });
  const unfit = await knock(world, 'x', { 'Sec-WebSocket-Key': 'short' });
  t.is(unfit.status, 400);
  t.is((await from('https://evil')).status, 403);
  t.is((await from('https://a.example')).status, 101);
  t.is((await from('https://evil')).status, 403);
  const last = await from('https://a.example');
  t.is(last.status, 101);
  t.is((await from('https://a.example')).reason, 'Too many connections');
  t.is((await from('https://evil')).status, 403);
  // A place is free, but the rate is spent.
  await last.raw.leave();
  await until(async () => {
    const { reason } = await from('https://a.example');
    return reason === 'Too many connections at once';
  });
});

forEachWay(test, 'the limits hold', async (t, way) => {
  const world = await way.open({
    origins: ['https://a.example'],
    maxConnections: 2,
    connectionRate: { perSecond: 0.001, burst: 2 },
  });
  const status = async (Origin) => {
    const raw = await way.raw();
    return (await raw.upgrade(`/?key=${Math.random()}`, { Origin })).status;
  };
  t.is(await status('https://evil.example'), 403);
  t.is(await status('https://a.example'), 101);
  t.is(await status('https://a.example'), 101);
  t.is(await status('https://a.example'), 503);
  t.is(world.gateway.size, 2);
});
