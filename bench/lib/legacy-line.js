'use strict';

// node-amqp as the original uses it: one connection, a channel for each
// exchange and queue, nothing acknowledged.

const amqp = require('amqp');
const { fail, mqConf, names } = require('./part');

const TRANSIENT = { durable: false, autoDelete: true };

async function openLine() {
  const connection = amqp.createConnection(mqConf(), { reconnect: false });
  connection.on('error', fail);
  connection.on('close', () => fail('the broker closed the connection'));
  await new Promise((resolve) => connection.once('ready', resolve));
  const exchange = (name, type) =>
    new Promise((resolve) => {
      connection.exchange(name, { type, ...TRANSIENT }, resolve);
    });
  return {
    connection,
    receive: await exchange(names.receiveExchange, 'direct'),
    status: await exchange(names.statusExchange, 'direct'),
    message: await exchange(names.messageExchange, 'fanout'),
  };
}

/** Declares, binds and consumes. */
async function consume(connection, name, exchange, key, listener) {
  const queue = await new Promise((resolve) => {
    const options = { ...TRANSIENT, exclusive: false };
    const opened = connection.queue(name, options, () => resolve(opened));
  });
  await new Promise((resolve) => queue.bind(exchange, key, resolve));
  await new Promise((resolve) =>
    queue.subscribe({ ack: false }, listener).addCallback(resolve),
  );
}

module.exports = { consume, openLine };
