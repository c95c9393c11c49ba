'use strict';

// Our Client.

const { fail, messageEngin, ready } = require('../lib/part');

async function main() {
  const { Client, mqConf } = messageEngin();
  const client = new Client(mqConf);
  client.on('message', (message, headers) => {
    client.send(message, headers);
  });
  await client.init();
  ready();
}

main().catch(fail);
