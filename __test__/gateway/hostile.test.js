'use strict';

// Clients that mean harm: their neighbour does not notice, and the gateway's
// memory stays within bounds.

const test = require('ava');
const { run } = require('../support/children');
const { OP, closing, frame } = require('../support/frames');
const { Peer } = require('../support/peers');
const { RawPeer, upgradeRequest } = require('../support/raw');
const { until } = require('../support/until');

const MIB = 1024 * 1024;
const WS_CONF = {
  maxReceivedFrameSize: 64 * MIB,
  maxReceivedMessageSize: 64 * MIB,
  closeTimeout: 500,
};
/** ms of the slowest echo of a neighbour, on a machine that does much else. */
const PATIENCE = 45_000;

/** A gateway in a process of its own. */
async function besieged(t) {
  const script = run(t, 'processes/besieged.js', {
    WS_CONF: JSON.stringify(WS_CONF),
  });
  const port = await script.tells('port');
  /** @returns {Promise<{ size: number, rss: number }>} */
  const state = async () => {
    const count = script.told.length;
    script.child.send('state');
    await script.wait(() => script.told.length > count);
    return script.told.at(-1).state;
  };
  const raws = [];
  t.teardown(() => Promise.all(raws.map((raw) => raw.leave())));
  let keys = 0;
  const knock = async () => {
    const raw = await RawPeer.connect({ host: '127.0.0.1', port });
    raws.push(raw);
    return raw;
  };
  const open = async () => {
    const raw = await knock();
    const key = `k${(keys += 1)}`;
    await raw.upgrade(`/?key=${key}`, { to: key });
    return raw;
  };
  return { port, state, knock, open };
}

/** So many at once, but not all handshakes in the same moment. */
async function crowd(count, open) {
  const all = [];
  while (all.length < count) {
    const some = Math.min(50, count - all.length);
    all.push(...(await Promise.all(Array.from({ length: some }, open))));
  }
  return all;
}

/** Sends, and expects its echo, until it is stopped. */
async function neighbour(t, port) {
  const peer = new Peer(`ws://127.0.0.1:${port}/?key=n`, {
    headers: { to: 'n' },
  });
  t.teardown(() => peer.terminate());
  await peer.opened;
  let stopped = false;
  let worst = 0;
  const talk = async () => {
    for (let count = 1; !stopped; count += 1) {
      const start = performance.now();
      peer.send(`neighbour ${count}`);
      await until(() => peer.messages.length >= count);
      worst = Math.max(worst, performance.now() - start);
      if (peer.messages[count - 1] !== `neighbour ${count}`) {
        throw new Error(`got ${peer.messages[count - 1]} for ${count}`);
      }
    }
  };
  const talking = talk();
  talking.catch(() => {});
  return async () => {
    // However short the attack, there is something to judge by.
    await until(() => peer.messages.length > 3);
    stopped = true;
    await talking;
    t.true(worst < PATIENCE, `${worst} ms`);
  };
}

/**
 * @param {string} title
 * @param {number} growth MiB that it may cost
 * @param {(t: any, gateway: Awaited<ReturnType<typeof besieged>>) => Promise<void>} attack
 */
function siege(title, growth, attack) {
  test.serial(title, async (t) => {
    const gateway = await besieged(t);
    const stop = await neighbour(t, gateway.port);
    const before = await gateway.state();
    let most = before.rss;
    const sample = async () => {
      most = Math.max(most, (await gateway.state()).rss);
    };
    // A process that has ended fails the test elsewhere.
    const watch = setInterval(() => sample().catch(() => {}), 100);
    t.teardown(() => clearInterval(watch));
    await attack(t, gateway);
    await stop();
    clearInterval(watch);
    await sample();
    const grown = (most - before.rss) / MIB;
    t.log(`${grown.toFixed(1)} MiB`);
    t.true(grown < growth, `${grown} MiB`);
  });
}

const fragment = (opcode, payload) => frame(opcode, payload, { fin: false });
/** So many copies of a frame. */
const many = (count, bytes) => Buffer.alloc(bytes.length * count, bytes);

async function closedWith(t, raws, code) {
  for (const raw of raws) {
    t.is((await raw.closeFrame()).code, code);
    await until(() => raw.ended);
  }
}

siege(
  'a thousand that promise much and send little',
  60,
  async (t, { open, state }) => {
    const raws = await crowd(1000, open);
    const promise = frame(OP.binary, Buffer.alloc(100), { length: 60 * MIB });
    await Promise.all(raws.map((raw) => raw.write(promise)));
    // Each of them is read, and still there.
    await until(async () => (await state()).size === 1001);
    for (const raw of raws) t.is(raw.frames.length, 0);
  },
);

siege('lengths beyond every limit', 60, async (t, { open }) => {
  const raws = await crowd(200, open);
  const lies = ['82ff7fffffffffffffff', '81ff0000ffffffffffff', 'c1'];
  raws.forEach((raw, n) => raw.write(Buffer.from(lies[n % 3], 'hex')));
  for (const [n, raw] of raws.entries()) {
    t.is((await raw.closeFrame()).code, n % 3 === 2 ? 1002 : 1009);
  }
});

