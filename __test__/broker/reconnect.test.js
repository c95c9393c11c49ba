'use strict';

// A lost broker connection costs no browser its socket: gateway and client
// come back by themselves, and traffic goes on.

const test = require('ava');
const { isExternal, list, withOwnRabbit } = require('../support/rabbit');
const { until } = require('../support/until');
const { door, worker } = require('../support/world');

const { rabbit, settings, kill9 } = withOwnRabbit(test);
// One after the other: they share the broker that they end.
const breaking = isExternal ? test.skip : test.serial;

/** All that happens to the broker connection of a gateway or client. */
function watched(emitter) {
  const seen = [];
  emitter.on('reconnecting', (info) => seen.push(['reconnecting', info]));
  emitter.on('ready', () => seen.push(['ready']));
  emitter.on('error', (error) => seen.push(['error', error]));
  const count = (event) => seen.filter(([name]) => name === event).length;
  return {
    seen,
    lost: () => until(() => count('reconnecting') > 0),
    ready: (times = 1) => until(() => count('ready') >= times),
  };
}

/** A worker that echoes, a gateway, and browsers. */
async function talking(t, conf, count) {
  const back = await worker(t, conf);
  back.client.on('message', (message, { to }) => {
    back.client.send({ echo: message }, { to });
  });
  const front = await door(t, conf);
  const browsers = await Promise.all(
    Array.from({ length: count }, (_, n) => front.connect(`k${n}`)),
  );
  const echoes = (browser) =>
    browser.messages.map((text) => JSON.parse(text).echo);
  return {
    ...back,
    ...front,
    browsers,
    echoes,
    lines: [watched(back.client), watched(front.gateway)],
    /** Everybody says something and hears it again. */
    async everybodyHears(word) {
      for (const browser of browsers) browser.sendJson(word);
      for (const browser of browsers) {
        await until(() => echoes(browser).includes(word));
      }
    },
    allOpen: () => browsers.every(({ socket }) => socket.readyState === 1),
  };
}

breaking(
  'ten browsers talk while the broker is killed and restarted',
  async (t) => {
    t.timeout(180_000);
    const world = await talking(t, settings(), 10);
    let word = 0;
    const timer = setInterval(() => {
      word += 1;
      for (const browser of world.browsers) browser.sendJson(word);
    }, 20);
    t.teardown(() => clearInterval(timer));
    const allHear = (from) =>
      until(
        () =>
          world.browsers.every(
            (browser) => world.echoes(browser).at(-1) > from,
          ),
        60_000,
      );
    await allHear(10);

    await kill9(t);
    await Promise.all(world.lines.map((line) => line.lost()));
    const during = word;
    await until(() => word > during + 10);
    await rabbit().restart();
    const start = performance.now();
    await allHear(word);
    const seconds = (performance.now() - start) / 1000;
    t.true(seconds < 40, `traffic is back after ${seconds} s`);

    t.true(world.allOpen());
    t.is(world.gateway.size, 10);
    for (const { seen } of world.lines) {
      const names = seen.map(([name]) => name);
      t.is(names.at(-1), 'ready');
      t.deepEqual(new Set(names.slice(0, -1)), new Set(['reconnecting']));
      const [, { attempt, delay, error }] = seen[0];
      t.is(attempt, 1);
      t.true(delay >= 750 && delay <= 1250);
      t.is(typeof error.code, 'string');
      t.true(error.address.includes(String(rabbit().port)));
    }
    t.is(world.gateway.stats().reconnects, 1);
    t.is(world.client.stats().reconnects, 1);
    for (const browser of world.browsers) {
      const heard = world.echoes(browser);
      const inOrder = heard.every(
        (value, n) => n === 0 || value > heard[n - 1],
      );
      t.true(inOrder, 'in order, and none twice');
    }
  },
);

const SOON = { reconnectBackoffTime: 100 };
const LATE = { reconnectBackoffTime: 2500 };

for (const [who, clientTimes, gatewayTimes] of [
  ['the client', SOON, LATE],
  ['the gateway', LATE, SOON],
]) {
  breaking(
    `what is sent while the broker is away arrives: ${who} is back first`,
    async (t) => {
      t.timeout(180_000);
      const conf = settings();
      const back = await worker(t, { ...conf, ...clientTimes });
      const { client, messages, statuses } = back;
      const front = await door(t, { ...conf, ...gatewayTimes });
      const lines = [watched(client), watched(front.gateway)];
      const browsers = [await front.connect('a'), await front.connect('b')];
      await until(() => statuses.length === 2);

      await kill9(t);
      await Promise.all(lines.map((line) => line.lost()));
      const words = Array.from({ length: 50 }, (_, n) => n);
      for (const n of words) {
        browsers[0].sendJson(n);
        t.true(client.send(n, { to: 'a' }));
      }
      await browsers[1].close(1000);
      await front.connect('c');
      await until(() => front.gateway.stats().received === words.length);
      await rabbit().restart();
      await Promise.all(lines.map((line) => line.ready()));

      await until(
        () => messages.length >= words.length && statuses.length >= 4,
      );
      t.deepEqual(
        messages.map(({ message }) => message),
        words,
      );
      t.deepEqual(
        statuses.slice(2).map(({ status, key }) => [status, key]),
        [
          [0, 'b'],
          [1, 'c'],
        ],
      );
      const heard = await browsers[0].received(words.length);
      t.deepEqual(heard.map(Number), words);
      const left = [client.stats(), front.gateway.stats()];
      t.deepEqual(
        left.map(({ undeliverable, buffered }) => [undeliverable, buffered]),
        [
          [0, 0],
          [0, 0],
        ],
      );
    },
  );
}

