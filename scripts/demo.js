'use strict';

// npm run demo: makes the clone ready, then runs the example.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { prepare } = require('./prepare');
const { root } = require('./lib/project');
const { step, script, Problem } = require('./lib/steps');

const SERVER = path.join('examples', 'demo', 'server.js');

script(async () => {
  if (!fs.existsSync(path.join(root, SERVER))) {
    throw new Problem(`${SERVER} is missing from this clone.`);
  }
  await prepare();
  step(`starting ${SERVER}`);
  const args = [SERVER, ...process.argv.slice(2)];
  const server = spawn(process.execPath, args, {
    cwd: root,
    stdio: 'inherit',
    // Ctrl-C then reaches this process alone, and the server once, from here.
    detached: process.platform !== 'win32',
  });
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
    process.on(signal, () => server.kill(signal));
  }
  server.on('exit', (code) => process.exit(code ?? 1));
});
