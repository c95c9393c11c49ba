'use strict';

// What a WebSocket server must do with what a client may send, case by case:
// RFC 6455, in the order of its chapters.

const { OP, closing, frame } = require('./frames');

/**
 * @typedef {object} Case
 * @property {string} name
 * @property {Buffer[]} send
 * @property {(string | Buffer)[]} [messages] that come back
 * @property {boolean} [leaves] whether it ends the connection without waiting
 *   for them: a close is answered at once, and what breaks the protocol after a
 *   moment that may be too short on a busy machine
 * @property {(string | Buffer)[]} [pongs]
 * @property {number | null} [code] of the server's close frame; null: it has
 *   none; without it the connection stays open
 */

const part = (opcode, payload) => frame(opcode, payload, { fin: false });
const text = (payload) => frame(OP.text, payload);
/** A message whose echo comes although nonsense follows it. */
const before = (there) => (there ? [text('before')] : []);
const hex = (digits) => Buffer.from(digits, 'hex');

/** A message in frames of so many bytes. */
function split(opcode, payload, size) {
  const bytes = Buffer.from(payload);
  const frames = [];
  for (let at = 0; at < bytes.length; at += size) {
    frames.push(
      frame(at ? OP.more : opcode, bytes.subarray(at, at + size), {
        fin: at + size >= bytes.length,
      }),
    );
  }
  return frames;
}

/** Bytes that are not all alike. */
const octets = (length) =>
  Buffer.from(Array.from({ length }, (_, n) => (n * 7 + (n >> 8)) & 255));

/** @type {Case[]} */
const SIZES = [0, 1, 125, 126, 127, 128, 65_535, 65_536].flatMap((size) => [
  {
    name: `text of ${size} bytes`,
    send: [text('*'.repeat(size))],
    messages: ['*'.repeat(size)],
  },
  {
    name: `${size} octets`,
    send: [frame(OP.binary, octets(size))],
    messages: [octets(size)],
  },
]);

/** @type {Case[]} */
const PINGS = [
  ...['', 'Hello', hex('00fffefdfcfb00ff'), octets(125)].map((payload) => ({
    name: `a ping of ${payload.length} bytes`,
    send: [frame(OP.ping, payload)],
    pongs: [payload],
  })),
  {
    name: 'a ping that is too long',
    send: [frame(OP.ping, octets(126))],
    code: 1002,
  },
  {
    name: 'pongs that nobody asked for',
    send: [frame(OP.pong), frame(OP.pong, 'x'), frame(OP.ping, 'y')],
    pongs: ['y'],
  },
  {
    name: 'ten pings',
    send: Array.from({ length: 10 }, (_, n) => frame(OP.ping, `ping ${n}`)),
    pongs: Array.from({ length: 10 }, (_, n) => `ping ${n}`),
  },
];

/** @type {Case[]} */
const HEADS = [
  ...[1, 2, 3, 4, 5, 6, 7].flatMap((rsv) =>
    [OP.text, OP.binary, OP.ping, OP.pong, OP.close].map((opcode) => ({
      name: `reserved bits ${rsv} with opcode ${opcode}`,
      send: [
        ...before(opcode === OP.text),
        frame(opcode, opcode === OP.close ? closing(1000) : 'x', { rsv }),
        frame(OP.ping),
      ],
      messages: opcode === OP.text ? ['before'] : [],
      leaves: true,
      code: 1002,
    })),
  ),
  ...[3, 4, 5, 6, 7, 11, 12, 13, 14, 15].flatMap((opcode) =>
    ['', 'x'].map((payload) => ({
      name: `opcode ${opcode} with ${payload.length} bytes`,
      send: [...before(payload), frame(opcode, payload), frame(OP.ping)],
      messages: payload ? ['before'] : [],
      leaves: true,
      code: 1002,
    })),
  ),
  ...[OP.text, OP.binary, OP.ping, OP.close].map((opcode) => ({
    name: `opcode ${opcode} without a mask`,
    send: [frame(opcode, '', { masked: false }), text('after')],
    code: 1002,
  })),
  ...Object.entries({
    'a length of 1 in three bytes': '81fe00010000000078',
    'a length of 125 in nine bytes': '81ff000000000000007d',
    'a length of 65535 in nine bytes': '82ff000000000000ffff',
    'a length with its highest bit set': '82ff8000000000000000',
    'the largest length of all': '82ffffffffffffffffff',
  }).map(([name, head]) => ({ name, send: [hex(head)], code: 1002 })),
];

