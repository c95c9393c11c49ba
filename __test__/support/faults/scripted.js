'use strict';

// A broker that serves our code well, as long as a test does not tell it to
// do what no real broker would do at that very moment.

const { once } = require('node:events');
const net = require('node:net');
const amqp = require('./amqp');

const HOST = '127.0.0.1';
const GREETING = 8;
const FRAME_MAX = 131_072;
const CAPABILITIES = {
  publisher_confirms: true,
  exchange_exchange_bindings: true,
  'basic.nack': true,
  consumer_cancel_notify: true,
  'connection.blocked': true,
  authentication_failure_close: true,
};
const { long, longlong, longstr, octet, short, shortstr, table } = amqp;

/**
 * @typedef {{ exchange: string, key: string, header: Buffer, body: Buffer,
 *   redelivered: boolean }} Message
 * @typedef {{ link: Link, channel: number, tag: string }} Consumer
 * @typedef {{ name: string, messages: Message[], consumers: Consumer[],
 *   owner: Link | null }} Queue
 * @typedef {{ number: number, confirms: boolean, published: number,
 *   delivered: number, limit: number, inHand: Map<number, { queue: Queue, message: Message }>,
 *   content: any, transaction: boolean }} Channel
 */

/** One connection of our code. */
class Link {
  /** @param {ScriptedBroker} broker @param {net.Socket} socket */
  constructor(broker, socket) {
    this.broker = broker;
    this.socket = socket;
    this.bytes = Buffer.alloc(0);
    this.greeted = false;
    /** It says nothing more, and does not hear. */
    this.mute = false;
    /** @type {Map<number, Channel>} */
    this.channels = new Map();
    socket.setNoDelay(true);
    socket.on('error', () => {});
    socket.on('data', (chunk) => this.#read(chunk));
    this.heard = performance.now();
    this.closed = new Promise((resolve) => socket.once('close', resolve));
    this.closed.then(() => broker.forget(this));
    const beat = setInterval(() => {
      this.write(amqp.frame(amqp.FRAME.heartbeat, 0, Buffer.alloc(0)));
      // As a broker does, after three intervals.
      const silence = performance.now() - this.heard;
      if (silence > broker.heartbeat * 3000) socket.destroy();
    }, 400);
    this.closed.then(() => clearInterval(beat));
  }

  /** @param {Buffer} bytes */
  write(bytes) {
    if (!this.mute && this.socket.writable) this.socket.write(bytes);
  }

  /** @param {number} channel @param {string} name @param {...Buffer} args */
  say(channel, name, ...args) {
    this.write(amqp.method(channel, name, ...args));
  }

  /** @param {Buffer} chunk */
  #read(chunk) {
    this.heard = performance.now();
    if (this.mute) return;
    this.bytes = Buffer.concat([this.bytes, chunk]);
    if (!this.greeted) {
      if (this.bytes.length < GREETING) return;
      this.bytes = this.bytes.subarray(GREETING);
      this.greeted = true;
      const properties = { product: 'scripted', capabilities: CAPABILITIES };
      this.say(
        ...[0, 'connection.start', octet(0), octet(9)],
        ...[table(properties), longstr('PLAIN AMQPLAIN'), longstr('en_US')],
      );
    }
    const { frames, rest } = amqp.readFrames(this.bytes);
    this.bytes = rest;
    for (const { type, channel, payload } of frames) {
      if (this.mute) return;
      if (type === amqp.FRAME.method) this.#method(channel, payload);
      else if (type !== amqp.FRAME.heartbeat) {
        this.#content(type, channel, payload);
      }
    }
  }