siege('frames without a mask', 60, async (t, { open }) => {
  const raws = await crowd(200, open);
  for (const raw of raws) {
    raw.write(many(1000, frame(OP.text, 'x', { masked: false })));
  }
  await closedWith(t, raws, 1002);
});

siege('a flood of empty fragments', 60, async (t, { open }) => {
  const raw = await open();
  await raw.write(fragment(OP.text, 'begun'));
  await raw.write(many(500_000, fragment(OP.more, '')));
  await raw.write(frame(OP.more, '.'));
  await until(() => raw.messages.length === 1);
  t.is(raw.messages[0].toString(), 'begun.');
});

siege('a flood of fragments of one byte', 60, async (t, { open }) => {
  const raw = await open();
  await raw.write(fragment(OP.text, ''));
  await raw.write(many(500_000, fragment(OP.more, 'x')));
  await raw.write(frame(OP.more, '.'));
  await until(() => raw.messages.length === 1);
  t.is(raw.messages[0].toString(), `${'x'.repeat(500_000)}.`);
});

// What waits for the broker is counted by bytes, and each of these takes many
// times its own in every place where it waits.
siege('a flood of messages of one byte', 200, async (t, { open }) => {
  const COUNT = 100_000;
  const raw = await open();
  await raw.write(many(COUNT, frame(OP.text, '5')));
  await raw.write(frame(OP.text, 'last'));
  // Each comes back, and none before another.
  await until(() => raw.messages.length > COUNT);
  t.is(raw.messages.length, COUNT + 1);
  t.true(raw.messages.slice(0, COUNT).every((message) => `${message}` === '5'));
  t.is(`${raw.messages[COUNT]}`, 'last');
});

siege(
  'a flood of pings from those who do not read',
  60,
  async (t, { open, state }) => {
    const raws = await crowd(10, open);
    for (const raw of raws) raw.socket.pause();
    const pings = many(20_000, frame(OP.ping, 'x'.repeat(125)));
    for (let n = 0; n < 4; n += 1) {
      await Promise.all(raws.map((raw) => raw.write(pings)));
    }
    t.is((await state()).size, 11);
    await Promise.all(raws.map((raw) => raw.write(frame(OP.ping, 'last'))));
    for (const raw of raws) {
      raw.socket.resume();
      await until(() => raw.frames.at(-1)?.payload.toString() === 'last');
      raw.frames = [];
    }
  },
);

siege('pings between fragments', 60, async (t, { open }) => {
  const raw = await open();
  await raw.write(fragment(OP.text, ''));
  for (let n = 0; n < 1000; n += 1) {
    const ping = frame(OP.ping, `${n}`);
    await raw.write(Buffer.concat([fragment(OP.more, 'x'), ping]));
  }
  await raw.write(frame(OP.more, ''));
  await until(() => raw.messages.length === 1);
  t.is(raw.messages[0].length, 1000);
  const pongs = raw.frames.filter(({ opcode }) => opcode === OP.pong);
  t.is(pongs.at(-1).payload.toString(), '999');
});

siege('text that is no UTF-8 over fragments', 60, async (t, { open }) => {
  const raws = await crowd(200, open);
  const bytes = Buffer.from('f09f9861', 'hex');
  for (const raw of raws) {
    for (let at = 0; at < bytes.length; at += 1) {
      raw.write(fragment(at ? OP.more : OP.text, bytes.subarray(at, at + 1)));
    }
  }
  await closedWith(t, raws, 1007);
});

const REQUEST = upgradeRequest('/?key=reset', { to: 'reset' });

siege('resets at every stage', 60, async (t, { knock, state }) => {
  const bytes = frame(OP.text, 'x'.repeat(1000));
  const stages = [
    [],
    [REQUEST.slice(0, 40)],
    [REQUEST],
    [REQUEST, bytes.subarray(0, 1)],
    [REQUEST, bytes.subarray(0, 500)],
    [REQUEST, fragment(OP.text, 'x')],
    [REQUEST, bytes],
    [REQUEST, many(50, bytes)],
    [REQUEST, frame(OP.close, closing(1000))],
    [REQUEST, frame(OP.text, 'x', { masked: false })],
  ];
  for (let round = 0; round < 10; round += 1) {
    for (const awaited of [false, true]) {
      await Promise.all(
        stages.map(async (stage) => {
          const raw = await knock();
          for (const [n, part] of stage.entries()) {
            if (n > 0 && awaited) await raw.response();
            await raw.write(part);
          }
          await raw.reset();
        }),
      );
    }
  }
  await until(async () => (await state()).size === 1);
  t.pass();
});

siege('those who leave by half', 60, async (t, { open, state }) => {
  const raws = await crowd(200, open);
  t.is((await state()).size, 201);
  for (const raw of raws) raw.socket.end();
  await until(async () => (await state()).size === 1);
  for (const raw of raws) await raw.closed;
});

siege('those who answer no close', 60, async (t, { open, state }) => {
  const raws = await crowd(200, open);
  for (const raw of raws) {
    raw.socket.pause();
    raw.write(frame(3, 'nonsense'));
  }
  await until(async () => (await state()).size === 1);
  for (const raw of raws) raw.socket.resume();
  await closedWith(t, raws, 1002);
});

siege('two thousand that say nothing', 60, async (t, { knock, state }) => {
  await crowd(2000, knock);
  t.is((await state()).size, 1);
});
