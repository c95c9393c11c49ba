'use strict';

// Peers that meet ours on the broker as message-engin 0.0.5 does: the same
// declarations, consumers and messages, through the same two libraries.

const { randomUUID } = require('node:crypto');
const { EventEmitter, once } = require('node:events');
const amqp = require('amqp');
const { server: WebSocketServer } = require('websocket');
const { NAMES } = require('./rabbit');

const DEFAULTS = Object.fromEntries(NAMES.map((name) => [name, name]));

/** A connection of node-amqp, with promises where it has callbacks. */
class LegacyLine {
  static async connect(mqConf) {
    // Its own reconnecting would keep the process alive after an error.
    const connection = amqp.createConnection(mqConf, { reconnect: false });
    const line = new LegacyLine(connection);
    await once(connection, 'ready');
    return line;
  }

  constructor(connection) {
    this.connection = connection;
    /** What node-amqp could not cope with, and what the broker refused. */
    this.errors = [];
    connection.on('error', (error) => this.errors.push(error));
    // Without a listener it prints a closing by the broker.
    connection.on('close', () => {});
  }

  /** Waits for the callback of an opened channel, or for its refusal. */
  #opened(open) {
    const { connection } = this;
    return new Promise((resolve, reject) => {
      const channel = open(() => {
        connection.off('error', reject);
        resolve(channel);
      });
      channel.on('error', (error) => {
        this.errors.push(error);
        reject(error);
      });
      connection.once('error', reject);
    });
  }

  exchange(name, type, options) {
    const all = { type, durable: false, autoDelete: true, ...options };
    return this.#opened((done) => this.connection.exchange(name, all, done));
  }

  queue(name, options) {
    const all = { durable: false, autoDelete: true, exclusive: false };
    return this.#opened((done) =>
      this.connection.queue(name, { ...all, ...options }, done),
    );
  }

  bind(queue, exchange, key) {
    return new Promise((resolve) => queue.bind(exchange, key, resolve));
  }

  consume(queue, listener) {
    return new Promise((resolve) =>
      queue.subscribe({ ack: false }, listener).addCallback(resolve),
    );
  }

  async declareExchanges(names) {
    return {
      receive: await this.exchange(names.receiveExchange, 'direct'),
      status: await this.exchange(names.statusExchange, 'direct'),
      message: await this.exchange(names.messageExchange, 'fanout'),
    };
  }

  /** The orderly end: all that was published has reached the broker. */
  async close() {
    const { socket } = this.connection;
    if (socket.destroyed) return;
    const closed = once(socket, 'close');
    this.connection.disconnect();
    await closed;
  }
}

/**
 * @param {object} mqConf node-amqp's options, and the names
 * @param {{ httpServer: import('node:http').Server, keyFn: Function,
 *   messageKeyFn: Function }} wsConf
 */
async function legacyGateway(mqConf, { httpServer, keyFn, messageKeyFn }) {
  const names = { ...DEFAULTS, ...mqConf };
  const line = await LegacyLine.connect(mqConf);
  const { receive, status } = await line.declareExchanges(names);
  const queue = await line.queue(`${names.messageQueue}-${randomUUID()}`);
  await line.bind(queue, names.messageExchange, names.messageQueue);
  const connections = new Map();
  await line.consume(queue, (message, headers) => {
    const key = String(messageKeyFn(message, headers));
    connections.get(key)?.sendUTF(JSON.stringify(message));
  });

  const sockets = new WebSocketServer({
    httpServer,
    autoAcceptConnections: false,
  });
  sockets.on('request', async (request) => {
    const key = await keyFn(request);
    if (!key) {
      request.reject(404, 'bad request');
      return;
    }
    const connection = request.accept(undefined, request.origin);
    const { headers } = request.httpRequest;
    const properties = { contentType: 'application/json', headers };
    const before = connections.get(String(key));
    connections.set(String(key), connection);
    before?.drop();
    status.publish(names.statusQueue, { status: 1, key }, properties);
    connection.on('message', ({ type, utf8Data }) => {
      if (type !== 'utf8') return;
      receive.publish(names.receiveQueue, utf8Data, properties);
    });
    connection.on('close', (reasonCode, description) => {
      if (connections.get(String(key)) !== connection) return;
      connections.delete(String(key));
      const message = { status: 0, key, reasonCode, description };
      status.publish(names.statusQueue, message, properties);
    });
  });

  return {
    errors: line.errors,
    async close() {
      sockets.unmount();
      const open = [...connections.values()];
      for (const connection of open) connection.close();
      await Promise.all(open.map((connection) => once(connection, 'close')));
      await line.close();
    },
  };
}

/** @param {object} mqConf node-amqp's options, and the names */
async function legacyClient(mqConf) {
  const names = { ...DEFAULTS, ...mqConf };
  const line = await LegacyLine.connect(mqConf);
  const { message } = await line.declareExchanges(names);
  const receiving = await line.queue(names.receiveQueue);
  await line.bind(receiving, names.receiveExchange, names.receiveQueue);
  const watching = await line.queue(names.statusQueue);
  await line.bind(watching, names.statusExchange, names.statusQueue);

  const client = new EventEmitter();
  client.errors = line.errors;
  client.send = (content, headers) => {
    // node-amqp throws for headers that are undefined.
    message.publish(names.receiveQueue, content, headers ? { headers } : {});
  };
  client.close = () => line.close();
  for (const [event, queue] of [
    ['message', receiving],
    ['status', watching],
  ]) {
    await line.consume(queue, (...delivery) => client.emit(event, ...delivery));
  }
  return client;
}

module.exports = { LegacyLine, legacyClient, legacyGateway };
