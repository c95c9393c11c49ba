'use strict';

// Why the native addon cannot be loaded, and what to do about it. The text of
// the generated loader (binding.js) is not used: it gives the same advice for
// every cause, and names WebAssembly packages that are never published.

const fs = require('node:fs');
const path = require('node:path');
const manifest = require('../../package.json');
const { MessageEnginError } = require('../errors');

const ROOT = path.join(__dirname, '..', '..');
const { name } = manifest;
/** The packages with an addon each: publishing adds them to package.json. */
const PACKAGES = Object.keys(
  /** @type {any} */ (manifest).optionalDependencies ?? {},
);
const REINSTALL =
  'Remove node_modules and install again on this system (in a container: in ' +
  'the image, without copying node_modules into it).';

/**
 * @typedef {{ code?: string, message: string }} LoadError
 * @typedef {{ name: 'glibc' | 'musl', version: string }} Libc
 */

/**
 * @param {any} loaderError what binding.js threw
 * @returns {InstanceType<typeof MessageEnginError>}
 */
function addonError(loaderError) {
  const libc = process.platform === 'linux' ? libcOf() : null;
  const target = targetOf(libc);
  const override = process.env.NAPI_RS_NATIVE_LIBRARY_PATH;
  const file = path.join(ROOT, `${name}.${target}.node`);
  const candidates = override ? [override] : [file, `${name}-${target}`];
  const { cause, isMissing } = causeOf(candidates, loaderError);
  const reason = isMissing
    ? 'it is not installed'
    : cause.message.split('\n', 1)[0].replace(/\.$/, '');
  const system = libc ? ` (${libc.name} ${libc.version}`.trimEnd() + ')' : '';
  const lookedFor = override
    ? `${override} (from NAPI_RS_NATIVE_LIBRARY_PATH)`
    : `${file} and the package ${name}-${target}`;
  const advice = isMissing
    ? adviceOnMissing(`${name}-${target}`)
    : adviceOnRefused(cause, libc);
  return new MessageEnginError(
    'ERR_NO_NATIVE_ADDON',
    [
      `the native addon for ${process.platform} ${process.arch}${system} ` +
        `cannot be loaded: ${reason}.`,
      `Looked for ${lookedFor}.`,
      ...advice,
    ].join('\n'),
    { cause },
  );
}

/** @returns {Libc} */
function libcOf() {
  const report = /** @type {any} */ (process.report);
  // Otherwise the report looks up the host names of the peers of all sockets.
  report.excludeNetwork = true;
  const version = report.getReport().header.glibcVersionRuntime;
  return version ? { name: 'glibc', version } : { name: 'musl', version: '' };
}

/**
 * The system, as napi names it.
 *
 * @param {Libc | null} libc
 */
function targetOf(libc) {
  const { platform, arch } = process;
  if (platform === 'win32') return `${platform}-${arch}-msvc`;
  if (!libc) return `${platform}-${arch}`;
  return `${platform}-${arch}-${libc.name === 'glibc' ? 'gnu' : 'musl'}`;
}

/**
 * The loader's errors have lost their codes, so its candidates are tried once
 * more. The error of a file that is there says more than that of one that is
 * missing.
 *
 * @param {string[]} candidates
 * @param {LoadError} loaderError
 * @returns {{ cause: LoadError, isMissing: boolean }}
 */
function causeOf(candidates, loaderError) {
  /** @type {LoadError | undefined} */
  let missing;
  for (const candidate of candidates) {
    try {
      require(candidate);
      return { cause: loaderError, isMissing: false };
    } catch (error) {
      const cause = /** @type {LoadError} */ (error);
      if (cause.code !== 'MODULE_NOT_FOUND') return { cause, isMissing: false };
      missing = cause;
    }
  }
  return { cause: missing ?? loaderError, isMissing: true };
}

/**
 * @param {string} wanted the package
 * @returns {string[]}
 */
