'use strict';

// The packages of a release: what they hold, and what cannot be packed.

const { execFile } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { promisify } = require('node:util');
const test = require('ava');
const manifest = require('../../package.json');
const {
  compareVersions,
  inspectAddon,
} = require('../../scripts/lib/addon-file');
const {
  LICENCE_FILES,
  licenceTexts,
  linkedCrates,
} = require('../../scripts/lib/licences');
const packages = require('../../scripts/lib/packages');
const { npmCommand, root } = require('../../scripts/lib/project');

const host = packages.hostPlatform();
const addon = path.join(root, host.file);

/** @param {import('ava').ExecutionContext} t */
function temporaryFolder(t) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-pack-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/**
 * The names of the files that `npm pack` takes.
 *
 * @param {string} folder
 */
async function packedFiles(folder) {
  const [command, ...args] = npmCommand();
  const { stdout } = await promisify(execFile)(
    command,
    [...args, 'pack', '--dry-run', '--json'],
    { cwd: folder },
  );
  return JSON.parse(stdout)[0].files.map(({ path: name }) => name);
}

/** @param {string} name */
const read = (folder, name) =>
  JSON.parse(fs.readFileSync(path.join(folder, name), 'utf8'));

test('the main package holds what it runs on, and nothing else', async (t) => {
  const folder = temporaryFolder(t);
  packages.writeMain(folder);
  const lib = fs
    .readdirSync(path.join(root, 'lib'), { recursive: true })
    .filter((name) => name.endsWith('.js'))
    .map((name) => `lib/${name.split(path.sep).join('/')}`);
  t.deepEqual(
    (await packedFiles(folder)).sort(),
    [
      'CHANGELOG.md',
      'LICENSE',
      'README.md',
      'binding.d.ts',
      'binding.js',
      'index.d.ts',
      'index.js',
      'package.json',
      ...lib,
    ].sort(),
  );
});

test('npm pack in the clone takes the same files', async (t) => {
  const folder = temporaryFolder(t);
  packages.writeMain(folder);
  t.deepEqual(await packedFiles(root), await packedFiles(folder));
});

test('the main package depends on the addon of each platform, of its own version', (t) => {
  const folder = temporaryFolder(t);
  packages.writeMain(folder);
  const { optionalDependencies, ...rest } = read(folder, 'package.json');
  t.deepEqual(
    optionalDependencies,
    Object.fromEntries(
      [
        ...['linux-x64-gnu', 'linux-arm64-gnu'],
        ...['linux-x64-musl', 'linux-arm64-musl'],
        ...['darwin-x64', 'darwin-arm64'],
        ...['win32-x64-msvc', 'win32-arm64-msvc'],
      ].map((name) => [`message-engin-${name}`, manifest.version]),
    ),
  );
  t.like(manifest, rest);
  for (const key of ['scripts', 'devDependencies']) t.false(key in rest, key);
});

test('a platform package holds its addon and the licences of what is linked', async (t) => {
  const folder = temporaryFolder(t);
  const licences = licenceTexts(host.target);
  // Any file will do for the list: a debug build takes long to pack.
  const small = path.join(root, 'LICENSE');
  packages.writePlatform(host, { addon: small, licences }, folder);
  t.deepEqual((await packedFiles(folder)).sort(), [
    'LICENSE',
    'README.md',
    'THIRD-PARTY-LICENSES',
    'THIRD-PARTY-LICENSES-STD.html',
    host.file,
    'package.json',
  ]);
  const { name, version, main, os, cpu, libc, engines, repository } = read(
    folder,
    'package.json',
  );
  t.deepEqual(
    { name, version, main, os, cpu, libc, engines, repository },
    {
      name: `message-engin-${host.name}`,
      version: manifest.version,
      main: host.file,
      os: [process.platform],
      cpu: [process.arch],
      libc: host.libc && [host.libc],
      engines: manifest.engines,
      repository: manifest.repository,
    },
  );
  for (const { name, version } of linkedCrates(host.target)) {
    t.true(
      licences[LICENCE_FILES.crates].includes(`\n${name} ${version}, `),
      name,
    );
  }
  t.regex(
    licences[LICENCE_FILES.standardLibrary],
    /The Rust Project Developers/,
  );
});

