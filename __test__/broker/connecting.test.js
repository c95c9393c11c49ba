'use strict';

// A broker that is not there, does not answer or refuses is named in the error,
// in time and without the password.

const http = require('node:http');
const net = require('node:net');
const { inspect } = require('node:util');
const test = require('ava');
const { Client, MessageEnginError, server } = require('../..');
const { rabbitmq, withRabbit } = require('../support/brokers');
const { listen, open, usual } = require('../support/world');

const rabbit = withRabbit(test);
const SECRET = 'pa$$word-äö';
// Whether bytes were on their way when the other end closed is a matter of luck.
const HUNG_UP = /^ECONN(RESET|ABORTED)$/;

/** A TCP server that is no broker. */
async function pretender(t, behave) {
  const sockets = new Set();
  const tcp = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    behave(socket);
  });
  await new Promise((resolve) => tcp.listen(0, '127.0.0.1', () => resolve()));
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => tcp.close(() => resolve()));
  });
  return tcp.address().port;
}

/** A port where nobody listens. */
async function deadPort() {
  const tcp = net.createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => tcp.once('listening', resolve));
  const { port } = tcp.address();
  await new Promise((resolve) => tcp.close(() => resolve()));
  return port;
}

/**
 * Both start and init must fail with this code, naming the address.
 *
 * @returns {Promise<number>} ms that it took at most
 */
async function refused(t, mqConf, code, address) {
  const httpServer = http.createServer();
  let most = 0;
  for (const attempt of [
    () => server.start(mqConf, { ...usual, httpServer }),
    () => new Client(mqConf).init(),
  ]) {
    const start = performance.now();
    const error = await t.throwsAsync(attempt, {
      instanceOf: MessageEnginError,
    });
    t.regex(error.code, code);
    most = Math.max(most, performance.now() - start);
    t.true(error.address.includes(address), error.address);
    t.true(error.message.includes(address), error.message);
    for (const text of [inspect(error), error.stack, JSON.stringify(error)]) {
      t.false(text.includes(SECRET));
      t.false(text.includes(encodeURIComponent(SECRET)));
    }
  }
  t.is(httpServer.listenerCount('upgrade'), 0);
  return most;
}

test('nobody listens', async (t) => {
  const port = await deadPort();
  const took = await refused(
    t,
    { host: '127.0.0.1', port, password: SECRET, connectionTimeout: 60_000 },
    /^ECONNREFUSED$/,
    `127.0.0.1:${port}`,
  );
  t.true(took < 30_000);
  const url = `amqp://me:${encodeURIComponent(SECRET)}@127.0.0.1:${port}/v`;
  await refused(t, { url }, /^ECONNREFUSED$/, `127.0.0.1:${port}/v`);
  const other = await deadPort();
  await refused(
    t,
    { host: ['127.0.0.1', `127.0.0.1:${other}`], port, password: SECRET },
    /^ECONNREFUSED$/,
    `127.0.0.1:${port},127.0.0.1:${other}`,
  );
});

test('somebody accepts and says nothing', async (t) => {
  const port = await pretender(t, () => {});
  const conf = { host: '127.0.0.1', port, password: SECRET };
  const took = await refused(
    t,
    { ...conf, connectionTimeout: 400 },
    /^ETIMEDOUT$/,
    `127.0.0.1:${port}`,
  );
  t.true(took >= 390 && took < 20_000, `${took} ms`);
  const both = await refused(
    t,
    { ...conf, host: ['127.0.0.1', '127.0.0.1'], connectionTimeout: 600 },
    /^ETIMEDOUT$/,
    `127.0.0.1:${port}`,
  );
  t.true(both >= 590 && both < 20_000, `${both} ms`);
});

test('somebody begins like a broker and then says nothing', async (t) => {
  const { host, port: real } = rabbit();
  const port = await pretender(t, (socket) => {
    const upstream = net.connect(real, host);
    upstream.on('error', () => {});
    socket.pipe(upstream);
    upstream.once('data', (chunk) => socket.write(chunk));
    socket.on('close', () => upstream.destroy());
  });
  const took = await refused(
    t,
    { url: rabbit().url, port, connectionTimeout: 500 },
    /^ETIMEDOUT$/,
    `127.0.0.1:${port}`,
  );
  t.true(took >= 490 && took < 20_000, `${took} ms`);
});

test('somebody hangs up, or speaks another protocol', async (t) => {
  const hangsUp = await pretender(t, (socket) => socket.end());
  await refused(
    t,
    { host: '127.0.0.1', port: hangsUp, password: SECRET },
    HUNG_UP,
    `127.0.0.1:${hangsUp}`,
  );
  const talks = await pretender(t, (socket) => {
    socket.write('HTTP/1.1 400 Bad Request\r\n\r\n');
  });
  const start = performance.now();
  const error = await t.throwsAsync(
    new Client({
      host: '127.0.0.1',
      port: talks,
      connectionTimeout: 2000,
    }).init(),
    { instanceOf: MessageEnginError },
  );
  t.true(performance.now() - start < 20_000);
  t.true(error.message.includes(`127.0.0.1:${talks}`), error.message);
});

