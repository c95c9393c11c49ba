'use strict';

// message-engin with declared keys: JavaScript sees no message.

const {
  createHttpServer,
  fail,
  listen,
  messageEngin,
  ready,
  unavailable,
} = require('../lib/part');

async function main() {
  const { server, mqConf } = messageEngin();
  const httpServer = createHttpServer();
  const wsConf = {
    httpServer,
    key: { header: 'k' },
    messageKey: { header: 'k' },
  };
  try {
    await server.start(mqConf, wsConf);
  } catch (error) {
    if (error.code !== 'ERR_INVALID_OPTION') throw error;
    unavailable(error);
  }
  ready({ port: await listen(httpServer) });
}

main().catch(fail);
