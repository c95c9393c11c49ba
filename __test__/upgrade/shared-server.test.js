'use strict';

// On the same http.Server, other requests and other people's upgrades go on as
// if the gateway were not there.

const http = require('node:http');
const { Duplex, PassThrough } = require('node:stream');
const test = require('ava');
const { WebSocketServer } = require('ws');
const { forEachBroker } = require('../support/brokers');
const { Peer } = require('../support/peers');
const { gate } = require('../support/until');
const { door, listen, open, worker } = require('../support/world');

/** @param {http.Server} httpServer */
async function get(httpServer) {
  const { port } = httpServer.address();
  const response = await fetch(`http://127.0.0.1:${port}/page`);
  return [response.status, await response.text()];
}

/**
 * Somebody else's WebSockets, on the path that it is given.
 *
 * @param {http.Server} httpServer
 * @param {string} path
 */
function other(t, httpServer, path) {
  const wss = new WebSocketServer({ noServer: true });
  wss.on('connection', (socket) => {
    socket.on('message', (data) => socket.send(`${path}: ${data}`));
  });
  httpServer.on('upgrade', (request, socket, head) => {
    if (!request.url.startsWith(path)) return;
    wss.handleUpgrade(request, socket, head, (opened) => {
      wss.emit('connection', opened, request);
    });
  });
  t.teardown(() => wss.clients.forEach((client) => client.terminate()));
}

/** Whether it answers, and whether the gateway stays out of it. */
async function speaks(t, world, path) {
  const peer = new Peer(`${world.url}${path.slice(1)}?key=not-ours`);
  t.teardown(() => peer.terminate());
  await peer.opened;
  for (let count = 1; count <= 20; count += 1) {
    peer.send(`hello ${count}`);
    t.is((await peer.received(count)).at(-1), `${path}: hello ${count}`);
  }
  t.deepEqual(await peer.close(1000), { code: 1000, reason: '' });
}

forEachBroker(test, 'other requests are answered', async (t, broker) => {
  const httpServer = http.createServer((request, response) => {
    response.end(`you asked for ${request.url}`);
  });
  await listen(t, httpServer);
  const world = await open(t, broker, { ws: { httpServer } });
  const peer = await world.connect('a');
  t.deepEqual(await get(httpServer), [200, 'you asked for /page']);
  world.client.send('x', { to: 'a' });
  t.deepEqual(await peer.received(1), ['x']);
  await world.gateway.close();
  t.deepEqual(await get(httpServer), [200, 'you asked for /page']);
});

forEachBroker(
  test,
  'upgrades that other listeners take go to them',
  async (t, broker) => {
    const httpServer = await listen(t, http.createServer());
    other(t, httpServer, '/before');
    const world = await open(t, broker, { ws: { httpServer } });
    other(t, httpServer, '/after');
    for (const path of ['/before', '/after']) await speaks(t, world, path);

    const ours = await world.connect('a', { path: 'ours' });
    world.client.send('hello', { to: 'a' });
    t.deepEqual(await ours.received(1), ['hello']);
    ours.send('and back');
    t.deepEqual(await world.heard(1), ['and back']);
    t.deepEqual(await world.told(1), [[1, 'a']]);
    t.is(world.gateway.stats().rejected, 0);

    await world.gateway.close();
    for (const path of ['/before', '/after']) await speaks(t, world, path);
  },
);

forEachBroker(
  test,
  'a listener that refuses or destroys a socket has its way',
  async (t, broker) => {
    const httpServer = await listen(t, http.createServer());
    const world = await open(t, broker, { ws: { httpServer } });
    httpServer.on('upgrade', ({ url }, socket) => {
      if (url.startsWith('/no')) {
        socket.end('HTTP/1.1 410 Gone\r\nConnection: close\r\n\r\n');
      } else if (url.startsWith('/destroy')) {
        socket.destroy();
      }
    });
    const refused = await world.raw();
    t.is((await refused.upgrade('/no?key=a')).status, 410);
    const destroyed = await world.raw();
    destroyed.upgrade('/destroy?key=b').catch(() => {});
    await destroyed.closed;
    t.is(destroyed.head, null);
    await world.connect('c');
    t.deepEqual(await world.told(1), [[1, 'c']]);
  },
);

forEachBroker(
  test,
  'a listener that asks somebody before it takes a socket keeps it',
  async (t, broker) => {
    const httpServer = await listen(t, http.createServer());
    const world = await open(t, broker, { ws: { httpServer } });
    const wss = new WebSocketServer({ noServer: true });
    const permitted = gate();
    // As the documentation of ws has it for clients that authenticate.
    httpServer.on('upgrade', async (request, socket, head) => {
      if (!request.url.startsWith('/members')) return;
      const complain = (error) => t.fail(error.message);
      socket.on('error', complain);
      await permitted.promise;
      socket.removeListener('error', complain);
      wss.handleUpgrade(request, socket, head, (opened) => {
        opened.send('welcome');
      });
    });
    t.teardown(() => wss.clients.forEach((client) => client.terminate()));
    const member = world.knock('a', { path: 'members' });
    await world.connect('b');
    permitted.open();
    await member.opened;
    t.deepEqual(await member.received(1), ['welcome']);
    t.deepEqual(await world.told(1), [[1, 'b']]);
  },
);

