'use strict';

// Cookies of a request (RFC 6265), and those that its response sets.

const { isDate } = require('node:util/types');
const { isToken } = require('../checks');

/**
 * @typedef {import('../..').Cookie} Cookie
 * @typedef {import('../..').SetCookie} SetCookie
 */

/**
 * WebSocket-Node's reading of the header: a comma separates too, a pair
 * without '=' has the value null, duplicates stay. Unlike there, a value with
 * a broken percent-encoding is kept as it came and is no error.
 *
 * @param {string | undefined} header
 * @returns {Cookie[]}
 */
function parseCookies(header) {
  if (!header) return [];
  return header.split(/[;,] */).map((pair) => {
    const equals = pair.indexOf('=');
    if (equals === -1) return { name: pair, value: null };
    const raw = pair.slice(equals + 1).trim();
    const value = raw.startsWith('"') ? raw.slice(1, -1) : raw;
    return {
      name: pair.slice(0, equals).trim(),
      value: decoded(value),
    };
  });
}

/** @param {string} value */
function decoded(value) {
  try {
    return decodeURIComponent(value);
  } catch {
    return value;
  }
}

/**
 * Values of Set-Cookie headers.
 *
 * @param {unknown} cookies
 * @returns {string[]}
 * @throws {Error} for what cannot be set, or not without changing it
 */
function setCookies(cookies) {
  if (!Array.isArray(cookies)) {
    throw new Error('Value supplied for "cookies" argument must be an array.');
  }
  const names = cookies.map((cookie) => cookie?.name);
  if (new Set(names).size < names.length) {
    throw new Error('You may not specify the same cookie name twice.');
  }
  return cookies.map(setCookie);
}

/** @param {any} cookie */
function setCookie(cookie) {
  const { name, value, path, domain, expires, maxage } = cookie ?? {};
  if (!name || !value) {
    throw new Error('Each cookie must have a "name" and a "value".');
  }
  if (!isToken(name)) {
    throw new Error(`Illegal character in cookie name ${quoted(name)}.`);
  }
  // RFC 6265, section 4.1.1: cookie-octets, in double quotes or not.
  if (
    typeof value !== 'string' ||
    !/^("?)[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*\1$/.test(value)
  ) {
    throw new Error(`Illegal character in the value of cookie "${name}".`);
  }
  const parts = [`${name}=${value}`];
  if (path) parts.push(`Path=${attribute(path, 'path')}`);
  if (domain) {
    parts.push(`Domain=${attribute(domain, 'domain').toLowerCase()}`);
  }
  if (expires) {
    if (!isDate(expires) || Number.isNaN(expires.getTime())) {
      throw new Error('Cookie "expires" must be a valid Date.');
    }
    parts.push(`Expires=${expires.toUTCString()}`);
  }
  if (maxage) {
    const seconds = Math.round(Number(maxage));
    if (!(seconds > 0) || !Number.isSafeInteger(seconds)) {
      throw new Error('Cookie "maxage" must be a number of seconds above 0.');
    }
    parts.push(`Max-Age=${seconds}`);
  }
  if (flag(cookie, 'secure')) parts.push('Secure');
  if (flag(cookie, 'httponly')) parts.push('HttpOnly');
  return parts.join('; ');
}

/**
 * @param {unknown} value
 * @param {string} name
 */
function attribute(value, name) {
  const text = printable(value, `cookie ${name}`);
  // A blank would be allowed by RFC 6265 but not by WebSocket-Node.
  if (/[; ]/.test(text))
    throw new Error(`Illegal character in cookie ${name}.`);
  return text;
}

/**
 * @param {Record<string, unknown>} cookie
 * @param {string} name
 */
function flag(cookie, name) {
  const value = cookie[name] ?? false;
  if (typeof value !== 'boolean') {
    throw new Error(`Cookie "${name}" must be of type boolean.`);
  }
  return value;
}

/**
 * @param {unknown} value
 * @param {string} what
 */
function printable(value, what) {
  if (typeof value !== 'string' || !/^[\x20-\x7e]*$/.test(value)) {
    throw new Error(`The ${what} must be a string of printable ASCII.`);
  }
  return value;
}

/** @param {unknown} value */
function quoted(value) {
  return typeof value === 'string' ? JSON.stringify(value) : typeof value;
}

module.exports = { parseCookies, printable, quoted, setCookies };
