'use strict';

// npm run release -- build [TARGET]   the addon for a target (this machine's,
//   unless one is named) and the folder of its package, under npm/
// npm run release -- pack [PLATFORM ...]   checks the packages under npm/ and
//   packs them, and the main package, for publishing; all, or those named
// The workflow in .github/workflows/release.yml calls both, then publishes.

const fs = require('node:fs');
const path = require('node:path');
const {
  OLDEST_GLIBC,
  checkAddon,
  checkPlatform,
  hostPlatform,
  mainFolder,
  npmFolder,
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
    const python = process.platform === 'win32' ? 'python' : 'python3';
    const args = ['-m', 'pip', 'install', '--quiet', '--target', folder];
    const result = await run(python, [...args, ...ZIG], { prefix: '  pip | ' });
    if (!result.ok) throw new Problem('Zig could not be installed.');
  }
  return {
    PATH: [tools, process.env.PATH].join(path.delimiter),
    CARGO_ZIGBUILD_ZIG_PATH: path.join(folder, 'ziglang', 'zig'),
  };
}

/** @param {Platform} platform */
async function build(platform) {
  const { target, name, libc, file, folder } = platform;
  await checkTools();
  await installPackages();
  const output = path.join(root, 'target', 'npm', name);
  const [, ...options] = readManifest().scripts.build.split(' ');
  const args = [...options, '--output-dir', output];
  /** @type {NodeJS.ProcessEnv} */
  let env = {};
  if (libc) {
    // Else the addon needs the glibc of the machine that links it.
    const oldest = libc === 'glibc' ? `.${OLDEST_GLIBC}` : '';
    args.push('--cross-compile', '--target', target + oldest);
    env = await zigEnvironment();
  } else {
    args.push('--target', target);
  }
  step(`${name}: building the addon`);
  const napi = [bin('@napi-rs/cli', 'napi'), ...args];
  const result = await run(process.execPath, napi, { prefix: '  | ', env });
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

/** @param {string} folder */
async function npmPack(folder) {
  const [command, ...first] = npmCommand();
  const args = ['pack', folder, '--pack-destination', npmFolder, '--json'];
  const result = await run(command, [...first, ...args], { quiet: true });
  if (!result.ok) throw new Problem(result.lines.join('\n'));
  const [{ filename, size, entryCount }] = JSON.parse(result.lines.join('\n'));
  const megabytes = (size / 1e6).toFixed(2);
  step(`${filename}: ${entryCount} files, ${megabytes} MB`);
}

function checkVersions() {
  const { version } = readManifest();
  const cargo = fs.readFileSync(path.join(root, 'Cargo.toml'), 'utf8');
  const [, crate] = /^version = "(.*)"$/m.exec(cargo) ?? [];
  if (crate !== version) {
    throw new Problem(
      `package.json has version ${version}, Cargo.toml has ${crate}`,
    );
  }
}

/** @param {Platform[]} chosen */
async function pack(chosen) {
  checkVersions();
  for (const platform of chosen) checkPlatform(platform);
  writeMain();
  for (const name of fs.readdirSync(npmFolder)) {
    if (name.endsWith('.tgz')) fs.rmSync(path.join(npmFolder, name));
  }
  for (const { folder } of chosen) await npmPack(folder);
  await npmPack(mainFolder);
}

script(async () => {
  const [command, ...names] = process.argv.slice(2);
  if (command === 'build' && names.length < 2) {
    return build(names.length ? platformOf(names[0]) : hostPlatform());
  }
  if (command === 'pack') {
    const all = platforms();
    const unknown = names.find((name) => !all.some((p) => p.name === name));
    if (unknown) throw new Problem(`There is no platform "${unknown}".`);
    return pack(
      all.filter(({ name }) => !names.length || names.includes(name)),
    );
  }
  if (command === 'publish') {
    throw new Problem(
      'This folder is not what is published: "npm run release -- pack" makes the packages under npm/, and the release workflow publishes them.',
    );
  }
  throw new Problem('Say "build [TARGET]" or "pack [PLATFORM ...]".');
});
