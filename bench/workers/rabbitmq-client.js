'use strict';

const { fail, names, ready } = require('../lib/part');
const {
  consume,
  declareQueue,
  openLine,
  publish,
} = require('../lib/rabbitmq-client-line');

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

  await consume(consuming, {
    [receiveQueue]({ body, headers }) {
      publish(publishing, messageExchange, receiveQueue, body, headers);
    },
    [statusQueue]() {},
  });
  ready();
}

main().catch(fail);
