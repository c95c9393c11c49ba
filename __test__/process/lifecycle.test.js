'use strict';

// The package starts under every style of old and new code, and a process that
// has closed everything ends by itself.

const { spawn } = require('node:child_process');
const http = require('node:http');
const co = require('co');
const co3 = require('co3');
const test = require('ava');
const { Client, server } = require('../..');
const { forEachBroker } = require('../support/brokers');
const { listen, usual } = require('../support/world');

/** @type {Record<string, (fn: GeneratorFunction | any) => Promise<any>>} */
const CO = {
  'co 4': (work) => co(work),
  'co 3': (work) =>
    new Promise((resolve, reject) => {
      co3(work)((error, value) => (error ? reject(error) : resolve(value)));
    }),
};

for (const [name, run] of Object.entries(CO)) {
  forEachBroker(
    test,
    `start, init and close with ${name}`,
    async (t, broker) => {
      const mqConf = broker.settings();
      const httpServer = await listen(t, http.createServer());
      const wsConf = { ...usual, httpServer };
      await run(function* () {
        const yielded = yield server.start(mqConf, wsConf);
        t.is(yielded.size, 0);
        const delegated = yield* server.start(mqConf, wsConf);
        t.is(delegated.size, 0);
        const client = new Client(mqConf);
        t.is(yield client.init(), client);
        const other = new Client(mqConf);
        t.is(yield* other.init(), other);
        const [third, gateway] = yield [
          new Client(mqConf).init(),
          server.start(mqConf, wsConf),
        ];
        yield client.close();
        yield* other.close();
        yield [third.close(), gateway.close(), yielded.close()];
        yield* delegated.close();
      });
      const gateway = await run(server.start(mqConf, wsConf));
      t.is(gateway.size, 0);
      const client = new Client(mqConf);
      t.is(await run(client.init()), client);
      await run(client.close());
      await run(gateway.close());
      t.is(httpServer.listenerCount('upgrade'), 0);
    },
  );

  test(`errors of start and init with ${name}`, async (t) => {
    const wrong = { name: 'OptionError', message: /wsConf\.keyFn/ };
    const wsConf = { httpServer: http.createServer(), messageKeyFn() {} };
    const start = () => server.start({ url: 'memory:' }, wsConf);
    await t.throwsAsync(run(start()), wrong);
    await t.throwsAsync(
      run(function* () {
        yield* start();
      }),
      wrong,
    );
    const caught = await run(function* () {
      try {
        yield start();
      } catch (error) {
        return error;
      }
    });
    t.is(caught.option, 'wsConf.keyFn');
  });
}

/** What child processes begin with. */
const PRELUDE = `
  'use strict';
  const http = require('node:http');
  const { Client, server } = require(${JSON.stringify(require.resolve('../..'))});
  const { WebSocket } = require(${JSON.stringify(require.resolve('ws'))});
  const mqConf = JSON.parse(process.argv[1]);
  const once = (emitter, name) => new Promise((done) => emitter.once(name, done));
  async function open(...where) {
    const httpServer = http.createServer();
    httpServer.listen(...(where.length ? where : [0, '127.0.0.1']));
    await once(httpServer, 'listening');
    const client = await new Client(mqConf).init();
    const gateway = await server.start(mqConf, {
      httpServer, keyFn: () => 'a', messageKeyFn: () => 'a',
    });
    const { port } = httpServer.address();
    const socket = new WebSocket(
      port ? 'ws://127.0.0.1:' + port : 'ws+unix://' + where[0] + ':/',
    );
    await once(socket, 'open');
    return { httpServer, client, gateway, socket };
  }
`;

/**
 * Runs a script in a process of its own until that ends by itself.
 *
 * @returns {Promise<{ code: number | null, signal: string | null, out: string,
 *   lingered: number }>} `lingered`: ms from its last word to its end
 */
