'use strict';

// npm run check: everything but the tests that says whether a change is sound.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { writeMain } = require('./lib/packages');
const { bin, which } = require('./lib/project');
const { run } = require('./lib/run');
const { step, script, Problem } = require('./lib/steps');
const { buildAddon, checkTools, installPackages } = require('./prepare');

/**
 * @param {string} packageName
 * @param {string} command
 * @param {...string} args
 */
const tool =
  (packageName, command, ...args) =>
  () =>
    runQuietly(process.execPath, [bin(packageName, command), ...args]);

/** @param {...string} args */
const cargo =
  (...args) =>
  () =>
    runQuietly('cargo', args);

/**
 * @param {string} command
 * @param {string[]} args
 */
async function runQuietly(command, args) {
  const { ok } = await run(command, args, { prefix: '  | ' });
  return ok;
}

/** What the build generates is committed, so that a reader has it at hand. */
async function bindingIsCommitted() {
  const file = 'binding.d.ts';
  await buildAddon({ always: true });
  const git = (/** @type {string[]} */ ...args) =>
    run('git', args, { prefix: '  | ', quiet: args[0] !== 'diff' });
  if (!(await git('rev-parse', '--is-inside-work-tree')).ok) {
    step(`not a git clone: cannot tell whether ${file} is up to date`);
    return true;
  }
  if (!(await git('ls-files', '--error-unmatch', '--', file)).ok) {
    step(`${file} is not in git`);
    return false;
  }
  return (await git('diff', '--exit-code', '--', file)).ok;
}

/** The main package as it is published: its manifest, exports and types. */
async function packageIsSound() {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-check-'));
  try {
    writeMain(folder);
    const publint = tool('publint', 'publint', '--strict', folder);
    const attw = tool('@arethetypeswrong/cli', 'attw', '--pack', folder);
    return (await publint()) && (await attw());
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

const hasCargoDeny =
  which(process.platform === 'win32' ? 'cargo-deny.exe' : 'cargo-deny') !==
  null;

/** @type {Record<string, () => Promise<boolean>>} */
const CHECKS = {
  prettier: tool('prettier', 'prettier', '--check', '.'),
  eslint: tool('eslint', 'eslint', '--max-warnings=0', '.'),
  tsc: tool('typescript', 'tsc'),
  'cargo fmt': cargo('fmt', '--check'),
  clippy: cargo('clippy', '--all-targets', '--', '-D', 'warnings'),
  'clippy, core alone': cargo(
    ...['clippy', '--all-targets', '--no-default-features'],
    ...['--', '-D', 'warnings'],
  ),
  'binding.d.ts is up to date': bindingIsCommitted,
  'publint and attw': packageIsSound,
  // Advisories are left to the workflow: their database is on the network.
  ...(hasCargoDeny && {
    'cargo deny': cargo('deny', 'check', 'licenses', 'bans', 'sources'),
  }),
};

script(async () => {
  await checkTools();
  await installPackages();
  const failures = [];
  for (const [name, check] of Object.entries(CHECKS)) {
    step(`${name}: checking`);
    const ok = await check();
    step(`${name}: ${ok ? 'ok' : 'FAILED'}`);
    if (!ok) failures.push(name);
  }
  if (!hasCargoDeny) {
    step('cargo deny: not checked, since it is not installed');
  }
  if (failures.length > 0) {
    throw new Problem(`these checks do not pass: ${failures.join(', ')}`);
  }
  step('all checks pass');
});
