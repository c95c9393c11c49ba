'use strict';

// A broker that a test file does to what it wants, and what it can do.

const { once } = require('node:events');
const { LegacyLine } = require('../legacy');
const { withOwnRabbit } = require('../rabbit');

const LASTS = { durable: true, autoDelete: false };

/**
 * @param {import('ava').TestFn} test
 */
function withVictim(test) {
  const { rabbit, settings } = withOwnRabbit(test);
  let isDead = false;
  /** @type {number | null} */
  let frozen = null;

  const victim = {
    rabbit,
    settings,

    async kill() {
      isDead = true;
      await rabbit().kill9();
    },

    /** Back, whatever happened to it. */
    async restore() {
      victim.thaw();
      if (isDead) await rabbit().restart();
      isDead = false;
    },

    /** An orderly stop and start. */
    async restart() {
      isDead = true;
      await rabbit().restart();
      isDead = false;
    },

    freeze() {
      frozen = rabbit().pid;
      process.kill(frozen, 'SIGSTOP');
    },

    thaw() {
      if (frozen !== null) process.kill(frozen, 'SIGCONT');
      frozen = null;
    },

    /** The same settings through a road. @param {{ port: number }} road */
    through: (mqConf, { port }) => ({ ...mqConf, host: '127.0.0.1', port }),

    /** @param {string} name */
    async deleteExchange(name) {
      const resource = `rabbit_misc:r(<<"/">>, exchange, <<"${name}">>)`;
      await rabbit().ctl(
        'eval',
        `rabbit_exchange:delete(${resource}, false, <<"test">>).`,
      );
    },

    async line(t) {
      const line = await LegacyLine.connect({ url: rabbit().url });
      t.teardown(() => line.close());
      return line;
    },

    /**
     * A durable exchange with a durable queue, and what comes into it.
     *
     * @returns {Promise<{ message: any, headers: any, info: any }[]>}
     */
    async deposit(t, exchange, type, queue, key = '') {
      const line = await victim.line(t);
      await line.exchange(exchange, type, LASTS);
      const bound = await line.queue(queue, LASTS);
      await line.bind(bound, exchange, key);
      const got = [];
      await line.consume(bound, (message, headers, info) =>
        got.push({ message, headers, info }),
      );
      return got;
    },
  };
  test.afterEach.always('the broker is back for the next test', () =>
    victim.restore(),
  );
  return victim;
}

/** All of them have told so since. */
function lost(...emitters) {
  return Promise.all(emitters.map((emitter) => once(emitter, 'reconnecting')));
}

module.exports = { LASTS, lost, withVictim };
