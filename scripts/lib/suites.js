'use strict';

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { stripVTControlCharacters } = require('node:util');
const { bin, root } = require('./project');
const { run } = require('./run');
const { step } = require('./steps');
const { VARIABLE, unfinished } = require('./test-journal');

/**
 * @typedef {object} Outcome
 * @property {number} passed
 * @property {number} failed at least 1 when the run itself failed
 *
 * @typedef {object} SuiteOptions
 * @property {string} [node] the executable
 * @property {string[]} [args] further arguments
 * @property {number} [silence] in ms: the suite is ended when it has printed
 *   nothing for so long
 * @property {number} [limit] in ms: the suite is ended when it has run so long
 *
 * @typedef {(env: NodeJS.ProcessEnv, options?: SuiteOptions) => Promise<Outcome>} Suite
 */

const MINUTE = 60_000;
const EXIT_LIMIT = 5_000;

const AVA_FAILURE =
  /^\s*(\d+) (?:(?:tests?|hooks?) failed|uncaught exceptions?|unhandled rejections?|tests? remained pending.*)$/;
const AVA_FILE_FAILURE =
  /^\s*[✘×] .+ (?:exited (?:with|due to) .+|remaining in .+)$/;
const JEST_CONFIG = {
  rootDir: root,
  roots: [path.join(root, '__test__', 'jest')],
  testMatch: ['**/*.jest.js'],
  testTimeout: 60_000,
  reporters: ['default', path.join(__dirname, 'jest-reporter.js')],
};

/**
 * @param {string[]} lines
 * @param {RegExp} pattern with a number as its first group
 */
function sum(lines, pattern) {
  return lines
    .map((line) => pattern.exec(stripVTControlCharacters(line)))
    .reduce((total, match) => total + (match ? Number(match[1]) : 0), 0);
}

/**
 * A run that ended badly with no test failed has failed as a whole: it did not
 * compile, crashed, or was ended.
 *
 * @param {import('./run').RunResult} result
 * @param {Outcome} counts
 * @returns {Outcome}
 */
function outcome(result, { passed, failed }) {
  return { passed, failed: result.ok ? failed : Math.max(failed, 1) };
}

/** @param {string[]} names of tests */
function tellUnfinished(names) {
  for (const name of names) step(`has not ended: ${name}`);
}

/**
 * Runs a command whose tests keep a journal, and names those that had not ended
 * when it crashed or was ended.
 *
 * @param {string} command
 * @param {string[]} args
 * @param {import('./run').RunOptions} options
 */
