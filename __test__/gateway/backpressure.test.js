'use strict';

// Over TCP and over TLS, who does not read and who sends too much costs the
// gateway a bounded sum of memory: what is beyond waits at the other end.

const test = require('ava');
const { run } = require('../support/children');
const { OP, frame } = require('../support/frames');
const { Peer } = require('../support/peers');
const { RawPeer } = require('../support/raw');
const { until } = require('../support/until');

const MIB = 1024 * 1024;
const SIZE = 60_000;
const TEXT = 'x'.repeat(SIZE);
/** MiB that it may cost, whatever is sent. */
const BOUND = 32;
// Elsewhere there is no memory to be asked for in this way.
const linux = process.platform === 'linux' ? test.serial : test.serial.skip;

/** A gateway in a process of its own, with a client that sends back. */
async function gatewayChild(t, secure, wsConf) {
  const script = run(t, 'processes/door.js', {
    WS_CONF: JSON.stringify({ closeTimeout: 500, ...wsConf }),
    SECURE: secure ? 'yes' : '',
  });
  const port = await script.tells('port');
  const scheme = secure ? 'wss' : 'ws';
  const ask = () => {
    const from = script.told.length;
    script.child.send('stats');
    return script.wait(() => script.told[from]);
  };
  return {
    ask,
    /** MiB that are held now. */
    memory: async () => (await ask()).held.rss / MIB,
    /** A browser whose messages go to that key. */
    async browser(key, to) {
      const url = `${scheme}://127.0.0.1:${port}/?key=${key}`;
      const peer = new Peer(url, {
        rejectUnauthorized: false,
        headers: { to },
      });
      t.teardown(() => peer.terminate());
      return peer.opened;
    },
    async raw(key) {
      const raw = await RawPeer.connect({ host: '127.0.0.1', port, secure });
      t.teardown(() => raw.leave());
      t.is((await raw.upgrade(`/?key=${key}`, { to: key })).status, 101);
      return raw;
    },
    /** Its buffers have their size when as much has gone through as can wait. */
    async warm() {
      const peer = await this.browser('warm', 'warm');
      for (let n = 1; n <= 1000; n += 1) {
        peer.send(TEXT);
        if (n % 20 === 0) await peer.received(n);
      }
      await peer.terminate();
      await until(async () => (await ask()).stats.connections === 0);
    },
  };
}

for (const secure of [false, true]) {
  const name = secure ? 'tls' : 'tcp';

  linux(`${name}: a slow reader costs a bounded sum`, async (t) => {
    const gateway = await gatewayChild(t, secure, { maxBackpressure: MIB });
    await gateway.warm();
    const slow = await gateway.raw('slow');
    slow.wire.pause();
    slow.socket.pause();
    const before = await gateway.memory();
    const fast = await gateway.browser('fast', 'slow');
    let most = 0;
    // 286 MiB in all.
    for (let n = 1; n <= 5000; n += 1) {
      fast.send(TEXT);
      if (n % 20) continue;
      const { held } = await until(async () => {
        const answer = await gateway.ask();
        return answer.stats.received >= 1000 + n && answer;
      });
      most = Math.max(most, held.rss / MIB - before);
    }
    t.log(Math.round(most), 'MiB more');
    t.true(most < BOUND, `${most} MiB`);
    await until(async () => (await gateway.ask()).stats.connections === 1);
    t.true((await gateway.ask()).stats.overflowed > 0);
  });

  linux(`${name}: who sends too much is held back`, async (t) => {
    const messageRate = { messages: 400, burst: 0.05 };
    // Its echoes come back, and whether it reads them is of no concern here.
    const slowConsumer = 'drop';
    const gateway = await gatewayChild(t, secure, {
      messageRate,
      slowConsumer,
    });
    await gateway.warm();
    const fast = await gateway.raw('fast');
    const before = await gateway.memory();
    const { stats } = await gateway.ask();
    const bytes = frame(OP.text, TEXT);
    let handed = 0;
    // As much as it is let: the system takes what the other end may still take.
    // What is written to a socket that is gone is handed over at once, for ever.
    const sending = (async () => {
      for (; !fast.socket.destroyed; handed += 1) await fast.write(bytes);
    })();
    let most = 0;
    let between = 0;
    for (let taken = 0; taken < 800;) {
      const answer = await gateway.ask();
      taken = answer.stats.received - stats.received;
      most = Math.max(most, answer.held.rss / MIB - before);
      between = Math.max(between, ((handed - taken) * SIZE) / MIB);
    }
    t.false(fast.socket.destroyed);
    await fast.leave();
    await sending;
    t.true(between < BOUND, `${between} MiB on their way`);
    t.log(Math.round(most), 'MiB more,', Math.round(between), 'on their way');
    t.true(most < BOUND, `${most} MiB`);
  });
}
