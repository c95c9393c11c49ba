'use strict';

// The packages of a release, each in a folder of its own under npm/: the main
// one, and one with the addon for each platform. Their manifests come from
// package.json, so there is nothing to keep in step.

const fs = require('node:fs');
const path = require('node:path');
const { compareVersions, inspectAddon } = require('./addon-file');
const { LICENCE_FILES } = require('./licences');
const { root } = require('./project');
const { Problem } = require('./steps');

/** The glibc that addons are linked for: the oldest that Rust's standard library supports. */
const OLDEST_GLIBC = '2.17';
const SYSTEMS = { linux: 'Linux', darwin: 'macOS', win32: 'Windows' };
/** What package.json says to those who work on the package, not to its users. */
const DEVELOPMENT = ['ava', 'devDependencies', 'napi', 'overrides', 'scripts'];

/**
 * @typedef {object} Platform
 * @property {string} target Rust's target triple
 * @property {string} name
 * @property {keyof typeof SYSTEMS} os
 * @property {string} cpu
 * @property {'glibc' | 'musl'} [libc]
 * @property {string} packageName
 * @property {string} file the addon
 * @property {string} folder
 */

const licenceFiles = Object.values(LICENCE_FILES);
const npmFolder = path.join(root, 'npm');
const mainFolder = path.join(npmFolder, 'message-engin');

function readManifest() {
  return JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'));
}

/**
 * @param {string} target
 * @returns {Platform}
 */
function platformOf(target) {
  const { name: main, napi } = readManifest();
  const match =
    /^(x86_64|aarch64)-(?:unknown|apple|pc)-(linux|darwin|windows)(?:-(gnu|musl|msvc))?$/.exec(
      target,
    );
  if (!match || !napi.targets.includes(target)) {
    throw new Problem(
      `"${target}" is none of the targets in package.json: ${napi.targets.join(', ')}`,
    );
  }
  const [, arch, system, abi] = match;
  const os = system === 'windows' ? 'win32' : system;
  const cpu = arch === 'aarch64' ? 'arm64' : 'x64';
  const name = [os, cpu, abi].filter(Boolean).join('-');
  return {
    target,
    name,
    os: /** @type {keyof typeof SYSTEMS} */ (os),
    cpu,
    ...(os === 'linux' && { libc: abi === 'gnu' ? 'glibc' : 'musl' }),
    packageName: `${main}-${name}`,
    file: `${napi.binaryName}.${name}.node`,
    folder: path.join(npmFolder, name),
  };
}

/** All platforms, as package.json lists them. */
function platforms() {
  return /** @type {Platform[]} */ (
    readManifest().napi.targets.map(platformOf)
  );
}

/** The platform of this process. */
function hostPlatform() {
  const { glibcVersionRuntime } = /** @type {any} */ (
    process.report.getReport()
  ).header;
  const libc = glibcVersionRuntime ? 'glibc' : 'musl';
  const found = platforms().find(
    ({ os, cpu, libc: wanted }) =>
      os === process.platform &&
      cpu === process.arch &&
      (!wanted || wanted === libc),
  );
  if (!found) {
    throw new Problem(
      `no addon is built for ${process.platform} ${process.arch}`,
    );
  }
  return found;
}

/**
 * Whether the file is an addon for the platform, and runs on the systems that
 * are promised.
 *
 * @param {string} file
 * @param {Platform} platform
 */
function checkAddon(file, { os, cpu, libc }) {
  const shown = path.relative(root, file);
  let found;
  try {
    found = inspectAddon(file);
  } catch (error) {
    throw new Problem(`${shown}: ${/** @type {Error} */ (error).message}`);
  }
  const wanted = [os, cpu, libc].filter(Boolean).join(' ');
  const actual = [found.os, found.cpu, found.libc].filter(Boolean).join(' ');
  if (actual !== wanted) {
    throw new Problem(`${shown} is for ${actual}, not for ${wanted}`);
  }
  const newest = found.glibc?.at(-1);
  if (newest && compareVersions(newest, OLDEST_GLIBC) > 0) {
    throw new Problem(
      `${shown} needs glibc ${newest}; the oldest supported is ${OLDEST_GLIBC}`,
    );
  }
}

