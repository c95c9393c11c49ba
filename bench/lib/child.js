'use strict';

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const readline = require('node:readline');
const { onExit } = require('../../scripts/lib/cleanup');

const READY_LIMIT = 20_000;
const END_LIMIT = 3_000;

/**
 * A process of the measurement. It says what happens as lines of JSON with an
 * `event`, takes commands on its standard input, and ends when that ends.
 */
class Child {
  /**
   * @param {string} name
   * @param {string[]} command
   * @param {NodeJS.ProcessEnv} [env]
   */
  constructor(name, [file, ...args], env = {}) {
    this.name = name;
    this.lastWords = '';
    /** @type {any[]} */
    this.events = [];
    /** @type {(() => void) | null} */
    this.wake = null;
    this.child = spawn(file, args, {
      env: { ...process.env, ...env },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    this.forget = onExit(() => this.child.kill('SIGKILL'));
    this.ended = once(this.child, 'close').catch((error) => {
      this.lastWords += error.message;
    });
    void this.ended.then(() => {
      this.forget();
      this.over = true;
      this.wake?.();
    });
    this.over = false;
    // It may end before it has read what is written to it.
    this.child.stdin.on('error', () => {});
    this.child.stderr.setEncoding('utf8').on('data', (text) => {
      this.lastWords = (this.lastWords + text).slice(-2000);
    });
    readline
      .createInterface({ input: this.child.stdout })
      .on('line', (line) => {
        const event = JSON.parse(line);
        // At once, before whoever waits gets its turn.
        this.onEvent?.(event);
        this.events.push(event);
        this.wake?.();
      });
  }

  get pid() {
    return /** @type {number} */ (this.child.pid);
  }

  /**
   * The next event of one of these names; others before it are dropped.
   *
   * @param {string[]} names
   * @param {number} [limit] in milliseconds
   */
  async next(names, limit = READY_LIMIT) {
    const end = Date.now() + limit;
    for (;;) {
      while (this.events.length) {
        const event = this.events.shift();
        if (names.includes(event.event)) return event;
      }
      if (this.over) throw this.error('ended too early');
      const left = end - Date.now();
      if (left <= 0) throw this.error(`said nothing for ${limit / 1000} s`);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, left);
        this.wake = () => {
          clearTimeout(timer);
          resolve(undefined);
        };
      });
    }
  }

  /** @param {string} line */
  tell(line) {
    this.child.stdin.write(`${line}\n`);
  }

  /** Has it collect its garbage, where it has any. */
  async settle() {
    this.tell('settle');
    await this.next(['settled']);
  }

  async end() {
    this.child.stdin.end();
    const timer = setTimeout(() => this.child.kill('SIGKILL'), END_LIMIT);
    await this.ended;
    clearTimeout(timer);
  }

  /** @param {string} what */
  error(what) {
    return new Error(`${this.name} ${what}: ${this.lastWords || '(silent)'}`);
  }
}

module.exports = { Child };
