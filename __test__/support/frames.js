'use strict';

// Frames of RFC 6455, section 5.2, well-formed or not.

const { randomBytes } = require('node:crypto');

const OP = { more: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 };

/**
 * A frame as a client sends it.
 *
 * @param {number} opcode
 * @param {string | Buffer} [payload]
 * @param {{ fin?: boolean, rsv?: number, masked?: boolean, length?: number }} [options]
 *   `length`: what the frame says of itself, where that is not the truth
 */
function frame(opcode, payload = '', options = {}) {
  const { fin = true, rsv = 0, masked = true } = options;
  const body = Buffer.from(payload);
  const { length = body.length } = options;
  const head = [(fin ? 0x80 : 0) | (rsv << 4) | opcode];
  const mask = masked ? 0x80 : 0;
  if (length < 126) head.push(mask | length);
  else if (length < 65536) head.push(mask | 126, length >> 8, length & 255);
  else head.push(mask | 127, 0, 0, 0, 0, ...uint32(length));
  if (!masked) return Buffer.concat([Buffer.from(head), body]);
  const key = randomBytes(4);
  for (let index = 0; index < body.length; index += 1) {
    body[index] ^= key[index & 3];
  }
  return Buffer.concat([Buffer.from(head), key, body]);
}

/** @param {number} value */
function uint32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** The payload of a close frame. @param {number} code @param {string | Buffer} [reason] */
function closing(code, reason = '') {
  return Buffer.concat([Buffer.of(code >> 8, code & 255), Buffer.from(reason)]);
}

/**
 * Reads one frame of a server.
 *
 * @param {Buffer} bytes
 * @returns {{ fin: boolean, rsv: number, opcode: number, masked: boolean,
 *   payload: Buffer, code?: number, reason?: string, size: number } | null}
 *   null when it is not complete
 */
function readFrame(bytes) {
  if (bytes.length < 2) return null;
  let length = bytes[1] & 0x7f;
  const start = 2 + (length === 126 ? 2 : length === 127 ? 8 : 0);
  if (bytes.length < start) return null;
  if (length === 126) length = bytes.readUInt16BE(2);
  else if (length === 127) length = Number(bytes.readBigUInt64BE(2));
  if (bytes.length < start + length) return null;
  const payload = Buffer.from(bytes.subarray(start, start + length));
  const opcode = bytes[0] & 15;
  const coded = opcode === OP.close && length >= 2;
  return {
    fin: bytes[0] >= 0x80,
    rsv: (bytes[0] >> 4) & 7,
    opcode,
    masked: bytes[1] >= 0x80,
    payload,
    ...(coded && {
      code: payload.readUInt16BE(0),
      reason: payload.toString('utf8', 2),
    }),
    size: start + length,
  };
}

module.exports = { OP, closing, frame, readFrame };
