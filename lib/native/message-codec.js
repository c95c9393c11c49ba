'use strict';

const { types, toUSVString } = require('node:util');
const { isFunction, isObject, shown, typeName } = require('../checks');

const { isBoxedPrimitive, isDate, isUint8Array } = types;

const OCTETS = 'application/octet-stream';
/** Levels of tables and arrays within headers. */
const MAX_DEPTH = 32;
/** Bytes of a field's name, which is a short string in AMQP. */
const MAX_NAME = 255;
/** Bytes of a UTF-16 unit in UTF-8, at most. */
const MOST_BYTES = 3;
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
 * Header JSON for the native side. Dates, Buffers and -0, which JSON would
 * change, cross as tagged arrays; such JSON starts with '!' and tags every other
 * array too, so that no header can pass for one.
 *
 * As in JSON, fields that are undefined are left out. Everything else that
 * JSON or AMQP would change or leave out is an error.
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
    const plain = !needsTags(headers, '', 0);
    const json = JSON.stringify(plain ? headers : tag(headers, '', 0)) ?? '';
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
 * Whether JSON.stringify() alone would change something. What is reached
 * without tags is checked here, the rest by tag().
 *
 * @param {any} value
 * @param {string} name of the field that has it
 * @param {number} depth
 * @returns {boolean}
 */
function needsTags(value, name, depth) {
  if (typeof value !== 'object' || value === null) {
    return typeof value !== 'string' && isOddScalar(value, name);
  }
  if (isDate(value) || isUint8Array(value) || isBoxedPrimitive(value)) {
    return true;
  }
  if (isFunction(value.toJSON)) return true;
  checkDepth(depth);
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index += 1) {
      if (needsTags(value[index], `${name}[${index}]`, depth + 1)) return true;
    }
    return false;
  }
  const fields = Object.keys(value);
  checkObject(value, fields, name);
  for (const field of fields) {
    const item = value[field];
    if (item === undefined) continue;
    checkName(field);
    if (needsTags(item, field, depth + 1)) return true;
  }
  return false;
}

/**
 * Whether JSON would change it, as it does with -0.
 *
 * @param {unknown} value that is no object
 * @param {string} name
 * @throws for what the broker cannot be given either
 */
function isOddScalar(value, name) {
  switch (typeof value) {
    case 'number':
      // AMQP has a form for it, but RabbitMQ ends the connection that sends it.
      if (!Number.isFinite(value)) {
        throw new RangeError(`${shown(name)} is ${value}`);
      }
      return Object.is(value, -0);
    case 'string':
    case 'boolean':
    case 'object':
      return false;
    default: {
      const what = value === undefined ? 'undefined' : typeName(value);
      throw new TypeError(`${shown(name)} is ${what}`);
    }
  }
}

/**
 * Objects of a class that have no fields keep what they have elsewhere, as a
 * Map or the Headers of fetch do, and JSON sees nothing of it.
 *
 * @param {object} value that is no array
 * @param {string[]} fields
 * @param {string} name
 */
function checkObject(value, fields, name) {
  if (fields.length > 0 && !ArrayBuffer.isView(value)) return;
  const prototype = Object.getPrototypeOf(value);
  // The prototype of plain objects may be another realm's.
  if (!prototype || !Object.getPrototypeOf(prototype)) return;
  const { constructor } = prototype;
  const kind = isFunction(constructor) ? constructor.name : 'a class';
  throw new TypeError(
    `${shown(name || 'headers')} is an object of ${kind}, which has no fields`,
  );
}

/** @param {string} name */
function checkName(name) {
  if (name.length * MOST_BYTES <= MAX_NAME) return;
  const bytes = Buffer.byteLength(name);
  if (bytes <= MAX_NAME) return;
  throw new RangeError(
    `the name ${shown(name)} has ${bytes} bytes, and ${MAX_NAME} are the most`,
  );
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
 * @param {string} name of the field that has it
 * @param {number} depth
 * @returns {any} what JSON.stringify() makes the tagged JSON of
 */
function tag(given, name, depth) {
  const value = saidOf(given, name);
  if (typeof value !== 'object' || value === null) {
    if (value === undefined || !isOddScalar(value, name)) return value;
    return ['f', '-0'];
  }
  if (isDate(value)) return ['d', timeOf(value, name)];
  if (isUint8Array(value)) return ['x', Buffer.from(value).toString('hex')];
  if (isBoxedPrimitive(value)) return tag(value.valueOf(), name, depth);
  checkDepth(depth);
  if (Array.isArray(value)) {
    const items = Array.from(value, (item, index) => {
      const place = `${name}[${index}]`;
      const tagged = tag(item, String(index), depth + 1);
      if (tagged === undefined) isOddScalar(tagged, place);
      return tagged;
    });
    return ['a', ...items];
  }
  checkObject(value, Object.keys(value), name);
  return mapValues(value, (item, field) => {
    // What said the value is no part of it.
    if (field === 'toJSON' && isFunction(item)) return undefined;
    if (item !== undefined) checkName(field);
    return tag(item, field, depth + 1);
  });
}

/**
 * AMQP counts whole seconds from 1970 on.
 *
 * @param {Date} date
 * @param {string} name
 */
function timeOf(date, name) {
  const time = date.getTime();
  if (time >= 0) return time;
  throw new RangeError(
    `${shown(name)} is ${time < 0 ? 'a date before 1970' : 'an invalid date'}`,
  );
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
  if (kind === 'f') return Number(rest[0]);
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
