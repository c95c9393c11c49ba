'use strict';

// What mqConf says of a connection is what the broker sees of it.

const net = require('node:net');
const os = require('node:os');
const { once } = require('node:events');
const test = require('ava');
const { Client } = require('../..');
const { rabbitmq, unique, withRabbit } = require('../support/brokers');
const { isExternal, list } = require('../support/rabbit');
const { until } = require('../support/until');
const { door, open, worker } = require('../support/world');

const rabbit = withRabbit(test);
// rabbitmqctl is for brokers of our own.
const asking = isExternal ? test.skip : test;

const COLUMNS = [
  ...['user', 'vhost', 'auth_mechanism', 'timeout', 'client_properties'],
  ...['frame_max', 'ssl'],
];

/** What the broker knows of the connections of a client with this mqConf. */
async function seen(t, mqConf) {
  const product = unique();
  const clientProperties = { ...mqConf.clientProperties, product };
  await worker(t, { ...mqConf, clientProperties });
  return until(async () => {
    const all = await list(rabbit(), 'connections', ...COLUMNS);
    const own = all.filter(({ client_properties: properties }) =>
      JSON.stringify(properties).includes(`"${product}"`),
    );
    // One to publish and one to consume.
    return own.length === 2 && own;
  });
}

asking('without options', async (t) => {
  const { url, ...mqConf } = rabbitmq.settings();
  const { hostname: host, port } = new URL(url);
  for (const each of await seen(t, { ...mqConf, host, port })) {
    t.like(each, {
      user: 'guest',
      vhost: '/',
      auth_mechanism: 'AMQPLAIN',
      timeout: 15,
      frame_max: 131_072,
      ssl: false,
    });
    const names = each.client_properties.map(([name]) => name);
    t.deepEqual(names, [
      ...['capabilities', 'connection_name', 'platform', 'product'],
      'version',
    ]);
  }
});

asking('a connection has a name that says whose it is', async (t) => {
  const mqConf = rabbitmq.settings();
  const product = unique();
  const clientProperties = { product };
  await worker(t, { ...mqConf, clientProperties });
  await door(t, { ...mqConf, clientProperties });
  const connection_name = `mine-${product}`;
  await worker(t, {
    ...mqConf,
    clientProperties: { product, connection_name },
  });
  const names = await until(async () => {
    const all = await list(rabbit(), 'connections', ...COLUMNS, 'name');
    const own = all
      .map((each) => new Map(each.client_properties.map(([k, , v]) => [k, v])))
      .filter((properties) => properties.get('product') === product);
    return (
      own.length === 6 &&
      own.map((properties) => properties.get('connection_name')).sort()
    );
  });
  const ours = (role) =>
    `message-engin ${role} ${os.hostname()} ${process.pid}`;
  t.deepEqual(
    names,
    [ours('gateway'), ours('worker'), connection_name]
      .flatMap((name) => [name, name])
      .sort(),
  );
});

asking('heartbeat and authMechanism', async (t) => {
  for (const [heartbeat, authMechanism] of [
    [0, 'PLAIN'],
    [7, 'AMQPLAIN'],
  ]) {
    const mqConf = { ...rabbitmq.settings(), heartbeat, authMechanism };
    for (const each of await seen(t, mqConf)) {
      t.is(each.timeout, heartbeat);
      t.is(each.auth_mechanism, authMechanism);
    }
  }
});

asking('a url, and single fields that override it', async (t) => {
  const { host, port } = rabbit();
  const [vhost, user] = [`v/${unique()} ä`, `me:@/${unique()}`];
  const password = 'pa$$:/@?# ä';
  await rabbit().ctl('add_vhost', vhost);
  await rabbit().ctl('add_user', user, password);
  for (const each of [vhost, '/']) {
    const all = ['.*', '.*', '.*'];
    await rabbit().ctl('set_permissions', '-p', each, user, ...all);
  }
  const urlOf = (login, place) =>
    `amqp://${[login, password].map(encodeURIComponent).join(':')}` +
    `@${place}/${encodeURIComponent(vhost)}`;
  const names = rabbitmq.settings();
  const url = urlOf(user, `${host}:${port}`);
  const guest = { login: 'guest', password: 'guest', vhost: '/' };
  for (const [mqConf, wanted] of [
    [{ url }, [user, vhost]],
    [{ url, vhost: '/' }, [user, '/']],
    [{ url: urlOf('nobody', `${host}:${port}`), login: user }, [user, vhost]],
    [
      { url: urlOf('nobody', 'none.invalid:1'), host, port, ...guest },
      ['guest', '/'],
    ],
  ]) {
    for (const each of await seen(t, { ...names, ...mqConf })) {
      t.deepEqual([each.user, each.vhost], wanted);
    }
  }
});

