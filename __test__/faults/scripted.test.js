'use strict';

// A broker does what brokers hardly ever do, at the worst moment.

const test = require('ava');
const { openRoad } = require('../support/faults/proxy');
const { LEAST, MODES, PATIENCE, scene } = require('../support/faults/scene');
const { scripted } = require('../support/faults/scripted');
const { until } = require('../support/until');

/** @param {any} options as of scene */
async function play(t, mode, options = {}) {
  const broker = await scripted(t);
  const conf = { url: broker.url, heartbeat: broker.heartbeat, ...mode };
  const world = await scene(t, conf, { browsers: 3, ...options });
  return { ...world, broker };
}

/** A link that publishes on that exchange, and on which channel. */
function publisher(broker, exchange) {
  /** @type {{ link: any } | null} */
  let found = null;
  const before = broker.verdict;
  broker.verdict = (message, link) => {
    if (message.exchange === exchange) found = { link };
    return before(message, link);
  };
  return until(() => found).finally(() => (broker.verdict = before));
}

async function isWell(t, world, mode) {
  await world.ends(t, mode);
  t.log(world.broker.state());
}

for (const mode of MODES) {
  test(`${mode.delivery}: all is well`, async (t) => {
    const world = await play(t, mode);
    await world.begin();
    await world.settle({ all: true });
    world.ledger.isWhole(t);
    for (const way of world.ledger.ways) t.is(way.doubled, 0);
    for (const line of world.lines) t.deepEqual(line.seen, []);
    world.nobodyLeft(t);
  });

  /** What the broker does to a link in the midst of it. */
  const acts = {
    'closes the connection': (link) => link.closeConnection(320, 'bye'),
    'closes the connection over an error': (link) =>
      link.closeConnection(541, 'INTERNAL_ERROR'),
    'closes a channel': (link) => {
      for (const number of link.channels.keys()) {
        link.closeChannel(number, 404, 'NOT_FOUND - no exchange');
      }
    },
    'goes without a word': (link) => link.reset(),
    'says half a frame and falls silent': (link) => {
      link.socket.write(Buffer.of(1, 0, 1, 0, 0, 0, 99, 0, 60));
      link.mute = true;
    },
    'says nonsense': (link) => {
      link.socket.write(Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'));
    },
    'falls silent': (link) => (link.mute = true),
  };
  for (const [what, act] of Object.entries(acts)) {
    test(`${mode.delivery}: the broker ${what}`, async (t) => {
      t.timeout(180_000);
      const world = await play(t, mode);
      await world.begin();
      for (const exchange of ['receiveExchange', 'messageExchange']) {
        const marks = world.marks();
        const { link } = await publisher(world.broker, exchange);
        act(link);
        const index = exchange === 'receiveExchange' ? 1 : 0;
        // A channel can be opened again without a new connection.
        if (what !== 'closes a channel') {
          const line = world.lines[index];
          await line.next('reconnecting', marks[index], PATIENCE);
          await line.next('ready', marks[index], PATIENCE);
        }
        await world.traffic();
      }
      await isWell(t, world, mode);
    });
  }

  for (const [code, name] of [
    [403, 'ACCESS_REFUSED'],
    [504, 'CHANNEL_ERROR'],
    [541, 'INTERNAL_ERROR'],
  ]) {
    test(`${mode.delivery}: the publishing channel is closed with ${code}`, async (t) => {
      t.timeout(180_000);
      const world = await play(t, mode);
      await world.begin();
      for (const exchange of ['receiveExchange', 'messageExchange']) {
        const marks = world.marks();
        const { link } = await publisher(world.broker, exchange);
        link.closeChannel(1, code, `${name} - as the test wants it`);
        const index = exchange === 'receiveExchange' ? 1 : 0;
        const line = world.lines[index];
        const [{ error }] = (
          await line.next('reconnecting', marks[index], PATIENCE)
        ).args;
        t.is(error.code, name);
        t.regex(error.message, /as the test wants it/);
        await line.next('ready', marks[index], PATIENCE);
        await world.traffic();
      }
      await isWell(t, world, mode);
    });
  }

  test(`${mode.delivery}: consumers are cancelled`, async (t) => {
    t.timeout(180_000);
    const world = await play(t, mode);
    await world.begin();
    const { said } = world.broker;
    const consumes = () =>
      said.filter((name) => name === 'basic.consume').length;
    const kinds = [...world.broker.queues.keys()].map(
      (name) => name.split('-')[0],
    );
    for (const kind of kinds) {
      const before = consumes();
      // A gateway's queue may have another name each time.
      for (const name of [...world.broker.queues.keys()]) {
        if (name.startsWith(kind)) world.broker.cancel(name);
      }
      await until(() => consumes() > before, PATIENCE);
      await world.traffic();
    }
    await isWell(t, world, mode);
  });

  // Each step of coming back fails once.
  test(`${mode.delivery}: coming back fails at each step`, async (t) => {
    t.timeout(240_000);
    const world = await play(t, mode);
    await world.begin();
    const steps = [
      'connection.start-ok',
      'connection.open',
      'channel.open',
      'exchange.declare',
      'queue.declare',
      'queue.bind',
      'basic.qos',
      'basic.consume',
    ];
    for (const step of steps) {
      const marks = world.marks();
      let failed = 0;
      world.broker.script[step] = (link) => {
        delete world.broker.script[step];
        failed += 1;
        link.reset();
        return true;
      };
      for (const link of [...world.broker.links]) link.reset();
      await until(() => failed > 0, PATIENCE);
      await world.all('ready', marks);
      await world.traffic();
    }
    await isWell(t, world, mode);
  });

  test(`${mode.delivery}: a broker that accepts and never greets is left`, async (t) => {
    t.timeout(180_000);
    const broker = await scripted(t);
    const road = await openRoad(t, broker.port);
    const conf = { host: '127.0.0.1', port: road.port, ...mode };
    const world = await scene(t, {
      ...{ ...conf, heartbeat: broker.heartbeat, connectionTimeout: 3000 },
    });
    await world.begin();
    road.swallow();
    for (const line of world.lines) {
      await until(() => line.count('reconnecting') >= 2, PATIENCE);
    }
    const marks = world.marks();
    road.release();
    await world.all('ready', marks);
    await world.traffic();
    await isWell(t, { ...world, broker }, mode);
  });
}

test('at-least-once: what is refused is sent again', async (t) => {
  t.timeout(180_000);
  const world = await play(t, LEAST);
  await world.begin();
  let refused = 0;
  world.broker.verdict = () => {
    if (refused >= 200) return 'ack';
    refused += 1;
    return 'nack';
  };
  await until(() => refused >= 200, PATIENCE);
  await world.traffic();
  await world.settle({ all: true });
  t.log(world.ledger.table());
  for (const way of world.ledger.ways) t.is(way.missing, 0, way.name);
  t.is(world.ledger.up.renamed, 0);
  world.nobodyLeft(t);
});

test('at-least-once: what was returned is sent again', async (t) => {
  t.timeout(180_000);
  const world = await play(t, LEAST);
  await world.begin();
  let returned = 0;
  world.broker.verdict = ({ mandatory }) => {
    if (returned >= 20 || !mandatory) return 'ack';
    returned += 1;
    return 'return';
  };
  await until(() => returned >= 20, PATIENCE);
  await world.traffic();
  await world.settle({ all: true });
  t.log(world.ledger.table());
  for (const way of world.ledger.ways) t.is(way.missing, 0, way.name);
  world.nobodyLeft(t);
});

for (const [what, verdict] of [
  ['swallows without a word', 'swallow'],
  ['takes and never confirms', 'silent'],
]) {
  test(`at-least-once: what a broker ${what} is sent again`, async (t) => {
    t.timeout(180_000);
    const bufferSize = 100_000;
    const options = { gateway: { bufferSize }, client: { bufferSize } };
    const world = await play(t, LEAST, { size: 500, ...options });
    await world.begin();
    world.broker.verdict = () => /** @type {any} */ (verdict);
    // Unconfirmed is not delivered: it fills the buffer.
    await until(() => world.hand.held, PATIENCE);
    await until(
      () => world.gateway.stats().buffered > bufferSize / 2,
      PATIENCE,
    );
    world.broker.verdict = () => 'ack';
    const marks = world.marks();
    for (const link of [...world.broker.links]) link.reset();
    await world.all('ready', marks);
    await world.traffic();
    await world.settle({ all: true });
    world.ledger.isWhole(t);
    t.is(world.ledger.down.refused, 0);
    world.nobodyLeft(t);
  });
}

test('at-least-once: a crash between taking and confirming keeps the order', async (t) => {
  t.timeout(180_000);
  const world = await play(t, LEAST);
  await world.begin();
  for (let round = 0; round < 5; round += 1) {
    let count = 0;
    const marks = world.marks();
    // Some are confirmed, some only taken, and the rest never arrives.
    world.broker.verdict = () => {
      count += 1;
      return count < 20 ? 'ack' : count < 40 ? 'silent' : 'swallow';
    };
    await until(() => count > 60, PATIENCE);
    world.broker.verdict = () => 'ack';
    for (const link of [...world.broker.links]) link.reset();
    await world.all('ready', marks);
    await world.traffic();
  }
  await world.settle({ all: true });
  world.ledger.isWhole(t);
  world.nobodyLeft(t);
});