  /** @param {number} number @param {Buffer} payload */
  #method(number, payload) {
    const { name, reader } = amqp.readMethod(payload);
    this.broker.said.push(name);
    // A broker drops what comes on a channel that it has closed.
    const isOpen = number === 0 || this.channels.has(number);
    if (!isOpen && name !== 'channel.open') return;
    const step = this.broker.script[name];
    if (step && step(this, number)) return;
    answers[name]?.(this, number, reader);
  }

  /** @param {number} type @param {number} number @param {Buffer} payload */
  #content(type, number, payload) {
    const channel = this.channels.get(number);
    if (!channel?.content) return;
    const { content } = channel;
    if (type === amqp.FRAME.header) {
      content.header = payload;
      content.size = Number(payload.readBigUInt64BE(4));
    } else {
      content.parts.push(payload);
    }
    const body = Buffer.concat(content.parts);
    if (body.length < content.size) return;
    channel.content = null;
    if (channel.transaction) return;
    channel.published += 1;
    this.broker.take(this, channel, { ...content, body, redelivered: false });
  }

  /** @param {number} code @param {string} text */
  closeConnection(code, text) {
    this.say(
      ...[0, 'connection.close', short(code), shortstr(text)],
      ...[short(0), short(0)],
    );
  }

  /** @param {number} channel @param {number} code @param {string} text */
  closeChannel(channel, code, text) {
    this.broker.giveBack(this, channel);
    this.say(
      ...[channel, 'channel.close', short(code), shortstr(text)],
      ...[short(0), short(0)],
    );
  }

  reset() {
    this.socket.resetAndDestroy();
  }
}

/** @param {import('./amqp').Reader | any} reader @returns {string} */
function second(reader) {
  reader.short();
  return reader.shortstr();
}

/** What a broker answers. @type {Record<string, (link: Link, channel: number, reader: any) => void>} */
const answers = {
  'connection.start-ok'(link) {
    const beat = short(link.broker.heartbeat);
    link.say(0, 'connection.tune', short(2047), long(FRAME_MAX), beat);
  },
  'connection.open': (link) => link.say(0, 'connection.open-ok', shortstr('')),
  'connection.close'(link) {
    link.say(0, 'connection.close-ok');
    link.socket.end();
  },
  'connection.close-ok': (link) => link.socket.end(),
  'channel.open'(link, number) {
    link.channels.set(number, {
      ...{ number, confirms: false, published: 0, delivered: 0 },
      ...{ limit: Infinity, inHand: new Map(), content: null },
      transaction: false,
    });
    link.say(number, 'channel.open-ok', longstr(''));
  },
  'channel.close'(link, number) {
    link.broker.giveBack(link, number);
    link.say(number, 'channel.close-ok');
  },
  'exchange.declare'(link, number, reader) {
    const name = second(reader);
    const type = reader.shortstr();
    const { exchanges } = link.broker;
    if (!exchanges.has(name)) exchanges.set(name, { type, bindings: [] });
    link.say(number, 'exchange.declare-ok');
  },
  'queue.declare'(link, number, reader) {
    const name = second(reader);
    const exclusive = (reader.octet() & 4) === 4;
    const queue = link.broker.queue(name);
    if (queue.owner && queue.owner !== link) {
      link.closeChannel(number, 405, `RESOURCE_LOCKED - queue '${name}'`);
      return;
    }
    if (exclusive) queue.owner = link;
    link.say(
      ...[number, 'queue.declare-ok', shortstr(queue.name)],
      ...[long(queue.messages.length), long(queue.consumers.length)],
    );
  },
  'queue.bind'(link, number, reader) {
    const queue = second(reader);
    const exchange = link.broker.exchanges.get(reader.shortstr());
    const key = reader.shortstr();
    const { bindings } = exchange;
    if (!bindings.some((each) => each.queue === queue && each.key === key)) {
      bindings.push({ queue, key });
    }
    link.say(number, 'queue.bind-ok');
  },
  'queue.delete'(link, number, reader) {
    link.broker.queues.delete(second(reader));
    link.say(number, 'queue.delete-ok', long(0));
  },
  'basic.qos'(link, number, reader) {
    reader.long();
    link.channels.get(number).limit = reader.short() || Infinity;
    link.say(number, 'basic.qos-ok');
  },
  'basic.consume'(link, number, reader) {
    const queue = link.broker.queue(second(reader));
    const tag = reader.shortstr() || `tag-${number}-${queue.name}`;
    queue.consumers.push({ link, channel: number, tag });
    // No answer is asked for.
    if ((reader.octet() & 8) === 0) {
      link.say(number, 'basic.consume-ok', shortstr(tag));
    }
    link.broker.deliver(queue);
  },
  'basic.cancel'(link, number, reader) {
    const tag = reader.shortstr();
    for (const queue of link.broker.queues.values()) {
      queue.consumers = queue.consumers.filter(
        (each) => each.link !== link || each.tag !== tag,
      );
    }
    link.say(number, 'basic.cancel-ok', shortstr(tag));
  },
  'basic.publish'(link, number, reader) {
    const exchange = second(reader);
    const key = reader.shortstr();
    const mandatory = (reader.octet() & 1) === 1;
    const channel = link.channels.get(number);
    if (channel) channel.content = { exchange, key, mandatory, parts: [] };
  },
  'basic.ack'(link, number, reader) {
    settle(link, number, reader.longlong(), (reader.octet() & 1) === 1);
  },
  'basic.nack'(link, number, reader) {
    const tag = reader.longlong();
    const flags = reader.octet();
    const back = (flags & 2) === 2;
    settle(link, number, tag, (flags & 1) === 1, back);
  },
  'basic.reject'(link, number, reader) {
    settle(link, number, reader.longlong(), false, reader.octet() === 1);
  },
  // Transactions are only rolled back here.
  'tx.select'(link, number) {
    link.channels.get(number).transaction = true;
    link.say(number, 'tx.select-ok');
  },
  'tx.rollback': (link, number) => link.say(number, 'tx.rollback-ok'),
  'confirm.select'(link, number) {
    link.channels.get(number).confirms = true;
    link.say(number, 'confirm.select-ok');
  },
};

