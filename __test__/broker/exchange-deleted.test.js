'use strict';

// An exchange is deleted in the middle of a burst: it is declared and bound
// again within about a second, what is sent meanwhile waits, and what is lost
// is counted and told.

const { setTimeout: delay } = require('node:timers/promises');
const test = require('ava');
const { isExternal, withOwnRabbit } = require('../support/rabbit');
const { until } = require('../support/until');
const { door, worker } = require('../support/world');

const { rabbit, settings } = withOwnRabbit(test);
const ours = isExternal ? test.skip : test;

/** @param {string} name */
async function deleteExchange(name) {
  const resource = `rabbit_misc:r(<<"/">>, exchange, <<"${name}">>)`;
  const call = `rabbit_exchange:delete(${resource}, false, <<"test">>).`;
  await rabbit().ctl('eval', call);
}

/** A browser and a worker, and how each sends to the other. */
async function stage(t, mqConf) {
  const { client, messages } = await worker(t, mqConf);
  const { gateway, connect } = await door(t, mqConf);
  const browser = await connect('a');
  return {
    receiveExchange: {
      emitter: gateway,
      send: (n) => browser.sendJson(n),
      got: () => [messages.map(({ message }) => message)],
    },
    messageExchange: {
      emitter: client,
      send: (n) => client.send(n, { to: 'a' }),
      got: () => [browser.messages.map(Number)],
    },
  };
}

for (const delivery of ['at-most-once', 'at-least-once']) {
  for (const option of ['messageExchange', 'receiveExchange']) {
    ours(`${delivery}: ${option} is deleted in a burst`, async (t) => {
      const mqConf = { ...settings(), delivery };
      const { emitter, send, got } = (await stage(t, mqConf))[option];
      let told = 0;
      emitter.on('lost', ({ count, error }) => {
        told += count;
        t.is(error.code, 'NOT_FOUND');
        t.true(error.message.includes(mqConf[option]));
      });
      let sent = 0;
      const talk = async (count) => {
        for (let n = 0; n < count; n += 1) {
          send((sent += 1));
          await delay(5);
        }
      };
      await talk(100);
      let isDeleted = false;
      const deleting = deleteExchange(mqConf[option]).finally(() => {
        isDeleted = true;
      });
      while (!isDeleted) await talk(10);
      await deleting;
      await talk(200);
      await until(() => got().every((numbers) => numbers.at(-1) === sent));
      const { undeliverable } = emitter.stats();
      for (const numbers of got()) {
        t.deepEqual(
          numbers,
          [...numbers].sort((a, b) => a - b),
        );
        t.is(new Set(numbers).size, numbers.length);
        t.log(
          `${numbers.length} of ${sent} came, ${undeliverable} counted as lost`,
        );
        t.true(numbers.length + undeliverable >= sent, 'all is counted');
        if (delivery === 'at-least-once') t.is(numbers.length, sent);
        // What was on its way when the channel was closed, and no more.
        t.true(numbers.length > sent - 60, `${numbers.length} of ${sent} came`);
      }
      t.is(told, undeliverable);
    });
  }
}

ours(
  'at-most-once: what is sent while no gateway is there is counted',
  async (t) => {
    const mqConf = settings();
    const { client } = await worker(t, mqConf);
    const lost = [];
    client.on('lost', (info) => lost.push(info));
    for (let n = 0; n < 10; n += 1) client.send(n, { to: 'k' });
    await until(() => client.stats().undeliverable === 10);
    t.is(client.stats().published, 0);
    t.is(lost.length, 1, 'told once');
    t.is(lost[0].error.code, 'NO_ROUTE');
    const { connect } = await door(t, mqConf);
    const browser = await connect('k');
    client.send('there', { to: 'k' });
    t.deepEqual(await browser.received(1), ['there']);
    t.is(client.stats().undeliverable, 10);
  },
);
