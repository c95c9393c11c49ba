'use strict';

// While the broker is away, what waits for it is bounded, whoever fills it is
// held back, and nothing that was taken gets lost.

const { once } = require('node:events');
const test = require('ava');
const { OP, frame } = require('../support/frames');
const { LegacyLine } = require('../support/legacy');
const { isExternal, withOwnRabbit } = require('../support/rabbit');
const { upgradeRequest } = require('../support/raw');
const { until } = require('../support/until');
const { door, worker } = require('../support/world');

const { rabbit, settings } = withOwnRabbit(test);
// One after the other: they share the broker that they end.
const breaking = isExternal ? test.skip : test.serial;

const stays = { durable: true, autoDelete: false };
const SOON = { reconnectBackoffTime: 100 };

let isAway = false;

/** Ends the broker, and waits until they know. */
async function killFor(...emitters) {
  const known = emitters.map((emitter) => once(emitter, 'reconnecting'));
  isAway = true;
  await rabbit().kill9();
  await Promise.all(known);
}

async function comeBack() {
  if (!isAway) return;
  await rabbit().restart();
  isAway = false;
}

test.afterEach.always('the broker is back for the next test', comeBack);

/** A durable exchange with a durable queue: they outlive the broker. */
async function lasting(exchange, type, queue, key) {
  const line = await LegacyLine.connect({ url: rabbit().url });
  await line.exchange(exchange, type, stays);
  await line.bind(await line.queue(queue, stays), exchange, key);
  await line.close();
  // A broker that is killed forgets what it has not written down yet.
  await rabbit().ctl('eval', 'mnesia:sync_log().');
}

/** What a thunk calls back. */
const told = (thunk) =>
  new Promise((resolve) => thunk((...answer) => resolve(answer)));

breaking(
  'a client that sends too much is told so, and what it took arrives',
  async (t) => {
    t.timeout(120_000);
    const conf = { ...settings(), ...SOON, bufferSize: 10_000 };
    await lasting(conf.messageExchange, 'fanout', 'archive', '');
    const { client } = await worker(t, conf);
    const refused = [];
    client.on('undeliverable', (...args) => refused.push(args));
    let drained = 0;
    client.on('drain', () => (drained += 1));

    await killFor(client);
    const answers = [];
    const filler = 'ä'.repeat(450);
    for (let n = 0; n < 40; n += 1) {
      answers.push(client.send({ n, filler }, { n }));
    }
    const held = answers.indexOf(false);
    t.true(held > 5 && held <= 10, `${held} found room`);
    t.false(answers.slice(held).includes(true));
    const taken = 40 - client.stats().undeliverable;
    await until(() => refused.length === 40 - taken);
    t.true(taken > 15 && taken <= 20, `${taken} were taken`);
    t.deepEqual(
      refused,
      answers.map((_, n) => [{ n, filler }, { n }]).slice(taken),
    );
    const { buffered, undeliverable } = client.stats();
    t.true(buffered > 10_000 && buffered <= 20_000, `${buffered} bytes wait`);
    t.is(undeliverable, refused.length);
    // Small enough to be taken yet.
    const late = told(client.$send({ n: 'late' }));
    const lost = told(client.$send({ n: 'lost', filler }));
    await until(() => refused.at(-1)[0].n === 'lost');
    t.is(drained, 0);

    await comeBack();
    t.deepEqual(await late, [null, true]);
    t.is(drained, 1);
    await until(() => client.stats().buffered === 0);
    t.true(client.send({ last: true }));
    const archive = await LegacyLine.connect({ url: rabbit().url });
    t.teardown(() => archive.close());
    const got = [];
    await archive.consume(await archive.queue('archive', stays), (message) =>
      got.push(message.n ?? message),
    );
    await until(() => got.at(-1)?.last);
    const all = answers.map((_, n) => n).slice(0, taken);
    t.deepEqual(got, [...all, 'late', { last: true }]);

    const [error, flushed] = await lost;
    t.true(error !== null || flushed === false, 'no success is told for it');
  },
);

breaking(
  'a listener that sends again what was not taken holds nobody up',
  async (t) => {
    t.timeout(120_000);
    const conf = { ...settings(), ...SOON, bufferSize: 1000 };
    await lasting(conf.messageExchange, 'fanout', 'again', '');
    const { client } = await worker(t, conf);
    let again = 0;
    client.on('undeliverable', (message) => {
      again += 1;
      client.send(message);
    });
    await killFor(client);
    const count = 20;
    for (let n = 0; n < count; n += 1) client.send({ n, pad: 'x'.repeat(300) });
    await until(() => again > 1000);
    await comeBack();
    await until(() => client.stats().buffered === 0);
    const archive = await LegacyLine.connect({ url: rabbit().url });
    t.teardown(() => archive.close());
    const got = [];
    await archive.consume(await archive.queue('again', stays), ({ n }) =>
      got.push(n),
    );
    await until(() => got.length === count);
    t.is(new Set(got).size, count);
  },
);

/** @type {Record<string, [begin: Function, end: Function, fills: boolean]>} */
const obstacles = {
  'is away': [killFor, comeBack, true],
  // A broker that says so is believed at once.
  'takes nothing, for want of memory': [
    () => rabbit().ctl('set_vm_memory_high_watermark', '0'),
    () => rabbit().ctl('set_vm_memory_high_watermark', '0.4'),
    false,
  ],
};

