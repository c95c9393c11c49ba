'use strict';

// Clients that others wrote get back what they send, unchanged and in order.

const path = require('node:path');
const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { launchChromium } = require('../support/chromium');
const { FIXTURES, TEXTS, echo, program, same } = require('../support/foreign');
const { Peer, connectOld } = require('../support/peers');
const { until } = require('../support/until');

const KIB = 1024;
const MIB = KIB * KIB;

forEachBroker(test, 'ws', async (t, broker) => {
  const world = await echo(t, broker);
  const peer = await new Peer(world.url).opened;
  t.teardown(() => peer.terminate());
  for (const text of TEXTS) {
    const bytes = Buffer.from(text);
    // The default of maxReceivedFrameSize, and the cut through a character.
    for (let at = 0; at === 0 || at < bytes.length; at += 64 * KIB) {
      const fin = at + 64 * KIB >= bytes.length;
      const piece = bytes.subarray(at, at + 64 * KIB);
      peer.send(piece, { fin, binary: false });
    }
  }
  const back = await peer.received(TEXTS.length);
  const { code } = await peer.close(1000);
  await same(t, world, { back, code });
});

forEachBroker(test, 'ws, with compression offered', async (t, broker) => {
  const world = await echo(t, broker, { maxReceivedFrameSize: MIB });
  const options = { perMessageDeflate: { threshold: 0 } };
  const peer = await new Peer(world.url, options).opened;
  t.teardown(() => peer.terminate());
  t.is(peer.socket.extensions, '');
  for (const text of TEXTS) peer.send(text);
  const back = await peer.received(TEXTS.length);
  const { code } = await peer.close(1000);
  await same(t, world, { back, code });
});

forEachBroker(test, 'websocket', async (t, broker) => {
  const world = await echo(t, broker);
  const connection = await connectOld(world.url, {
    config: { maxReceivedFrameSize: MIB, maxReceivedMessageSize: MIB },
  });
  t.teardown(() => connection.drop());
  for (const text of TEXTS) connection.sendUTF(text);
  await until(() => connection.messages.length === TEXTS.length);
  const closed = new Promise((resolve) => connection.once('close', resolve));
  connection.close(1000);
  const code = await closed;
  await same(t, world, { back: connection.messages, code });
});

forEachBroker(test, "Node's own WebSocket", async (t, broker) => {
  // It puts each message into one frame.
  const world = await echo(t, broker, { maxReceivedFrameSize: MIB });
  const flags = globalThis.WebSocket ? [] : ['--experimental-websocket'];
  const file = path.join(FIXTURES, 'global.js');
  const result = await program(world.url, process.execPath, ...flags, file);
  await same(t, world, result, false);
});

forEachBroker(test, 'Chromium', async (t, broker) => {
  // Its frames have up to 131,000 bytes.
  const world = await echo(t, broker, { maxReceivedFrameSize: 128 * KIB });
  world.httpServer.on('request', (request, response) => response.end('page'));
  const chromium = await launchChromium(t);
  const { page } = await chromium.open(world.url.replace('ws:', 'http:'));
  const result = await page.evaluate(
    ([url, texts]) =>
      new Promise((resolve) => {
        const socket = new globalThis.WebSocket(url);
        const back = [];
        socket.onopen = () => texts.forEach((text) => socket.send(text));
        socket.onmessage = ({ data }) => {
          back.push(data);
          if (back.length === texts.length) socket.close(1000);
        };
        socket.onclose = ({ code }) => resolve({ back, code });
      }),
    [world.url, TEXTS],
  );
  await same(t, world, result);
});