async function runJournaled(command, args, { env, ...options }) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-run-'));
  const journal = path.join(folder, 'journal');
  fs.writeFileSync(journal, '');
  try {
    const result = await run(command, args, {
      ...options,
      env: { ...env, [VARIABLE]: journal },
      onStall: () => tellUnfinished(unfinished(journal)),
    });
    const left = result.stalled ? [] : unfinished(journal);
    tellUnfinished(left);
    return { ...result, ok: result.ok && left.length === 0 };
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * The tests of the last program that `cargo test` started which have printed no
 * result.
 *
 * @param {string[]} lines that cargo printed
 * @param {import('./run').RunOptions} options
 */
async function unfinishedCargoTests(lines, options) {
  const texts = lines.map((line) => stripVTControlCharacters(line));
  const running = /^\s*Running (.*) \((.+)\)$/;
  const last = texts.findLastIndex((line) => running.test(line));
  const [, source, program] = running.exec(texts[last] ?? '') ?? [];
  const results = texts.slice(last + 1);
  if (!program || results.some((line) => line.startsWith('test result: '))) {
    return [];
  }
  const { cwd } = options;
  const list = await run(path.resolve(cwd ?? root, program), ['--list'], {
    ...{ cwd, env: options.env, quiet: true, limit: MINUTE },
  });
  return list.lines
    .map((line) => /^(.+): test$/.exec(line)?.[1] ?? '')
    .filter(
      (name) => name && !results.some((r) => r.startsWith(`test ${name} `)),
    )
    .map((name) => `${source}: ${name}`);
}

/**
 * The Rust core, without the Node-API surface.
 *
 * @param {NodeJS.ProcessEnv} env
 * @param {SuiteOptions & { cwd?: string }} [options]
 * @returns {Promise<Outcome>}
 */
async function cargo(env, options = {}) {
  // What the fuzz targets look at is there for their seeds.
  const features = ['--no-default-features', '--features', 'fuzzing'];
  const { cwd, args = features } = options;
  // A linker prints nothing, however long it takes.
  const { silence = 15 * MINUTE, limit = 60 * MINUTE } = options;
  const result = await run('cargo', ['test', ...args], {
    ...{ prefix: '  cargo | ', env, cwd, silence, limit },
  });
  if (!result.ok) {
    tellUnfinished(await unfinishedCargoTests(result.lines, { cwd, env }));
  }
  return outcome(result, {
    passed: sum(result.lines, /^test result: .*?(\d+) passed/),
    failed: sum(result.lines, /^test result: .*?(\d+) failed/),
  });
}

/** The package through its public face. @type {Suite} */
async function ava(env, options = {}) {
  const { node = process.execPath, args = [] } = options;
  // Longer than each limit that the tests have in their own process.
  const { silence = 12 * MINUTE, limit = 90 * MINUTE } = options;
  const result = await runJournaled(node, [bin('ava'), ...args], {
    ...{ prefix: '  ava | ', env, silence, limit },
  });
  const texts = result.lines.map((line) => stripVTControlCharacters(line));
  const count = (/** @type {RegExp} */ pattern) =>
    texts.filter((line) => pattern.test(line)).length;
  return outcome(result, {
    // Its summary leaves this number out when a test has failed.
    passed: count(/^\s*[✔√] /),
    failed: sum(texts, AVA_FAILURE) + count(AVA_FILE_FAILURE),
  });
}

/**
 * The package inside Jest, which loads it anew for each file.
 *
 * @param {NodeJS.ProcessEnv} env
 * @param {SuiteOptions & { config?: object }} [options]
 * @returns {Promise<Outcome>}
 */
async function jest(env, options = {}) {
  const { node = process.execPath, config = {} } = options;
  const { silence = 5 * MINUTE, limit = 30 * MINUTE } = options;
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-jest-'));
  const report = path.join(folder, 'report.json');
  try {
    const args = [
      ...['--config', JSON.stringify({ ...JEST_CONFIG, ...config })],
      ...['--runInBand', '--json', `--outputFile=${report}`],
    ];
    const result = await runJournaled(node, [bin('jest'), ...args], {
      ...{ prefix: '  jest | ', env, silence, limit },
    });
    const counts = fs.existsSync(report)
      ? JSON.parse(fs.readFileSync(report, 'utf8'))
      : {};
    return outcome(result, {
      passed: counts.numPassedTests || 0,
      failed: counts.numFailedTests || 0,
    });
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * Runs one suite after the other and says how each went.
 *
 * @param {Record<string, () => Promise<Outcome>>} suites
 * @returns {Promise<Outcome>}
 */
async function runAll(suites) {
  const total = { passed: 0, failed: 0 };
  const lines = [];
  for (const [name, suite] of Object.entries(suites)) {
    step(`${name}: running`);
    const { passed, failed } = await suite();
    total.passed += passed;
    total.failed += failed;
    lines.push(`${name}: ${passed} passed, ${failed} failed`);
    step(lines[lines.length - 1]);
  }
  return total;
}

/**
 * The last words of a test run, in a form that other programs read.
 *
 * @param {string} what
 * @param {Outcome} total
 */
function conclude(what, { passed, failed }) {
  if (passed + failed === 0) failed = 1;
  step(failed ? `${what}: FAILED` : `${what}: all is well`);
  console.log(`${passed} passed, ${failed} failed`);
  if (failed) process.exitCode = 1;
  // Whatever is open still must not keep a test run from ending.
  setTimeout(() => process.exit(), EXIT_LIMIT).unref();
}

module.exports = { cargo, ava, jest, runAll, conclude };
