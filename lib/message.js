'use strict';

const { toUSVString } = require('node:util');
const { isBoxedPrimitive, isDate, isUint8Array } = require('node:util/types');
const { isFunction, isObject, typeName } = require('./checks');

const OCTETS = 'application/octet-stream';
/** Levels of tables and arrays within headers. */
const MAX_DEPTH = 32;
const JSON_TYPES = ['application/json', 'text/json'];

/**
 * Reads a text the way receivers always have: JSON types are parsed. What
 * cannot be parsed is the text itself, so that nothing is lost.
 *
 * @param {string} text
 * @param {string} contentType empty where the sender gave none
 * @returns {unknown}
 */
function decodeText(text, contentType) {
  if (!JSON_TYPES.includes(contentType)) return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * What the wire carries of a message: octets of a Buffer as they are, JSON of
 * everything else.
 *
 * @param {unknown} message
 * @returns {string | Buffer}
 * @throws {TypeError} with code ERR_INVALID_ARG_VALUE for what JSON cannot say
 */
function encodeMessage(message) {
  if (isUint8Array(message)) {
    return Buffer.isBuffer(message)
      ? message
      : Buffer.from(message.buffer, message.byteOffset, message.byteLength);
  }
  let json;
  try {
    // A lone surrogate has no form in UTF-8, so no frame could carry it.
    json = JSON.stringify(
      typeof message === 'string' ? toUSVString(message) : message,
    );
  } catch (cause) {
    throw invalid(`message cannot be sent as JSON: ${reasonOf(cause)}`, cause);
  }
  if (json === undefined) {
    throw invalid(`message cannot be sent as JSON: it is ${typeof message}`);
  }
  return json;
}

/**
 * Header JSON for the native side. Dates and Buffers, which JSON would turn
 * into text, cross as tagged arrays; such JSON starts with '!' and tags every
 * other array too, so that no header can pass for one.
 *
 * @param {unknown} headers
 * @returns {string}
 * @throws {TypeError} with code ERR_INVALID_ARG_TYPE or ERR_INVALID_ARG_VALUE
 */
function encodeHeaders(headers) {
  if (headers === undefined || headers === null) return '{}';
  if (!isObject(headers)) throw noFields(typeName(headers));
  let text;
  try {
    const plain = !needsTags(headers, 0);
    const json = JSON.stringify(plain ? headers : tag(headers, 0)) ?? '';
    // JSON.stringify escapes half a surrogate pair, which has no UTF-8.
    const whole = /\\ud[89a-f]/.test(json)
      ? JSON.stringify(mapTexts(JSON.parse(json)))
      : json;
    text = plain ? whole : `!${whole}`;
  } catch (cause) {
    throw invalid(`headers cannot be sent: ${reasonOf(cause)}`, cause);
  }
  // A Buffer, a Date and what its toJSON() makes something else are objects.
  if (!/^!?\{/.test(text)) throw noFields('one that has none');
  return text;
}

/**
 * @param {string} text header JSON of the native side
 * @returns {Record<string, any>}
 */
function decodeHeaders(text) {
  return text.startsWith('!')
    ? untag(JSON.parse(text.slice(1)))
    : JSON.parse(text);
}

/**
 * Whether JSON.stringify() alone could turn something into text, or do what it
 * was not seen to do.
 *
 * @param {any} value
 * @param {number} depth
 * @returns {boolean}
 */
function needsTags(value, depth) {
  if (typeof value !== 'object' || value === null) return false;
  if (isDate(value) || isUint8Array(value)) return true;
  if (isFunction(value.toJSON)) return true;
  checkDepth(depth);
  let found = false;
  for (const name in value) {
    found = needsTags(value[name], depth + 1) || found;
  }
  return found;
}

/**
 * Circles end here too.
 *
 * @param {number} depth
 */
function checkDepth(depth) {
  if (depth > MAX_DEPTH) throw new RangeError(`deeper than ${MAX_DEPTH}`);
}

/**
 * @param {any} value
 * @returns {any}
 */
function mapTexts(value) {
  if (typeof value === 'string') return toUSVString(value);
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return value.map(mapTexts);
  return Object.fromEntries(
    Object.entries(value).map(([name, item]) => [
      toUSVString(name),
      mapTexts(item),
    ]),
  );
}

/**
 * @param {any} given
 * @param {number} depth
 * @param {string} [name] of the field that has it
 * @returns {any} what JSON.stringify() makes the tagged JSON of
 */
function tag(given, depth, name = '') {
  const value = saidOf(given, name);
  // A toJSON() among them would be asked again.
  if (isFunction(value)) return undefined;
  if (typeof value !== 'object' || value === null) return value;
  if (isDate(value)) return ['d', Math.max(0, value.getTime() || 0)];
  if (isUint8Array(value)) return ['x', Buffer.from(value).toString('hex')];
  if (isBoxedPrimitive(value)) return value;
  checkDepth(depth);
  /** @type {(item: any, name: string | number) => any} */
  const deeper = (item, name) => tag(item, depth + 1, String(name));
  if (Array.isArray(value)) return ['a', ...value.map(deeper)];
  return mapValues(value, deeper);
}

/**
 * What a value says of itself; Dates and Buffers would say a text.
 *
 * @param {any} value
 * @param {string} name
 */
function saidOf(value, name) {
  if (typeof value !== 'object' || value === null) return value;
  if (isDate(value) || isUint8Array(value)) return value;
  return isFunction(value.toJSON) ? value.toJSON(name) : value;
}

/**
 * @param {any} value
 * @returns {any}
 */
function untag(value) {
  if (typeof value !== 'object' || value === null) return value;
  if (!Array.isArray(value)) return mapValues(value, untag);
  const [kind, ...rest] = value;
  if (kind === 'd') return new Date(rest[0]);
  if (kind === 'x') return Buffer.from(rest[0], 'hex');
  return rest.map(untag);
}

/**
 * @param {Record<string, any>} object
 * @param {(value: any, name: string) => any} map
 */
function mapValues(object, map) {
  return Object.fromEntries(
    Object.entries(object).map(([name, value]) => [name, map(value, name)]),
  );
}

/** @param {unknown} error */
function reasonOf(error) {
  return error instanceof Error ? error.message : String(error);
}

/** @param {string} what was given in place of an object with fields */
function noFields(what) {
  const error = new TypeError(
    `headers must be an object with fields, not ${what}`,
  );
  return Object.assign(error, { code: 'ERR_INVALID_ARG_TYPE' });
}

/**
 * @param {string} text
 * @param {unknown} [cause]
 */
function invalid(text, cause) {
  const error = new TypeError(text, cause === undefined ? {} : { cause });
  return Object.assign(error, { code: 'ERR_INVALID_ARG_VALUE' });
}

module.exports = {
  OCTETS,
  decodeHeaders,
  decodeText,
  encodeHeaders,
  encodeMessage,
};
