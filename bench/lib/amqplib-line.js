'use strict';

// amqplib with what both a gateway and a worker want: a connection for
// publishing and one for consuming, so that a broker that slows publishers down
// does not hold back deliveries and acknowledgements.

const amqplib = require('amqplib');
const { PREFETCH, acknowledger, fail, names, settings } = require('./part');

const TRANSIENT = { durable: false, autoDelete: true };

async function openChannel() {
  const { host, port, login, password } = settings.broker;
  const connection = await amqplib.connect(
    { hostname: host, port, username: login, password },
    { noDelay: true },
  );
  connection.on('error', fail);
  connection.on('close', () => fail('the broker closed the connection'));
  const channel = await connection.createChannel();
  channel.on('error', fail);
  return channel;
}

/** The two channels, after declaring the exchanges. */
async function openLine() {
  const publishing = await openChannel();
  const { receiveExchange, statusExchange, messageExchange } = names;
  await publishing.assertExchange(receiveExchange, 'direct', TRANSIENT);
  await publishing.assertExchange(statusExchange, 'direct', TRANSIENT);
  await publishing.assertExchange(messageExchange, 'fanout', TRANSIENT);
  const consuming = await openChannel();
  await consuming.prefetch(PREFETCH);
  return { publishing, consuming };
}

async function declareQueue(channel, queue, exchange, key, options) {
  await channel.assertQueue(queue, { ...TRANSIENT, ...options });
  await channel.bindQueue(queue, exchange, key);
}

/** Consumes queues, a handler each, and acknowledges in multiples. */
async function consume(channel, handlers) {
  const delivered = acknowledger((last) => channel.ack(last, true));
  for (const [queue, handle] of Object.entries(handlers)) {
    await channel.consume(queue, (message) => {
      if (!message) {
        fail('the broker cancelled the consumer');
        return;
      }
      handle(message);
      delivered(message);
    });
  }
}

module.exports = { consume, declareQueue, openLine };
