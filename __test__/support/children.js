'use strict';

const { fork } = require('node:child_process');
const path = require('node:path');
const { until } = require('./until');

/** In ms: a process takes longer to start than anything else here. */
const PATIENCE = 100_000;
const FIXTURES = path.join(__dirname, '..', 'fixtures');

/**
 * Runs a script of `fixtures/` in a process of its own, which ends with the
 * test at the latest.
 *
 * @param {import('ava').ExecutionContext} t
 * @param {string} name
 * @param {Record<string, any>} [env]
 */
function run(t, name, env = {}) {
  const child = fork(path.join(FIXTURES, name), {
    env: { ...process.env, ...env },
    // ava's own options are not for them.
    execArgv: [],
    silent: true,
  });
  const script = {
    child,
    stdout: '',
    stderr: '',
    /** What it told through process.send. @type {any[]} */
    told: [],
    /** @type {{ code: number | null, signal: string | null } | null} */
    ended: null,

    /**
     * The match of what it prints.
     *
     * @param {RegExp} pattern
     * @returns {Promise<RegExpExecArray>}
     */
    prints: (pattern) => script.wait(() => pattern.exec(script.stdout)),

    /** The message in which it tells `name`. @param {string} name */
    tells: (name) =>
      script.wait(() => script.told.find((told) => name in told)?.[name]),

    /**
     * @template T
     * @param {() => T} condition
     */
    async wait(condition) {
      const result = await until(() => condition() || script.ended, PATIENCE);
      if (result !== script.ended) return result;
      // What it did last may have come with its end.
      const last = condition();
      if (last) return last;
      throw new Error(
        `${name} ended (${JSON.stringify(script.ended)}): ${script.stdout}${script.stderr}`,
      );
    },

    /** How it ended, once it has. */
    end: () => until(() => script.ended, PATIENCE),
  };
  for (const stream of /** @type {const} */ (['stdout', 'stderr'])) {
    child[stream].setEncoding('utf8');
    child[stream].on('data', (text) => (script[stream] += text));
  }
  child.on('message', (message) => script.told.push(message));
  child.on('close', (code, signal) => (script.ended = { code, signal }));
  t.teardown(async () => {
    if (!script.ended) child.kill('SIGKILL');
    await script.end();
  });
  return script;
}

module.exports = { run };