/**
 * @param {Link} link
 * @param {number} number
 * @param {number} tag 0 with `multiple`: all
 * @param {boolean} multiple
 * @param {boolean} [back]
 */
function settle(link, number, tag, multiple, back = false) {
  const { inHand } = link.channels.get(number);
  // Backwards, so that what goes back keeps its order.
  for (const [each, { queue, message }] of [...inHand].reverse()) {
    if (each !== tag && !(multiple && (each < tag || tag === 0))) continue;
    inHand.delete(each);
    if (!back) continue;
    queue.messages.unshift({ ...message, redelivered: true });
  }
  link.broker.deliverAll();
}

/** @param {Consumer} consumer */
function hasRoom({ link, channel }) {
  const { inHand, limit } = link.channels.get(channel) ?? {};
  return inHand !== undefined && inHand.size < limit;
}

class ScriptedBroker {
  constructor() {
    /** Asked for in connection.tune, in seconds: no stall of this process. */
    this.heartbeat = 3;
    /** @type {Map<string, { type: string, bindings: { queue: string, key: string }[] }>} */
    this.exchanges = new Map();
    /** @type {Map<string, Queue>} */
    this.queues = new Map();
    /** @type {Set<Link>} */
    this.links = new Set();
    /** All methods that came, in order. @type {string[]} */
    this.said = [];
    /** Connections that came. */
    this.accepted = 0;
    /**
     * What happens in place of the usual answer to a method, when it says true.
     *
     * @type {Record<string, (link: Link, channel: number) => boolean | void>}
     */
    this.script = {};
    /**
     * What becomes of a publish: taken and confirmed; refused; neither, in
     * silence; taken without a word; or returned.
     *
     * @type {(message: Message & { mandatory: boolean }, link: Link) =>
     *   'ack' | 'nack' | 'swallow' | 'silent' | 'return'}
     */
    this.verdict = () => 'ack';
    this.port = 0;
    this.server = net.createServer((socket) => {
      this.accepted += 1;
      this.links.add(new Link(this, socket));
    });
  }

  get url() {
    return `amqp://guest:guest@${HOST}:${this.port}/%2f`;
  }

  async open() {
    this.server.listen(0, HOST);
    await once(this.server, 'listening');
    const address = /** @type {net.AddressInfo} */ (this.server.address());
    this.port = address.port;
  }

  async close() {
    const closed = once(this.server, 'close');
    this.server.close();
    for (const { socket } of this.links) socket.destroy();
    await closed;
  }

  /** @param {string} name @returns {Queue} */
  queue(name) {
    let queue = this.queues.get(name);
    if (!queue) {
      queue = { name, messages: [], consumers: [], owner: null };
      this.queues.set(name, queue);
    }
    return queue;
  }

