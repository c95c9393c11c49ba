'use strict';

// message-engin with the keys of messages from a JavaScript function.

const {
  createHttpServer,
  fail,
  keyFn,
  listen,
  messageEngin,
  messageKeyFn,
  ready,
} = require('../lib/part');

async function main() {
  const { server, mqConf } = messageEngin();
  const httpServer = createHttpServer();
  const wsConf = {
    httpServer,
    keyFn: ({ httpRequest }) => keyFn(httpRequest),
    messageKeyFn,
  };
  await server.start(mqConf, wsConf);
  ready({ port: await listen(httpServer) });
}

main().catch(fail);
