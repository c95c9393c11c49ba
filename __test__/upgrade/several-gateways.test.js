'use strict';

// Gateways that share an http server with each other and with other listeners:
// each upgrade gets one answer, from the one that it is for.

const test = require('ava');
const { upgradeRequest } = require('../support/raw');
const { until } = require('../support/until');
const { plainAndSecure } = require('../support/ways');
const { door } = require('../support/world');

/** Another listener for upgrades, which takes none; what it has seen. */
function bystander(way) {
  const seen = [];
  way.httpServer.on('upgrade', ({ url }) => seen.push(url));
  return seen;
}

/** A worker, and gateways on one server, started in this order. */
async function gateways(t, way, ...confs) {
  const world = await way.open(confs[0]);
  const { httpServer } = way;
  const doors = [world];
  for (const conf of confs.slice(1)) {
    const wsConf = { closeTimeout: 500, ...conf, httpServer };
    doors.push(await door(t, world.mqConf, wsConf));
  }
  return {
    ...world,
    all: doors.map(({ gateway }) => gateway),
    sizes: () => doors.map(({ gateway }) => gateway.size),
  };
}

/** Whether a browser is connected, and talks with one gateway alone. */
async function talks(t, way, world, path) {
  const raw = await way.raw();
  const key = `k${world.messages.length}`;
  const { status } = await raw.upgrade(`${path}?key=${key}`, { to: key });
  t.is(status, 101, path);
  world.client.send('hello', { to: key });
  await until(() => raw.messages.length === 1);
  t.deepEqual(raw.messages.map(String), ['hello']);
  t.is(raw.bytes.length, 0);
}

/** How an upgrade is refused, and that this is all that comes. */
async function refused(t, way, path, headers) {
  const raw = await way.raw();
  const { status } = await raw.upgrade(`${path}?key=a`, headers);
  await until(() => raw.ended);
  t.is(raw.bytes.length, 0);
  return status;
}

for (const [order, confs] of Object.entries({
  'before one without': [{ path: '/chat' }, {}],
  'after one without': [{}, { path: '/chat' }],
})) {
  plainAndSecure(test, `a path that started ${order}`, async (t, way) => {
    const world = await gateways(t, way, ...confs);
    await talks(t, way, world, '/chat');
    t.deepEqual(
      world.sizes(),
      confs.map(({ path }) => (path ? 1 : 0)),
    );
    await talks(t, way, world, '/other');
    t.deepEqual(world.sizes(), [1, 1]);
    const stats = world.all.map((gateway) => gateway.stats());
    t.deepEqual(
      stats.map(({ rejected }) => rejected),
      [0, 0],
    );
  });
}

plainAndSecure(test, 'each has a path of its own', async (t, way) => {
  const paths = ['/a', '/b', '/c'].map((path) => ({ path }));
  const world = await gateways(t, way, ...paths);
  t.is(await refused(t, way, '/d'), 404);
  await talks(t, way, world, '/b');
  await talks(t, way, world, '/a');
  await talks(t, way, world, '/c');
  t.deepEqual(world.sizes(), [1, 1, 1]);
});

for (const path of [null, '/chat']) {
  plainAndSecure(
    test,
    `of two with the path ${path} the one that started last takes all`,
    async (t, way) => {
      const world = await gateways(t, way, { path }, { path });
      await talks(t, way, world, '/chat');
      t.deepEqual(world.sizes(), [0, 1]);
      await world.all[1].close();
      await talks(t, way, world, '/chat');
      t.deepEqual(world.sizes(), [1, 0]);
    },
  );

  plainAndSecure(
    test,
    `one that drains leaves the path ${path} to any other`,
    async (t, way) => {
      const world = await gateways(t, way, { path }, { path });
      const [first, second] = world.all;
      await talks(t, way, world, '/chat');
      const closed = second.close({ drain: 1000 });
      t.true(second.draining);
      await talks(t, way, world, '/chat');
      t.is(first.size, 1);
      const also = first.close({ drain: 1000 });
      t.is(await refused(t, way, '/chat'), 503);
      const { httpServer } = way;
      const { gateway } = await door(t, world.mqConf, { httpServer, path });
      await talks(t, way, world, '/chat');
      t.is(gateway.size, 1);
      await Promise.all([closed, also]);
    },
  );
}

plainAndSecure(
  test,
  'what no listener takes is answered in the end',
  async (t, way) => {
    const seen = bystander(way);
    const world = await way.open({ path: '/chat', handshakeTimeout: 50 });
    t.is(await refused(t, way, '/nowhere'), 404);
    await talks(t, way, world, '/chat');
    const { httpServer } = way;
    await door(t, world.mqConf, { httpServer, handshakeTimeout: 50 });
    t.is(await refused(t, way, '/nowhere', { Upgrade: 'h2c' }), 400);
    await talks(t, way, world, '/elsewhere');
    t.is(seen.length, 4);
  },
);

plainAndSecure(
  test,
  'a client that resets what no listener has taken harms nobody',
  async (t, way) => {
    const seen = bystander(way);
    const world = await way.open({ path: '/chat' });
    for (const leave of ['reset', 'leave']) {
      const raw = await way.raw();
      raw.socket.write(upgradeRequest(`/${leave}`));
      await until(() => seen.includes(`/${leave}`));
      await raw[leave]();
    }
    await talks(t, way, world, '/chat');
  },
);
