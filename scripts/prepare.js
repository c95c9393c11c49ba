'use strict';

// Makes a fresh clone ready: the packages, then the native addon. What is up to
// date already is left alone. It needs nothing but Node and its own modules,
// since node_modules may not be there yet.

const fs = require('node:fs');
const path = require('node:path');
const { bin, npmCommand, root, which } = require('./lib/project');
const { run } = require('./lib/run');
const { step, script, Problem } = require('./lib/steps');

const OLDEST_NODE = 20;
const INSTALL_LIMIT = 15 * 60_000;
const BUILD_LIMIT = 60 * 60_000;
const SOURCES = ['src', 'Cargo.toml', 'Cargo.lock', 'build.rs'];
const LOCK = 'package-lock.json';
const INSTALLED = 'node_modules/.package-lock.json';

async function checkTools() {
  const major = Number(process.versions.node.split('.')[0]);
  if (major < OLDEST_NODE) {
    throw new Problem(
      `Node ${OLDEST_NODE} or newer is needed; this is ${process.version}.`,
    );
  }
  if (!which(process.platform === 'win32' ? 'cargo.exe' : 'cargo')) {
    throw new Problem(
      'cargo is needed to build the native addon: install Rust (see rustup), and see that cargo is on PATH.',
    );
  }
}

/** @param {string} name */
function readLock(name) {
  try {
    const text = fs.readFileSync(path.join(root, name), 'utf8');
    return JSON.parse(text).packages || {};
  } catch {
    return {};
  }
}

/** Whether node_modules holds what the lock file says. */
function packagesAreCurrent() {
  const installed = readLock(INSTALLED);
  return Object.entries(readLock(LOCK)).every(([name, wanted]) => {
    if (name === '') return true;
    const found = installed[name];
    return found ? found.version === wanted.version : wanted.optional;
  });
}

async function installPackages() {
  if (packagesAreCurrent()) return;
  step('installing the npm packages');
  const [command, ...first] = npmCommand();
  // No package in the lock file needs its install script.
  const args = [...first, 'ci', '--ignore-scripts', '--no-audit', '--no-fund'];
  const result = await run(command, args, {
    ...{ prefix: '  npm | ', limit: INSTALL_LIMIT },
  });
  if (!result.ok) throw new Problem('npm ci failed, for the reason above.');
}

/**
 * When a file, or the newest file in a folder, was changed.
 *
 * @param {string} name
 * @returns {number}
 */
function changed(name) {
  const file = path.join(root, name);
  const stat = fs.statSync(file, { throwIfNoEntry: false });
  if (!stat) return 0;
  if (!stat.isDirectory()) return stat.mtimeMs;
  return Math.max(
    stat.mtimeMs,
    ...fs.readdirSync(file).map((child) => changed(path.join(name, child))),
  );
}

/** Whether the addon is there and younger than all that it is made of. */
function addonIsCurrent() {
  const addons = fs
    .readdirSync(root)
    .filter((name) => /^message-engin\..+\.node$/.test(name));
  if (addons.length === 0 || !changed('binding.js')) return false;
  const built = Math.min(...addons.map(changed));
  return SOURCES.every((name) => changed(name) <= built);
}

/** @param {{ always?: boolean }} [options] */
async function buildAddon({ always = false } = {}) {
  if (!always && addonIsCurrent()) return;
  step('building the native addon');
  const { scripts } = JSON.parse(
    fs.readFileSync(path.join(root, 'package.json'), 'utf8'),
  );
  const [, ...args] = scripts.build.split(' ');
  const result = await run(
    process.execPath,
    [bin('@napi-rs/cli', 'napi'), ...args],
    { prefix: '  build | ', limit: BUILD_LIMIT },
  );
  if (!result.ok) {
    throw new Problem('The native addon did not build, for the reason above.');
  }
  step(`the native addon is built (${result.seconds.toFixed(0)} s)`);
}

async function prepare() {
  await checkTools();
  await installPackages();
  await buildAddon();
}

module.exports = { prepare, checkTools, installPackages, buildAddon };

if (require.main === module) {
  script(async () => {
    await prepare();
    step('ready');
  });
}
