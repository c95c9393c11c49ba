'use strict';

// What wsConf says about sockets is set on them, as the kernel has it.

const { execFile } = require('node:child_process');
const path = require('node:path');
const test = require('ava');
const { which } = require('../scripts/lib/project');
const { plainAndSecure } = require('./support/ways');

const FILE = path.join(__dirname, 'fixtures', 'sockets', 'options.py');

/**
 * The options of our end of a client's socket.
 *
 * @returns {Promise<Record<string, any> | string>} or why they cannot be had
 */
function optionsOf(raw) {
  const python = process.platform === 'linux' && which('python3');
  if (!python) return Promise.resolve('this needs Linux and python3');
  const ports = [raw.socket.remotePort, raw.socket.localPort].map(String);
  return new Promise((resolve, reject) => {
    const args = [FILE, String(process.pid), ...ports];
    execFile(python, args, { timeout: 20_000 }, (error, stdout, stderr) => {
      if (!error) resolve(JSON.parse(stdout));
      else if (/not permitted|pidfd_open/.test(stderr)) resolve(stderr);
      else reject(new Error(stderr || error.message));
    });
  });
}

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
  plainAndSecure(test, JSON.stringify(settings), async (t, way) => {
    await way.open(settings);
    const raw = await way.rawOpen('a');
    const options = await optionsOf(raw);
    if (typeof options === 'string') {
      t.log(`skipped: ${options}`);
      t.pass();
    } else {
      t.like(options, wanted);
    }
  });
}
