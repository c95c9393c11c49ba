'use strict';

const { spawn } = require('node:child_process');
const readline = require('node:readline');
const { onExit } = require('./cleanup');
const { root } = require('./project');

/**
 * @typedef {object} RunOptions
 * @property {string} [prefix] put before each line of output
 * @property {string} [cwd]
 * @property {NodeJS.ProcessEnv} [env] added to this process's own
 * @property {boolean} [quiet] keep the output back
 *
 * @typedef {object} RunResult
 * @property {boolean} ok
 * @property {number} seconds
 * @property {string[]} lines what it printed, standard error included
 */

// In a group of their own, what a command has started can be ended with it.
const ownGroup = process.platform !== 'win32';

/** @param {import('node:child_process').ChildProcess} child */
function endAll(child) {
  if (child.pid === undefined) return;
  if (ownGroup) process.kill(-child.pid, 'SIGTERM');
  else child.kill();
}

/**
 * Runs a command, showing its output as it comes, and never throws: whether it
 * could not be started or failed, `ok` is false and `lines` say why.
 *
 * @param {string} command
 * @param {string[]} args
 * @param {RunOptions} [options]
 * @returns {Promise<RunResult>}
 */
function run(command, args, options = {}) {
  const { prefix = '  ', cwd = root, env, quiet = false } = options;
  const start = Date.now();
  /** @type {string[]} */
  const lines = [];
  const say = (/** @type {string} */ line) => {
    lines.push(line);
    if (!quiet) console.log(prefix + line);
  };
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: ownGroup,
    });
    const forget = onExit(() => endAll(child));
    const end = (/** @type {boolean} */ ok) => {
      forget();
      resolve({ ok, seconds: (Date.now() - start) / 1000, lines });
    };
    for (const stream of [child.stdout, child.stderr]) {
      readline.createInterface({ input: stream }).on('line', say);
    }
    child.on('error', (error) => {
      say(`${command} could not be started: ${error.message}`);
      end(false);
    });
    child.on('close', (code, signal) => {
      if (signal) say(`${command} was ended by ${signal}`);
      end(code === 0);
    });
  });
}

module.exports = { run };
