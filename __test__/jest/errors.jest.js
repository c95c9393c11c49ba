'use strict';

// Errors are of the package's own classes, also where they come from the
// addon, which knows nothing of Jest's realms.

const { once } = require('node:events');
const http = require('node:http');
const net = require('node:net');
const { Client, MessageEnginError, OptionError, server } = require('../..');

/** A port that nobody listens on. */
async function closedPort() {
  const holder = net.createServer().listen(0, '127.0.0.1');
  await once(holder, 'listening');
  const { port } = holder.address();
  holder.close();
  await once(holder, 'close');
  return port;
}

test('a broker that is not there', async () => {
  const port = await closedPort();
  const conf = { host: '127.0.0.1', port, password: 'secret' };
  const failures = [
    new Client(conf).init(),
    server.start(conf, {
      httpServer: http.createServer(),
      keyFn: () => 'k',
      messageKeyFn: () => 'k',
    }),
  ];
  for (const { reason } of await Promise.allSettled(failures)) {
    expect(reason).toBeInstanceOf(MessageEnginError);
    expect(reason).toBeInstanceOf(Error);
    expect(reason.code).toBe('ECONNREFUSED');
    expect(reason.message).not.toContain('secret');
  }
});

test('a setting that cannot be used', () => {
  expect(() => new Client({ port: 'many' })).toThrow(OptionError);
  expect(() => new Client({ port: 'many' })).toThrow(/mqConf\.port/);
});

test('send before init', () => {
  const client = new Client({ url: 'memory://jest-errors' });
  expect(() => client.send('early')).toThrow(MessageEnginError);
});

test('a message that cannot be carried', async () => {
  const client = await new Client({ url: 'memory://jest-errors' }).init();
  const told = once(client, 'undeliverable');
  let deep = {};
  for (let level = 0; level < 200; level += 1) deep = { deep };
  let reads = 0;
  client.send('lost', {
    get mood() {
      reads += 1;
      return reads > 1 ? deep : 'good';
    },
  });
  expect((await told)[0]).toBe('lost');
  expect(client.send('taken')).toBe(true);
  await client.close();
});
