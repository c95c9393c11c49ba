'use strict';

// A setting that cannot be used is named in the error, one that is not known in
// a warning, and a password in neither.

const { EventEmitter } = require('node:events');
const http = require('node:http');
const { inspect } = require('node:util');
const test = require('ava');
const { Client, OptionError, server } = require('../..');
const { embedded, forEachBroker } = require('../support/brokers');
const { optionNames } = require('../support/declarations');
const { until } = require('../support/until');
const { listen, open, usual } = require('../support/world');

const LEAST = { delivery: 'at-least-once' };
const SECRET = 'pa$$word-äö';

const BAD_MQ = [
  ['host', 5, { host: 5 }],
  ['host', 'none', { host: [] }],
  ['host', 'a url', { host: 'amqp://x' }],
  ['port', 'zero', { port: 0 }],
  ['port', 'text', { port: 'five' }],
  ['hostPreference', 'negative', { hostPreference: -1 }],
  ['login', 'number', { login: 5 }],
  ['password', 'object', { password: { [SECRET]: SECRET } }],
  ['vhost', 'null', { vhost: null }],
  ['url', 'other scheme', { url: `http://me:${SECRET}@x` }],
  ['url', 'no url', { url: SECRET }],
  ['url', 'number', { url: 5 }],
  ['authMechanism', 'unknown', { authMechanism: 'MAGIC' }],
  ['connectionTimeout', 'negative', { connectionTimeout: -1 }],
  ['connectionTimeout', 'text', { connectionTimeout: '5' }],
  ['heartbeat', 'fraction', { heartbeat: 0.5 }],
  ['noDelay', 'number', { noDelay: 1 }],
  ['ssl', 'text', { ssl: SECRET }],
  ['ssl', 'array', { ssl: [SECRET] }],
  ['clientProperties', 'array', { clientProperties: [] }],
  [
    'clientProperties',
    'long name',
    { clientProperties: { a: { ['x'.repeat(256)]: 1 } } },
  ],
  ['clientProperties', 'NaN', { clientProperties: { a: [NaN] } }],
  ['clientProperties', 'function', { clientProperties: { a: () => {} } }],
  ['routingKeyInPayload', 'text', { routingKeyInPayload: 'yes' }],
  ['deliveryTagInPayload', 'number', { deliveryTagInPayload: 1 }],
  ['reconnect', 'text', { reconnect: 'yes' }],
  ['reconnectBackoffStrategy', 'unknown', { reconnectBackoffStrategy: 'x' }],
  ['reconnectBackoffTime', 'zero', { reconnectBackoffTime: 0 }],
  ['reconnectExponentialLimit', 'zero', { reconnectExponentialLimit: 0 }],
  ['reconnectJitter', 'above 1', { reconnectJitter: 1.1 }],
  ['reconnectJitter', 'negative', { reconnectJitter: -0.1 }],
  ['reconnectJitter', 'text', { reconnectJitter: '0.5' }],
  ['reconnectJitter', 'no number', { reconnectJitter: NaN }],
  ['delivery', 'unknown', { delivery: 'exactly-once' }],
  ['delivery', 'null', { delivery: null }],
  ['queueType', 'unknown', { ...LEAST, queueType: 'stream' }],
  ['queueType', 'at most once', { queueType: 'quorum' }],
  ['deadLetterExchange', 'empty', { ...LEAST, deadLetterExchange: '' }],
  [
    'deadLetterExchange',
    'long',
    { ...LEAST, deadLetterExchange: 'x'.repeat(256) },
  ],
  ['deadLetterExchange', 'at most once', { deadLetterExchange: 'dead' }],
  [
    'deadLetterExchange',
    'embedded',
    { ...LEAST, url: 'memory:', deadLetterExchange: 'dead' },
  ],
  ['queueExpires', 'zero', { ...LEAST, queueExpires: 0 }],
  ['queueExpires', 'a month', { ...LEAST, queueExpires: 2 ** 31 }],
  ['queueExpires', 'text', { ...LEAST, queueExpires: '5m' }],
  ['queueExpires', 'at most once', { queueExpires: 1000 }],
  ['bufferSize', 'zero', { bufferSize: 0 }],
  ['bufferSize', 'infinite', { bufferSize: Infinity }],
  ['prefetch', 'zero', { prefetch: 0 }],
  ['receiveExchange', 'number', { receiveExchange: 5 }],
  ['receiveQueue', 'empty', { receiveQueue: '' }],
  ['statusExchange', 'long', { statusExchange: 'x'.repeat(256) }],
  ['statusQueue', 'null', { statusQueue: null }],
  ['messageExchange', 'half a pair', { messageExchange: '\ud800' }],
  ['messageQueue', 'long', { messageQueue: 'x'.repeat(201) }],
];

