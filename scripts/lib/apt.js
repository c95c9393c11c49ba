'use strict';

const fs = require('node:fs');
const { onExit } = require('./cleanup');
const { isRoot, which } = require('./project');
const { run } = require('./run');
const { step, Problem } = require('./steps');

const POLICY = '/usr/sbin/policy-rc.d';

/** Says why apt-get cannot be used here, or null. */
function aptProblem() {
  if (!which('apt-get')) return 'there is no apt-get here';
  if (!isRoot()) return 'only root may run apt-get';
  return null;
}

/**
 * A package that brings a service starts it at once, on its usual port. The
 * tests start their own, so forbid it while installing.
 *
 * @returns {() => void} allows it again
 */
function forbidServices() {
  try {
    fs.writeFileSync(POLICY, '#!/bin/sh\nexit 101\n', {
      mode: 0o755,
      flag: 'wx',
    });
  } catch {
    // Somebody has a policy of their own: it stays theirs.
    return () => {};
  }
  const remove = () => fs.rmSync(POLICY, { force: true });
  const forget = onExit(remove);
  return () => {
    forget();
    remove();
  };
}

/**
 * Installs Debian packages.
 *
 * @param {string[]} packages
 */
async function aptInstall(packages) {
  const names = packages.join(', ');
  const problem = aptProblem();
  if (problem) throw new Problem(`Cannot install ${names}: ${problem}.`);
  step(`installing ${names} with apt-get`);
  const allow = forbidServices();
  try {
    const apt = (/** @type {string[]} */ ...args) =>
      run('apt-get', ['-q', '-o', 'DPkg::Lock::Timeout=300', ...args], {
        env: { DEBIAN_FRONTEND: 'noninteractive' },
        quiet: true,
      });
    const install = () =>
      apt('install', '-y', '--no-install-recommends', ...packages);
    let result = await install();
    if (!result.ok) {
      // A machine may have no package lists, or lists that are out of date.
      await apt('update');
      result = await install();
    }
    if (!result.ok) {
      const why = result.lines.filter((line) => line.startsWith('E: ')).at(-1);
      throw new Problem(
        `apt-get could not install ${names}: ${why || result.lines.at(-1)}`,
      );
    }
    step(`installed ${names} in ${result.seconds.toFixed(0)} s`);
  } finally {
    allow();
  }
}

module.exports = { aptInstall, aptProblem };
