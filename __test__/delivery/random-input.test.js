'use strict';

// Whatever is given to the package, it answers as it says it does: the same
// thousands of made-up inputs in every run.

const http = require('node:http');
const { inspect } = require('node:util');
const test = require('ava');
const { Client, OptionError, server } = require('../..');
const { embedded } = require('../support/brokers');
const { optionNames } = require('../support/declarations');
const { Dice } = require('../support/dice');
const { RawPeer, upgradeRequest } = require('../support/raw');
const { open, usual } = require('../support/world');

const PAIRS = 1000;
const REQUESTS = 1500;
const AT_ONCE = 50;

const VALUES = [
  ...[undefined, null, true, false, NaN, Infinity, -0, 0, 1, -1, 0.5],
  ...[255, 256, 5672, 65535, 65536, 2 ** 31, 2 ** 53, 1e300, 5n, Symbol('s')],
  ...['', '0', '5672', 'yes', '/', '/chat', '/a?b', 'x'.repeat(300), '\ud800'],
  ...['\0', 'a b', 'ü', '__proto__', 'localhost:1', '[::1]:5', '::1', 'a:b:c'],
  ...['amqp://', 'amqp:x', 'amqp://u:p@h:0/%', 'amqps://h', 'memory://x/y'],
  ...['memory:', 'memory://%00', 'http://h', 'amqp://[::', 'PLAIN', 'linear'],
  ...[
    [],
    [1],
    [[]],
    {},
    { enabled: true },
    { enabled: 1 },
    Object.create(null),
  ],
  ...['at-least-once', 'quorum', 'wait', ['https://a.example'], { bytes: 1 }],
  ...[() => 'k', function* () {}, new Date(NaN), Buffer.alloc(3), /x/],
  ...[
    { header: '' },
    { header: '\ud800' },
    { json: '/a~2' },
    { json: '/\ud800' },
  ],
  ...[
    { template: '{' },
    { template: '{header:a}\udfff' },
    { query: '__proto__' },
  ],
  ...[{ cookie: 'c' }, { header: 'h', json: '/j' }, { template: '{json:/a}' }],
  ...[{ toString: null }, { toJSON: () => 1n }, { toJSON: () => undefined }],
  ...[new Proxy({}, {}), new Map(), { on() {}, removeListener() {} }],
];
/** All options, and names that are none. */
const NAMES = {
  mq: [...optionNames('MqConf'), 'unknown', '__proto__'],
  ws: [...optionNames('WsOptions'), 'unknown', '__proto__'],
};

/** The warnings would be thousands. */
function expectWarnings(t) {
  const emit = process.emitWarning;
  process.emitWarning = () => {};
  t.teardown(() => (process.emitWarning = emit));
}

/** Every value for every option, and then two at a time. @param {string[]} names */
function* oddOptions(names) {
  for (const name of names) {
    for (const value of VALUES) yield including({}, name, value);
  }
  const dice = new Dice(1);
  for (let index = 0; index < PAIRS; index++) {
    const value = dice.below(4) ? dice.of(VALUES) : dice.text(12);
    const conf = including({}, dice.of(names), value);
    yield including(conf, dice.of(names), dice.of(VALUES));
  }
}

/** With a property of its own, whatever its name is. */
function including(conf, name, value) {
  const flags = { enumerable: true, configurable: true, writable: true };
  return Object.defineProperty(conf, name, { value, ...flags });
}

test.serial('odd options of a client are an OptionError or accepted', (t) => {
  expectWarnings(t);
  let accepted = 0;
  for (const conf of [...VALUES, ...oddOptions(NAMES.mq)]) {
    try {
      // Nothing is connected before init().
      new Client(conf);
      accepted += 1;
    } catch (error) {
      t.true(error instanceof OptionError, `${inspect(conf)}: ${error.stack}`);
    }
  }
  t.true(accepted > 200, `${accepted} accepted`);
});

test.serial(
  'odd options of a gateway are an OptionError, or it starts and closes',
  async (t) => {
    expectWarnings(t);
    const httpServer = http.createServer();
    let accepted = 0;
    for (const odd of oddOptions(NAMES.ws)) {
      const conf = { ...usual, httpServer, ...odd };
      if (odd.key !== undefined && !('keyFn' in odd)) delete conf.keyFn;
      if (odd.messageKey !== undefined && !('messageKeyFn' in odd)) {
        delete conf.messageKeyFn;
      }
      try {
        const gateway = await server.start(embedded.settings(), conf);
        accepted += 1;
        await gateway.close();
      } catch (error) {
        t.true(error instanceof OptionError, `${inspect(odd)}: ${error.stack}`);
      }
      t.is(httpServer.listenerCount('upgrade'), 0, inspect(odd));
    }
    t.true(accepted > 200, `${accepted} accepted`);
  },
);