for (const [option, what, conf] of BAD_MQ) {
  test(`mqConf.${option}: ${what}`, async (t) => {
    const wanted = { instanceOf: OptionError, code: 'ERR_INVALID_OPTION' };
    const httpServer = http.createServer();
    const errors = [
      t.throws(() => new Client(conf), wanted),
      await t.throwsAsync(server.start(conf, { ...usual, httpServer }), wanted),
    ];
    for (const error of errors) {
      t.is(error.option, `mqConf.${option}`);
      t.true(error.message.startsWith(`mqConf.${option}: `), error.message);
      t.false(inspect(error).includes(SECRET));
      t.true(error instanceof TypeError);
    }
    t.is(httpServer.listenerCount('upgrade'), 0);
  });
}

const BAD_WS = [
  ['httpServer', undefined],
  ['httpServer', []],
  ['httpServer', [5]],
  ['httpServer', 8080],
  ['httpServer', { on() {}, removeListener() {} }],
  ['key', { header: '\ud800' }],
  ['messageKey', { header: '\ud800' }],
  ['keyFn', undefined],
  ['keyFn', 'key'],
  ['messageKeyFn', undefined],
  ['messageKeyFn', {}],
  ['path', 'chat'],
  ['path', '/chat?room=1'],
  ['protocol', 'two words'],
  ['origin', 'line\nbreak'],
  ['maxReceivedFrameSize', 0],
  ['maxReceivedMessageSize', '1MB'],
  ['keepalive', 'yes'],
  ['keepaliveInterval', -5],
  ['keepaliveGracePeriod', NaN],
  ['dropConnectionOnKeepaliveTimeout', 1],
  ['useNativeKeepalive', null],
  ['closeTimeout', 1.5],
  ['assembleFragments', false],
  ['autoAcceptConnections', true],
  ['binary', 'true'],
  ['maxBackpressure', 0],
  ['slowConsumer', 'kill'],
  ['slowConsumer', null],
  ['threads', 0],
  ['threads', 65],
  ['threads', 1.5],
  ['parseCookies', 'no'],
  ['parseExtensions', 0],
  ['disableNagleAlgorithm', null],
  ['ignoreXForwardedFor', 'no'],
  ['fragmentOutgoingMessages', 0],
  ['fragmentationThreshold', 0],
  ['messageRate', 50],
  ['messageRate', {}],
  ['messageRate', { burst: 2 }],
  ['messageRate.messages', 0, { messages: 0, bytes: 1 }],
  ['messageRate.messages', Infinity, { messages: Infinity }],
  ['messageRate.bytes', '1MB', { bytes: '1MB' }],
  ['messageRate.burst', -1, { messages: 1, burst: -1 }],
  ['messageRate.policy', 'drop', { messages: 1, policy: 'drop' }],
  ['handshakeTimeout', -1],
  ['handshakeTimeout', 2 ** 31],
  ['handshakeTimeout', '10s'],
  ['maxConnections', -1],
  ['maxConnections', 1.5],
  ['maxConnections', Infinity],
  ['connectionRate', -1],
  ['connectionRate', NaN],
  ['connectionRate', '5'],
  ['connectionRate', null],
  ['connectionRate', {}],
  ['connectionRate', { perSecond: 0 }],
  ['connectionRate', { perSecond: 5, burst: 0 }],
  ['connectionRate', { perSecond: 5, burst: 1.5 }],
  ['connectionRate', { perSecond: 5, burts: 10 }],
  ['origins', []],
  ['origins', 'https://a.example'],
  ['origins', ['a.example']],
  ['origins', ['https://a.example/']],
  ['origins', ['https://a.example', '*']],
  ['origins', ['https://*']],
  ['origins', ['https://*.example']],
  ['origins', ['https://*.*.a.example']],
  ['origins', ['https://a*.b.example']],
  ['origins', ['https://me@a.example']],
  ['origins', ['https://a.example:x']],
  ['origins', [/a/]],
  ['origins', [undefined]],
  ['origins', new Array(1)],
];

