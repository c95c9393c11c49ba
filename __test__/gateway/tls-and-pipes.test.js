'use strict';

// Over TLS and over Unix sockets a WebSocket is what it is over plain TCP.

const test = require('ava');
const { OP, closing, frame } = require('../support/frames');
const { upgradeRequest } = require('../support/raw');
const { gate, heldKey, until } = require('../support/until');
const { forEachWay } = require('../support/ways');

/** @param {any} world */
function echo({ client }) {
  client.on('message', (message, headers, { raw, contentType }) => {
    const octets = contentType === 'application/octet-stream';
    client.send(octets ? raw : raw.toString(), headers);
  });
}

forEachWay(
  test,
  '200 messages come back, and so does 1 MiB',
  async (t, way) => {
    const world = await way.open({ binary: true });
    echo(world);
    const peer = await way.connect('a', { headers: { to: 'a', appId: 'x1' } });
    const sent = Array.from({ length: 200 }, (_, n) =>
      `${n} ü👍`.repeat(n + 1),
    );
    for (const text of sent) peer.send(text);
    t.deepEqual(await peer.received(200), sent);
    t.is(world.messages[0].headers.appid, 'x1');

    const large = Buffer.alloc(1024 * 1024 - 1, 'a1b2c3d4e');
    for (let start = 0; start < large.length; start += 60_000) {
      const end = start + 60_000;
      peer.send(large.subarray(start, end), { fin: end >= large.length });
    }
    t.true(large.equals((await peer.received(201))[200]));
    t.deepEqual(await peer.close(4000, 'done'), { code: 4000, reason: 'done' });
    t.deepEqual(await world.told(2), [
      [1, 'a'],
      [0, 'a', 4000, 'done'],
    ]);
  },
);

forEachWay(test, 'keyFn decides, from the request', async (t, way) => {
  const requests = [];
  const world = await way.open({
    async keyFn(request) {
      requests.push(request);
      await new Promise((resolve) => setImmediate(resolve));
      return request.httpRequest.headers.appid;
    },
  });
  const refused = await way.raw();
  const response = await refused.upgrade('/');
  t.is(response.status, 404);
  t.is(response.headers['x-websocket-reject-reason'], 'bad request');
  await until(() => refused.ended);
  const taken = await way.raw();
  t.is((await taken.upgrade('/x?a=1', { AppId: 'k' })).status, 101);
  t.is(requests[1].resourceURL.query.a, '1');
  const local = way.httpServer.address().port ? '127.0.0.1' : undefined;
  t.is(requests[1].remoteAddress, local);
  t.deepEqual(await world.told(1), [[1, 'k']]);
});

forEachWay(test, 'what came early is not lost', async (t, way) => {
  const { asked, held, keyFn } = heldKey();
  const world = await way.open({
    keyFn,
  });
  const raw = await way.raw();
  const texts = Array.from({ length: 28 }, (_, n) => `${n}:`.padEnd(1000, '-'));
  const frames = Buffer.concat(texts.map((text) => frame(OP.text, text)));
  const request = Buffer.from(upgradeRequest('/?key=a'));
  await raw.write(Buffer.concat([request, frames.subarray(0, 1500)]));
  await raw.write(frames.subarray(1500, 1501));
  await asked.promise;
  await raw.write(frames.subarray(1501));
  held.open('a');
  t.deepEqual(await world.heard(28), texts);
  t.is((await raw.response()).status, 101);
});

forEachWay(test, 'breaches and closes are told as over TCP', async (t, way) => {
  const world = await way.open();
  const wanted = [];
  for (const [key, bytes, code] of [
    ['unmasked', frame(OP.text, 'x', { masked: false }), 1002],
    ['utf8', frame(OP.text, Buffer.of(0xff)), 1007],
    ['big', frame(OP.text, 'x'.repeat(65_537)), 1009],
    ['normal', frame(OP.close, closing(1000)), 1000],
    ['custom', frame(OP.close, closing(4001, 'mine')), 4001],
  ]) {
    const raw = await way.rawOpen(key);
    raw.socket.write(bytes);
    t.is((await raw.closeFrame()).code, code, key);
    await until(() => raw.ended);
    raw.socket.end();
    await raw.closed;
    wanted.push([1, key], [0, key, code]);
    const told = await world.told(wanted.length);
    t.deepEqual(told.at(-1).slice(0, 3), wanted.at(-1));
  }
  const raw = await way.rawOpen('gone');
  await raw.leave();
  t.deepEqual((await world.told(wanted.length + 2)).at(-1), [
    0,
    'gone',
    1006,
    'Connection dropped by remote peer.',
  ]);
  t.is(world.gateway.size, 0);
});

