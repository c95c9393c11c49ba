'use strict';

// What a login must be allowed to do, and what happens when it is not: nothing
// that is published is lost without a word.

const http = require('node:http');
const { setTimeout: delay } = require('node:timers/promises');
const test = require('ava');
const { Client, server } = require('../..');
const { unique } = require('../support/brokers');
const { isExternal, withOwnRabbit } = require('../support/rabbit');
const { until } = require('../support/until');
const { door, usual, worker } = require('../support/world');

const { rabbit, settings } = withOwnRabbit(test);
const ours = isExternal ? test.skip : test;
const GUARANTEES = ['at-most-once', 'at-least-once'];

/** What docs/guide/security.md lists, by role: configure, write, read. */
const NEEDED = {
  gateway: {
    configure: [
      ...['receiveExchange', 'statusExchange', 'messageExchange'],
      ...['receiveQueue', 'statusQueue', 'messageQueue-.*'],
    ],
    write: [
      ...['receiveExchange', 'statusExchange'],
      ...['receiveQueue', 'statusQueue', 'messageQueue-.*'],
    ],
    read: [
      ...['receiveExchange', 'statusExchange', 'messageExchange'],
      'messageQueue-.*',
    ],
  },
  worker: {
    configure: [
      ...['receiveExchange', 'statusExchange', 'messageExchange'],
      ...['receiveQueue', 'statusQueue'],
    ],
    write: ['messageExchange', 'receiveQueue', 'statusQueue'],
    read: [
      ...['receiveExchange', 'statusExchange'],
      ...['receiveQueue', 'statusQueue'],
    ],
  },
};
const ACTIONS = ['configure', 'write', 'read'];

/** A login, and what it may do with which of the names of an mqConf. */
async function login(mqConf, needed) {
  const name = unique();
  await rabbit().ctl('add_user', name, 'secret');
  const user = {
    mqConf: { ...mqConf, login: name, password: 'secret' },
    async may(permissions) {
      const patterns = ACTIONS.map((action) => {
        const names = permissions[action].map((text) => {
          const [option, ...rest] = text.split('-');
          return [mqConf[option], ...rest].join('-');
        });
        return `^(${names.join('|')})$`;
      });
      await rabbit().ctl('set_permissions', '-p', '/', name, ...patterns);
    },
  };
  await user.may(needed);
  return user;
}

for (const delivery of GUARANTEES) {
  ours(`${delivery}: the documented permissions are enough`, async (t) => {
    const mqConf = { ...settings(), delivery };
    const back = await login(mqConf, NEEDED.worker);
    const front = await login(mqConf, NEEDED.gateway);
    const { client, messages, statuses } = await worker(t, back.mqConf);
    const { gateway, connect } = await door(t, front.mqConf);
    for (const emitter of [client, gateway]) {
      emitter.on('reconnecting', ({ error }) => t.fail(error.message));
    }
    const browser = await connect('k');
    browser.sendJson('up');
    await until(() => messages.length === 1 && statuses.length === 1);
    client.send('down', { to: 'k' });
    t.deepEqual(await browser.received(1), ['down']);
    await gateway.close();
    await until(() => statuses.length === 2);
    t.is(client.stats().undeliverable, 0);
    t.is(gateway.stats().undeliverable, 0);
  });

  for (const [role, needed] of Object.entries(NEEDED)) {
    ours(`${delivery}: a ${role} needs each permission`, async (t) => {
      t.timeout(300_000);
      const mqConf = { ...settings(), delivery, reconnectBackoffTime: 100 };
      // All is there, as others leave it.
      await worker(t, mqConf);
      const user = await login(mqConf, needed);
      const start = {
        gateway: () =>
          server.start(user.mqConf, {
            ...usual,
            httpServer: http.createServer(),
          }),
        worker: () => {
          const client = new Client(user.mqConf);
          client.on('message', () => {});
          client.on('status', () => {});
          return client.init();
        },
      }[role];
      for (const action of ACTIONS) {
        for (const name of needed[action]) {
          const others = needed[action].filter((other) => other !== name);
          await user.may({ ...needed, [action]: others });
          const error = await start().then(refusal, (failure) => failure);
          t.is(error.code, 'ACCESS_REFUSED', `${action} ${name}`);
          const option = name.replace('-.*', '');
          t.true(error.message.includes(mqConf[option]), error.message);
        }
      }
    });
  }

  ours(`${delivery}: a permission is taken away for a while`, async (t) => {
    t.timeout(180_000);
    const mqConf = { ...settings(), delivery, reconnectBackoffTime: 200 };
    const { messages } = await worker(t, mqConf);
    const front = await login(mqConf, NEEDED.gateway);
    const { gateway, connect } = await door(t, front.mqConf);
    const told = [];
    gateway.on('reconnecting', ({ error }) => told.push(error));
    const lost = [];
    gateway.on('lost', (info) => lost.push(info));
    const browser = await connect('k');
    await front.may({ ...NEEDED.gateway, write: [] });
    let sent = 0;
    const say = () => browser.sendJson((sent += 1));
    // A channel remembers what it was allowed until it has been idle a while.
    while (told.length === 0) {
      say();
      await delay(1500);
    }
    const known = sent;
    t.is(told[0].code, 'ACCESS_REFUSED');
    t.true(told[0].message.includes(mqConf.receiveExchange));
    for (let count = 0; count < 20; count += 1) say();
    // It fails again, with what waits in hand.
    const before = told.length;
    await until(() => told.length > before + 1);
    t.is(told.at(-1).code, 'ACCESS_REFUSED');
    await front.may(NEEDED.gateway);
    await until(() => messages.at(-1)?.message === sent);
    const arrived = messages.map(({ message }) => message);
    const kept = arrived.filter((number) => number > known);
    t.is(kept.length, 20);
    t.deepEqual(
      arrived,
      [...arrived].sort((a, b) => a - b),
    );
    const { undeliverable } = gateway.stats();
    if (delivery === 'at-least-once') {
      t.is(new Set(arrived).size, sent);
      t.is(undeliverable, 0);
    } else {
      t.true(arrived.length + undeliverable >= sent);
      t.is(
        lost.reduce((sum, { count }) => sum + count, 0),
        undeliverable,
      );
      for (const { error } of lost) t.is(error.code, 'ACCESS_REFUSED');
    }
  });
}

/** Who is there is refused later. */
async function refusal(started) {
  const error = await new Promise((resolve) => {
    started.on('reconnecting', (info) => resolve(info.error));
  });
  await started.close();
  return error;
}
