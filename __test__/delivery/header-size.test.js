'use strict';

// AMQP puts all headers of a message into one frame. What does not fit is an
// error for whoever made the headers, in each guarantee and on each broker.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { until } = require('../support/until');
const { open } = require('../support/world');

const GUARANTEES = ['at-most-once', 'at-least-once'];
/** The frame_max of RabbitMQ, which the embedded broker has too. */
const FRAME_MAX = 131_072;
const TOO_LARGE = { instanceOf: TypeError, code: 'ERR_HEADERS_TOO_LARGE' };

/** @param {(t: any, broker: any, delivery: string) => any} run */
function forEachGuarantee(title, run) {
  for (const delivery of GUARANTEES) {
    forEachBroker(test, `${title}, ${delivery}`, (t, broker) =>
      run(t, broker, delivery),
    );
  }
}

/** The largest number for which something does not throw. */
function largest(low, high, attempt) {
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    try {
      attempt(middle);
      low = middle;
    } catch {
      high = middle;
    }
  }
  return low;
}

const outcome = (thunk) =>
  new Promise((resolve) => {
    thunk((error, flushed) => resolve(error ?? flushed));
  });

forEachGuarantee(
  'headers of a worker that fit no frame are its error',
  async (t, broker, delivery) => {
    const { client, connect } = await open(t, broker, { mq: { delivery } });
    const lost = [];
    client.on('undeliverable', (message) => lost.push(message));
    const peer = await connect('a');
    const keys = Array.from({ length: 3500 }, (_, n) =>
      `user-${n}`.padEnd(36, '0'),
    );
    for (const headers of [
      { to: 'a', big: 'x'.repeat(200_000) },
      { to: 'a', big: '世'.repeat(50_000) },
      { to: 'a', big: Buffer.alloc(140_000) },
      { to: keys },
      // Small numbers take more bytes there than here.
      { to: 'a', numbers: Array(30_000).fill(1) },
    ]) {
      for (const message of [{ n: 1 }, Buffer.from('octets')]) {
        const error = t.throws(() => client.send(message, headers), TOO_LARGE);
        t.regex(error.message, /headers take \d+ bytes.*carries 131064/);
        const answer = await outcome(client.$send(message, headers));
        t.is(answer.code, TOO_LARGE.code);
      }
    }
    client.send('fine', { to: 'a', most: 'x'.repeat(100_000) });
    t.deepEqual(await peer.received(1), ['fine']);
    t.is(client.stats().sent, 1);
    t.is(client.stats().undeliverable, 0);
    t.deepEqual(lost, []);
  },
);

forEachGuarantee(
  'the largest headers that send takes arrive',
  async (t, broker, delivery) => {
    const seen = [];
    const { client, connect } = await open(t, broker, {
      mq: { delivery },
      ws: {
        messageKeyFn(message, headers) {
          seen.push([message, headers.pad.length]);
          return headers.to;
        },
      },
    });
    const peer = await connect('a');
    const sent = [];
    for (const body of ['text', Buffer.from('octets')]) {
      const send = (size) => {
        client.send(body, { to: 'a', pad: 'x'.repeat(size) });
        sent.push([body, size]);
      };
      const size = largest(130_000, FRAME_MAX, send);
      // The message id takes a part of the frame.
      t.true(size > FRAME_MAX - 250, `${size}`);
    }
    await peer.received(sent.length);
    t.deepEqual(seen, sent);
    t.is(client.stats().undeliverable, 0);
  },
);

forEachGuarantee(
  'a connection whose headers fit no frame is refused and told',
  async (t, broker, delivery) => {
    const { connect, gateway, messages, statuses } = await open(t, broker, {
      mq: { delivery },
      ws: {
        binary: true,
        keyFn({ httpRequest: { headers }, resourceURL: { query } }) {
          headers['x-pad'] = 'x'.repeat(query.key);
          return query.key;
        },
      },
    });
    const errors = [];
    gateway.on('keyError', (error) => errors.push(error));
    /** The connection with so many bytes more in its headers, if it came in. */
    const enter = (size) =>
      connect(size).catch((error) => {
        t.regex(error.message, /431/);
        return null;
      });
    t.is(await enter(200_000), null);
    let [low, high, peer] = [130_000, FRAME_MAX, null];
    while (high - low > 1) {
      const middle = Math.floor((low + high) / 2);
      const entered = await enter(middle);
      if (entered) [low, peer] = [middle, entered];
      else high = middle;
    }
    t.true(low > FRAME_MAX - 900, `${low}`);
    peer.send('text');
    peer.send(Buffer.from('octets'));
    await until(() => messages.length === 2);
    await peer.close(1000);
    const own = () => statuses.filter(({ key }) => key === String(low));
    await until(() => own().length === 2);
    t.deepEqual(
      [...messages, ...own()].map(({ headers }) => headers['x-pad'].length),
      Array(4).fill(low),
    );
    t.is(gateway.stats().undeliverable, 0);
    t.true(errors.length > 0);
    t.is(gateway.stats().keyFnErrors, errors.length);
    for (const error of errors) {
      t.true(error instanceof TypeError);
      t.is(error.code, TOO_LARGE.code);
    }
  },
);
