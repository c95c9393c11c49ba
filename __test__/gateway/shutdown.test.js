'use strict';

// gateway.close() says good-bye to browsers and workers, leaves the http server
// alone, and ends within its time whatever browsers do.

const http = require('node:http');
const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { OP, closing, frame } = require('../support/frames');
const { until } = require('../support/until');
const { door, listen, open } = require('../support/world');

forEachBroker(test, 'closing a gateway', async (t, broker) => {
  const httpServer = http.createServer((request, response) => {
    response.writeHead(418).end('just http');
  });
  await listen(t, httpServer);
  const world = await open(t, broker, { ws: { httpServer } });
  const { gateway } = world;
  const keys = ['a', 'b', 'c'];
  const peers = await Promise.all(keys.map((key) => world.connect(key)));
  for (const peer of peers) peer.send('last words');
  await world.heard(3);
  const events = [];
  gateway.on('close', () => events.push(gateway.size));

  const closed = gateway.close();
  t.is(gateway.close(), closed);
  t.is(await closed, undefined);
  t.is(gateway.close(), closed);
  t.deepEqual(events, [0]);
  for (const peer of peers) {
    t.deepEqual(await peer.closed, {
      code: 1001,
      reason: 'Server is shutting down',
    });
  }
  const told = await world.told(6);
  t.deepEqual(
    told.slice(3).sort(),
    keys.map((key) => [0, key, 1001, 'Server is shutting down']),
  );
  t.is(httpServer.listenerCount('upgrade'), 0);
  t.true(httpServer.listening);
  const response = await fetch(`http://127.0.0.1:${world.port}/`);
  t.is(response.status, 418);
  const late = await world.raw();
  t.is((await late.upgrade('/?key=late')).status, 418);
  t.is(gateway.stats().connections, 0);
  t.is(gateway.stats().accepted, 3);
});

forEachBroker(
  test,
  'messages that were on their way to browsers arrive before the close',
  async (t, broker) => {
    const world = await open(t, broker);
    const peer = await world.connect('a');
    for (let n = 0; n < 100; n += 1) world.client.send(`${n}`, { to: 'a' });
    await until(() => world.gateway.stats().sent === 100);
    await world.gateway.close();
    t.is((await peer.closed).code, 1001);
    t.is(peer.messages.length, 100);
  },
);

forEachBroker(
  test,
  'a new gateway on the same server goes on',
  async (t, broker) => {
    const world = await open(t, broker);
    const before = await world.connect('a');
    await world.gateway.close();
    await before.closed;
    const next = await door(t, world.mqConf, { httpServer: world.httpServer });
    const after = await next.connect('a');
    world.client.send('again', { to: 'a' });
    t.deepEqual(await after.received(1), ['again']);
  },
);

const STUBBORN = {
  'does not answer': () => {},
  'does not read': (raw) => raw.socket.pause(),
  'goes on sending': (raw) => {
    const timer = setInterval(() => raw.socket.write(frame(OP.text, 'x')), 5);
    raw.closed.then(() => clearInterval(timer));
  },
};

for (const [what, behave] of Object.entries(STUBBORN)) {
  forEachBroker(
    test,
    `a browser that ${what} does not hold close() up`,
    async (t, broker) => {
      const world = await open(t, broker, {
        ws: { closeTimeout: 300, maxBackpressure: 64 * 1024 * 1024 },
      });
      const raw = await world.rawOpen('stubborn');
      const nice = await world.connect('nice');
      behave(raw);
      if (what === 'does not read') {
        // More than the kernel takes, so that no close frame can go out.
        const text = 'x'.repeat(50_000);
        for (let n = 0; n < 300; n += 1) {
          world.client.send(text, { to: 'stubborn' });
        }
        await until(() => world.gateway.stats().sent === 300);
      }
      const start = performance.now();
      await world.gateway.close();
      const took = performance.now() - start;
      t.true(took < 30_000, `${took} ms`);
      t.is((await nice.closed).code, 1001);
      const told = await world.told(4);
      t.deepEqual(
        told
          .slice(2)
          .map(([status, key]) => [status, key])
          .sort(),
        [
          [0, 'nice'],
          [0, 'stubborn'],
        ],
      );
      t.is(world.gateway.size, 0);
    },
  );
}

forEachBroker(
  test,
  'a browser that closes at the same time is told once',
  async (t, broker) => {
    const world = await open(t, broker);
    const raws = [];
    for (let n = 0; n < 20; n += 1) raws.push(await world.rawOpen(`k${n}`));
    for (const raw of raws) raw.socket.write(frame(OP.close, closing(1000)));
    await world.gateway.close();
    for (const raw of raws) {
      t.true([1000, 1001].includes((await raw.closeFrame()).code));
    }
    const told = await world.told(40);
    const gone = told.filter(([status]) => status === 0);
    t.is(new Set(gone.map(([, key]) => key)).size, 20);
  },
);
