'use strict';

// What clients that others wrote are to get back, unchanged and in order.

const { execFile } = require('node:child_process');
const path = require('node:path');
const { open } = require('./world');

const MIB = 1024 * 1024;
const FIXTURES = path.join(__dirname, '..', 'fixtures', 'clients');

const SIZES = [0, 1, 125, 126, 65_535, 65_536, MIB - 1];

/** A text of so many bytes, with characters of two, three and four. */
function mixed(bytes) {
  const pattern = 'ü€👍';
  const whole = Math.floor(bytes / 9);
  return 'x'.repeat(bytes - whole * 9) + pattern.repeat(whole);
}

const TEXTS = [
  ...SIZES.map((size) => 'a'.repeat(size)),
  ...SIZES.map(mixed),
  ...['null', '5', '"quoted"', '{"a": [1, {"b": "\\u00fc"}]}', '{', ' \t\r\n'],
  ...['\0', '\ufeffbom\ufeff', '\u2028\u2029', '\ufffd\uffff\u{10ffff}'],
  ...['👩‍👩‍👧‍👦', 'e\u0301', '\u202eright to left', 'last'],
];

/** A gateway whose worker sends the texts back to whom they came from. */
async function echo(t, broker, ws) {
  const world = await open(t, broker, {
    ws: {
      // The one header that every client sends, and no two the same.
      keyFn: ({ key }) => key,
      messageKeyFn: (message, headers) => headers['sec-websocket-key'],
      maxBackpressure: 16 * MIB,
      ...ws,
    },
  });
  world.client.on('message', (message, headers, info) => {
    world.client.send(info.raw.toString(), {
      'sec-websocket-key': headers['sec-websocket-key'],
    });
  });
  return world;
}

/** What came back is what was sent, and everybody parted as friends. */
async function same(t, { gateway, told }, { back, code }, marks = true) {
  t.is(code, 1000);
  t.is(back.length, TEXTS.length);
  for (const [index, text] of TEXTS.entries()) {
    // Node 20's own client takes a mark at the beginning for one of encoding.
    const marked = marks ? text : text.replace(/^\ufeff/, '');
    // Not t.is, which would print a difference of megabytes.
    t.true(
      text === back[index] || marked === back[index],
      `text ${index}, ${text.slice(0, 20)}`,
    );
  }
  t.is((await told(2))[1][2], 1000);
  const { received, sent, overflowed, ignoredBinary } = gateway.stats();
  t.deepEqual([received, sent], [TEXTS.length, TEXTS.length]);
  t.deepEqual([overflowed, ignoredBinary], [0, 0]);
}

/** Runs a program with the texts as its input. */
async function program(url, command, ...args) {
  const output = await new Promise((resolve, reject) => {
    const child = execFile(
      command,
      [...args, url],
      { maxBuffer: 64 * MIB, timeout: 100_000 },
      (error, stdout) => (error ? reject(error) : resolve(stdout)),
    );
    child.stdin.end(JSON.stringify(TEXTS));
  });
  return JSON.parse(output);
}

module.exports = { FIXTURES, TEXTS, echo, program, same };
