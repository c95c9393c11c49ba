'use strict';

// The original's client, rebuilt on node-amqp 0.2.7.

const { fail, names, ready } = require('../lib/part');
const { consume, openLine } = require('../lib/legacy-line');

async function main() {
  const { connection, message } = await openLine();
  const { receiveQueue, statusQueue } = names;
  await consume(
    connection,
    statusQueue,
    names.statusExchange,
    statusQueue,
    () => {},
  );
  await consume(
    connection,
    receiveQueue,
    names.receiveExchange,
    receiveQueue,
    (content, headers) => {
      message.publish(receiveQueue, content, { headers });
    },
  );
  ready();
}

main().catch(fail);
