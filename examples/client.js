'use strict';

const { Client } = require('message-engin');

async function main() {
  const client = new Client({
    url: process.env.AMQP_URL ?? 'amqp://localhost',
  });

  client.on('message', (message) => {
    console.log('message', message);
    client.send(message);
  });
  client.on('status', (status) => {
    console.log('status', status);
  });

  await client.init();
  console.log('worker: waiting for messages');
}

main();