breaking(
  'what is sent while the broker is away arrives at each of several gateways',
  async (t) => {
    t.timeout(180_000);
    const conf = settings();
    const { client } = await worker(t, conf);
    const keys = ['a', 'b', 'c', 'd'];
    const fronts = await Promise.all(keys.map(() => door(t, conf)));
    const browsers = await Promise.all(
      fronts.map((front, index) => front.connect(keys[index])),
    );
    const all = [client, ...fronts.map(({ gateway }) => gateway)];
    const lines = all.map(watched);
    await kill9(t);
    await Promise.all(lines.map((line) => line.lost()));
    const words = Array.from({ length: 20 }, (_, n) => n);
    for (const n of words) for (const to of keys) client.send(n, { to });
    await rabbit().restart();
    for (const browser of browsers) {
      const heard = await browser.received(words.length);
      t.deepEqual(heard.map(Number), words);
    }
    t.is(client.stats().undeliverable, 0);
  },
);

breaking('an operator closes all connections', async (t) => {
  const world = await talking(t, settings(), 3);
  await world.everybodyHears('before');
  await rabbit().ctl('close_all_connections', 'maintenance');
  await Promise.all(world.lines.map((line) => line.ready()));
  await world.everybodyHears('after');
  t.true(world.allOpen());
  for (const { seen } of world.lines) {
    t.deepEqual(
      seen.map(([name]) => name),
      ['reconnecting', 'ready'],
    );
    t.regex(seen[0][1].error.message, /maintenance/);
  }
});

breaking('one connection after the other is closed', async (t) => {
  const conf = { ...settings(), ...SOON };
  const world = await talking(t, conf, 2);
  const done = new Set();
  const next = async () => {
    // As JSON, pids come in a form that close_connection does not take.
    const pids = await rabbit().ctl('list_connections', '--silent', 'pid');
    return pids.split('\n').find((pid) => pid && !done.has(pid));
  };
  const restored = () =>
    world.gateway.stats().reconnects + world.client.stats().reconnects;
  for (let round = 0; round < 6; round += 1) {
    await world.everybodyHears(`round ${round}`);
    const pid = await next();
    done.add(pid);
    const before = restored();
    await rabbit().ctl('close_connection', pid, 'this one');
    await until(() => restored() > before);
  }
  await world.everybodyHears('after');
  t.true(world.allOpen());
});

breaking('a queue is deleted under its consumer', async (t) => {
  const conf = { ...settings(), ...SOON };
  const world = await talking(t, conf, 2);
  const queues = await list(rabbit(), 'queues', 'name');
  const own = queues.find(({ name }) => name.startsWith(conf.messageQueue));
  const deletions = [
    [conf.receiveQueue, world.client],
    [conf.statusQueue, world.client],
    [own.name, world.gateway],
  ];
  for (const [queue, owner] of deletions) {
    await world.everybodyHears(`before ${queue} is deleted`);
    const before = owner.stats().reconnects;
    await rabbit().ctl('delete_queue', queue);
    await until(() => owner.stats().reconnects > before);
    await world.everybodyHears(`after ${queue} was deleted`);
    const known = world.statuses.length;
    await world.connect(`guest for ${known}`);
    await until(() => world.statuses.length > known);
  }
  t.true(world.allOpen());
  // Each was the business of its owner alone.
  t.is(world.client.stats().reconnects, 2);
  t.is(world.gateway.stats().reconnects, 1);
});

breaking(
  'a broker that falls silent is noticed by its missing heartbeats',
  async (t) => {
    t.timeout(120_000);
    const world = await talking(t, { ...settings(), heartbeat: 1 }, 2);
    await world.everybodyHears('before');
    process.kill(rabbit().pid, 'SIGSTOP');
    try {
      await Promise.all(world.lines.map((line) => line.lost()));
    } finally {
      process.kill(rabbit().pid, 'SIGCONT');
    }
    await Promise.all(world.lines.map((line) => line.ready()));
    await world.everybodyHears('after');
    t.true(world.allOpen());
  },
);