for (const [option, value, given = value] of BAD_WS) {
  test(`wsConf.${option}: ${inspect(value)}`, async (t) => {
    const httpServer = http.createServer();
    const [outer] = option.split('.');
    // A declared key stands in the place of its function.
    const functions = { ...usual, [`${outer}Fn`]: undefined };
    const wsConf = { ...functions, httpServer, [outer]: given };
    const error = await t.throwsAsync(
      server.start(embedded.settings(), wsConf),
      { instanceOf: OptionError, code: 'ERR_INVALID_OPTION' },
    );
    t.is(error.option, `wsConf.${option}`);
    t.true(error.message.startsWith(`wsConf.${option}: `), error.message);
    t.is(httpServer.listenerCount('upgrade'), 0);
  });
}

// What is wrong, and what would be right.
const FAULTS = [
  ['mqConf', 'amqp://localhost', /got a string: give a url as \{ url \}$/],
  ['mqConf.host', { host: 'amqp://localhost' }, /got a url: .*mqConf\.url/],
  ['mqConf.host', { host: 'a.example,b.example' }, /hosts as an array/],
  ['mqConf.url', { url: 'localhost:5672' }, /scheme/],
  ['mqConf.url', { url: 'http://localhost' }, /scheme/],
  ['mqConf.url', { url: '"amqp://localhost"' }, /quotation mark/],
  ['mqConf.url', { url: 'amqp:localhost' }, /'\/\/' is missing/],
  ['mqConf.url', { url: 'memory://a/b' }, /'memory:' has a name at most/],
  ['mqConf.url', { url: 'amqp://h:0' }, /port is no integer/],
  ['mqConf.url', { url: 'amqp://h:99999' }, /port is no integer/],
  ['mqConf.url', { url: 'amqp://me:pw@h:x' }, /port is no integer/],
  ['mqConf.url', { url: 'amqp://me:pw@' }, /host is neither/],
  ['mqConf.url', { url: 'amqp://a b' }, /host is neither/],
  ['mqConf.url', { url: 'amqp://[::1' }, /host is neither/],
  ['mqConf.url', { url: 'amqp://a,b' }, /array in mqConf\.host/],
  ['mqConf.url', { url: 'amqp://a:1,b:2' }, /array in mqConf\.host/],
  ['mqConf.url', { url: 'amqp://h/%zz' }, /vhost holds a '%'/],
  ['mqConf.url', { url: `amqp://h/${'x'.repeat(256)}` }, /vhost has more than/],
  ['mqConf.url', { url: 'amqp://h/v#1' }, /'#'.*'%23'/],
  ['mqConf.deadLetterExchange', { deadLetterExchange: 'd' }, /at-least-once/],
  ['wsConf.httpServer', { httpServer: () => {} }, /createServer\(app\)/],
  [
    'wsConf.httpServer',
    // Koa's apps are emitters of events.
    {
      httpServer: Object.assign(new EventEmitter(), {
        callback() {},
        listen() {},
      }),
    },
    /createServer\(app\.callback\(\)\)/,
  ],
  [
    'wsConf.httpServer',
    { httpServer: { server: http.createServer() } },
    /property server/,
  ],
  [
    'wsConf.httpServer',
    { httpServer: undefined, httpserver: http.createServer() },
    /but 'httpserver'\. Did you mean 'httpServer'\?$/,
  ],
  ['wsConf.origins', { origins: [] }, /leave it out/],
  ['wsConf.origins', { origins: ['https://a.example', '*'] }, /: entry 1 is/],
  ['wsConf.origins', { origins: [/a/] }, /: entry 0 is an object.*function/],
  [
    'wsConf.origins',
    { origins: ['a.example'] },
    /: entry 0 \('a\.example'\) has no scheme/,
  ],
  [
    'wsConf.origins',
    { origins: ['null', 'https://a.example/chat'] },
    /: entry 1 .* after the host; the origin is 'https:\/\/a\.example'$/,
  ],
  ['wsConf.origins', { origins: ['https://*.example'] }, /first label/],
  ['wsConf.origins', { origins: ['https://'] }, /no host/],
  ['wsConf.origins', { origins: ['https://a b'] }, /space/],
  ['wsConf.origins', { origins: ['https://a:x'] }, /port that cannot be/],
  ['wsConf.origins', { origins: ['https://me:pa@a.example'] }, /0 holds a log/],
  ['wsConf.key', { key: {} }, /one field, got none/],
  ['wsConf.key', { key: { header: 'a', query: 'b' } }, /one field, got 2/],
  ['wsConf.key', { key: { cookies: 'a' } }, /Did you mean 'cookie'\?$/],
  ['wsConf.key', { key: { json: '/a' } }, /none of header, query, cookie/],
  ['wsConf.key', { key: { header: '' } }, /header: expected a non-empty/],
  ['wsConf.key', { key: { template: 'a' } }, /no placeholder/],
  ['wsConf.key', { key: { template: '{query:a}}' } }, /outside of/],
  [
    'wsConf.key',
    { key: { template: '{qeury:a}' } },
    /template: 'qeury' is none of .*Did you mean 'query'\?$/,
  ],
  ['wsConf.messageKey', { messageKey: { json: 'to' } }, /slash: '\/to'$/],
  ['wsConf.messageKey', { messageKey: { json: '$.a.b' } }, /slash: '\/a\/b'$/],
  ['wsConf.messageKey', { messageKey: { json: '/a~b' } }, /'~0'/],
  [
    'wsConf.messageKey',
    { messageKey: { template: '{json:to}' } },
    /template: json: .* slash: '\/to'$/,
  ],
  [
    'wsConf.connectionRate',
    { connectionRate: { perSecond: 5, burts: 10 } },
    /'burts' is none of its fields\. Did you mean 'burst'\?$/,
  ],
];