forEachWay(
  test,
  'a reader that stops for a while loses nothing',
  async (t, way) => {
    const world = await way.open({ maxBackpressure: 32 * 1024 * 1024 });
    const raw = await way.rawOpen('late');
    const neighbour = await way.connect('neighbour');
    raw.socket.pause();
    const pad = 'x'.repeat(19_990);
    for (let n = 0; n < 500; n += 1) {
      world.client.send(`${n}`.padEnd(10, ' ') + pad, { to: 'late' });
    }
    world.client.send('mine', { to: 'neighbour' });
    t.deepEqual(await neighbour.received(1), ['mine']);
    raw.socket.resume();
    await until(() => raw.messages.length === 500);
    t.true(raw.messages.every((payload, n) => parseInt(payload, 10) === n));
  },
);

forEachWay(test, 'a reader that has stopped is closed', async (t, way) => {
  const world = await way.open({ maxBackpressure: 300_000, closeTimeout: 300 });
  const raw = await way.rawOpen('slow');
  const neighbour = await way.connect('neighbour');
  raw.socket.pause();
  let count = 0;
  await until(async () => {
    for (let n = 0; n < 8; n += 1) {
      world.client.send('x'.repeat(20_000), { to: 'slow' });
    }
    count += 1;
    world.client.send(`${count}`, { to: 'neighbour' });
    await neighbour.received(count);
    return world.statuses.length > 2;
  });
  const { key, reasonCode } = world.statuses[2];
  t.deepEqual([key, reasonCode], ['slow', 1013]);
  t.is(world.gateway.size, 1);
});

forEachWay(test, 'while keyFn runs', async (t, way) => {
  const asked = [];
  const held = gate();
  const world = await way.open({
    keyFn({ resourceURL }) {
      const { key } = resourceURL.query;
      if (key === 'free') return key;
      asked.push(key);
      return held.promise;
    },
  });
  const raws = [];
  for (const key of ['fin', 'destroyed', 'waits']) {
    const raw = await way.raw();
    raw.upgrade(`/?key=${key}`).catch(() => {});
    raws.push(raw);
  }
  await until(() => asked.length === 3);
  raws[0].socket.end();
  await raws[1].leave();
  await way.connect('free');
  await world.gateway.close();
  t.is((await raws[2].response()).status, 503);
  await until(() => raws[2].ended);
  held.open('late');
  t.deepEqual(await world.told(2), [
    [1, 'free'],
    [0, 'free', 1001, 'Server is shutting down'],
  ]);
});

forEachWay(
  test,
  'who is refused reads why, whatever he sent',
  async (t, way) => {
    await way.open({ keyFn: () => null });
    const raw = await way.raw();
    raw.socket.write(upgradeRequest('/'));
    raw.socket.write(frame(OP.text, 'x'.repeat(60_000)));
    raw.socket.write(frame(OP.text, 'x'.repeat(60_000)));
    t.is((await raw.response()).status, 404);
    await raw.closed;
  },
);

forEachWay(test, 'closing the gateway', async (t, way) => {
  const world = await way.open();
  const peer = await way.connect('a');
  const rude = await way.rawOpen('rude');
  await world.gateway.close();
  t.deepEqual(await peer.closed, {
    code: 1001,
    reason: 'Server is shutting down',
  });
  t.is((await rude.closeFrame()).code, 1001);
  const told = await world.told(4);
  t.deepEqual(told.slice(2).sort(), [
    [0, 'a', 1001, 'Server is shutting down'],
    [0, 'rude', 1001, 'Server is shutting down'],
  ]);
  // None of its sockets is left to Node.
  await new Promise((resolve) => way.httpServer.close(resolve));
  await rude.closed;
});
