'use strict';

// What a good engineer writes by hand, with `ws` and rabbitmq-client.

const { randomUUID } = require('node:crypto');
const { fail, messageKeyFn, names, ready } = require('../lib/part');
const {
  consume,
  declareQueue,
  openLine,
  publish,
} = require('../lib/rabbitmq-client-line');
const { wsFront } = require('../lib/ws-front');

async function main() {
  const { publishing, consuming } = await openLine();
  const queue = `${names.messageQueue}-${randomUUID()}`;
  await declareQueue(
    consuming,
    queue,
    names.messageExchange,
    names.messageQueue,
    { exclusive: true },
  );

  const { receiveExchange, receiveQueue, statusExchange, statusQueue } = names;
  const front = await wsFront({
    publishMessage(text, headers) {
      publish(publishing, receiveExchange, receiveQueue, text, headers);
    },
    publishStatus(status, headers) {
      publish(publishing, statusExchange, statusQueue, status, headers);
    },
  });

  await consume(consuming, {
    [queue]({ body, headers }) {
      // The library has parsed it already, and has nothing but the value.
      front.send(messageKeyFn(body, headers), JSON.stringify(body));
    },
  });
  ready({ port: front.port });
}

main().catch(fail);
