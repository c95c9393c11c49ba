'use strict';

const { execFile, spawnSync } = require('node:child_process');
const crypto = require('node:crypto');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const { setTimeout: delay } = require('node:timers/promises');
const { promisify } = require('node:util');
const { probe } = require('./amqp-probe');
const { endChild, isRunning, startServer } = require('./child');
const { onExit } = require('./cleanup');
const { HOST, freePort } = require('./ports');
const { Problem } = require('./steps');

const POLL = 50;
const START_LIMIT = 120_000;
const STOP_LIMIT = 5_000;
const CTL_LIMIT = 60_000;
const PORT_ATTEMPTS = 3;
const EPMD_ATTEMPTS = 100;
const PORT_TAKEN = /in use|eaddrinuse|already_used|nodistribution/;
const FOLDER = 'message-engin-rabbit-';
const LOOPBACK = '-kernel inet_dist_use_interface {127,0,0,1}';

/**
 * @typedef {import('./child').Child} Child
 *
 * How to run the programs of one RabbitMQ installation.
 *
 * @typedef {object} Installation
 * @property {string} bin the folder of rabbitmq-server and rabbitmqctl, as
 *   these programs see it
 * @property {string} temp a folder for temporary files, as this process sees it
 * @property {(file: string) => string} inside a path as those programs see it
 * @property {string[]} wrapper put before each command
 *
 * @typedef {object} RabbitTls PEM texts
 * @property {Buffer | string} ca that clients' certificates must be signed by
 * @property {Buffer | string} cert
 * @property {Buffer | string} key
 * @property {boolean} [requireClients] refuses clients without certificate
 */

let counter = 0;

/**
 * @param {number} port
 * @param {string} host
 * @returns {Promise<boolean>}
 */
