'use strict';

// As much of AMQP 0-9-1's grammar as a broker needs to serve our code.

const FRAME = { method: 1, header: 2, body: 3, heartbeat: 8 };
const END = 0xce;

/** [class, method] of each. @type {Record<string, [number, number]>} */
const METHODS = {
  'connection.start': [10, 10],
  'connection.start-ok': [10, 11],
  'connection.tune': [10, 30],
  'connection.tune-ok': [10, 31],
  'connection.open': [10, 40],
  'connection.open-ok': [10, 41],
  'connection.close': [10, 50],
  'connection.close-ok': [10, 51],
  'connection.blocked': [10, 60],
  'connection.unblocked': [10, 61],
  'channel.open': [20, 10],
  'channel.open-ok': [20, 11],
  'channel.close': [20, 40],
  'channel.close-ok': [20, 41],
  'exchange.declare': [40, 10],
  'exchange.declare-ok': [40, 11],
  'exchange.delete': [40, 20],
  'exchange.delete-ok': [40, 21],
  'queue.declare': [50, 10],
  'queue.declare-ok': [50, 11],
  'queue.bind': [50, 20],
  'queue.bind-ok': [50, 21],
  'queue.delete': [50, 40],
  'queue.delete-ok': [50, 41],
  'basic.qos': [60, 10],
  'basic.qos-ok': [60, 11],
  'basic.consume': [60, 20],
  'basic.consume-ok': [60, 21],
  'basic.cancel': [60, 30],
  'basic.cancel-ok': [60, 31],
  'basic.publish': [60, 40],
  'basic.return': [60, 50],
  'basic.deliver': [60, 60],
  'basic.ack': [60, 80],
  'basic.reject': [60, 90],
  'basic.nack': [60, 120],
  'confirm.select': [85, 10],
  'confirm.select-ok': [85, 11],
  'tx.select': [90, 10],
  'tx.select-ok': [90, 11],
  'tx.rollback': [90, 30],
  'tx.rollback-ok': [90, 31],
};
const NAMES = new Map(
  Object.entries(METHODS).map(([name, ids]) => [ids.join('.'), name]),
);

const octet = (/** @type {number} */ value) => Buffer.of(value);
function short(/** @type {number} */ value) {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}
function long(/** @type {number} */ value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
function longlong(/** @type {number} */ value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}
function shortstr(/** @type {string} */ text) {
  const bytes = Buffer.from(text);
  return Buffer.concat([octet(bytes.length), bytes]);
}
function longstr(/** @type {string | Buffer} */ text) {
  const bytes = Buffer.from(text);
  return Buffer.concat([long(bytes.length), bytes]);
}

/** A field table of strings, booleans and tables. @param {Record<string, any>} fields */
function table(fields) {
  const parts = Object.entries(fields).map(([name, value]) => {
    const [type, bytes] =
      typeof value === 'boolean'
        ? ['t', octet(Number(value))]
        : typeof value === 'object'
          ? ['F', table(value)]
          : ['S', longstr(value)];
    return Buffer.concat([shortstr(name), Buffer.from(type), bytes]);
  });
  return longstr(Buffer.concat(parts));
}

/**
 * @param {number} type
 * @param {number} channel
 * @param {Buffer} payload
 */
function frame(type, channel, payload) {
  return Buffer.concat([
    ...[octet(type), short(channel), long(payload.length)],
    ...[payload, octet(END)],
  ]);
}

/**
 * @param {number} channel
 * @param {string} name
 * @param {...Buffer} args
 */
function method(channel, name, ...args) {
  const ids = METHODS[name].map(short);
  return frame(FRAME.method, channel, Buffer.concat([...ids, ...args]));
}

/** Reads the arguments of a method one after the other. */
class Reader {
  /** @param {Buffer} bytes */
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  /** @param {number} size */
  take(size) {
    this.at += size;
    return this.bytes.subarray(this.at - size, this.at);
  }

  octet() {
    return this.take(1)[0];
  }

  short() {
    return this.take(2).readUInt16BE();
  }

  long() {
    return this.take(4).readUInt32BE();
  }

  longlong() {
    return Number(this.take(8).readBigUInt64BE());
  }

  shortstr() {
    return this.take(this.octet()).toString();
  }

  longstr() {
    return this.take(this.long());
  }
}

/**
 * The complete frames at the beginning of these bytes, and what is left.
 *
 * @param {Buffer} bytes
 */
function readFrames(bytes) {
  const frames = [];
  let at = 0;
  while (bytes.length - at >= 8) {
    const size = bytes.readUInt32BE(at + 3);
    if (bytes.length - at < size + 8) break;
    if (bytes[at + 7 + size] !== END) throw new Error('a frame without end');
    frames.push({
      type: bytes[at],
      channel: bytes.readUInt16BE(at + 1),
      payload: Buffer.from(bytes.subarray(at + 7, at + 7 + size)),
    });
    at += size + 8;
  }
  return { frames, rest: bytes.subarray(at) };
}

/** @param {Buffer} payload of a method frame */
function readMethod(payload) {
  const reader = new Reader(payload);
  const ids = [reader.short(), reader.short()].join('.');
  return { name: NAMES.get(ids) ?? ids, reader };
}

module.exports = {
  FRAME,
  ...{ frame, method, readFrames, readMethod },
  ...{ long, longlong, longstr, octet, short, shortstr, table },
};
