'use strict';

// RabbitMQ 4 where the system's own package is older: Debian 13's, in a folder
// of its own that is entered by chroot. See startRabbit4 below.

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { aptInstall, aptProblem } = require('./lib/apt');
const { onExit } = require('./lib/cleanup');
const { cacheDir, isRoot, which } = require('./lib/project');
const { RabbitNode } = require('./lib/rabbit-node');
const { run } = require('./lib/run');
const { step, Problem } = require('./lib/steps');

const SUITE = 'trixie';
const BIN = '/usr/lib/rabbitmq/bin';
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
const SUITE_KEYRING = `/usr/share/keyrings/debian-archive-${SUITE}-stable.gpg`;
const MIRROR_LIMIT = 15_000;

/** It could not be set up here: no fault of what was to be tested. */
class Unavailable extends Problem {}

/** The finished folder; a build that was cut short has another name. */
const rootDir = () => path.join(cacheDir(), `rabbitmq-${SUITE}`);

const isBuilt = () => fs.existsSync(path.join(rootDir(), BIN));

/**
 * Says whether RabbitMQ 4 can run here, changing nothing.
 *
 * @returns {Promise<{ ok: boolean, why: string }>}
 */
async function isAvailable() {
  const why = await obstacle();
  return { ok: why === null, why: why || 'it can run' };
}

/** @returns {Promise<string | null>} */
async function obstacle() {
  if (process.platform !== 'linux') return 'a chroot of Debian needs Linux';
  if (!isRoot()) return 'only root may use chroot';
  if (isBuilt()) return null;
  const apt = aptProblem();
  if (!which('debootstrap') && apt) {
    return `debootstrap is missing and ${apt}`;
  }
  const mirror = debianMirror();
  if (!mirror) return 'no Debian mirror is among the sources of apt';
  if (aptProxy()) return null;
  try {
    const signal = AbortSignal.timeout(MIRROR_LIMIT);
    const url = `${mirror}dists/${SUITE}/InRelease`;
    const { ok, status } = await fetch(url, { method: 'HEAD', signal });
    return ok ? null : `the mirror has no ${SUITE} (HTTP ${status})`;
  } catch {
    return 'the Debian mirror cannot be reached';
  }
}

/** The mirror that this machine installs its own packages from. */
function debianMirror() {
  const format = '$(REPO_URI) $(LABEL)';
  for (const line of aptLines('apt-get', 'indextargets', '--format', format)) {
    const [uri, label] = line.split(' ');
    // Before the first `apt-get update` there is no label.
    const known = label === 'Debian' || !label || label.startsWith('$');
    if (known && /^https?:.*\/debian\/?$/.test(uri)) {
      return uri.replace(/\/?$/, '/');
    }
  }
  return null;
}

/** The proxy that apt goes through, which debootstrap must be told of. */
function aptProxy() {
  const lines = aptLines('apt-config', 'dump', 'Acquire::http::Proxy');
  return /"(.+)"/.exec(lines[0] || '')?.[1];
}

/**
 * @param {string} command
 * @param {...string} args
 */
function aptLines(command, ...args) {
  try {
    const options = { encoding: /** @type {const} */ ('utf8') };
    return execFileSync(command, args, options).trim().split('\n');
  } catch {
    return [];
  }
}

/** Builds the folder unless it is there, and returns it. */
async function ensureRoot() {
  if (isBuilt()) return rootDir();
  const { ok, why } = await isAvailable();
  if (!ok) throw new Unavailable(`RabbitMQ 4 cannot run here: ${why}.`);
  if (!which('debootstrap')) await aptInstall(['debootstrap']);
  if (!fs.existsSync(SUITE_KEYRING)) await tryKeyring();
  const folder = `${rootDir()}.${process.pid}`;
  const remove = () => fs.rmSync(folder, { recursive: true, force: true });
  const forget = onExit(remove);
  try {
    await build(folder);
    install(folder);
  } finally {
    remove();
    forget();
  }
  return rootDir();
}

async function tryKeyring() {
  try {
    await aptInstall(['debian-archive-keyring']);
  } catch (error) {
    step(/** @type {Error} */ (error).message);
  }
}

/** @param {string} folder */
async function build(folder) {
  step(`bringing RabbitMQ 4 from Debian ${SUITE} into ${rootDir()}`);
  const args = ['--variant=minbase', '--include=rabbitmq-server'];
  if (fs.existsSync(SUITE_KEYRING)) {
    args.push(`--keyring=${KEYRING}`);
  } else {
    step(`no keys for ${SUITE} are here: the packages stay unverified`);
    args.push('--no-check-gpg');
  }
  const mirror = /** @type {string} */ (debianMirror());
  const proxy = aptProxy();
  const result = await run('debootstrap', [...args, SUITE, folder, mirror], {
    quiet: true,
    env: proxy ? { http_proxy: proxy } : {},
  });
  if (!result.ok) {
    const why = result.lines.filter((line) => /^[EW]: /.test(line)).at(-1);
    throw new Unavailable(
      `RabbitMQ 4 cannot run here: debootstrap failed: ${why || result.lines.at(-1)}`,
    );
  }
  fs.rmSync(path.join(folder, 'var/cache/apt'), { recursive: true });
  step(`RabbitMQ 4 is there after ${result.seconds.toFixed(0)} s`);
}

/**
 * Another process may have been quicker; both results are good.
 *
 * @param {string} folder
 */
function install(folder) {
  try {
    fs.renameSync(folder, rootDir());
  } catch (error) {
    if (!isBuilt()) throw error;
  }
}

/**
 * The command that runs another inside the folder. RabbitMQ reads its memory
 * from /proc, which is mounted for that command alone, so that no mount can
 * stay behind; where that is not allowed, it does without.
 *
 * @param {string} root
 */
function enter(root) {
  try {
    execFileSync('unshare', ['--mount', 'true'], { stdio: 'ignore' });
  } catch {
    return ['chroot', root];
  }
  const script = 'mount -t proc proc "$0/proc"; exec chroot "$0" "$@"';
  return ['unshare', '--mount', 'sh', '-c', script, root];
}

/**
 * Starts a RabbitMQ 4 and waits until it answers.
 *
 * @param {import('./rabbitmq').RabbitOptions} [options]
 * @returns {Promise<import('./rabbitmq').Rabbit>}
 */
async function startRabbit4(options = {}) {
  const root = await ensureRoot();
  const permit =
    options.permitTransientQueues ??
    process.env.MESSAGE_ENGIN_TEST_TRANSIENT_QUEUES !== 'refused';
  const node = new RabbitNode(
    {
      bin: BIN,
      temp: path.join(root, 'tmp'),
      inside: (file) => path.join('/', path.relative(root, file)),
      wrapper: enter(root),
    },
    {
      ...options,
      settings: {
        'deprecated_features.permit.transient_nonexcl_queues': permit,
        ...options.settings,
      },
    },
  );
  await node.start();
  return node;
}

module.exports = { startRabbit4, ensureRoot, isAvailable, Unavailable };