function child(t, broker, script) {
  const mqConf = JSON.stringify(broker.settings());
  const program = `${PRELUDE};(async () => {${script}})();`;
  const started = spawn(process.execPath, ['-e', program, mqConf]);
  const timer = setTimeout(() => started.kill('SIGKILL'), 90_000);
  t.teardown(() => clearTimeout(timer));
  let out = '';
  let last = 0;
  for (const stream of [started.stdout, started.stderr]) {
    stream.on('data', (chunk) => {
      out += chunk;
      last = performance.now();
    });
  }
  return new Promise((resolve) => {
    started.on('close', (code, signal) => {
      const lingered = performance.now() - last;
      resolve({ code, signal, out, lingered });
    });
  });
}

const ENDS = {
  'after close() of everything': `
    const { httpServer, client, gateway, socket } = await open();
    client.send('hello');
    await once(socket, 'message');
    httpServer.close();
    await gateway.close();
    await client.close();
    process.stdout.write('ok');`,
  'after connections that stayed with Node': `
    const path = require('node:path');
    const name = 'message-engin-' + process.pid;
    const file = path.join(require('node:os').tmpdir(), name);
    const { httpServer, client, gateway, socket } = await open(file);
    for (let n = 0; n < 5; n += 1) {
      const another = new WebSocket('ws+unix://' + file + ':/');
      await once(another, 'open');
      client.send('hello');
      await once(another, 'message');
      if (n % 2) another.terminate();
    }
    httpServer.close();
    await gateway.close();
    await client.close();
    process.stdout.write('ok');`,
  'after all of it at once': `
    const { httpServer, client, gateway } = await open();
    httpServer.close();
    await Promise.all([client.close(), gateway.close()]);
    process.stdout.write('ok');`,
  'after a client that only ever sent': `
    const client = await new Client(mqConf).init();
    for (let n = 0; n < 100; n += 1) client.send({ n });
    await client.close();
    process.stdout.write('ok');`,
  'with process.exit while messages fly': `
    const { client, socket } = await open();
    socket.on('message', () => {});
    for (let n = 0; n < 5000; n += 1) client.send('x'.repeat(100));
    process.stdout.write('ok', () => process.exit(0));`,
  'after a start that failed': `
    const holder = require('node:net').createServer().listen(0, '127.0.0.1');
    await once(holder, 'listening');
    const { port } = holder.address();
    holder.close();
    await once(holder, 'close');
    const conf = { ...mqConf, url: undefined, host: '127.0.0.1', port };
    const failed = await new Client(conf).init().catch(({ code }) => code);
    const wsConf = {
      httpServer: http.createServer(), keyFn() {}, messageKeyFn() {},
    };
    const also = await server.start(conf, wsConf).catch(({ code }) => code);
    if (failed === 'ECONNREFUSED' && also === failed) process.stdout.write('ok');`,
  'after a listener threw, which loses nothing else': `
    const thrown = [];
    process.on('uncaughtException', ({ message }) => thrown.push(message));
    const { httpServer, client, gateway, socket } = await open();
    client.on('message', (message) => {
      if (message % 2) throw new Error(message);
    });
    let heard = 0;
    client.on('message', () => (heard += 1));
    for (let n = 0; n < 10; n += 1) socket.send(String(n));
    socket.send('10');
    await new Promise((done) => client.on('message', (n) => n === 10 && done()));
    httpServer.close();
    await gateway.close();
    await client.close();
    if (heard === 6 && thrown.join() === '1,3,5,7,9') process.stdout.write('ok');`,
};

for (const [when, script] of Object.entries(ENDS)) {
  forEachBroker(test, `a process ends by itself ${when}`, async (t, broker) => {
    const { lingered, ...end } = await child(t, broker, script);
    t.deepEqual(end, { code: 0, signal: null, out: 'ok' });
    t.true(lingered < 15_000, `${lingered} ms`);
  });
}

forEachBroker(
  test,
  'an open gateway or client keeps its process alive',
  async (t, broker) => {
    const { out } = await child(
      t,
      broker,
      `const client = await new Client(mqConf).init();
      process.on('beforeExit', () => process.stdout.write('ended early'));
      // Nothing but the client holds the process for the time of this timer.
      setTimeout(async () => {
        process.stdout.write('alive');
        await client.close();
        process.removeAllListeners('beforeExit');
      }, 300).unref();`,
    );
    t.is(out, 'alive');
  },
);
