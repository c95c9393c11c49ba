'use strict';

// What a good engineer writes by hand, with `ws` and amqplib.

const { randomUUID } = require('node:crypto');
const { fail, messageKeyFn, names, ready } = require('../lib/part');
const { consume, declareQueue, openLine } = require('../lib/amqplib-line');
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

  const publish = (exchange, key, body, headers) =>
    publishing.publish(exchange, key, body, {
      contentType: 'application/json',
      headers,
    });
  const front = await wsFront({
    publishMessage(text, headers) {
      publish(names.receiveExchange, names.receiveQueue, text, headers);
    },
    publishStatus(status, headers) {
      const body = Buffer.from(JSON.stringify(status));
      publish(names.statusExchange, names.statusQueue, body, headers);
    },
  });

  await consume(consuming, {
    [queue]({ content, properties: { headers } }) {
      const key = messageKeyFn(JSON.parse(content.toString()), headers);
      front.send(key, content);
    },
  });
  ready({ port: front.port });
}

main().catch(fail);
