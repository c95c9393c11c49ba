'use strict';

// What a user reads where the addon cannot be loaded: a package folder as npm
// makes it, in a process of its own, in each of the situations.

const { execFile } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { promisify } = require('node:util');
const test = require('ava');
const { name } = require('../../package.json');
const packages = require('../../scripts/lib/packages');

const root = path.join(__dirname, '..', '..');
const platforms = packages.platforms();
const host = packages.hostPlatform();
const onGlibc = host.libc === 'glibc' ? test.serial : test.serial.skip;

const PROGRAM = `
  let error;
  try {
    require(${JSON.stringify(name)});
  } catch (thrown) {
    error = thrown;
  }
  const { code, message, cause } = error ?? {};
  console.log(JSON.stringify({
    code,
    message,
    name: error?.name,
    cause: cause && { code: cause.code, message: cause.message },
  }));
`;

/**
 * A folder in which the package is installed, without an addon.
 *
 * @param {import('ava').ExecutionContext} t
 * @param {string} [place] the folder that holds it, in node_modules
 */
function install(t, place = '') {
  const folder = fs.realpathSync(
    fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-addon-')),
  );
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  const modules = path.join(folder, 'node_modules', place);
  const own = path.join(modules, name);
  packages.writeMain(own);
  const put = (file, content) => {
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(file, content);
  };
  fs.symlinkSync(
    path.join(root, 'node_modules', 'co'),
    path.join(modules, 'co'),
    'junction',
  );
  if (place) fs.symlinkSync(own, path.join(folder, 'node_modules', name));
  return {
    file: (...parts) => path.join(own, ...parts),
    put: (part, content) => put(path.join(own, part), content),
    /** Installs the package of a platform, with this addon. */
    putPackage({ packageName, file }, addon) {
      const packed = path.join(modules, packageName);
      const manifest = { name: packageName, main: file };
      put(path.join(packed, 'package.json'), JSON.stringify(manifest));
      put(path.join(packed, file), addon);
      return packed;
    },
    /** What a program that requires the package gets. */
    async load({
      args = [],
      env = {},
      program = PROGRAM,
      arch = process.arch,
    } = {}) {
      const file = path.join(folder, 'program.js');
      fs.writeFileSync(file, program);
      const { stdout } = await promisify(execFile)(
        process.execPath,
        [...args, file],
        { env: { ...process.env, NODE_OPTIONS: '', ...env } },
      );
      const error = JSON.parse(stdout);
      t.is(error.code, 'ERR_NO_NATIVE_ADDON', stdout);
      t.is(error.name, 'MessageEnginError');
      t.notRegex(error.message, /npm has a bug|wasm|wasi/i);
      t.regex(
        error.message,
        new RegExp(`^the native addon for ${process.platform} ${arch}`),
      );
      return error;
    },
  };
}

/** The addon of this clone, with a text in it replaced by one as long. */
function changedAddon(from, to) {
  const addon = fs.readFileSync(path.join(root, host.file));
  for (let at = 0; (at = addon.indexOf(from, at)) >= 0; at += to.length) {
    addon.write(to, at, 'latin1');
  }
  return addon;
}

test.serial('the package with the addon is left out', async (t) => {
  const folder = install(t);
  const { message, cause } = await folder.load();
  t.true(message.includes('it is not installed'));
  t.true(message.includes(`${folder.file(host.file)} and the package`));
  t.true(message.includes(host.packageName));
  t.true(message.includes('--omit=optional'));
  t.true(message.includes('lock file'));
  t.false(message.includes('pnpm'));
  t.is(cause.code, 'MODULE_NOT_FOUND');
  t.true(cause.message.includes(`'${host.packageName}'`));
});

test.serial('the C library is named, with its version', async (t) => {
  const { message } = await install(t).load();
  const [first] = message.split('\n');
  if (!host.libc) t.false(first.includes('('));
  else t.regex(first, / \((musl|glibc \d+\.\d+)\) /);
});

test.serial('node_modules of another system', async (t) => {
  const folder = install(t);
  const other = platforms.find(({ os: system }) => system !== host.os);
  folder.putPackage(other, 'the addon of another system');
  const { message } = await folder.load();
  t.true(message.includes(`Installed is ${other.packageName}:`));
  t.true(message.includes('made on another system'));
  t.true(message.includes('container'));
  t.false(message.includes('--omit=optional'));
});

test.serial('the store of pnpm', async (t) => {
  const folder = install(t, `.pnpm/${name}@1.0.0/node_modules`);
  const { message } = await folder.load();
  t.true(message.includes('--no-optional'));
  t.true(message.includes('supportedArchitectures in pnpm-workspace.yaml'));
});