test('the broker refuses the login', async (t) => {
  const { host, port, url } = rabbit();
  for (const authMechanism of ['AMQPLAIN', 'PLAIN']) {
    const conf = { url, authMechanism };
    const took = await refused(
      t,
      { ...conf, password: SECRET },
      /^ACCESS_REFUSED$/,
      `${host}:${port}`,
    );
    t.true(took < 40_000);
    await refused(
      t,
      { ...conf, login: 'nobody' },
      /^ACCESS_REFUSED$/,
      `${host}:${port}`,
    );
    const client = await new Client({
      ...rabbitmq.settings(),
      authMechanism,
    }).init();
    await client.close();
  }
});

test('the broker has no such vhost', async (t) => {
  const { host, port, url } = rabbit();
  const vhost = 'no such/vhost';
  const took = await refused(
    t,
    { url, vhost },
    /^NOT_ALLOWED$/,
    `${host}:${port}/${encodeURIComponent(vhost)}`,
  );
  t.true(took < 40_000);
});

/** connection.close, class and method 10 and 50, with 530. */
const NOT_ALLOWED = Buffer.from(
  '01000000000d000a00320212026e6f000a0028ce',
  'hex',
);
/** The beginning of connection.open-ok. */
const OPEN_OK = Buffer.from('000a0029', 'hex');

/** A broker up to the end of the login, or to what comes after it. */
function turncoat(t, lastWords) {
  return pretender(t, (socket) => {
    const upstream = net.connect(rabbit().port, rabbit().host);
    upstream.on('error', () => socket.destroy());
    socket.on('error', () => upstream.destroy());
    socket.on('close', () => upstream.destroy());
    socket.pipe(upstream);
    upstream.on('data', (chunk) => {
      const isIn = chunk.includes(OPEN_OK);
      if (isIn && lastWords) return socket.end(lastWords);
      if (isIn) socket.once('data', () => socket.destroy());
      return socket.write(chunk);
    });
  });
}

/** @type {Record<string, (hosts: Record<string, string>) => object>} */
const HOSTS = {
  'a dead one first': ({ dead, real }) => ({ host: [dead, real] }),
  'a silent one first': ({ silent, real }) => ({ host: [silent, real] }),
  'two that do not work first': ({ silent, dead, real }) => ({
    host: [silent, dead, real],
  }),
  'one that lets go after the login first': ({ fading, real }) => ({
    host: [fading, real],
  }),
  'one that is not allowed first': ({ refusing, real }) => ({
    host: [refusing, real],
  }),
  'the good one preferred': ({ silent, dead, real }) => ({
    host: [silent, dead, real],
    hostPreference: 2,
    connectionTimeout: 90_000,
  }),
};

for (const [what, confOf] of Object.entries(HOSTS)) {
  test(`of several hosts, one that works is found: ${what}`, async (t) => {
    const { host, port } = rabbit();
    const conf = confOf({
      real: `${host}:${port}`,
      dead: `127.0.0.1:${await deadPort()}`,
      silent: `127.0.0.1:${await pretender(t, () => {})}`,
      fading: `127.0.0.1:${await turncoat(t)}`,
      refusing: `127.0.0.1:${await turncoat(t, NOT_ALLOWED)}`,
    });
    const world = await open(t, rabbitmq, {
      mq: { connectionTimeout: 12_000, ...conf },
    });
    const peer = await world.connect('a');
    world.client.send('hello', { to: 'a' });
    t.deepEqual(await peer.received(1), ['hello']);
  });
}

test('after a failure, init may be tried again', async (t) => {
  const { host, port: real } = rabbit();
  let there = false;
  const port = await pretender(t, (socket) => {
    if (!there) {
      socket.destroy();
      return;
    }
    const upstream = net.connect(real, host);
    upstream.on('error', () => socket.destroy());
    socket.pipe(upstream).pipe(socket);
  });
  const client = new Client({ ...rabbitmq.settings(), port });
  t.teardown(() => client.close());
  const error = await t.throwsAsync(client.init());
  t.regex(error.code, HUNG_UP);
  t.throws(() => client.send(1), { code: 'ERR_NOT_INITIALIZED' });
  there = true;
  t.is(await client.init(), client);
  t.true(client.send(1));
  const httpServer = await listen(t, http.createServer());
  const conf = { ...rabbitmq.settings(), port };
  const gateway = await server.start(conf, { ...usual, httpServer });
  await gateway.close();
});
