'use strict';

// Whatever a fresh clone lacks: the packages and programs of the measurement,
// and our own addon.

const fs = require('node:fs');
const path = require('node:path');
const { prepare: preparePackage } = require('../../scripts/prepare');
const { run } = require('../../scripts/lib/run');
const { step, Problem } = require('../../scripts/lib/steps');

const bench = path.resolve(__dirname, '..');
const load = path.join(bench, 'load');
// A release build is a tenth of this, a debug build ten times as much.
const LARGEST_RELEASE = 12 << 20;

function packagesAreInstalled() {
  const read = (name) => {
    try {
      const text = fs.readFileSync(path.join(bench, name), 'utf8');
      return JSON.parse(text).packages;
    } catch {
      return null;
    }
  };
  const installed = read('node_modules/.package-lock.json');
  return Object.entries(read('package-lock.json')).every(
    ([name, { version, optional }]) =>
      name === '' || installed?.[name]?.version === version || optional,
  );
}

async function installPackages() {
  if (packagesAreInstalled()) return;
  step('installing the packages that ours is measured against');
  // npm says where it is to what it runs; so this works without npm on PATH.
  const npm = process.env.npm_execpath;
  const [command, ...first] = npm?.endsWith('.js')
    ? [process.execPath, npm]
    : ['npm'];
  const args = [...first, 'ci', '--ignore-scripts', '--no-audit', '--no-fund'];
  const { ok } = await run(command, args, { cwd: bench, prefix: '  npm | ' });
  if (!ok) throw new Problem('npm ci in bench/ failed, for the reason above.');
}

async function buildLoad() {
  step('building the load generator, the limit gateway and the echo worker');
  const args = ['build', '--release', '--locked', '--quiet'];
  const { ok } = await run('cargo', args, { cwd: load, prefix: '  cargo | ' });
  if (!ok) {
    throw new Problem('bench/load did not build, for the reason above.');
  }
}

/** @param {string} folder */
function addons(folder) {
  return fs
    .readdirSync(folder)
    .filter((name) => /^message-engin\..+\.node$/.test(name));
}

/**
 * @param {string} folder of the package to measure
 * @returns {Promise<string[]>} what a reader of the results must know
 */
async function prepare(folder) {
  if (process.platform !== 'linux') {
    throw new Problem('CPU and memory are read from /proc: this needs Linux.');
  }
  await installPackages();
  await buildLoad();
  if (addons(folder).length === 0) {
    if (folder !== path.resolve(bench, '..')) {
      throw new Problem('--package: build its native addon first.');
    }
    await preparePackage();
  }
  const sizes = addons(folder).map(
    (name) => fs.statSync(path.join(folder, name)).size,
  );
  return sizes.some((size) => size > LARGEST_RELEASE)
    ? ["message-engin's addon is so large that it must be a debug build"]
    : [];
}

/** @param {string} name */
const program = (name) => path.join(load, 'target', 'release', name);

module.exports = { bench, prepare, program };