forEachBroker(
  test,
  'what the client sent early is not lost on others',
  async (t, broker) => {
    const httpServer = await listen(t, http.createServer());
    const world = await open(t, broker, { ws: { httpServer } });
    const early = gate();
    httpServer.on('upgrade', ({ url }, socket, head) => {
      if (!url.startsWith('/raw')) return;
      socket.write('HTTP/1.1 101 Switching\r\nUpgrade: echo\r\n\r\n');
      early.open(head.toString());
      socket.pipe(socket);
    });
    const raw = await world.raw();
    raw.socket.write(
      'GET /raw HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n' +
        'Upgrade: echo\r\n\r\nearly',
    );
    t.is((await raw.response()).status, 101);
    t.is(await early.promise, 'early');
    t.is(world.gateway.stats().rejected, 0);
  },
);

forEachBroker(
  test,
  'a connection that the server is given as a stream',
  async (t, broker) => {
    const world = await open(t, broker);
    const [up, down] = [new PassThrough(), new PassThrough()];
    const inner = Duplex.from({ readable: up, writable: down });
    const outer = Duplex.from({ readable: down, writable: up });
    world.httpServer.emit('connection', inner);
    const peer = world.knock('a', { createConnection: () => outer });
    await peer.opened;
    peer.send('in');
    t.deepEqual(await world.heard(1), ['in']);
    world.client.send('out', { to: 'a' });
    t.deepEqual(await peer.received(1), ['out']);
    t.is((await peer.close(1000)).code, 1000);
  },
);

forEachBroker(test, 'one gateway on two servers', async (t, broker) => {
  const servers = [http.createServer(), http.createServer()];
  for (const httpServer of servers) await listen(t, httpServer);
  const mqConf = broker.settings();
  const back = await worker(t, mqConf);
  // Named twice, it still is one server.
  const httpServer = [...servers, servers[1]];
  const world = await door(t, mqConf, { httpServer });
  t.is(world.gateway.size, 0);
  const peers = [];
  for (const [index, { port }] of servers.map((s) => s.address()).entries()) {
    const peer = new Peer(`ws://127.0.0.1:${port}/?key=${index}`);
    t.teardown(() => peer.terminate());
    peers.push(await peer.opened);
  }
  t.is(world.gateway.size, 2);
  back.client.send('to the first', { to: '0' });
  back.client.send('to the second', { to: '1' });
  t.deepEqual(await peers[0].received(1), ['to the first']);
  t.deepEqual(await peers[1].received(1), ['to the second']);
  await world.gateway.close();
  t.is((await peers[0].closed).code, 1001);
  t.is((await peers[1].closed).code, 1001);
});

forEachBroker(test, 'two gateways on two servers', async (t, broker) => {
  const mqConf = broker.settings();
  const back = await worker(t, mqConf);
  const left = await door(t, mqConf);
  const right = await door(t, mqConf);
  const peers = [await left.connect('l'), await right.connect('r')];
  t.deepEqual([left.gateway.size, right.gateway.size], [1, 1]);
  await left.gateway.close();
  t.is((await peers[0].closed).code, 1001);
  back.client.send('still here', { to: 'r' });
  t.deepEqual(await peers[1].received(1), ['still here']);
});

forEachBroker(
  test,
  'with a path, the rest is left alone',
  async (t, broker) => {
    const httpServer = await listen(t, http.createServer());
    const world = await open(t, broker, { ws: { httpServer, path: '/chat' } });
    const nobody = await world.raw();
    t.is((await nobody.upgrade('/elsewhere?key=a')).status, 404);
    const permitted = gate();
    // Nothing shows that this one will take a socket.
    const wss = new WebSocketServer({ noServer: true });
    httpServer.on('upgrade', async (request, socket, head) => {
      if (!request.url.startsWith('/later')) return;
      await permitted.promise;
      wss.handleUpgrade(request, socket, head, (opened) => opened.send('late'));
    });
    t.teardown(() => wss.clients.forEach((client) => client.terminate()));
    const late = world.knock('a', { path: 'later' });
    await world.connect('b', { path: 'chat' });
    permitted.open();
    t.deepEqual(await late.received(1), ['late']);
    t.deepEqual(await world.told(1), [[1, 'b']]);
  },
);
