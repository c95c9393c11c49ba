'use strict';

// While keyFn makes up its mind, nothing that happens to the socket, to others
// or to the gateway does any harm.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { OP, frame } = require('../support/frames');
const { upgradeRequest } = require('../support/raw');
const { gate, heldKey, until } = require('../support/until');
const { open } = require('../support/world');

for (const [how, go] of [
  ['FIN', (raw) => raw.leave()],
  ['RST', (raw) => raw.reset()],
]) {
  forEachBroker(
    test,
    `a socket that goes with ${how} while keyFn runs`,
    async (t, broker) => {
      const asked = gate();
      const held = gate();
      const world = await open(t, broker, {
        ws: {
          keyFn({ resourceURL }) {
            const { key } = resourceURL.query;
            if (key !== 'gone') return key;
            asked.open();
            return held.promise;
          },
        },
      });
      const raw = await world.raw();
      raw.upgrade('/?key=gone').catch(() => {});
      await asked.promise;
      // Nobody is held up meanwhile.
      await world.connect('before');
      await go(raw);
      held.open('gone');
      await world.connect('after');
      t.deepEqual(await world.told(2), [
        [1, 'before'],
        [1, 'after'],
      ]);
      t.is(world.gateway.size, 2);
      t.is(world.gateway.stats().accepted, 2);
    },
  );
}

forEachBroker(
  test,
  'close() answers those who still wait',
  async (t, broker) => {
    const { asked, held, keyFn } = heldKey();
    const world = await open(t, broker, { ws: { keyFn } });
    const raw = await world.raw();
    const response = raw.upgrade('/?key=a');
    await asked.promise;
    await world.gateway.close();
    t.is((await response).status, 503);
    held.open('a');
    await until(() => raw.ended);
    t.is(raw.bytes.length, 0);
    t.deepEqual(world.statuses, []);
  },
);

forEachBroker(test, 'a key that has no text is refused', async (t, broker) => {
  const errors = [];
  const world = await open(t, broker, {
    ws: {
      keyFn({ resourceURL }) {
        const { key } = resourceURL.query;
        return key === 'bad' ? Object.create(null) : key;
      },
    },
  });
  world.gateway.on('keyError', (error) => errors.push(error));
  const raw = await world.raw();
  t.true((await raw.upgrade('/?key=bad')).status >= 400);
  t.is(errors.length, 1);
  await world.connect('good');
  t.deepEqual(await world.told(1), [[1, 'good']]);
});

forEachBroker(
  test,
  'who is refused reads why, whatever he sent',
  async (t, broker) => {
    const asked = gate();
    const held = gate();
    const world = await open(t, broker, {
      ws: {
        keyFn(request) {
          asked.open();
          return held.promise.then(() => request.reject(403, 'no'));
        },
      },
    });
    const raw = await world.raw();
    raw.socket.write(upgradeRequest('/'));
    raw.socket.write(frame(OP.text, 'x'.repeat(60_000)));
    await asked.promise;
    held.open();
    raw.socket.write(frame(OP.text, 'x'.repeat(60_000)));
    const { status, headers } = await raw.response();
    t.is(status, 403);
    t.is(headers['x-websocket-reject-reason'], 'no');
    await until(() => raw.ended);
    t.is(raw.error, undefined);
  },
);
