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
 * @property {number} [silence] in ms: the command is ended when it has printed
 *   nothing for so long
 * @property {number} [limit] in ms: the command is ended when it has run so long
 * @property {() => void} [onStall] called before a command is ended for one of
 *   these reasons
 *
 * @typedef {object} RunResult
 * @property {boolean} ok
 * @property {boolean} stalled it ran into a limit and was ended
 * @property {number} seconds
 * @property {string[]} lines what it printed, standard error included
 */

// In a group of their own, what a command has started can be ended with it.
const ownGroup = process.platform !== 'win32';

// A command that is interrupted has so long to say what it was doing.
const INTERRUPT_GRACE = 10_000;
// What has ended may be read for so long, if another process keeps a pipe open.
const OUTPUT_GRACE = 5_000;
// This process waits so long, when it exits, for what it has started.
const EXIT_GRACE = 1_000;

/**
 * @param {import('node:child_process').ChildProcess} child
 * @param {'SIGTERM' | 'SIGKILL'} signal
 */
function signalAll(child, signal) {
  if (child.pid === undefined) return;
  try {
    if (ownGroup) process.kill(-child.pid, signal);
    else child.kill(signal);
  } catch {
    // Nobody is left in the group.
  }
}

/** @param {import('node:child_process').ChildProcess} child */
function endAll(child) {
  signalAll(child, 'SIGTERM');
  // Nothing asynchronous runs any more.
  const never = new Int32Array(new SharedArrayBuffer(4));
  Atomics.wait(never, 0, 0, EXIT_GRACE);
  signalAll(child, 'SIGKILL');
}

/**
 * Calls back once, when a limit is reached.
 *
 * @param {{ silence?: number, limit?: number }} limits in milliseconds
 * @param {(why: string) => void} onLimit
 */
function watch({ silence, limit }, onLimit) {
  /** @type {NodeJS.Timeout[]} */
  const timers = [];
  const stop = () => timers.forEach((timer) => clearTimeout(timer));
  const start = (/** @type {number} */ ms, /** @type {string} */ what) => {
    const timer = setTimeout(() => {
      stop();
      onLimit(`${what} for ${ms / 1000} s`);
    }, ms);
    timers.push(timer);
    return timer;
  };
  if (limit) start(limit, 'it has run');
  const quiet = silence ? start(silence, 'it has printed nothing') : null;
  return { stop, heard: () => quiet?.refresh() };
}

/**
 * Runs a command, showing its output as it comes, and never throws: whether it
 * could not be started, failed or ran into a limit, `ok` is false and `lines`
 * say why.
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
    const { stdout, stderr } = child;
    let stalled = false;
    /** @type {NodeJS.Timeout | undefined} */
    let grace;
    const forget = onExit(() => endAll(child));
    const limits = watch(options, (why) => {
      stalled = true;
      say(`${command} is ended: ${why}`);
      options.onStall?.();
      child.kill('SIGINT');
      grace = setTimeout(() => signalAll(child, 'SIGKILL'), INTERRUPT_GRACE);
    });
    const end = (/** @type {boolean} */ ok) => {
      limits.stop();
      clearTimeout(grace);
      forget();
      const seconds = (Date.now() - start) / 1000;
      resolve({ ok: ok && !stalled, stalled, seconds, lines });
    };
    for (const stream of [stdout, stderr]) {
      readline.createInterface({ input: stream }).on('line', (line) => {
        limits.heard();
        say(line);
      });
    }
    child.on('error', (error) => {
      say(`${command} could not be started: ${error.message}`);
      end(false);
    });
    child.on('exit', () => {
      limits.stop();
      clearTimeout(grace);
      if (stalled) signalAll(child, 'SIGKILL');
      grace = setTimeout(() => {
        say(`${command} has left a process that keeps its output open`);
        stalled = true;
        signalAll(child, 'SIGKILL');
        stdout.destroy();
        stderr.destroy();
      }, OUTPUT_GRACE);
    });
    child.on('close', (code, signal) => {
      if (signal) say(`${command} was ended by ${signal}`);
      end(code === 0);
    });
  });
}

module.exports = { run };
