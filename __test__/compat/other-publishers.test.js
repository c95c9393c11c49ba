'use strict';

// Messages of other AMQP programs: their ids, and headers that we cannot read.

const test = require('ava');
const { rabbitmq, withRabbit } = require('../support/brokers');
const { LegacyLine } = require('../support/legacy');
const { until } = require('../support/until');
const { open } = require('../support/world');

withRabbit(test);

const GUARANTEES = ['at-most-once', 'at-least-once'];

/** A world, and another program that publishes to one of its exchanges. */
async function foreign(t, confs) {
  const world = await open(t, rabbitmq, confs);
  const line = await LegacyLine.connect(world.mqConf);
  t.teardown(() => line.close());
  const publish = async (name, key, body, properties) => {
    // It exists, so it need not be declared alike.
    const exchange = await line.exchange(name, undefined, { passive: true });
    exchange.publish(key, JSON.stringify(body), {
      contentType: 'application/json',
      ...properties,
    });
  };
  return { ...world, publish };
}

for (const delivery of GUARANTEES) {
  test(`messages of another program with one id arrive all, ${delivery}`, async (t) => {
    const world = await foreign(t, { mq: { delivery } });
    const peer = await world.connect('a');
    const { messageExchange } = world.mqConf;
    const send = (n, properties = {}) =>
      world.publish(
        messageExchange,
        '',
        { n },
        {
          messageId: 'order-17',
          headers: { to: 'a' },
          ...properties,
        },
      );
    for (const n of [1, 2, 3]) await send(n);
    await peer.received(3);
    // Marked as published again: only a copy of what was here is a duplicate.
    for (const n of [3, 4]) await send(n, { type: 'redelivered' });
    await send(5);
    await until(() => peer.messages.at(-1) === '{"n":5}');
    const reliable = delivery === 'at-least-once';
    t.deepEqual(
      peer.messages.map((text) => JSON.parse(text).n),
      reliable ? [1, 2, 3, 4, 5] : [1, 2, 3, 3, 4, 5],
    );
    t.is(world.gateway.stats().duplicates, reliable ? 1 : 0);
  });

  test(`headers that cannot be read leave the others there, ${delivery}`, async (t) => {
    const seen = [];
    const world = await foreign(t, {
      mq: { delivery },
      ws: {
        messageKeyFn(message, headers) {
          seen.push(headers);
          return headers.to;
        },
      },
    });
    const peer = await world.connect('a');
    const { mqConf, client, gateway, messages } = world;
    let deep = { end: 1 };
    for (let level = 0; level < 80; level += 1) deep = { deep };
    const headers = { first: 1, deep, to: 'a' };
    const left = { first: 1, to: 'a' };
    for (const [exchange, key] of [
      [mqConf.messageExchange, ''],
      [mqConf.receiveExchange, mqConf.receiveQueue],
    ]) {
      for (const n of [1, 2]) {
        await world.publish(exchange, key, { n }, { headers });
      }
      await world.publish(exchange, key, { n: 3 }, { headers: left });
    }
    await peer.received(3);
    await world.heard(3);
    t.deepEqual(seen, [left, left, left]);
    t.deepEqual(
      messages.map((each) => each.headers),
      [left, left, left],
    );
    t.is(gateway.stats().unreadableHeaders, 2);
    t.is(client.stats().unreadableHeaders, 2);
  });
}
