'use strict';

// What wsConf says about sockets is set on them, as the kernel has it.

const { execFile, spawnSync } = require('node:child_process');
const path = require('node:path');
const test = require('ava');
const { which } = require('../../scripts/lib/project');
const { plainAndSecure } = require('../support/ways');

const FILE = path.join(__dirname, '..', 'fixtures', 'sockets', 'options.py');

const python = process.platform === 'linux' && which('python3');

/**
 * Why the options cannot be had, or ''. At once, since only tests that are
 * declared as skipped are counted so.
 */
function obstacle() {
  if (!python) return 'this needs Linux and python3';
  // No socket has these ports: what it says is whether it may look.
  const args = [FILE, String(process.pid), '0', '0'];
  const { stderr } = spawnSync(python, args, { timeout: 60_000 });
  const text = String(stderr).trim();
  return text === 'no such socket' ? '' : text || 'python3 does not answer';
}

/**
 * The options of our end of a client's socket.
 *
 * @returns {Promise<Record<string, any>>}
 */
function optionsOf(raw) {
  const ports = [raw.socket.remotePort, raw.socket.localPort].map(String);
  return new Promise((resolve, reject) => {
    const args = [FILE, String(process.pid), ...ports];
    execFile(python, args, { timeout: 60_000 }, (error, stdout, stderr) => {
      if (error) reject(new Error(stderr || error.message));
      else resolve(JSON.parse(stdout));
    });
  });
}

const why = obstacle();
// Seldom the fault of what is tested, and never to pass in silence.
if (why) console.warn(`options of sockets are not looked at: ${why}`);

const CASES = [
  [{}, { noDelay: true, keepAlive: false }],
  [{ disableNagleAlgorithm: true }, { noDelay: true, keepAlive: false }],
  [{ disableNagleAlgorithm: false }, { noDelay: false, keepAlive: false }],
  [
    { useNativeKeepalive: true },
    { noDelay: true, keepAlive: true, idleSeconds: 20 },
  ],
  [
    { useNativeKeepalive: true, keepaliveInterval: 7000 },
    { noDelay: true, keepAlive: true, idleSeconds: 7 },
  ],
  [
    { useNativeKeepalive: true, keepaliveInterval: 300 },
    { noDelay: true, keepAlive: true, idleSeconds: 1 },
  ],
  [
    { useNativeKeepalive: true, keepalive: false },
    { noDelay: true, keepAlive: false },
  ],
];

for (const [settings, wanted] of CASES) {
  const looking = why ? test.skip : test;
  plainAndSecure(looking, JSON.stringify(settings), async (t, way) => {
    await way.open(settings);
    const raw = await way.rawOpen('a');
    t.like(await optionsOf(raw), wanted);
  });
}
