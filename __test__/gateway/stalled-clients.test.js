'use strict';

// Thousands who stall cost a bounded sum of memory, their descriptors come
// back, and somebody who is connected goes on.

const { readdirSync } = require('node:fs');
const test = require('ava');
const { run } = require('../support/children');
const { Peer } = require('../support/peers');
const { RawPeer, upgradeRequest } = require('../support/raw');
const { until } = require('../support/until');

const CROWD = 2000;
const MIB = 1024 * 1024;

/** A gateway in a process of its own, and one who talks through it. */
async function gatewayProcess(t, wsConf) {
  const script = run(t, 'processes/door.js', {
    WS_CONF: JSON.stringify(wsConf),
  });
  const port = await script.tells('port');
  const neighbour = new Peer(`ws://127.0.0.1:${port}/?key=n`, {
    headers: { to: 'n' },
  });
  t.teardown(() => neighbour.terminate());
  await neighbour.opened;
  let count = 0;

  async function ask() {
    const from = script.told.length;
    script.child.send('stats');
    return script.wait(() => script.told[from]);
  }

  const gateway = {
    /** How long a message takes there and back, in ms. */
    async echo() {
      count += 1;
      const began = performance.now();
      neighbour.send(`${count}`);
      const messages = await neighbour.received(count);
      t.is(messages.at(-1), `${count}`);
      return performance.now() - began;
    },
    descriptors: () => readdirSync(`/proc/${script.child.pid}/fd`).length,
    stats: async () => (await ask()).stats,
    memory: async () => (await ask()).held.rss,

    /** So many who have sent `text`. */
    async crowd(size, text) {
      const peers = [];
      t.teardown(() => peers.forEach((peer) => peer.socket.destroy()));
      while (peers.length < size) {
        const some = Array.from({ length: 100 }, async () => {
          const peer = await RawPeer.connect({ host: '127.0.0.1', port });
          if (text) await peer.write(text);
          return peer;
        });
        peers.push(...(await Promise.all(some)));
      }
      return peers;
    },
  };
  // What is made once is made before anybody counts.
  for (const peer of await gateway.crowd(300, upgradeRequest('/?key='))) {
    await until(() => peer.ended);
    await peer.leave();
  }
  await gateway.echo();
  return gateway;
}

/** @param {(t: any) => Promise<void>} body */
function onLinux(title, body) {
  // Elsewhere nobody can count another process's descriptors.
  const define = process.platform === 'linux' ? test.serial : test.serial.skip;
  define(title, body);
}

const UNFINISHED = {
  nothing: '',
  'half a request': upgradeRequest('/?key=half').slice(0, 60),
  'an endless header': `GET / HTTP/1.1\r\nHost: a\r\nX-Long: ${'x'.repeat(8000)}`,
};

onLinux(`${CROWD} connections that send no request`, async (t) => {
  const gateway = await gatewayProcess(t, {});
  const [fds, rss] = [gateway.descriptors(), await gateway.memory()];
  for (const [what, text] of Object.entries(UNFINISHED)) {
    const peers = await gateway.crowd(CROWD, text);
    await until(() => gateway.descriptors() >= fds + CROWD);
    await gateway.echo();
    t.log(what, Math.round(((await gateway.memory()) - rss) / MIB), 'MiB more');
    t.true((await gateway.memory()) - rss < 120 * MIB, what);
    for (const peer of peers) peer.socket.destroy();
    await until(() => gateway.descriptors() <= fds);
    await gateway.echo();
  }
  t.true((await gateway.memory()) - rss < 120 * MIB);
  const { connections, handshakes, rejected } = await gateway.stats();
  t.deepEqual([connections, handshakes, rejected], [1, 0, 300]);
});

onLinux(`${CROWD} upgrades whose key never comes`, async (t) => {
  const gateway = await gatewayProcess(t, { handshakeTimeout: 4000 });
  const [fds, rss] = [gateway.descriptors(), await gateway.memory()];
  for (let round = 0; round < 2; round += 1) {
    const text = upgradeRequest('/?key=never');
    const peers = await gateway.crowd(CROWD, text);
    await gateway.echo();
    t.log(Math.round(((await gateway.memory()) - rss) / MIB), 'MiB more');
    t.true((await gateway.memory()) - rss < 120 * MIB);
    // Some do not wait for it.
    for (const peer of peers.slice(0, 500)) peer.wire.resetAndDestroy();
    const others = peers.slice(500);
    await until(() => others.every(({ ended }) => ended));
    t.true(others.every(({ head }) => head.status === 408));
    for (const peer of others) peer.socket.destroy();
    await until(() => gateway.descriptors() <= fds);
    await gateway.echo();
  }
  t.true((await gateway.memory()) - rss < 120 * MIB);
  const stats = await gateway.stats();
  t.is(stats.rejectedByHandshakeTimeout, 2 * CROWD);
  t.is(stats.handshakes, 0);
  t.is(stats.connections, 1);
});

onLinux(`${CROWD} upgrades where 100 find room`, async (t) => {
  const gateway = await gatewayProcess(t, {
    handshakeTimeout: 0,
    maxConnections: 101,
  });
  const fds = gateway.descriptors();
  const peers = await gateway.crowd(CROWD, upgradeRequest('/?key=never'));
  await until(() => peers.filter(({ ended }) => ended).length === CROWD - 100);
  const refused = peers.filter(({ head }) => head);
  t.is(refused.length, CROWD - 100);
  t.true(refused.every(({ head }) => head.status === 503));
  for (const peer of refused) peer.socket.destroy();
  await until(() => gateway.descriptors() <= fds + 100);
  await gateway.echo();
  const stats = await gateway.stats();
  t.is(stats.rejectedByMaxConnections, CROWD - 100);
  t.is(stats.handshakes, 100);
});
