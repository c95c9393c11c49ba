'use strict';

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { stripVTControlCharacters } = require('node:util');
const { bin, root } = require('./project');
const { run } = require('./run');
const { step } = require('./steps');

/**
 * @typedef {object} Outcome
 * @property {number} passed
 * @property {number} failed at least 1 when the run itself failed
 *
 * @typedef {(env: NodeJS.ProcessEnv, node?: string) => Promise<Outcome>} Suite
 */

const AVA_FAILURE =
  /^\s*(\d+) (?:(?:tests?|hooks?) failed|uncaught exceptions?|unhandled rejections?|tests? remained pending.*)$/;
const JEST_CONFIG = {
  rootDir: root,
  roots: [path.join(root, '__test__', 'jest')],
  testMatch: ['**/*.jest.js'],
  testTimeout: 60_000,
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
 * compile, or crashed.
 *
 * @param {import('./run').RunResult} result
 * @param {Outcome} counts
 * @returns {Outcome}
 */
function outcome(result, { passed, failed }) {
  return { passed, failed: result.ok ? failed : Math.max(failed, 1) };
}

/** The Rust core, without the Node-API surface. @type {Suite} */
async function cargo(env) {
  // What the fuzz targets look at is there for their seeds.
  const features = ['--no-default-features', '--features', 'fuzzing'];
  const result = await run('cargo', ['test', ...features], {
    prefix: '  cargo | ',
    env,
  });
  return outcome(result, {
    passed: sum(result.lines, /^test result: .*?(\d+) passed/),
    failed: sum(result.lines, /^test result: .*?(\d+) failed/),
  });
}

/**
 * The package through its public face.
 *
 * @param {NodeJS.ProcessEnv} env
 * @param {string} [node]
 * @param {string[]} [args]
 * @returns {Promise<Outcome>}
 */
async function ava(env, node = process.execPath, args = []) {
  const command = [bin('ava'), ...args];
  const result = await run(node, command, { prefix: '  ava | ', env });
  return outcome(result, {
    // Its summary leaves this number out when a test has failed.
    passed: result.lines.filter((line) => /^\s*[✔√] /.test(line)).length,
    failed: sum(result.lines, AVA_FAILURE),
  });
}

/** The package inside Jest, which loads it anew for each file. @type {Suite} */
async function jest(env, node = process.execPath) {
  if (!fs.existsSync(JEST_CONFIG.roots[0])) {
    step('jest: no checks are here');
    return { passed: 0, failed: 0 };
  }
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-jest-'));
  const report = path.join(folder, 'report.json');
  try {
    const config = JSON.stringify(JEST_CONFIG);
    const args = ['--config', config, '--runInBand', '--json'];
    const result = await run(
      node,
      [bin('jest'), ...args, `--outputFile=${report}`],
      { prefix: '  jest | ', env },
    );
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
}

module.exports = { cargo, ava, jest, runAll, conclude };
