'use strict';

const http = require('node:http');
const { Client, server } = require('message-engin');

const mqConf = { url: process.env.AMQP_URL ?? 'amqp://localhost' };
const drain = Number(process.env.DRAIN ?? 10000);

let gateway;
const httpServer = http.createServer((request, response) => {
  // A balancer asks whether this gateway takes new connections.
  const isOpen = gateway !== undefined && !gateway.draining;
  response.writeHead(isOpen ? 200 : 503).end();
});
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
  const client = new Client(mqConf);
  client.on('message', (message) => {
    client.send(message);
  });
  await client.init();
  gateway = await server.start(mqConf, wsConf);
  httpServer.listen(process.env.PORT ?? 8080, () => {
    console.log(`gateway: listening on port ${httpServer.address().port}`);
  });

  process.once('SIGTERM', async () => {
    // Browsers leave one by one, evenly over that time, and go elsewhere.
    await gateway.close({ drain });
    // What the worker still has to send goes out.
    await client.close();
    httpServer.close();
    console.log('gateway: drained');
  });
}

main();
