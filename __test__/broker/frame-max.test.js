'use strict';

// The broker may agree on smaller frames when a connection is made again. What
// was taken before and fits into none is told, not lost in silence.

const test = require('ava');
const { isExternal, withOwnRabbit } = require('../support/rabbit');
const { until } = require('../support/until');
const { open } = require('../support/world');

const own = isExternal ? null : withOwnRabbit(test);
const CODE = 'ERR_HEADERS_TOO_LARGE';

for (const delivery of ['at-most-once', 'at-least-once']) {
  (isExternal ? test.skip : test.serial)(
    `headers that are too large after a reconnect are told, ${delivery}`,
    async (t) => {
      const rabbit = own.rabbit();
      const frameMax = (bytes) =>
        rabbit.ctl('eval', `application:set_env(rabbit, frame_max, ${bytes}).`);
      t.teardown(() => frameMax(131_072));
      const mqConf = { ...own.settings(), delivery, reconnectBackoffTime: 200 };
      const world = await open(
        t,
        { name: '', settings: () => mqConf },
        {
          ws: {
            keyFn({ httpRequest: { headers }, resourceURL: { query } }) {
              if (query.key === 'large') headers['x-pad'] = 'x'.repeat(20_000);
              return query.key;
            },
          },
        },
      );
      const { client, gateway, connect, told } = world;
      const [large, small] = [await connect('large'), await connect('small')];
      await told(2);
      const lost = { client: [], gateway: [] };
      const ready = new Map();
      for (const [name, side] of Object.entries({ client, gateway })) {
        side.on('undeliverable', (...values) => lost[name].push(values));
        side.on('ready', () => ready.set(name, true));
      }
      const headers = { to: 'small', pad: 'x'.repeat(20_000) };
      // At once: until 'ready' it cannot know the new size.
      const sent = new Promise((resolve) => {
        client.once('reconnecting', () => {
          const messages = [{ n: 1 }, Buffer.from('octets')];
          const taken = messages.map((each) => client.send(each, headers));
          resolve([...taken, client.send('fits', { to: 'small' })]);
        });
      });
      await frameMax(8192);
      await rabbit.ctl('close_all_connections', 'smaller frames');
      t.deepEqual(await sent, [true, true, true]);
      await until(() => ready.size === 2 && lost.client.length === 2);
      t.deepEqual(
        lost.client.map(([message, given, error]) => [
          message,
          given,
          error.code,
        ]),
        [
          [{ n: 1 }, headers, CODE],
          [Buffer.from('octets'), headers, CODE],
        ],
      );
      t.deepEqual(await small.received(1), ['fits']);
      t.is(client.stats().undeliverable, 2);

      // Now it is known.
      t.throws(() => client.send({ n: 2 }, headers), { code: CODE });
      t.throws(() => client.send({ n: 2 }, { list: Array(2000).fill(1) }), {
        code: CODE,
      });
      const errors = [];
      gateway.on('keyError', ({ code }) => errors.push(code));
      await t.throwsAsync(connect('large'), { message: /431/ });
      t.deepEqual(errors, [CODE]);

      // Connections that came in before stay, and what they say is told.
      large.send('hello');
      await until(() => lost.gateway.length === 1);
      await large.close(1000);
      await until(() => lost.gateway.length === 2);
      const [[text, , error], [status, { 'x-pad': pad }]] = lost.gateway;
      t.deepEqual([text, error.code], ['hello', CODE]);
      t.like(status, { status: 0, key: 'large', reasonCode: 1000 });
      t.is(pad.length, 20_000);
      t.is(gateway.stats().undeliverable, 2);
      small.send('there');
      t.deepEqual(await world.heard(1), ['there']);
    },
  );
}