/** @type {Case[]} */
const FRAGMENTS = [
  {
    name: 'a ping in fragments',
    send: [part(OP.ping, 'one'), frame(OP.more, 'two')],
    code: 1002,
  },
  {
    name: 'a pong in fragments',
    send: [part(OP.pong, 'one'), frame(OP.more, 'two')],
    code: 1002,
  },
  {
    name: 'text in fragments',
    send: [part(OP.text, 'one'), frame(OP.more, 'two')],
    messages: ['onetwo'],
  },
  {
    name: 'octets in fragments, one of them empty',
    send: [part(OP.binary, 'one'), part(OP.more, ''), frame(OP.more, 'two')],
    messages: [Buffer.from('onetwo')],
  },
  {
    name: 'nothing but empty fragments',
    send: [part(OP.text, ''), part(OP.more, ''), frame(OP.more, '')],
    messages: [''],
  },
  {
    name: 'pings between fragments',
    send: [
      part(OP.text, 'one'),
      frame(OP.ping, 'first'),
      part(OP.more, 'two'),
      frame(OP.ping, 'second'),
      frame(OP.more, 'three'),
    ],
    messages: ['onetwothree'],
    pongs: ['first', 'second'],
  },
  {
    name: 'a ping within a message that does not end',
    send: [part(OP.text, 'one'), frame(OP.ping, 'now')],
    pongs: ['now'],
  },
  ...[true, false].flatMap((fin) => [
    {
      name: `a fragment of nothing, last: ${fin}`,
      send: [frame(OP.more, 'x', { fin }), text('after')],
      code: 1002,
    },
    {
      name: `a fragment of nothing after a whole message, last: ${fin}`,
      send: [
        part(OP.text, 'one'),
        frame(OP.more, 'two'),
        frame(OP.more, 'x', { fin }),
        text('after'),
      ],
      messages: ['onetwo'],
      code: 1002,
    },
    {
      name: `a message within another one, last: ${fin}`,
      send: [part(OP.text, 'one'), frame(OP.text, 'two', { fin })],
      code: 1002,
    },
    {
      name: `octets within text, last: ${fin}`,
      send: [part(OP.text, 'one'), frame(OP.binary, 'two', { fin })],
      code: 1002,
    },
  ]),
  {
    name: 'a close within a message',
    send: [part(OP.text, 'one'), frame(OP.close, closing(1000))],
    code: 1000,
  },
];

const RIGHT = [
  'Hello-µ@ßöäüàá-UTF-8!!',
  'κόσμε',
  '\0\u007f\u0080\u07ff\u0800\uffff\u{10000}\u{10ffff}',
  '\ud7ff\ue000\ufffd\ufffe\u{1fffe}\u{10fffe}',
  '👍'.repeat(50),
];

/** What comes before, and then the byte that makes it wrong. */
const WRONG = [
  ['cebae1bdb9cf83cebcceb5ed', 'a0', '80656469746564'],
  ['cebae1bdb9cf83cebcceb5f4', '90', '8080656469746564'],
  ['', '80', ''],
  ['', 'bf', '80'],
  ['c3', '28', ''],
  ['e282', '28', ''],
  ['f09f98', '61', ''],
  ['', 'c0', '80'],
  ['', 'c1', 'bf'],
  ['e0', '80', '80'],
  ['e0', '9f', 'bf'],
  ['f0', '80', '8080'],
  ['f0', '8f', 'bfbf'],
  ['ed', 'bf', 'bf'],
  ['', 'f5', '808080'],
  ['', 'fe', ''],
  ['', 'ff', ''],
];