test.serial('Yarn PnP', async (t) => {
  // Yarn's runtime sets this.
  const program = `process.versions.pnp = '3';${PROGRAM}`;
  const { message } = await install(t).load({ program });
  t.true(message.includes('.yarnrc.yml'));
});

test.serial('a system without a build', async (t) => {
  const program = `
    Object.defineProperty(process, 'arch', { value: 'riscv64' });${PROGRAM}
  `;
  const { message } = await install(t).load({ program, arch: 'riscv64' });
  for (const { packageName } of platforms) {
    t.true(message.includes(packageName));
  }
  t.true(message.includes('For other systems'));
});

test.serial('a clone that is not built', async (t) => {
  const folder = install(t);
  folder.put('Cargo.toml', '');
  const { message } = await folder.load();
  t.true(message.includes('npm run build'));
  t.false(message.includes('optional'));
});

test.serial('a bundle', async (t) => {
  const folder = install(t);
  // One file that holds what it needs, as bundlers write it.
  const parts = Object.entries({
    './addon-error': 'native/addon-error.js',
    '../errors': 'errors.js',
    './addon': 'native/addon.js',
  }).map(([id, file]) => {
    const text = fs.readFileSync(folder.file('lib', file), 'utf8');
    return `'${id}': (module, require) => {${text}}`;
  });
  const program = `
    const loaded = {
      '../../package.json': { name: '${name}' },
      get '../../binding.js'() { return require('../${host.file}'); },
    };
    const parts = {${parts}};
    const bundled = (id) => {
      if (!(id in parts)) return id in loaded ? loaded[id] : require(id);
      const module = { exports: {} };
      parts[id](module, bundled);
      return (loaded[id] = module.exports);
    };
    ${PROGRAM.replace(/require\(.*\)/, "bundled('./addon')")}
  `;
  const { message } = await folder.load({ program });
  t.true(message.includes(`declare '${name}' as external`));
});

for (const [what, content] of [
  ['cut off', ''],
  ['something else', 'This is no addon at all, but a text.'.repeat(100)],
]) {
  test.serial(`the file of the addon is ${what}`, async (t) => {
    const folder = install(t);
    folder.put(host.file, content);
    const { message, cause } = await folder.load();
    t.is(cause.code, 'ERR_DLOPEN_FAILED');
    t.true(message.includes(cause.message.split('\n')[0]));
    t.true(message.includes('incomplete or was made for another system'));
    t.false(message.includes('optional'));
  });

  test.serial(`the addon in its package is ${what}`, async (t) => {
    const folder = install(t);
    const packed = folder.putPackage(host, content);
    const { message, cause } = await folder.load();
    t.is(cause.code, 'ERR_DLOPEN_FAILED');
    t.true(message.includes(path.join(packed, host.file)));
    t.true(message.includes('incomplete or was made for another system'));
  });
}

onGlibc('the addon needs a newer glibc', async (t) => {
  const folder = install(t);
  folder.put(host.file, changedAddon('GLIBC_2.', 'GLIBC_9.'));
  const { message, cause } = await folder.load();
  t.is(cause.code, 'ERR_DLOPEN_FAILED');
  t.regex(
    message,
    /needs at least glibc 9\.[\d.]+, and this system has 2\.\d+: /,
  );
});

onGlibc('the addon is for musl', async (t) => {
  const folder = install(t);
  folder.put(host.file, changedAddon('libc.so.6', 'libc.musl'));
  const { message } = await folder.load();
  t.true(message.includes('made for another C library than glibc'));
});

test.serial('Node without addons', async (t) => {
  const folder = install(t);
  folder.put(host.file, '');
  const { message, cause } = await folder.load({ args: ['--no-addons'] });
  t.is(cause.code, 'ERR_DLOPEN_DISABLED');
  t.true(message.includes('--no-addons'));
  t.false(message.includes('--allow-addons'));
});

test.serial("Node's permission model", async (t) => {
  const folder = install(t);
  folder.put(host.file, '');
  const flag = ['--permission', '--experimental-permission'].find((each) =>
    process.allowedNodeEnvironmentFlags.has(each),
  );
  const args = [flag, '--allow-fs-read=*'];
  const { message, cause } = await folder.load({ args });
  t.is(cause.code, 'ERR_DLOPEN_DISABLED');
  t.true(message.includes('--allow-addons'));
  t.false(message.includes('--no-addons'));
});

test.serial('a file that the environment names', async (t) => {
  const missing = path.join(root, 'no-such.node');
  const env = { NAPI_RS_NATIVE_LIBRARY_PATH: missing };
  const { message } = await install(t).load({ env });
  t.true(message.includes(`${missing} (from NAPI_RS_NATIVE_LIBRARY_PATH)`));
  t.false(message.includes('optional'));
});
