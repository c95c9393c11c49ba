'use strict';

// Loaded by ava before each test file (see `require` in its configuration):
// gives every test a limit, and ends the process of a file that does not end.
//
// ava's own timeout cannot be relied on: it counts from the last event of any
// file, fires once, and is dropped when a t.timeout() is running at that moment.

const { fileURLToPath } = require('node:url');
const { note, openResources } = require('../../scripts/lib/test-journal');

/**
 * @param {object} limits in seconds
 * @param {number} limits.test without an assertion, for tests that set no
 *   t.timeout() of their own: the test fails
 * @param {number} limits.file without the end of a test or hook: the process is
 *   ended
 * @param {number} limits.exit after the last test: the process is ended
 */
module.exports = async function limit(limits) {
  const test = require('ava');
  const { registerCompletionHandler } = await import('ava');
  const file = fileURLToPath(test.meta.file);
  /** Titles of tests and hooks. @type {Set<string>} */
  const running = new Set();

  note('begin', file);
  process.on('exit', () => note('end', file));

  /** @param {string} why */
  function fail(why) {
    console.error(`${file}: ${why}; open: ${openResources()}`);
    process.exit(1);
  }

  // None of these timers keeps the process alive.
  const silence = setTimeout(() => {
    const titles = [...running].map((title) => `\n  unfinished: ${title}`);
    fail(`nothing has ended for ${limits.file} s${titles.join('')}\n`);
  }, limits.file * 1000).unref();

  registerCompletionHandler(() => {
    clearTimeout(silence);
    setTimeout(() => {
      fail(`the process does not exit although its tests are over`);
    }, limits.exit * 1000).unref();
  });

  /** @param {string} title */
  function begin(title) {
    running.add(title);
    note('begin', file, title);
    silence.refresh();
  }

  /** @param {string} title */
  function end(title) {
    running.delete(title);
    note('end', file, title);
    silence.refresh();
  }

  /** @param {(t: import('ava').ExecutionContext) => any} run */
  const limitedTest = (run) => (t) => {
    begin(t.title);
    // The teardown that was registered first runs last.
    t.teardown(() => end(t.title));
    t.timeout(limits.test * 1000);
    return run(t);
  };

  /** @param {(t: import('ava').ExecutionContext) => any} run */
  const limitedHook = (run) => async (t) => {
    begin(t.title);
    try {
      await run(t);
    } finally {
      end(t.title);
    }
  };

  /**
   * ava's function for declaring tests or hooks, with the functions that are
   * its properties: test, test.serial, test.after, test.after.always ...
   */
  function wrap(declare, name = 'test') {
    const isHook = /\.(?:before|after)/.test(name);
    const limited = isHook ? limitedHook : limitedTest;
    const wrapped = (...args) => {
      declare(
        ...args.map((arg) => (typeof arg === 'function' ? limited(arg) : arg)),
      );
    };
    for (const [key, value] of Object.entries(declare)) {
      const isChain = typeof value === 'function' && key !== 'macro';
      wrapped[key] = isChain ? wrap(value, `${name}.${key}`) : value;
    }
    return wrapped;
  }

  require.cache[require.resolve('ava')].exports = wrap(test);
};
