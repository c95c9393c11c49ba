'use strict';

// An npm registry on the loopback interface for the packages of a release. All
// others it takes from the registry that npm is set to.

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { setTimeout: delay } = require('node:timers/promises');
const { endChild, isRunning, startServer } = require('./child');
const { HOST, freePort } = require('./ports');
const { npmCommand } = require('./project');
const { Problem } = require('./steps');

const START_LIMIT = 60_000;
const STOP_LIMIT = 5_000;

/** The registry that npm is set to on this machine. */
function upstream() {
  const [command, ...args] = npmCommand();
  const options = /** @type {const} */ ({ encoding: 'utf8' });
  return execFileSync(
    command,
    [...args, 'config', 'get', 'registry'],
    options,
  ).trim();
}

/**
 * @param {string} verdaccio its JavaScript file
 * @param {string} folder for all that it writes
 * @param {string} own the pattern of the packages that are published here
 */
async function startRegistry(verdaccio, folder, own) {
  fs.mkdirSync(folder);
  const config = path.join(folder, 'config.yaml');
  const output = path.join(folder, 'output.txt');
  const permissions = { access: '$all', publish: '$all', unpublish: '$all' };
  // JSON is YAML too.
  fs.writeFileSync(
    config,
    JSON.stringify({
      storage: path.join(folder, 'storage'),
      uplinks: {
        upstream: { url: upstream(), timeout: '60s', max_fails: 100 },
      },
      // Without an uplink: what is published elsewhere must not stand in.
      packages: {
        [own]: permissions,
        '**': { access: '$all', proxy: 'upstream' },
      },
      web: { enable: false },
      max_body_size: '500mb',
      log: { type: 'stdout', format: 'json', level: 'warn' },
    }),
  );
  const port = await freePort();
  const url = `http://${HOST}:${port}/`;
  const child = startServer(
    [
      process.execPath,
      verdaccio,
      '--config',
      config,
      '--listen',
      `${HOST}:${port}`,
    ],
    { cwd: folder, env: process.env, output },
  );
  const limit = Date.now() + START_LIMIT;
  while (!(await answers(`${url}-/ping`))) {
    if (!isRunning(child) || Date.now() > limit) {
      await endChild(child, 'SIGKILL', STOP_LIMIT);
      const text = fs.readFileSync(output, 'utf8');
      throw new Problem(`The registry did not start: ${text}`);
    }
    await delay(50);
  }
  return { url, stop: () => endChild(child, 'SIGTERM', STOP_LIMIT) };
}

/** @param {string} url */
async function answers(url) {
  try {
    return (await fetch(url)).ok;
  } catch {
    return false;
  }
}

module.exports = { startRegistry };