for (const [option, conf, text] of FAULTS) {
  test(`what is wrong with ${option} ${inspect(conf)}`, async (t) => {
    const isMq = option.startsWith('mqConf');
    const httpServer = http.createServer();
    // A declared key stands in the place of its function.
    const functions = { ...usual };
    for (const key of ['key', 'messageKey']) {
      if (Object(conf)[key]) delete functions[`${key}Fn`];
    }
    const error = await t.throwsAsync(
      server.start(
        isMq ? conf : embedded.settings(),
        isMq ? { ...usual, httpServer } : { ...functions, httpServer, ...conf },
      ),
      { instanceOf: OptionError, message: text },
    );
    t.is(error.option, option);
  });
}

const ENCODE = /encodeURIComponent, or give mqConf\.login and mqConf\.password/;

for (const password of ['a/b', 'a?b', 'a#b', 'a%b', '12/b', '12#b', '[a/b']) {
  test(`a url with the password ${password}, not encoded`, (t) => {
    for (const url of [
      `amqp://me:${SECRET}${password}@broker.example/v`,
      `amqp://m@e:${SECRET}${password}@broker.example/v`,
      `amqp://me:${password}@broker.example/v`,
    ]) {
      const error = t.throws(() => new Client({ url }), {
        instanceOf: OptionError,
      });
      t.is(error.option, 'mqConf.url');
      t.regex(error.message, ENCODE);
      const [text] = inspect(error).split('\n    at ');
      for (const part of [SECRET, password, 'broker.example']) {
        t.false(text.includes(part), text);
      }
    }
  });
}

test('each option has something that it cannot be', (t) => {
  const outer = (rows) => new Set(rows.map(([name]) => name.split('.')[0]));
  t.deepEqual([...outer(BAD_MQ)].sort(), optionNames('MqConf').sort());
  t.deepEqual([...outer(BAD_WS)].sort(), optionNames('WsOptions').sort());
});

test('what belongs to at least once says so', (t) => {
  for (const option of ['queueType', 'deadLetterExchange', 'queueExpires']) {
    const [, , conf] = BAD_MQ.find(
      ([name, what]) => name === option && what === 'at most once',
    );
    t.throws(() => new Client(conf), { message: /'at-least-once'/ });
    t.notThrows(() => new Client({ ...LEAST, ...conf }));
  }
  // What it would be anyhow is no contradiction.
  const usualOnes = { queueType: 'classic', deadLetterExchange: null };
  t.notThrows(() => new Client({ ...usualOnes, queueExpires: 300_000 }));
  const embeddedOne = { ...LEAST, url: 'memory:' };
  t.notThrows(() => new Client({ ...embeddedOne, ...usualOnes }));
  t.throws(() => new Client({ ...embeddedOne, deadLetterExchange: 'dead' }), {
    message: /embedded/,
  });
});

test('no settings at all', async (t) => {
  const wanted = { instanceOf: OptionError };
  const nothing = await t.throwsAsync(
    server.start(embedded.settings()),
    wanted,
  );
  t.is(nothing.option, 'wsConf');
  t.is(t.throws(() => new Client(null), wanted).option, 'mqConf');
  t.is(t.throws(() => new Client('amqp://x'), wanted).option, 'mqConf');
  t.notThrows(() => new Client());
});