function accepts(port, host) {
  return new Promise((resolve) => {
    const socket = net.connect(port, host, () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}

/** @param {number} pid */
function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return /** @type {NodeJS.ErrnoException} */ (error).code === 'EPERM';
  }
}

/**
 * Removes the folders of processes that were killed before they could.
 *
 * @param {string} temp
 */
function sweep(temp) {
  for (const name of fs.readdirSync(temp)) {
    if (!name.startsWith(FOLDER)) continue;
    const owner = parseInt(name.slice(FOLDER.length), 10);
    if (owner && !isAlive(owner)) removeFolder(path.join(temp, name));
  }
}

/** @param {string} folder */
function removeFolder(folder) {
  try {
    // A dying broker may still write while its files are being removed.
    fs.rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  } catch (error) {
    console.error(/** @type {Error} */ (error).message);
  }
}

/**
 * One RabbitMQ broker of its own: own ports, own folder, own Erlang cookie and
 * own epmd, everything on the loopback interface. It ends with this process.
 */
class RabbitNode {
  /**
   * @param {Installation} installation
   * @param {object} options
   * @param {Record<string, string | number | boolean>} [options.settings] for
   *   rabbitmq.conf
   * @param {RabbitTls} [options.tls]
   * @param {string[]} [options.plugins]
   * @param {RabbitNode | null} [options.first] of the cluster that it is to
   *   join: they share its epmd and its cookie
   */
  constructor(
    installation,
    { settings = {}, tls, plugins = [], first = null },
  ) {
    counter += 1;
    this.first = first;
    this.installation = installation;
    this.settings = settings;
    this.tls = tls;
    this.plugins = plugins;
    this.name = `message-engin-${process.pid}-${counter}@localhost`;
    this.host = HOST;
    this.port = 0;
    this.tlsPort = 0;
    this.distPort = 0;
    this.epmdPort = 0;
    this.version = '';
    /** @type {Child | null} */
    this.broker = null;
    /** @type {Child | null} */
    this.epmd = null;
    sweep(installation.temp);
    this.folder = fs.mkdtempSync(
      path.join(installation.temp, `${FOLDER}${process.pid}-`),
    );
    this.forget = onExit(() => this.endNow());
  }

  get url() {
    return `amqp://guest:guest@${this.host}:${this.port}/%2f`;
  }

  get pid() {
    return isRunning(this.broker) ? this.broker.pid : null;
  }

  /** @param {string} name */
  file(name) {
    return path.join(this.folder, name);
  }

  /** Chooses ports, starts, and waits until the broker answers. */
  async start() {
    for (let attempt = 1; ; attempt += 1) {
      this.port = await freePort();
      if (this.tls) this.tlsPort = await freePort();
      this.distPort = await freePort();
      this.epmdPort = this.first?.epmdPort ?? (await freePort());
      try {
        this.writeFiles();
        await this.startEpmd();
        await this.startBroker();
        return;
      } catch (error) {
        await this.end();
        if (attempt === PORT_ATTEMPTS || !PORT_TAKEN.test(this.output())) {
          await this.remove();
          throw error;
        }
      }
    }
  }

  writeFiles() {
    const settings = {
      'listeners.tcp.1': `${this.host}:${this.port}`,
      'log.console': false,
      'log.file.level': 'info',
      'disk_free_limit.absolute': '1MB',
      ...this.tlsSettings(),
      ...this.settings,
    };
    const lines = Object.entries(settings).map(([k, v]) => `${k} = ${v}\n`);
    fs.writeFileSync(this.file('rabbitmq.conf'), lines.join(''));
    const plugins = `[${this.plugins.join()}].\n`;
    fs.writeFileSync(this.file('enabled_plugins'), plugins);
    const cookie = this.file('.erlang.cookie');
    if (!fs.existsSync(cookie)) {
      const secret = this.first
        ? fs.readFileSync(this.first.file('.erlang.cookie'))
        : crypto.randomBytes(20).toString('hex');
      fs.writeFileSync(cookie, secret, { mode: 0o400 });
    }
  }

  tlsSettings() {
    if (!this.tls) return {};
    const { ca, cert, key, requireClients = false } = this.tls;
    const home = this.installation.inside(this.folder);
    for (const [name, text] of Object.entries({ ca, cert, key })) {
      fs.writeFileSync(this.file(`${name}.pem`), text);
    }
    return {
      'listeners.ssl.1': `${this.host}:${this.tlsPort}`,
      'ssl_options.cacertfile': `${home}/ca.pem`,
      'ssl_options.certfile': `${home}/cert.pem`,
      'ssl_options.keyfile': `${home}/key.pem`,
      'ssl_options.verify': 'verify_peer',
      'ssl_options.fail_if_no_peer_cert': requireClients,
    };
  }

  /** Everything these programs go by; nothing of RabbitMQ is inherited. */
  env() {
    const home = this.installation.inside(this.folder);
    return {
      PATH: [
        process.env.PATH,
        '/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin',
      ].join(':'),
      LC_ALL: 'C.UTF-8',
      HOME: home,
      ERL_CRASH_DUMP_SECONDS: '0',
      ERL_EPMD_ADDRESS: this.host,
      ERL_EPMD_PORT: String(this.epmdPort),
      RABBITMQ_CONF_ENV_FILE: '/dev/null',
      RABBITMQ_CONFIG_FILE: `${home}/rabbitmq.conf`,
      RABBITMQ_ENABLED_PLUGINS_FILE: `${home}/enabled_plugins`,
      RABBITMQ_LOG_BASE: `${home}/log`,
      RABBITMQ_MNESIA_BASE: `${home}/mnesia`,
      RABBITMQ_PID_FILE: `${home}/pid`,
      RABBITMQ_NODENAME: this.name,
      RABBITMQ_DIST_PORT: String(this.distPort),
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: LOOPBACK,
      RABBITMQ_CTL_ERL_ARGS: LOOPBACK,
      RABBITMQ_CTL_DIST_PORT_MIN: '0',
      RABBITMQ_CTL_DIST_PORT_MAX: '0',
      // The start script then becomes the broker, so its pid is the broker's.
      detached: '1',
    };
  }

  /** @param {string[]} command */
  spawn(command) {
    return startServer([...this.installation.wrapper, ...command], {
      cwd: this.installation.temp,
      env: this.env(),
      output: this.file('output'),
    });
  }

  async startEpmd() {
    if (this.first) return;
    const port = String(this.epmdPort);
    const command = ['epmd', '-port', port, '-address', this.host];
    this.epmd = this.spawn(command);
    await this.until(this.epmd, 'epmd', () => accepts(Number(port), this.host));
  }

  async startBroker() {
    fs.rmSync(this.file('output'), { force: true });
    this.broker = this.spawn([`${this.installation.bin}/rabbitmq-server`]);
    await this.until(this.broker, 'RabbitMQ', async () => {
      const version = await probe(this.port, this.host);
      this.version = version || this.version;
      const secure = !this.tls || (await accepts(this.tlsPort, this.host));
      return version !== null && secure;
    });
  }

  /**
   * @param {Child} child
   * @param {string} name
   * @param {() => Promise<boolean>} isReady
   */
  async until(child, name, isReady) {
    const limit = Date.now() + START_LIMIT;
    for (;;) {
      const ready = await isReady();
      // Somebody else may be the one who answers on that port.
      if (!isRunning(child)) {
        throw new Problem(`${name} did not start: ${this.lastWords()}`);
      }
      if (ready) return;
      if (Date.now() > limit) {
        throw new Problem(`${name} took too long: ${this.lastWords()}`);
      }
      await delay(POLL);
    }
  }

  output() {
    try {
      return fs.readFileSync(this.file('output'), 'utf8').trim();
    } catch {
      return '';
    }
  }

  lastWords() {
    const lines = this.output().split('\n').slice(-15);
    return lines.map((line) => line.slice(0, 300)).join('\n') || '(no output)';
  }

  /**
   * Runs rabbitmqctl on this broker.
   *
   * @param {...string} args
   * @returns {Promise<string>} what it printed
   */
  ctl(...args) {
    return runCtl(this.handle(), args);
  }

  /**
   * What another process needs to run rabbitmqctl on this broker.
   *
   * @returns {CtlHandle}
   */
  handle() {
    const { wrapper, bin } = this.installation;
    const command = [...wrapper, `${bin}/rabbitmqctl`, '-n', this.name];
    return { command, env: this.env() };
  }

  /** Becomes a member of the cluster of the first node. */
  async join() {
    if (!this.first) return;
    await this.ctl('stop_app');
    await this.ctl('join_cluster', this.first.name);
    await this.ctl('start_app');
  }

  /** Ends the broker as a crash or a power cut does. */
  async kill9() {
    await endChild(this.broker, 'SIGKILL', STOP_LIMIT);
  }

  /** Starts again, on the same port and data, after an orderly end if it runs. */
  async restart() {
    await endChild(this.broker, 'SIGTERM', STOP_LIMIT);
    await this.startBroker();
  }

  /** Ends everything, and removes what it left on the disk. */
  async stop() {
    await this.end();
    await this.remove();
  }

  async end() {
    await endChild(this.broker, 'SIGTERM', STOP_LIMIT);
    this.endReplacement();
    await endChild(this.epmd, 'SIGKILL', STOP_LIMIT);
  }

  /** A broker whose epmd has died starts a daemon, which would outlive it. */
  endReplacement() {
    if (!this.epmd || isRunning(this.epmd)) return;
    const { wrapper } = this.installation;
    const port = String(this.epmdPort);
    const [file, ...args] = [...wrapper, 'epmd', '-port', port, '-kill'];
    // It refuses as long as it has not noticed that the broker is gone.
    for (let attempt = 0; attempt < EPMD_ATTEMPTS; attempt += 1) {
      const { stdout } = spawnSync(file, args, {
        env: this.env(),
        encoding: 'utf8',
        timeout: 2000,
      });
      if (!stdout?.includes('not allowed')) return;
    }
  }

  async remove() {
    this.forget();
    removeFolder(this.folder);
    sweep(this.installation.temp);
  }

  /** The same for a process that is about to exit: nothing may wait. */
  endNow() {
    if (isRunning(this.broker)) this.broker.kill('SIGKILL');
    this.endReplacement();
    if (isRunning(this.epmd)) this.epmd.kill('SIGKILL');
    removeFolder(this.folder);
  }
}

/**
 * @typedef {object} CtlHandle
 * @property {string[]} command
 * @property {NodeJS.ProcessEnv} env
 *
 * @param {CtlHandle} handle
 * @param {string[]} args
 */
async function runCtl(handle, args) {
  const [file, ...rest] = [...handle.command, ...args];
  try {
    const { stdout } = await promisify(execFile)(file, rest, {
      env: handle.env,
      timeout: CTL_LIMIT,
      maxBuffer: 1 << 26,
    });
    return stdout;
  } catch (error) {
    const { stderr, message } = /** @type {any} */ (error);
    const why = String(stderr || message).trim();
    throw new Problem(`rabbitmqctl ${args.join(' ')} failed: ${why}`);
  }
}

module.exports = { RabbitNode, runCtl };