  /** @param {Link} link @param {Channel} channel @param {any} message */
  take(link, channel, message) {
    const tag = longlong(channel.published);
    const { number, confirms } = channel;
    const verdict = this.verdict(message, link);
    if (verdict === 'swallow') return;
    if (verdict === 'nack') {
      if (confirms) link.say(number, 'basic.nack', tag, octet(0));
      return;
    }
    const routed = verdict === 'return' ? [] : this.routes(message);
    if (routed.length === 0 && message.mandatory) {
      const { exchange, key, header, body } = message;
      const args = [short(312), ...[`NO_ROUTE`, exchange, key].map(shortstr)];
      link.say(number, 'basic.return', ...args);
      link.write(contentOf(number, header, body));
    }
    for (const queue of routed) {
      queue.messages.push(message);
      this.deliver(queue);
    }
    if (confirms && verdict !== 'silent') {
      link.say(number, 'basic.ack', tag, octet(0));
    }
  }

  /** @param {Message} message */
  routes({ exchange, key }) {
    const { type = '', bindings = [] } = this.exchanges.get(exchange) ?? {};
    const names = exchange
      ? bindings
          .filter((each) => type === 'fanout' || each.key === key)
          .map(({ queue }) => queue)
      : [key];
    return names.flatMap((name) => this.queues.get(name) ?? []);
  }

  /** @param {Queue} queue */
  deliver(queue) {
    while (queue.messages.length > 0) {
      const index = queue.consumers.findIndex((each) => hasRoom(each));
      if (index < 0) return;
      // In turn.
      const [consumer] = queue.consumers.splice(index, 1);
      queue.consumers.push(consumer);
      const { link, channel: number, tag } = consumer;
      const channel = link.channels.get(number);
      const message = queue.messages.shift();
      channel.delivered += 1;
      channel.inHand.set(channel.delivered, { queue, message });
      const { redelivered, exchange, key, header, body } = message;
      link.say(
        ...[number, 'basic.deliver', shortstr(tag)],
        ...[longlong(channel.delivered), octet(Number(redelivered))],
        ...[shortstr(exchange), shortstr(key)],
      );
      link.write(contentOf(number, header, body));
    }
  }

  /** What is in hand there goes back to its queues. @param {Link} link @param {number} number */
  giveBack(link, number) {
    const channel = link.channels.get(number);
    if (!channel) return;
    link.channels.delete(number);
    for (const queue of this.queues.values()) {
      queue.consumers = queue.consumers.filter(
        (each) => each.link !== link || each.channel !== number,
      );
    }
    const back = [...channel.inHand.values()].reverse();
    for (const { queue, message } of back) {
      queue.messages.unshift({ ...message, redelivered: true });
    }
    this.deliverAll();
  }

  /** Room has come up. */
  deliverAll() {
    for (const queue of this.queues.values()) this.deliver(queue);
  }

  /** For the log of a test that fails. */
  state() {
    const queues = [...this.queues.values()].map(
      ({ name, messages, consumers }) =>
        `${name}: ${messages.length} messages, ${consumers.length} consumers`,
    );
    const inHand = [...this.links].map((link) =>
      [...link.channels.values()].map((each) => each.inHand.size).join(' '),
    );
    return [...queues, ...inHand.map((sizes) => `in hand: ${sizes}`)].join(
      '\n',
    );
  }

  /** Takes a consumer away, and tells it. @param {string} name of its queue */
  cancel(name) {
    const queue = this.queue(name);
    for (const { link, channel, tag } of queue.consumers.splice(0)) {
      link.say(channel, 'basic.cancel', shortstr(tag), octet(1));
    }
  }

  /** @param {Link} link */
  forget(link) {
    this.links.delete(link);
    for (const number of [...link.channels.keys()]) this.giveBack(link, number);
    for (const { name, owner } of [...this.queues.values()]) {
      if (owner === link) this.queues.delete(name);
    }
  }
}

/** @param {number} channel @param {Buffer} header @param {Buffer} body */
function contentOf(channel, header, body) {
  const frames = [amqp.frame(amqp.FRAME.header, channel, header)];
  const step = FRAME_MAX - 8;
  for (let at = 0; at < body.length; at += step) {
    const part = body.subarray(at, at + step);
    frames.push(amqp.frame(amqp.FRAME.body, channel, part));
  }
  return Buffer.concat(frames);
}

/** @param {import('ava').ExecutionContext} t */
async function scripted(t) {
  const broker = new ScriptedBroker();
  await broker.open();
  t.teardown(() => broker.close());
  return broker;
}

module.exports = { scripted };