/** Headers that somebody reads, and one that nobody does. */
const HEADERS = [
  ...['Host', 'Upgrade', 'Connection', 'Origin', 'Cookie', 'X-Forwarded-For'],
  ...['Sec-WebSocket-Key', 'Sec-WebSocket-Version', 'Sec-WebSocket-Protocol'],
  ...['Sec-WebSocket-Extensions', 'Sec-WebSocket-Origin', 'Content-Length'],
  ...['Transfer-Encoding', 'Expect', 'X-Other', '__proto__', 'constructor'],
];
const TEXTS = [
  ...['', ',', ';', '=', ';;,,==', 'a=%zz', 'a="', '"', 'a=b; a=c,d', '\t'],
  ...['websocket', 'Upgrade', 'close', '13', '8', '0', '-1', '1e1', '99999999'],
  ...['permessage-deflate; a="b;c", x;=;y=', '1.2.3.4, ,::1', 'chat, CHAT,,x'],
  ...['constructor', '__proto__=1', '\x80\xff', 'x'.repeat(5000), 'chunked'],
];
const TARGETS = [
  ...['/?key=a', '/?key=', '/', '*', '//', '/%', '/?key=%zz', '//x:y@z?key=b'],
  ...['http://x:99999/?key=a', '/?key=a&key=b', '/?__proto__=1', '/#?key=c'],
];

/** @param {Dice} dice @returns {Buffer} */
function oddRequest(dice) {
  /** @type {Record<string, string | null>} */
  const headers = {};
  for (let count = dice.below(4); count > 0; count--) {
    const name = dice.below(12) ? dice.of(HEADERS) : dice.bytes(6);
    const value = dice.below(3) ? dice.of(TEXTS) : dice.bytes(20);
    headers[name] = dice.below(10) ? value : null;
  }
  const method = dice.below(10) ? 'GET' : dice.of(['POST', 'PRI', 'get', '']);
  const target = dice.below(4) ? dice.of(TARGETS) : `/${dice.bytes(9)}?key=r`;
  const text = upgradeRequest(target, headers, method);
  const bytes = Buffer.from(text, 'latin1');
  // Now and then a byte or two that are wrong, or what comes behind.
  for (let count = dice.below(8) ? 0 : 2; count > 0; count--) {
    bytes[dice.below(bytes.length)] = dice.below(256);
  }
  const behind = dice.below(4) ? '' : dice.bytes(30);
  return Buffer.concat([bytes, Buffer.from(behind, 'latin1')]);
}

/**
 * The bytes of an answer, once there is one, and nothing where there is none
 * to the end of the connection.
 *
 * @param {RawPeer} peer
 * @param {Buffer} request
 */
async function answerTo(peer, request) {
  await peer.write(request);
  // Whoever has not said enough gets its end, and nothing waits for more.
  peer.socket.end();
  await peer.closed;
  return peer.head;
}

for (const [style, confs] of Object.entries({
  'with functions': {},
  'with everything read': {
    keyFn(request) {
      const { cookies, requestedExtensions, remoteAddresses } = request;
      const read = [cookies, requestedExtensions, remoteAddresses];
      if (inspect(read).length > 1e6) throw new Error('too much');
      request.accept(request.requestedProtocols[0]);
      return request.resourceURL.query.key ?? 'none';
    },
  },
  'with declared keys': {
    keyFn: undefined,
    key: { template: '{header:upgrade}:{query:key}' },
  },
})) {
  test.serial(`odd requests are answered or closed, ${style}`, async (t) => {
    const world = await open(t, embedded, { ws: confs });
    const healthy = await world.connect('healthy');
    const dice = new Dice(style.length);
    /** @type {Record<string, number>} */
    const statuses = {};
    const where = { host: '127.0.0.1', port: world.port };
    for (let done = 0; done < REQUESTS / 3; done += AT_ONCE) {
      const requests = Array.from({ length: AT_ONCE }, () => oddRequest(dice));
      const peers = await Promise.all(
        requests.map(() => RawPeer.connect(where)),
      );
      const heads = await Promise.all(
        peers.map((peer, index) => answerTo(peer, requests[index])),
      );
      for (const head of heads) {
        const status = head ? head.status : 'closed';
        statuses[status] = (statuses[status] ?? 0) + 1;
      }
      healthy.send(`"${done}"`);
    }
    // Each of these comes about, and nothing else than an HTTP answer does.
    t.true(statuses[101] > 0, inspect(statuses));
    t.true(statuses[400] > 0, inspect(statuses));
    const heard = await world.heard(REQUESTS / 3 / AT_ONCE);
    t.true(heard.includes('0'), inspect(heard));
    t.is(healthy.socket.readyState, 1);
  });
}
