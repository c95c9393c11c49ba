'use strict';

const http = require('node:http');
const co = require('co');
const { Client, server } = require('message-engin');

const mqConf = { url: process.env.AMQP_URL ?? 'memory:' };
const httpServer = http.createServer();

// Stands for a question to a database.
function findUser(name) {
  return Promise.resolve({ name });
}

const wsConf = {
  httpServer,
  *keyFn(request) {
    const url = new URL(request.resource, 'ws://localhost');
    const user = yield findUser(url.searchParams.get('user'));
    return user.name;
  },
  messageKeyFn(message) {
    return message.to;
  },
};

function* main() {
  yield server.start(mqConf, wsConf);
  const client = new Client(mqConf);
  client.on('message', (message) => client.send(message));
  client.on('status', (status) => console.log('status', status));
  yield* client.init();
  httpServer.listen(process.env.PORT ?? 8080, () => {
    console.log(`gateway: listening on port ${httpServer.address().port}`);
  });
}

co(main);