/** @type {Case[]} */
const UTF8 = [
  ...RIGHT.flatMap((payload, n) =>
    [Infinity, 1, 2, 3, 5].map((size) => ({
      name: `right text ${n} in fragments of ${size}`,
      send: split(OP.text, payload, size),
      messages: [payload],
    })),
  ),
  ...WRONG.flatMap(([before, byte, after]) => {
    const whole = hex(before + byte + after);
    const now = hex(before + byte);
    return [
      { name: `${whole.toString('hex')} at once`, send: [text(whole)] },
      {
        name: `${whole.toString('hex')} byte by byte`,
        send: split(OP.text, whole, 1),
      },
      {
        name: `${now.toString('hex')} in a message that goes on`,
        send: [part(OP.text, now)],
      },
      {
        name: `${now.toString('hex')} in a frame that goes on`,
        send: [
          // The rest of the frame never comes.
          frame(OP.text, now, { length: 2000 }),
        ],
      },
    ].map((wrong) => ({ ...wrong, code: 1007 }));
  }),
  ...['c3', 'cebae1bd', 'f09f98'].map((digits) => ({
    name: `text that ends after ${digits}`,
    send: [part(OP.text, hex(digits)), frame(OP.more, '')],
    code: 1007,
  })),
  {
    name: 'octets that are no text',
    send: [frame(OP.binary, hex('ff80c3'))],
    messages: [hex('ff80c3')],
  },
];

/** @type {Case[]} */
const CLOSES = [
  {
    name: 'a message and a close',
    send: [text('last words'), frame(OP.close, closing(1000))],
    messages: ['last words'],
    leaves: true,
    code: 1000,
  },
  {
    name: 'two closes',
    send: [
      frame(OP.close, closing(1000)),
      frame(OP.close, closing(3000, 'again')),
    ],
    code: 1000,
  },
  {
    name: 'a close, and then a ping, text and nonsense',
    send: [
      frame(OP.close, closing(1001)),
      frame(OP.ping),
      text('late'),
      hex('ffffff'),
    ],
    code: 1001,
  },
  { name: 'a close without a code', send: [frame(OP.close)], code: null },
  {
    name: 'a close of one byte',
    send: [frame(OP.close, 'x')],
    code: 1002,
  },
  ...[closing(1000, 'x'.repeat(123)), closing(4000, 'ü'.repeat(61))].map(
    (payload) => ({
      name: `a close of ${payload.length} bytes`,
      send: [frame(OP.close, payload)],
      code: payload.readUInt16BE(0),
    }),
  ),
  {
    name: 'a close that is too long',
    send: [frame(OP.close, closing(1000, 'x'.repeat(124)))],
    code: 1002,
  },
  {
    name: 'a close in fragments',
    send: [part(OP.close, closing(1000))],
    code: 1002,
  },
  {
    name: 'a close reason that is no text',
    send: [frame(OP.close, closing(1000, hex('cebae1bdb9cf83cebcceb5eda080')))],
    code: 1007,
  },
  ...[1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014]
    .concat(3000, 3999, 4000, 4999)
    .map((code) => ({
      name: `close code ${code}`,
      send: [frame(OP.close, closing(code))],
      code,
    })),
  ...[0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535].map(
    (code) => ({
      name: `close code ${code}`,
      send: [frame(OP.close, closing(code))],
      code: 1002,
    }),
  ),
];

const LARGE = 'Zeichen für Zeichen, 字. '.repeat(10_000);

/** @type {Case[]} */
const LARGES = [
  { name: 'a large text', send: [text(LARGE)], messages: [LARGE] },
  {
    name: 'many octets',
    send: [frame(OP.binary, octets(500_000))],
    messages: [octets(500_000)],
  },
  ...[64, 1300, 4096, 65_536].flatMap((size) => [
    {
      name: `a large text in fragments of ${size}`,
      send: split(OP.text, LARGE, size),
      messages: [LARGE],
    },
    {
      name: `many octets in fragments of ${size}`,
      send: split(OP.binary, octets(200_000), size),
      messages: [octets(200_000)],
    },
  ]),
];

module.exports = {
  CASES: { SIZES, PINGS, HEADS, FRAGMENTS, UTF8, CLOSES, LARGES },
};
