'use strict';

const childProcess = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const { which } = require('./project');

/** @typedef {import('node:child_process').ChildProcess} Child */

/** Ends a child even when this process itself is killed, where that exists. */
function dieWithParent() {
  const setpriv = process.platform === 'linux' && which('setpriv');
  // That of BusyBox does not know the option.
  if (!setpriv || fs.realpathSync(setpriv).endsWith('/busybox')) return [];
  return [setpriv, '--pdeathsig', 'KILL', '--'];
}

/**
 * Starts a server that lives as long as this process at most.
 *
 * @param {string[]} command
 * @param {object} options
 * @param {string} options.cwd
 * @param {NodeJS.ProcessEnv} options.env the whole of it
 * @param {string} options.output the file for what it prints
 * @returns {Child}
 */
function startServer(command, { cwd, env, output }) {
  const [file, ...args] = [...dieWithParent(), ...command];
  // A file, not a pipe: the server must not feel how busy this process is.
  const descriptor = fs.openSync(output, 'a');
  const child = childProcess.spawn(file, args, {
    cwd,
    env,
    stdio: ['ignore', descriptor, descriptor],
    detached: true,
  });
  fs.closeSync(descriptor);
  child.on('error', (error) => {
    fs.appendFileSync(output, `${file}: ${error.message}\n`);
  });
  // A test that forgets to stop its server must not hang for it.
  child.unref();
  return child;
}

/**
 * @param {Child | null} child
 * @returns {child is Child & { pid: number }}
 */
function isRunning(child) {
  return (
    child !== null &&
    child.pid !== undefined &&
    child.exitCode === null &&
    child.signalCode === null
  );
}

/**
 * Ends a child, with SIGKILL when it does not follow in time.
 *
 * @param {Child | null} child
 * @param {'SIGTERM' | 'SIGKILL'} signal
 * @param {number} limit in milliseconds
 */
async function endChild(child, signal, limit) {
  if (!isRunning(child)) return;
  const ended = once(child, 'exit');
  child.ref();
  child.kill(signal);
  const timer = setTimeout(() => child.kill('SIGKILL'), limit);
  await ended;
  clearTimeout(timer);
}

module.exports = { startServer, isRunning, endChild };
