'use strict';

const { fail, names, ready } = require('../lib/part');
const { consume, declareQueue, openLine } = require('../lib/amqplib-line');

async function main() {
  const { publishing, consuming } = await openLine();
  const { messageExchange, receiveQueue, statusQueue } = names;
  await declareQueue(
    consuming,
    receiveQueue,
    names.receiveExchange,
    receiveQueue,
  );
  await declareQueue(consuming, statusQueue, names.statusExchange, statusQueue);

  /** What a worker's code gets and gives: values. */
  function onMessage(message, headers) {
    const body = Buffer.from(JSON.stringify(message));
    publishing.publish(messageExchange, receiveQueue, body, {
      contentType: 'application/json',
      headers,
    });
  }

  await consume(consuming, {
    [receiveQueue]({ content, properties: { headers } }) {
      onMessage(JSON.parse(content.toString()), headers);
    },
    [statusQueue]({ content }) {
      JSON.parse(content.toString());
    },
  });
  ready();
}

main().catch(fail);
