'use strict';

// keyFn decides who comes in, in whichever style it is written, and what it
// throws or returns becomes the HTTP answer.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { until } = require('../support/until');
const { open } = require('../support/world');

/** @param {import('node:http').IncomingMessage} httpRequest */
const keyOf = ({ url }) => new URL(url, 'ws://x').searchParams.get('key');

const STYLES = {
  plain: ({ httpRequest }) => keyOf(httpRequest),
  promise: ({ httpRequest }) => Promise.resolve(keyOf(httpRequest)),
  async async({ httpRequest }) {
    await new Promise((resolve) => setImmediate(resolve));
    return keyOf(httpRequest);
  },
  *generator({ httpRequest }) {
    const thunk = (value) => (done) => setImmediate(done, null, value);
    const from = function* () {
      return yield Promise.resolve('key');
    };
    const [name, { value }] = yield [from(), { value: thunk(httpRequest) }];
    const key = keyOf(yield thunk(value));
    try {
      yield Promise.reject(new Error(name));
    } catch ({ message }) {
      return message === 'key' && key;
    }
  },
};

for (const [style, keyFn] of Object.entries(STYLES)) {
  forEachBroker(test, `keyFn may be: ${style}`, async (t, broker) => {
    const world = await open(t, broker, { ws: { keyFn } });
    const peer = await world.connect('käse/1');
    t.deepEqual(await world.told(1), [[1, 'käse/1']]);
    world.client.send('hello', { to: 'käse/1' });
    t.deepEqual(await peer.received(1), ['hello']);
    t.is(world.gateway.size, 1);
  });
}

const REFUSALS = {
  'a falsy key': [() => '', 404, 'bad request'],
  'no key at all': [async () => {}, 404, 'bad request'],
  'a number that is falsy': [() => 0, 404, 'bad request'],
  'an object in place of a key': [() => ({ user: 1 }), 404, 'bad request'],
  'what was an object once': [async () => `${{}}`, 404, 'bad request'],
  'an error with status and reason': [
    async () => {
      throw Object.assign(new Error('x'), { status: 401, reason: 'who?' });
    },
    401,
    'who?',
  ],
  'an error without them': [
    () => {
      throw new Error('secret');
    },
    404,
    undefined,
  ],
  'an error inside a generator': [
    function* () {
      yield Promise.reject(Object.assign(new Error('x'), { status: 500 }));
    },
    500,
    undefined,
  ],
  'a thrown null': [
    () => {
      throw null;
    },
    404,
    undefined,
  ],
  'a rejection with undefined': [() => Promise.reject(), 404, undefined],
  'a reason that no header can carry': [
    () => {
      throw { status: 403, reason: 'a\r\nX-Evil: 1\u{1f600}' };
    },
    403,
    'aX-Evil: 1?',
  ],
  'a status that is no refusal': [
    () => {
      throw { status: 200, reason: 'fine' };
    },
    403,
    'fine',
  ],
  'request.reject': [
    (request) => {
      request.reject(402, 'pay', { 'X-Price': '5', 'Set-Cookie': ['a=1'] });
      return 'a key that does not count any more';
    },
    402,
    'pay',
  ],
  'request.reject, and then an error': [
    async (request) => {
      request.reject(410, 'gone');
      throw Object.assign(new Error('x'), { status: 500, reason: 'other' });
    },
    410,
    'gone',
  ],
  'request.reject without arguments': [
    (request) => request.reject(),
    403,
    undefined,
  ],
};

