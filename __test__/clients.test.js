'use strict';

// Clients that others wrote get back what they send, unchanged and in order.

const { execFile } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const test = require('ava');
const { which } = require('../scripts/lib/project');
const { forEachBroker } = require('./support/brokers');
const { launchChromium } = require('./support/chromium');
const { Peer, connectOld } = require('./support/peers');
const { until } = require('./support/until');
const { open } = require('./support/world');

const KIB = 1024;
const MIB = KIB * KIB;
const FIXTURES = path.join(__dirname, 'fixtures', 'clients');
const PYTHON_PACKAGES = ['websockets', 'websocket-client'];

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
      { maxBuffer: 64 * MIB, timeout: 60_000 },
      (error, stdout) => (error ? reject(error) : resolve(stdout)),
    );
    child.stdin.end(JSON.stringify(TEXTS));
  });
  return JSON.parse(output);
}

forEachBroker(test, 'ws', async (t, broker) => {
  const world = await echo(t, broker);
  const peer = await new Peer(world.url).opened;
  t.teardown(() => peer.terminate());
  for (const text of TEXTS) {
    const bytes = Buffer.from(text);
    // The default of maxReceivedFrameSize, and the cut through a character.
    for (let at = 0; at === 0 || at < bytes.length; at += 64 * KIB) {
      const fin = at + 64 * KIB >= bytes.length;
      const piece = bytes.subarray(at, at + 64 * KIB);
      peer.send(piece, { fin, binary: false });
    }
  }
  const back = await peer.received(TEXTS.length);
  const { code } = await peer.close(1000);
  await same(t, world, { back, code });
});

forEachBroker(test, 'ws, with compression offered', async (t, broker) => {
  const world = await echo(t, broker, { maxReceivedFrameSize: MIB });
  const options = { perMessageDeflate: { threshold: 0 } };
  const peer = await new Peer(world.url, options).opened;
  t.teardown(() => peer.terminate());
  t.is(peer.socket.extensions, '');
  for (const text of TEXTS) peer.send(text);
  const back = await peer.received(TEXTS.length);
  const { code } = await peer.close(1000);
  await same(t, world, { back, code });
});

forEachBroker(test, 'websocket', async (t, broker) => {
  const world = await echo(t, broker);
  const connection = await connectOld(world.url, {
    config: { maxReceivedFrameSize: MIB, maxReceivedMessageSize: MIB },
  });
  t.teardown(() => connection.drop());
  for (const text of TEXTS) connection.sendUTF(text);
  await until(() => connection.messages.length === TEXTS.length);
  const closed = new Promise((resolve) => connection.once('close', resolve));
  connection.close(1000);
  const code = await closed;
  await same(t, world, { back: connection.messages, code });
});

forEachBroker(test, "Node's own WebSocket", async (t, broker) => {
  // It puts each message into one frame.
  const world = await echo(t, broker, { maxReceivedFrameSize: MIB });
  const flags = globalThis.WebSocket ? [] : ['--experimental-websocket'];
  const file = path.join(FIXTURES, 'global.js');
  const result = await program(world.url, process.execPath, ...flags, file);
  await same(t, world, result, false);
});

forEachBroker(test, 'Chromium', async (t, broker) => {
  // Its frames have up to 131,000 bytes.
  const world = await echo(t, broker, { maxReceivedFrameSize: 128 * KIB });
  world.httpServer.on('request', (request, response) => response.end('page'));
  const chromium = await launchChromium(t);
  const { page } = await chromium.open(world.url.replace('ws:', 'http:'));
  const result = await page.evaluate(
    ([url, texts]) =>
      new Promise((resolve) => {
        const socket = new globalThis.WebSocket(url);
        const back = [];
        socket.onopen = () => texts.forEach((text) => socket.send(text));
        socket.onmessage = ({ data }) => {
          back.push(data);
          if (back.length === texts.length) socket.close(1000);
        };
        socket.onclose = ({ code }) => resolve({ back, code });
      }),
    [world.url, TEXTS],
  );
  await same(t, world, result);
});

// ------------------------------------------------------------------- Python

/** Why there is no Python to test with. @type {string} */
let why = '';
let folder;

test.before('Python and its packages', async (t) => {
  t.timeout(120_000);
  const python = which('python3');
  if (!python) return void (why = 'python3 is not on PATH');
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-python-'));
  try {
    await execute(python, '-m', 'venv', folder);
    const pip = ['-m', 'pip', '--disable-pip-version-check', '--retries', '1'];
    await execute(inVenv(), ...pip, 'install', '-q', ...PYTHON_PACKAGES);
  } catch (error) {
    why = `no ${PYTHON_PACKAGES.join(' or ')}: ${String(error).slice(0, 500)}`;
  }
});

test.after.always('Python is taken away', () => {
  if (folder) fs.rmSync(folder, { recursive: true });
});

const inVenv = () => path.join(folder, 'bin', 'python3');

/** @param {string} command @param {...string} args */
function execute(command, ...args) {
  return new Promise((resolve, reject) => {
    execFile(command, args, { timeout: 60_000 }, (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}

for (const name of ['websockets', 'websocket']) {
  forEachBroker(test, `Python: ${name}`, async (t, broker) => {
    if (why) {
      t.log(`skipped: ${why}`);
      t.pass();
      return;
    }
    const world = await echo(t, broker);
    const file = path.join(FIXTURES, `${name}_client.py`);
    await same(t, world, await program(world.url, inVenv(), file));
  });
}