test('a platform package without its addon, or with another one, is not packed', (t) => {
  const folder = temporaryFolder(t);
  const file = path.join(folder, host.file);
  const licences = Object.fromEntries(
    Object.values(LICENCE_FILES).map((name) => [name, '']),
  );
  const refused = (message) =>
    t.throws(() => packages.checkPlatform(host, folder), { message });
  refused(/has no message-engin\..*\.node: "npm run release -- build/);
  packages.writePlatform(host, { addon, licences }, folder);
  fs.writeFileSync(file, '');
  refused(/too short for an addon$/);
  fs.writeFileSync(file, Buffer.alloc(4096));
  refused(/not an ELF, Mach-O or PE file$/);
  const own = { ...read(folder, 'package.json'), version: '0.0.1' };
  fs.writeFileSync(path.join(folder, 'package.json'), JSON.stringify(own));
  refused(/has version 0\.0\.1, package\.json /);
  const other = packages
    .platforms()
    .find(({ os, cpu }) => os === host.os && cpu !== host.cpu);
  t.throws(() => packages.checkAddon(addon, other), {
    message: new RegExp(`is for .*${host.cpu}.*, not for .*${other.cpu}`),
  });
});

if (host.libc === 'glibc') {
  test('an addon that needs a newer glibc than is promised is not packed', (t) => {
    const { glibc } = inspectAddon(addon);
    // The symbols of the first glibc for x64 and for arm64 have these versions.
    t.true(glibc.some((version) => ['2.2.5', '2.17'].includes(version)));
    const check = () => packages.checkAddon(addon, host);
    const newest = glibc.at(-1);
    if (compareVersions(newest, packages.OLDEST_GLIBC) <= 0) {
      return t.notThrows(check);
    }
    // A plain build is linked for the glibc of the machine.
    t.throws(check, {
      message: `${host.file} needs glibc ${newest}; the oldest supported is 2.17`,
    });
  });
}

test('addons of macOS and Windows are told from each other', (t) => {
  const folder = temporaryFolder(t);
  const inspect = (bytes) => {
    const file = path.join(folder, 'addon.node');
    fs.writeFileSync(file, bytes);
    return inspectAddon(file);
  };
  const mach = Buffer.alloc(64);
  mach.writeUInt32LE(0xfeedfacf);
  mach.writeUInt32LE(0x0100000c, 4);
  t.deepEqual(inspect(mach), { os: 'darwin', cpu: 'arm64' });
  const windows =
    require.resolve('utf-8-validate/prebuilds/win32-x64/node.napi.node');
  t.deepEqual(inspectAddon(windows), { os: 'win32', cpu: 'x64' });
});

test('each platform is built and tested by the workflow, and its crates are checked', (t) => {
  const text = (name) => fs.readFileSync(path.join(root, name), 'utf8');
  const [build, tests] = text('.github/workflows/release.yml').split('  test:');
  const crates = text('deny.toml');
  for (const target of manifest.napi.targets) {
    t.true(build.includes(`target: ${target},`), target);
    t.regex(tests, new RegExp(`target: ${target}\\b`), target);
    t.true(crates.includes(`"${target}"`), target);
  }
});

test('npm publish in the clone is refused', async (t) => {
  const { prepublishOnly } = manifest.scripts;
  const [command, ...args] = prepublishOnly.split(' ');
  t.is(command, 'node');
  const error = await t.throwsAsync(
    promisify(execFile)(process.execPath, args, { cwd: root }),
  );
  t.is(error.code, 1);
  t.regex(error.stderr, /the release workflow publishes/);
});

test('the README is one that a registry shows whole', (t) => {
  // npm cuts it there.
  t.true(fs.statSync(path.join(root, 'README.md')).size < 65_536);
});