asking('clientProperties', async (t) => {
  const [each] = await seen(t, {
    ...rabbitmq.settings(),
    clientProperties: {
      text: 'äöü',
      yes: true,
      small: -5,
      large: 2 ** 40,
      real: 0.5,
      nothing: null,
      list: ['a'],
      nested: { deep: { er: 'x' } },
    },
  });
  const table = new Map(
    each.client_properties.map(([name, type, value]) => [name, [type, value]]),
  );
  for (const [name, wanted] of Object.entries({
    text: ['longstr', 'äöü'],
    yes: ['bool', true],
    small: ['signedint', -5],
    large: ['long', 2 ** 40],
    real: ['double', 0.5],
    list: ['array', { longstr: 'a' }],
    nested: ['table', [['deep', 'table', [['er', 'longstr', 'x']]]]],
  })) {
    t.deepEqual(table.get(name), wanted, name);
  }
  t.is(table.get('nothing')[0], 'void');
});

test('ANONYMOUS is let in by a broker that offers it', async (t) => {
  const { host, port, version } = rabbit();
  // No login and no password go along.
  const names = { ...rabbitmq.settings(), url: undefined };
  const mqConf = { ...names, host, port, authMechanism: 'ANONYMOUS' };
  if (Number.parseInt(version, 10) >= 4) {
    await worker(t, { ...mqConf, login: 'nobody', password: 'wrong' });
    t.pass();
    return;
  }
  const error = await t.throwsAsync(new Client(mqConf).init());
  t.is(error.code, 'ACCESS_REFUSED');
  t.regex(error.message, /login mechanism ANONYMOUS, only .*AMQPLAIN/);
});

test('EXTERNAL needs a broker that offers it', async (t) => {
  const mqConf = { ...rabbitmq.settings(), authMechanism: 'EXTERNAL' };
  const error = await t.throwsAsync(new Client(mqConf).init());
  t.is(error.code, 'ACCESS_REFUSED');
  t.regex(error.message, /login mechanism EXTERNAL, only .*AMQPLAIN/);
});

/** A way to the broker that can be closed and opened again. */
async function way(t) {
  const sockets = new Set();
  let count = 0;
  const tcp = net.createServer((socket) => {
    count += 1;
    const upstream = net.connect(rabbit().port, rabbit().host);
    for (const each of [socket, upstream]) {
      sockets.add(each);
      each.on('error', () => each.destroy());
      each.on('close', () => {
        sockets.delete(each);
        socket.destroy();
        upstream.destroy();
      });
    }
    socket.pipe(upstream).pipe(socket);
  });
  const listen = (port) =>
    new Promise((resolve) => tcp.listen(port, '127.0.0.1', () => resolve()));
  await listen(0);
  const { port } = tcp.address();
  async function close() {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => tcp.close(() => resolve()));
  }
  t.teardown(close);
  return {
    host: `127.0.0.1:${port}`,
    close,
    reopen: () => listen(port),
    /** Connections that are open, and all that there were. */
    open: () => sockets.size / 2,
    count: () => count,
  };
}

test('a connection that is lost is made to the next host', async (t) => {
  const [first, second] = [await way(t), await way(t)];
  const host = [first.host, second.host];
  const world = await open(t, rabbitmq, {
    mq: { host, reconnectBackoffTime: 50 },
  });
  const peer = await world.connect('k');
  t.is(second.count(), 0);
  for (const [gone, next] of [
    [first, second],
    [second, first],
  ]) {
    const ready = [world.client, world.gateway].map((each) =>
      once(each, 'ready'),
    );
    await gone.close();
    await Promise.all(ready);
    t.is(next.open(), 4);
    const before = world.messages.length;
    peer.sendJson('to the worker');
    await world.heard(before + 1);
    const got = peer.messages.length;
    world.client.send('to the browser', { to: 'k' });
    await peer.received(got + 1);
    await gone.reopen();
  }
  t.is(world.gateway.stats().reconnects, 2);
});

test('hostPreference says which host is tried first', async (t) => {
  const ways = [await way(t), await way(t), await way(t)];
  const host = ways.map((each) => each.host);
  const mqConf = { ...rabbitmq.settings(), host, reconnectBackoffTime: 50 };
  const { client } = await worker(t, { ...mqConf, hostPreference: 1 });
  t.deepEqual(
    ways.map((each) => each.count() > 0),
    [false, true, false],
  );
  const ready = once(client, 'ready');
  await ways[1].close();
  await ready;
  t.deepEqual(
    ways.map((each) => each.count() > 0),
    [true, true, false],
  );
  // Beyond the end it is the last.
  await door(t, { ...mqConf, hostPreference: 9 });
  t.is(ways[2].open(), 2);
});