forEachBroker(test, 'unknown options are a warning', async (t, broker) => {
  const mark = broker.name;
  const warnings = [];
  const listener = (warning) => {
    if (warning.message.includes(mark)) warnings.push(warning);
  };
  process.on('warning', listener);
  t.teardown(() => process.removeListener('warning', listener));
  const world = await open(t, broker, {
    mq: { [`defaultExchangeName${mark}`]: '' },
    ws: { [`fancy${mark}`]: SECRET, [`absent${mark}`]: undefined },
  });
  await world.connect('a');
  await until(() => warnings.length >= 3);
  t.deepEqual(warnings.map(({ message }) => message.split(' ')[0]).sort(), [
    `mqConf.defaultExchangeName${mark}`,
    `mqConf.defaultExchangeName${mark}`,
    `wsConf.fancy${mark}`,
  ]);
  for (const { name, code, message } of warnings) {
    t.is(name, 'MessageEnginWarning');
    t.is(code, 'MESSAGE_ENGIN_UNKNOWN_OPTION');
    t.false(message.includes(SECRET));
  }
});

test.serial('an option that is nearly known is asked after', async (t) => {
  const warnings = [];
  const listener = ({ message }) => warnings.push(message);
  process.on('warning', listener);
  t.teardown(() => process.removeListener('warning', listener));
  const typos = {
    vhots: 'vhost',
    hostname: 'host',
    user: 'login',
    tls: 'ssl',
    'ssl.cafile': 'caFile',
    hearbeat: 'heartbeat',
    receive_queue: 'receiveQueue',
    somethingElse: undefined,
  };
  new Client({
    ...{ vhots: 'v', hostname: 'h', user: 'u', tls: {}, hearbeat: 1 },
    ...{ receive_queue: 'q', somethingElse: 1 },
    ssl: { enabled: false, cafile: 'ca.pem' },
  });
  const wsTypos = {
    maxReceivedFramesize: 'maxReceivedFrameSize',
    keepAlive: 'keepalive',
    'messageRate.message': 'messages',
    username: undefined,
  };
  const gateway = await server.start(embedded.settings(), {
    ...usual,
    httpServer: http.createServer(),
    ...{ maxReceivedFramesize: 1, keepAlive: true, username: 'u' },
    messageRate: { bytes: 1, message: 1 },
  });
  await gateway.close();
  const wanted = [
    ...Object.entries(typos).map(([name, near]) => [`mqConf.${name}`, near]),
    ...Object.entries(wsTypos).map(([name, near]) => [`wsConf.${name}`, near]),
  ];
  for (const [name, near] of wanted) {
    const question = near ? `. Did you mean '${near}'?` : '';
    const text = `${name} is not an option of message-engin and is ignored`;
    await until(() => warnings.includes(`${text}${question}`));
  }
  t.pass();
});

forEachBroker(
  test,
  'every option of the original is known',
  async (t, broker) => {
    const warnings = [];
    const listener = ({ message, code }) => {
      const ours = code === 'MESSAGE_ENGIN_UNKNOWN_OPTION';
      if (ours && !/fancy|absent|defaultExch/.test(message)) {
        warnings.push(message);
      }
    };
    process.on('warning', listener);
    t.teardown(() => process.removeListener('warning', listener));
    const httpServer = await listen(t, http.createServer());
    const world = await open(t, broker, {
      mq: {
        connectionTimeout: 10_000,
        heartbeat: 5,
        noDelay: true,
        ssl: { enabled: false, rejectUnauthorized: true },
        clientProperties: { applicationName: 'test', nested: { a: [1] } },
        routingKeyInPayload: false,
        deliveryTagInPayload: false,
        reconnect: true,
        reconnectBackoffStrategy: 'exponential',
        reconnectBackoffTime: 500,
        reconnectExponentialLimit: 10_000,
        authMechanism: 'AMQPLAIN',
      },
      ws: {
        httpServer,
        maxReceivedFrameSize: 65_536,
        maxReceivedMessageSize: 1_048_576,
        fragmentOutgoingMessages: true,
        fragmentationThreshold: 16_384,
        keepalive: true,
        keepaliveInterval: 20_000,
        dropConnectionOnKeepaliveTimeout: true,
        keepaliveGracePeriod: 10_000,
        useNativeKeepalive: false,
        assembleFragments: true,
        autoAcceptConnections: false,
        ignoreXForwardedFor: false,
        parseCookies: true,
        parseExtensions: true,
        disableNagleAlgorithm: true,
        closeTimeout: 5000,
        protocol: '',
        origin: '',
      },
    });
    const peer = await world.connect('a');
    world.client.send('hello', { to: 'a' });
    t.deepEqual(await peer.received(1), ['hello']);
    t.deepEqual(warnings, []);
  },
);
