'use strict';

// The same as amqplib-line.js with rabbitmq-client. Its Consumer acknowledges
// messages one by one; its channels can do so in multiples, which is cheaper.

const { Connection } = require('rabbitmq-client');
const { PREFETCH, acknowledger, fail, names, settings } = require('./part');

const TRANSIENT = { durable: false, autoDelete: true };

async function openChannel() {
  const { host, port, login, password } = settings.broker;
  const connection = new Connection({
    hostname: host,
    port,
    username: login,
    password,
    noDelay: true,
  });
  connection.on('error', fail);
  return connection.acquire();
}

async function openLine() {
  const publishing = await openChannel();
  for (const [exchange, type] of [
    [names.receiveExchange, 'direct'],
    [names.statusExchange, 'direct'],
    [names.messageExchange, 'fanout'],
  ]) {
    await publishing.exchangeDeclare({ exchange, type, ...TRANSIENT });
  }
  const consuming = await openChannel();
  await consuming.basicQos({ prefetchCount: PREFETCH });
  return { publishing, consuming };
}

async function declareQueue(channel, queue, exchange, routingKey, options) {
  await channel.queueDeclare({ queue, ...TRANSIENT, ...options });
  await channel.queueBind({ queue, exchange, routingKey });
}

async function consume(channel, handlers) {
  const delivered = acknowledger(({ deliveryTag }) =>
    channel.basicAck({ deliveryTag, multiple: true }),
  );
  for (const [queue, handle] of Object.entries(handlers)) {
    await channel.basicConsume({ queue }, (message) => {
      handle(message);
      delivered(message);
    });
  }
}

/** @param {Buffer | object} body */
function publish(channel, exchange, routingKey, body, headers) {
  const envelope = {
    exchange,
    routingKey,
    headers,
    contentType: 'application/json',
    // It adds one otherwise, which no other here does.
    timestamp: undefined,
  };
  channel.basicPublish(envelope, body).catch(fail);
}

module.exports = { consume, declareQueue, openLine, publish };
