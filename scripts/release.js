'use strict';

// npm run release -- build [TARGET]   the addon for a target (this machine's,
//   unless one is named) and the folder of its package, under npm/
// npm run release -- publish [--dry-run]   checks the packages under npm/ and
//   publishes them, and then the main package
// The workflow in .github/workflows/release.yml calls both.

const fs = require('node:fs');
const path = require('node:path');
const {
  OLDEST_GLIBC,
  checkAddon,
  checkPlatform,
  hostPlatform,
  mainFolder,
  platformOf,
  platforms,
  readManifest,
  writeMain,
  writePlatform,
} = require('./lib/packages');
const { licenceTexts } = require('./lib/licences');
const { bin, cacheDir, npmCommand, root } = require('./lib/project');
const { run } = require('./lib/run');
const { step, script, Problem } = require('./lib/steps');
const { checkTools, installPackages } = require('./prepare');

/** Zig's linker knows the symbols of each glibc; cargo-zigbuild calls it. */
const ZIG = ['ziglang==0.17.1', 'cargo-zigbuild==0.24.1'];

/** @typedef {import('./lib/packages').Platform} Platform */

/**
 * What a build needs to link with Zig.
 *
 * @returns {Promise<NodeJS.ProcessEnv>}
 */
async function zigEnvironment() {
  const folder = path.join(cacheDir(), ZIG.join('-'));
  const tools = path.join(folder, 'bin');
  if (!fs.existsSync(tools)) {
    step(`installing ${ZIG.join(', ')} with pip`);
    const args = ['-m', 'pip', 'install', '--quiet', '--target', folder];
    const result = await run('python3', [...args, ...ZIG], {
      prefix: '  pip | ',
    });
    if (!result.ok) throw new Problem('Zig could not be installed.');
  }
  return {
    PATH: [tools, process.env.PATH].join(path.delimiter),
    CARGO_ZIGBUILD_ZIG_PATH: path.join(folder, 'ziglang', 'zig'),
  };
}

/**
 * How the addon for a platform is linked.
 *
 * @param {Platform} platform
 * @returns {Promise<{ args: string[], env: NodeJS.ProcessEnv }>}
 */
async function linking({ target, os, libc }) {
  if (os === 'linux') {
    // Otherwise it needs the glibc of the machine that links it.
    const oldest = libc === 'glibc' ? `.${OLDEST_GLIBC}` : '';
    const args = ['--cross-compile', '--target', target + oldest];
    return { args, env: await zigEnvironment() };
  }
  // A Windows without the redistributable of Visual C++ has no vcruntime140.dll.
  const env = os === 'win32' && { RUSTFLAGS: '-C target-feature=+crt-static' };
  return { args: ['--target', target], env: { ...env } };
}

/** @param {Platform} platform */
async function build(platform) {
  const { target, name, file, folder } = platform;
  await checkTools();
  await installPackages();
  const output = path.join(root, 'target', 'npm', name);
  const [, ...options] = readManifest().scripts.build.split(' ');
  const { args, env } = await linking(platform);
  step(`${name}: building the addon`);
  const result = await run(
    process.execPath,
    [
      bin('@napi-rs/cli', 'napi'),
      ...options,
      ...args,
      ...['--output-dir', output],
    ],
    { prefix: '  | ', env },
  );
  if (!result.ok) throw new Problem(`The addon for ${target} did not build.`);
  const addon = path.join(output, file);
  checkAddon(addon, platform);
  writePlatform(platform, { addon, licences: licenceTexts(target) });
  // The loader is the same for all platforms and part of the main package.
  fs.copyFileSync(
    path.join(output, 'binding.js'),
    path.join(root, 'binding.js'),
  );
  step(`${name}: in ${path.relative(root, folder)}`);
}

/** The version is in two files, and in the tag that is released. */
function checkVersions() {
  const { version } = readManifest();
  const cargo = fs.readFileSync(path.join(root, 'Cargo.toml'), 'utf8');
  const [, crate] = /^version = "(.*)"$/m.exec(cargo) ?? [];
  if (crate !== version) {
    throw new Problem(
      `package.json has version ${version}, Cargo.toml has ${crate}`,
    );
  }
  const { GITHUB_REF_TYPE: type, GITHUB_REF_NAME: tag } = process.env;
  if (type === 'tag' && tag !== `v${version}`) {
    throw new Problem(`package.json has version ${version}, the tag is ${tag}`);
  }
}

/**
 * Publishes a package, unless its version is there: so a release that stopped
 * in the middle can be run again.
 *
 * @param {string} folder
 * @param {string[]} options
 */
async function publishFolder(folder, options) {
  const text = fs.readFileSync(path.join(folder, 'package.json'), 'utf8');
  const { name, version } = JSON.parse(text);
  const [command, ...npm] = npmCommand();
  const spec = `${name}@${version}`;
  const found = await run(command, [...npm, 'view', spec, 'version'], {
    quiet: true,
  });
  if (found.ok && found.lines.includes(version)) {
    step(`${spec}: published already`);
    return;
  }
  const args = ['publish', folder, '--access', 'public', ...options];
  const result = await run(command, [...npm, ...args], { prefix: '  npm | ' });
  if (!result.ok) throw new Problem(`${spec} was not published.`);
}

/** @param {string[]} options for npm publish */
async function publish(options) {
  checkVersions();
  const all = platforms();
  // All are looked at before the first one is published.
  for (const platform of all) checkPlatform(platform);
  writeMain();
  if (readManifest().version.includes('-')) options.push('--tag', 'next');
  for (const { folder } of all) await publishFolder(folder, options);
  // Last: from now on the package is installed, with what it depends on.
  await publishFolder(mainFolder, options);
}

script(async () => {
  const [command, ...args] = process.argv.slice(2);
  if (command === 'build' && args.length < 2) {
    return build(args.length ? platformOf(args[0]) : hostPlatform());
  }
  if (command === 'publish' && args.every((arg) => arg === '--dry-run')) {
    return publish(args);
  }
  if (command === 'refuse') {
    throw new Problem(
      'This folder is not what is published: the release workflow publishes the packages that "npm run release" makes under npm/.',
    );
  }
  throw new Problem('Say "build [TARGET]" or "publish [--dry-run]".');
});
