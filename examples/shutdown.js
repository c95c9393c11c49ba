'use strict';

const http = require('node:http');
const { server } = require('message-engin');

const mqConf = { url: process.env.AMQP_URL ?? 'amqp://localhost' };
const httpServer = http.createServer();
const wsConf = {
  httpServer,
  keyFn(request) {
    const url = new URL(request.resource, 'ws://localhost');
    return url.searchParams.get('user');
  },
  messageKeyFn(message) {
    return message.to;
  },
};

async function main() {
  const gateway = await server.start(mqConf, wsConf);
  httpServer.listen(process.env.PORT ?? 8080, () => {
    console.log(`gateway: listening on port ${httpServer.address().port}`);
  });

  process.once('SIGTERM', async () => {
    // New connections go elsewhere; those that are here are told 1001.
    httpServer.close();
    await gateway.close();
    console.log('gateway: closed');
  });
}

main();
