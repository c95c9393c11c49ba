'use strict';

const http = require('node:http');
const { server } = require('message-engin');

const mqConf = { url: process.env.AMQP_URL ?? 'amqp://localhost' };
const httpServer = http.createServer((request, response) => {
  response.writeHead(404).end();
});

const wsConf = {
  httpServer,

  // Who asks for this connection? What keyFn returns is the connection's key.
  async keyFn(request) {
    const url = new URL(request.resource, 'ws://localhost');
    return url.searchParams.get('user');
  },

  // To which key does this message of a worker go?
  messageKeyFn(message) {
    return message.to;
  },
};

async function main() {
  await server.start(mqConf, wsConf);
  httpServer.listen(process.env.PORT ?? 8080, () => {
    console.log(`gateway: listening on port ${httpServer.address().port}`);
  });
}

main();
