'use strict';

// What a user reads where the addon cannot be loaded: a package folder as npm
// makes it, in a process of its own, in each of the situations.

const { execFile } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { promisify } = require('node:util');
const test = require('ava');
const { name } = require('../package.json');

const root = path.join(__dirname, '..');
const isLinux = process.platform === 'linux';
const isMusl =
  isLinux && !process.report.getReport().header.glibcVersionRuntime;
const onGlibc = isLinux && !isMusl ? test.serial : test.serial.skip;
const targets = fs.readdirSync(path.join(root, 'npm'));
const [target] = targets.filter(
  (each) =>
    each.startsWith(`${process.platform}-${process.arch}`) &&
    (!isLinux || each.endsWith(isMusl ? 'musl' : 'gnu')),
);
const FILE = `${name}.${target}.node`;

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
  fs.mkdirSync(own, { recursive: true });
  for (const part of ['index.js', 'lib', 'binding.js']) {
    fs.cpSync(path.join(root, part), path.join(own, part), { recursive: true });
  }
  const manifest = JSON.parse(fs.readFileSync(path.join(root, 'package.json')));
  // As publishing does.
  manifest.optionalDependencies = Object.fromEntries(
    targets.map((each) => [`${name}-${each}`, manifest.version]),
  );
  const put = (file, content) => {
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(file, content);
  };
  put(path.join(own, 'package.json'), JSON.stringify(manifest));
  fs.symlinkSync(
    path.join(root, 'node_modules', 'co'),
    path.join(modules, 'co'),
    'junction',
  );
  if (place) fs.symlinkSync(own, path.join(folder, 'node_modules', name));
  return {
    file: (...parts) => path.join(own, ...parts),
    put: (part, content) => put(path.join(own, part), content),
    /** Installs the package of a target, with this addon. */
    putPackage(each, addon) {
      const packed = path.join(modules, `${name}-${each}`);
      const from = path.join(root, 'npm', each, 'package.json');
      put(path.join(packed, 'package.json'), fs.readFileSync(from));
      put(path.join(packed, `${name}.${each}.node`), addon);
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
  const addon = fs.readFileSync(path.join(root, FILE));
  for (let at = 0; (at = addon.indexOf(from, at)) >= 0; at += to.length) {
    addon.write(to, at, 'latin1');
  }
  return addon;
}

test.serial('the package with the addon is left out', async (t) => {
  const folder = install(t);
  const { message, cause } = await folder.load();
  t.true(message.includes('it is not installed'));
  t.true(message.includes(`${folder.file(FILE)} and the package`));
  t.true(message.includes(`${name}-${target}`));
  t.true(message.includes('--omit=optional'));
  t.true(message.includes('lock file'));
  t.false(message.includes('pnpm'));
  t.is(cause.code, 'MODULE_NOT_FOUND');
  t.true(cause.message.includes(`'${name}-${target}'`));
});

test.serial('the C library is named, with its version', async (t) => {
  const { message } = await install(t).load();
  const [first] = message.split('\n');
  if (!isLinux) t.false(first.includes('('));
  else t.regex(first, isMusl ? / \(musl\) / : / \(glibc \d+\.\d+\) /);
});

test.serial('node_modules of another system', async (t) => {
  const folder = install(t);
  const other = targets.find((each) => !each.startsWith(process.platform));
  folder.putPackage(other, 'the addon of another system');
  const { message } = await folder.load();
  t.true(message.includes(`Installed is ${name}-${other}`));
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
  for (const each of targets) t.true(message.includes(`${name}-${each}`));
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
  const parts = ['addon-error.js', 'errors.js', 'native.js'].map((file) => {
    const text = fs.readFileSync(folder.file('lib', file), 'utf8');
    return `'./${file.slice(0, -3)}': (module, require) => {${text}}`;
  });
  const program = `
    const loaded = {
      '../package.json': { name: '${name}' },
      get '../binding.js'() { return require('./${FILE}'); },
    };
    const parts = {${parts}};
    const bundled = (id) => {
      if (!(id in parts)) return id in loaded ? loaded[id] : require(id);
      const module = { exports: {} };
      parts[id](module, bundled);
      return (loaded[id] = module.exports);
    };
    ${PROGRAM.replace(/require\(.*\)/, "bundled('./native')")}
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
    folder.put(FILE, content);
    const { message, cause } = await folder.load();
    t.is(cause.code, 'ERR_DLOPEN_FAILED');
    t.true(message.includes(cause.message.split('\n')[0]));
    t.true(message.includes('incomplete or was made for another system'));
    t.false(message.includes('optional'));
  });

  test.serial(`the addon in its package is ${what}`, async (t) => {
    const folder = install(t);
    const packed = folder.putPackage(target, content);
    const { message, cause } = await folder.load();
    t.is(cause.code, 'ERR_DLOPEN_FAILED');
    t.true(message.includes(path.join(packed, FILE)));
    t.true(message.includes('incomplete or was made for another system'));
  });
}

onGlibc('the addon needs a newer glibc', async (t) => {
  const folder = install(t);
  folder.put(FILE, changedAddon('GLIBC_2.', 'GLIBC_9.'));
  const { message, cause } = await folder.load();
  t.is(cause.code, 'ERR_DLOPEN_FAILED');
  t.regex(message, /needs at least glibc 9\.[\d.]+, and this system has 2\.\d+: /);
});

onGlibc('the addon is for musl', async (t) => {
  const folder = install(t);
  folder.put(FILE, changedAddon('libc.so.6', 'libc.musl'));
  const { message } = await folder.load();
  t.true(message.includes('made for another C library than glibc'));
});

test.serial('Node without addons', async (t) => {
  const folder = install(t);
  folder.put(FILE, '');
  const { message, cause } = await folder.load({ args: ['--no-addons'] });
  t.is(cause.code, 'ERR_DLOPEN_DISABLED');
  t.true(message.includes('--no-addons'));
  t.false(message.includes('--allow-addons'));
});

test.serial("Node's permission model", async (t) => {
  const folder = install(t);
  folder.put(FILE, '');
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
