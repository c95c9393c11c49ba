'use strict';

// What is closed is no open handle. Jest knows of those alone that are opened
// by a test itself, before it awaits anything.

const http = require('node:http');
const { Client, server } = require('../..');

const conf = { url: 'memory://jest-handles' };
const wsConf = {
  httpServer: http.createServer(),
  keyFn: () => 'k',
  messageKeyFn: () => 'k',
};

test('a gateway', async () => {
  const gateway = await server.start(conf, wsConf);
  await gateway.close();
});

test('a client', async () => {
  const client = new Client(conf);
  client.on('message', () => {});
  await client.init();
  client.send('one');
  await client.close();
});

test('what could not be started', async () => {
  const nobody = { host: '127.0.0.1', port: 1 };
  await expect(server.start(nobody, wsConf)).rejects.toThrow();
  await expect(new Client(nobody).init()).rejects.toThrow();
});
