'use strict';

// What values of options can be, and how errors speak of them.

const MAX_PORT = 65535;

/**
 * @param {unknown} value
 * @param {number} [maxBytes]
 * @returns {value is string} a string that UTF-8 can carry
 */
function isText(value, maxBytes = Infinity) {
  return (
    typeof value === 'string' &&
    // Half a surrogate pair has no UTF-8 and would fail far from here.
    !/\p{Surrogate}/u.test(value) &&
    Buffer.byteLength(value) <= maxBytes
  );
}

/**
 * An RFC 7230 token (section 3.2.6), which a subprotocol has to be
 * (RFC 6455, section 4.1).
 *
 * @param {unknown} value
 * @returns {value is string}
 */
function isToken(value) {
  return typeof value === 'string' && /^[\w!#$%&'*+\-.^`|~]+$/.test(value);
}

/**
 * @param {unknown} value
 * @param {number} min
 * @param {number} max
 */
function isIntegerWithin(value, min, max) {
  return (
    Number.isInteger(value) && Number(value) >= min && Number(value) <= max
  );
}

/** @param {unknown} value */
function isPort(value) {
  return isIntegerWithin(value, 1, MAX_PORT);
}

/**
 * @param {unknown} value
 * @returns {value is Record<string, unknown>}
 */
function isObject(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** @param {unknown} value */
function isFunction(value) {
  return typeof value === 'function';
}

/** @param {unknown} value */
function isServer(value) {
  // No instanceof: servers of other realms, wrappers and proxies of servers
  // are as good.
  return (
    isObject(value) &&
    isFunction(value.on) &&
    isFunction(value.prependListener) &&
    isFunction(value.removeListener) &&
    // An app of Koa emits events too, but never 'upgrade'.
    !isFunction(value.callback)
  );
}

/**
 * @param {unknown} value
 * @returns {value is string | Uint8Array} what a file may hold
 */
function isContent(value) {
  // No instanceof: inside Jest a Buffer may be of another realm.
  return isText(value) || ArrayBuffer.isView(value);
}

/**
 * A copy of what JSON can say, or undefined when it cannot be said.
 *
 * @param {unknown} value
 * @returns {Record<string, unknown> | undefined}
 */
function plainJson(value) {
  try {
    const copy = JSON.parse(
      JSON.stringify(value, (key, item) => {
        // A field's name is a short string in AMQP.
        if (!isText(key, 255) || (typeof item === 'string' && !isText(item))) {
          throw new TypeError('not UTF-8');
        }
        const isNumber = typeof item === 'number';
        if (isFunction(item) || (isNumber && !Number.isFinite(item))) {
          throw new TypeError('JSON would change it');
        }
        return item;
      }),
    );
    return isObject(copy) ? copy : undefined;
  } catch {
    return undefined;
  }
}

/**
 * A value as an error may print it: short, and without what might be a
 * password inside a url.
 *
 * @param {unknown} value
 */
function shown(value) {
  if (typeof value === 'string' && !/@|:\/\//.test(value)) {
    return JSON.stringify(
      value.length > 60 ? `${value.slice(0, 57)}...` : value,
    );
  }
  if (typeof value === 'bigint') return `${value}n`;
  return ['number', 'boolean'].includes(typeof value)
    ? String(value)
    : typeName(value);
}

/** @param {unknown} value */
function typeName(value) {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  const type = Array.isArray(value) ? 'array' : typeof value;
  return `${/^[aeiou]/.test(type) ? 'an' : 'a'} ${type}`;
}

/** @param {string} text */
function warn(text) {
  process.emitWarning(text, {
    type: 'MessageEnginWarning',
    code: 'MESSAGE_ENGIN_UNKNOWN_OPTION',
  });
}

module.exports = {
  MAX_PORT,
  isContent,
  isFunction,
  isIntegerWithin,
  isObject,
  isPort,
  isServer,
  isText,
  isToken,
  plainJson,
  shown,
  typeName,
  warn,
};