forEachBroker(test, 'what keyFn refuses', async (t, broker) => {
  const names = Object.keys(REFUSALS);
  const world = await open(t, broker, {
    ws: {
      keyFn(request) {
        const key = keyOf(request.httpRequest);
        return names[key] ? REFUSALS[names[key]][0](request) : key;
      },
    },
  });
  const thrown = [];
  world.gateway.on('keyError', (error, { httpRequest }) => {
    const name = names[keyOf(httpRequest)];
    thrown.push(name);
    if (name.includes('object')) t.regex(error.message, /keyFn.*object/);
  });
  for (const [index, name] of names.entries()) {
    const [, status, reason] = REFUSALS[name];
    const raw = await world.raw();
    const response = await raw.upgrade(`/?key=${index}`);
    t.is(response.status, status, name);
    t.is(response.headers['x-websocket-reject-reason'], reason, name);
    t.is(response.headers['x-evil'], undefined, name);
    await until(() => raw.ended);
    t.is(raw.bytes.length, 0, name);
    if (name === 'request.reject') {
      t.is(response.headers['x-price'], '5');
      t.is(response.headers['set-cookie'], 'a=1');
    }
  }
  t.deepEqual(thrown, [
    'an object in place of a key',
    'what was an object once',
    'an error with status and reason',
    'an error without them',
    'an error inside a generator',
    'a thrown null',
    'a rejection with undefined',
    'a reason that no header can carry',
    'a status that is no refusal',
    'request.reject, and then an error',
  ]);
  await world.connect('guest');
  t.deepEqual(await world.told(1), [[1, 'guest']]);
  t.is(world.gateway.stats().rejected, names.length);
  t.is(world.gateway.stats().accepted, 1);
});

forEachBroker(test, 'request.accept says what goes back', async (t, broker) => {
  const world = await open(t, broker, {
    ws: {
      origin: 'https://default.example',
      keyFn(request) {
        const key = keyOf(request.httpRequest);
        if (key === 'illegal') request.accept('never-requested');
        if (key === 'own') {
          request.accept('Chat', 'https://own.example', [
            { name: 'sid', value: 'abc', path: '/x', maxage: 60, secure: true },
            { name: 'b', value: '2', domain: 'Example.com', httponly: true },
          ]);
        }
        return key;
      },
    },
  });
  const headers = {
    'Sec-WebSocket-Protocol': 'other, cHaT',
    Origin: 'https://page.example',
  };
  const own = await (await world.raw()).upgrade('/?key=own', headers);
  t.is(own.status, 101);
  t.is(own.headers['sec-websocket-protocol'], 'cHaT');
  t.is(own.headers.origin, 'https://own.example');
  t.is(
    own.headers['set-cookie'],
    'sid=abc; Path=/x; Max-Age=60; Secure\nb=2; Domain=example.com; HttpOnly',
  );
  const usual = await (await world.raw()).upgrade('/?key=usual', headers);
  t.is(usual.status, 101);
  t.is(usual.headers['sec-websocket-protocol'], undefined);
  t.is(usual.headers.origin, 'https://default.example');
  const illegal = await (await world.raw()).upgrade('/?key=illegal', headers);
  t.is(illegal.status, 500);
  t.deepEqual(await world.told(2), [
    [1, 'own'],
    [1, 'usual'],
  ]);
});

forEachBroker(test, 'subprotocol and origin of wsConf', async (t, broker) => {
  const world = await open(t, broker, { ws: { protocol: 'chat' } });
  const peer = await world.connect('a', { protocols: ['x', 'chat'] });
  t.is(peer.socket.protocol, 'chat');
  const without = await (await world.raw()).upgrade('/?key=b');
  t.is(without.status, 500);
  const echoed = await (
    await world.raw()
  ).upgrade('/?key=c', {
    'Sec-WebSocket-Protocol': 'chat',
    'Sec-WebSocket-Version': '8',
    'Sec-WebSocket-Origin': 'https://old.example',
  });
  t.is(echoed.status, 101);
  t.is(echoed.headers['sec-websocket-origin'], 'https://old.example');
  t.is(echoed.headers['sec-websocket-accept'], 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=');
});

forEachBroker(test, 'keyFn is a method of wsConf', async (t, broker) => {
  const calls = [];
  const world = await open(t, broker, {
    ws: {
      *keyFn(request, ...rest) {
        calls.push([this, ...rest]);
        return 'a';
      },
    },
  });
  await world.connect('a');
  t.is(calls.length, 1);
  t.is(calls[0].length, 2);
  t.is(calls[0][0], world.conf);
  t.is(calls[0][1], world.gateway);
});