/**
 * Whether the folder of a platform's package holds all that it must.
 *
 * @param {Platform} platform
 * @param {string} [folder]
 */
function checkPlatform(platform, folder = platform.folder) {
  const shown = path.relative(root, folder);
  for (const name of [platform.file, ...licenceFiles, 'LICENSE', 'README.md']) {
    if (!fs.existsSync(path.join(folder, name))) {
      throw new Problem(
        `${shown} has no ${name}: "npm run release -- build ${platform.target}" makes it`,
      );
    }
  }
  const text = fs.readFileSync(path.join(folder, 'package.json'), 'utf8');
  const found = JSON.parse(text).version;
  const { version } = readManifest();
  if (found !== version) {
    throw new Problem(`${shown} has version ${found}, package.json ${version}`);
  }
  checkAddon(path.join(folder, platform.file), platform);
}

/** @param {Platform} platform */
function platformManifest({ packageName, name, os, cpu, libc, file }) {
  const main = readManifest();
  return {
    name: packageName,
    version: main.version,
    description: `The native addon of ${main.name} for ${name}`,
    license: main.license,
    author: main.author,
    homepage: main.homepage,
    bugs: main.bugs,
    repository: main.repository,
    type: main.type,
    main: file,
    files: [file, ...licenceFiles],
    os: [os],
    cpu: [cpu],
    ...(libc && { libc: [libc] }),
    engines: main.engines,
  };
}

/** @param {Platform} platform */
function platformReadme({ packageName, os, cpu, libc }) {
  const { name, homepage } = readManifest();
  const system = [SYSTEMS[os], cpu, libc].filter(Boolean).join(', ');
  return [
    `# ${packageName}\n`,
    `The native addon of [${name}](${homepage}) for ${system}.`,
    `Install \`${name}\`: it brings this package along where it fits.\n`,
    `The licences of what is linked into the addon are in ${licenceFiles.join(' and ')}.\n`,
  ].join('\n');
}

/**
 * @param {string} folder
 * @param {Record<string, string>} texts by file name
 */
function writeFolder(folder, texts) {
  fs.rmSync(folder, { recursive: true, force: true });
  fs.mkdirSync(folder, { recursive: true });
  for (const [name, text] of Object.entries(texts)) {
    fs.writeFileSync(path.join(folder, name), text);
  }
}

/** @param {any} value */
const json = (value) => `${JSON.stringify(value, null, 2)}\n`;

/**
 * Makes the folder of a platform's package.
 *
 * @param {Platform} platform
 * @param {object} contents
 * @param {string} contents.addon a file
 * @param {Record<string, string>} contents.licences texts by file name
 * @param {string} [folder]
 */
function writePlatform(
  platform,
  { addon, licences },
  folder = platform.folder,
) {
  writeFolder(folder, {
    'package.json': json(platformManifest(platform)),
    'README.md': platformReadme(platform),
    LICENSE: fs.readFileSync(path.join(root, 'LICENSE'), 'utf8'),
    ...licences,
  });
  fs.copyFileSync(addon, path.join(folder, platform.file));
}

/**
 * Makes the folder of the main package. It depends on all platforms, of which
 * a package manager installs the one that fits; in the clone it does not, since
 * a lock file can only name versions that are published.
 *
 * @param {string} [folder]
 */
function writeMain(folder = mainFolder) {
  const manifest = readManifest();
  const { version, files } = manifest;
  for (const key of DEVELOPMENT) delete manifest[key];
  manifest.optionalDependencies = Object.fromEntries(
    platforms().map(({ packageName }) => [packageName, version]),
  );
  writeFolder(folder, { 'package.json': json(manifest) });
  for (const name of ['README.md', 'LICENSE', ...files]) {
    fs.cpSync(path.join(root, name), path.join(folder, name), {
      recursive: true,
    });
  }
}

module.exports = {
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
};