function adviceOnMissing(wanted) {
  if (process.env.NAPI_RS_NATIVE_LIBRARY_PATH) return [];
  if (!fs.existsSync(path.join(ROOT, 'lib', 'native', 'addon-error.js'))) {
    return [
      `It was bundled without its addon: declare '${name}' as external (esbuild ` +
        `--external:${name}, externals of webpack and Rollup, ` +
        'serverExternalPackages of Next.js) and install it beside the bundle.',
    ];
  }
  if (fs.existsSync(path.join(ROOT, 'Cargo.toml'))) {
    return ['In a clone, "npm run build" makes it. That needs Rust.'];
  }
  if (!PACKAGES.includes(wanted)) {
    return [
      `There are ${PACKAGES.join(', ')}. For other systems, "npm run build" in ` +
        'a clone makes one. That needs Rust.',
    ];
  }
  const others = PACKAGES.filter(isInstalled);
  const isOtherSystem =
    others.length > 0 &&
    `Installed is ${others.join(' and ')}: node_modules or the lock file was ` +
      'made on another system.';
  if (process.versions.pnp) {
    return [
      ...(isOtherSystem ? [isOtherSystem] : []),
      'Run "yarn install" on this system, or name it in supportedArchitectures ' +
        'of .yarnrc.yml.',
    ];
  }
  // pnpm keeps each package in a folder of its store.
  const isPnpm = __dirname.split(path.sep).includes('.pnpm');
  const architectures =
    'For several systems, pnpm has supportedArchitectures in ' +
    'pnpm-workspace.yaml.';
  if (isOtherSystem) {
    return [
      isOtherSystem,
      REINSTALL,
      isPnpm
        ? architectures
        : 'Where that does not help, remove the lock file too: npm does not ' +
          'always enter the packages of other systems into it.',
    ];
  }
  return [
    `${wanted} is an optional dependency. Installing with --omit=optional, ` +
      '--no-optional or --ignore-optional leaves it out, and so can "omit" or "optional" in .npmrc, ' +
      'and a lock file that was made on another system.',
    'Install again without these options; for the lock file, remove it and ' +
      'node_modules first.',
    ...(isPnpm ? [architectures] : []),
  ];
}

/**
 * @param {LoadError} cause
 * @param {Libc | null} libc
 * @returns {string[]}
 */
function adviceOnRefused({ code, message }, libc) {
  if (code === 'ERR_DLOPEN_DISABLED') {
    return [
      'permission' in process
        ? "Node's permission model refuses addons: start Node with " +
          '--allow-addons too.'
        : 'Node was started with --no-addons: start it without.',
    ];
  }
  if (code === 'ERR_ACCESS_DENIED') {
    return [
      "Node's permission model refuses to read the file: start Node with " +
        '--allow-fs-read for it, and with --allow-addons.',
    ];
  }
  const needed = /\bGLIBC_([\d.]+)' not found/.exec(message)?.[1];
  if (needed) {
    return [
      `The addon needs at least glibc ${needed}, and this system has ` +
        `${libc?.version || 'none'}: use a newer system or image, or make the ` +
        'addon here with "npm run build" in a clone. That needs Rust.',
    ];
  }
  if (/ld-linux|ld-musl|libc\.musl|\blibc\.so\b/.test(message)) {
    return [
      `The file was made for another C library than ${libc?.name}.`,
      REINSTALL,
    ];
  }
  if (
    /invalid ELF header|file too short|wrong ELF class|not a mach-o|incompatible architecture|Exec format error|not a valid Win32/i.test(
      message,
    )
  ) {
    return [
      'The file is incomplete or was made for another system.',
      REINSTALL,
    ];
  }
  if (/failed to map segment/.test(message)) {
    return ['Is its file system mounted with noexec?'];
  }
  return [];
}

/** @param {string} packageName */
function isInstalled(packageName) {
  try {
    require.resolve(`${packageName}/package.json`);
    return true;
  } catch {
    return false;
  }
}

module.exports = { addonError };