for (const [title, [begin, end, fills]] of Object.entries(obstacles)) {
  breaking(
    `a browser is held back and loses nothing when the broker ${title}`,
    async (t) => {
      t.timeout(240_000);
      const conf = { ...settings(), ...SOON };
      const { receiveExchange, receiveQueue } = conf;
      await lasting(receiveExchange, 'direct', receiveQueue, receiveQueue);
      const bufferSize = 200_000;
      const front = await door(t, { ...conf, bufferSize });
      const { socket } = await front.rawOpen('k');
      const told = [];
      front.gateway.on('blocked', (reason) => told.push(reason));
      front.gateway.on('unblocked', () => told.push('unblocked'));
      // What is on its way when the broker goes is lost, and counted.
      await until(() => front.gateway.stats().published === 1);
      await begin(front.gateway);
      t.teardown(end);

      const COUNT = 600;
      const SIZE = 60_000;
      const filler = 'x'.repeat(SIZE);
      for (let n = 0; n < COUNT; n += 1) {
        socket.write(frame(OP.text, `${n} ${filler}`));
      }
      const leftHere = () => socket.writableLength;
      if (fills) {
        const { gateway } = front;
        await until(() => gateway.stats().buffered > bufferSize - SIZE * 2);
      } else {
        await until(() => told.length === 1);
      }
      // What the system's own buffers take is all that still leaves.
      let before = Infinity;
      let still = 0;
      await until(() => {
        still = leftHere() === before ? still + 1 : 0;
        before = leftHere();
        return still > 200;
      });
      t.true(leftHere() > (SIZE * COUNT) / 3, `${leftHere()} are held back`);
      const { buffered } = front.gateway.stats();
      t.true(buffered <= bufferSize + 1000, `${buffered} bytes wait`);
      t.is(front.gateway.size, 1);

      await end();
      const { messages } = await worker(t, conf);
      await until(() => messages.length === COUNT, 150_000);
      const numbers = messages.map(({ message }) => parseInt(message, 10));
      t.deepEqual(
        numbers,
        Array.from({ length: COUNT }, (_, n) => n),
      );
      t.true(messages.every(({ message }) => message.endsWith(` ${filler}`)));
      t.is(front.gateway.stats().undeliverable, 0);
      t.deepEqual(told, fills ? [] : ['low on memory', 'unblocked']);
    },
  );
}

breaking(
  'who waits for a broker that takes nothing is told when it is gone for good',
  async (t) => {
    t.timeout(120_000);
    const { client } = await worker(t, { ...settings(), reconnect: false });
    const events = [];
    for (const name of ['undeliverable', 'drain', 'error']) {
      client.on(name, (what) => events.push(what?.code ?? what ?? name));
    }
    const [begin, end] = obstacles['takes nothing, for want of memory'];
    const blocked = once(client, 'blocked');
    await begin();
    t.teardown(end);
    // It says so to those alone who publish.
    client.send('first');
    await blocked;

    // Not even the first one goes on in good faith.
    const waiting = ['a', 'b'].map((message) => told(client.$send(message)));
    t.false(client.send('c'));
    await rabbit().ctl('close_all_connections', 'for good');
    for (const [error, flushed] of await Promise.all(waiting)) {
      t.is(error?.code, 'ERR_CONNECTION_LOST');
      t.is(flushed, undefined);
    }
    t.deepEqual(events, ['ERR_CONNECTION_LOST']);
    for (const round of [1, 2]) {
      t.false(client.send(`${round}`));
      t.false(client.send(`${round} and in the same tick`));
      const [error] = await told(client.$send(`${round} and waits`));
      t.is(error?.code, 'ERR_CONNECTION_LOST');
    }
    await until(() => events.length === 7);
    t.deepEqual(events.slice(1), [
      '1',
      '1 and in the same tick',
      '1 and waits',
      '2',
      '2 and in the same tick',
      '2 and waits',
    ]);
  },
);

breaking(
  'who finds no room while the broker is away is told to come back',
  async (t) => {
    t.timeout(120_000);
    const conf = { ...settings(), bufferSize: 4096 };
    const front = await door(t, conf, { closeTimeout: 500 });
    const browser = await front.connect('a');
    await until(() => front.gateway.stats().published === 1);
    await killFor(front.gateway);
    for (let n = 0; n < 20; n += 1) browser.send('x'.repeat(1000));
    await until(() => front.gateway.stats().buffered > 3000);
    // The status of the last one that is let in takes what is left.
    for (let n = 0; front.gateway.stats().buffered < 4096; n += 1) {
      await front.connect(`b${n}`);
    }
    const raw = await front.raw();
    const request = Buffer.from(upgradeRequest('/?key=c'));
    // What is not read of that must not turn the answer into a reset.
    raw.socket.write(Buffer.concat([request, Buffer.alloc(300_000)]));
    const { status, headers } = await raw.response();
    t.deepEqual([status, headers['retry-after']], [503, '5']);
    await until(() => raw.ended);
    await raw.leave();
    t.is(raw.error, undefined);
  },
);

breaking('closing while the broker is away takes seconds', async (t) => {
  t.timeout(120_000);
  const conf = settings();
  const { client } = await worker(t, conf);
  const front = await door(t, { ...conf, reconnectBackoffTime: 60_000 });
  const idle = await worker(t, conf);
  const browser = await front.connect('k');
  await until(() => front.gateway.stats().published === 1);
  await killFor(client, front.gateway, idle.client);
  client.send({ too: 'late' });
  browser.sendJson({ too: 'late' });
  await until(() => front.gateway.stats().received === 1);

  const start = performance.now();
  const closed = Promise.all([
    client.close(),
    front.gateway.close(),
    idle.client.close(),
  ]);
  t.like(await browser.closed, { code: 1001 });
  await closed;
  const seconds = (performance.now() - start) / 1000;
  // Long before the next attempt to reconnect.
  t.true(seconds < 30, `closed after ${seconds} s`);
  // The message, and two statuses of which the first had gone out.
  t.is(front.gateway.stats().undeliverable, 2);
});
