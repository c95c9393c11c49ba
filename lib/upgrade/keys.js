'use strict';

const { isObject, isText, shown } = require('../checks');
const { parseCookies } = require('./cookies');
const { didYouMean } = require('../options/near-name');

/**
 * Parts of a declared key; those of messages as the native side reads them.
 *
 * @typedef {{ text: string } | { header: string } | { json: string[] }} MessagePart
 * @typedef {{ text: string } | { header: string } | { query: string } | { cookie: string }} RequestPart
 */

const PLACEHOLDER = /\{([a-z]+):([^{}]+)\}/g;

/**
 * Reads wsConf.messageKey.
 *
 * @param {any} spec
 * @returns {MessagePart[] | null} null when it cannot be understood
 */
function messageKeyParts(spec) {
  /** @type {Kinds<MessagePart>} */
  const kinds = {
    header: (name) => ({ header: name }),
    json: (pointer) => {
      const tokens = pointerTokens(pointer);
      return tokens && { json: tokens };
    },
  };
  return parts(spec, kinds);
}

/**
 * Reads wsConf.key.
 *
 * @param {any} spec
 * @returns {RequestPart[] | null} null when it cannot be understood
 */
function requestKeyParts(spec) {
  /** @type {Kinds<RequestPart>} */
  const kinds = {
    // Node gives header names in lower case.
    header: (name) => ({ header: name.toLowerCase() }),
    query: (name) => ({ query: name }),
    cookie: (name) => ({ cookie: name }),
  };
  return parts(spec, kinds);
}

/**
 * @template Part
 * @typedef {Record<string, (value: string) => Part | null>} Kinds
 */

/**
 * @template Part
 * @param {any} spec one member: a kind of part, or `template`
 * @param {Kinds<Part>} kinds
 * @returns {(Part | { text: string })[] | null}
 */
function parts(spec, kinds) {
  const names = Object.keys(Object(spec));
  if (names.length !== 1 || !isText(spec[names[0]])) return null;
  const [kind] = names;
  const value = spec[kind];
  if (kind !== 'template') {
    const part =
      Object.hasOwn(kinds, kind) && value ? kinds[kind](value) : null;
    return part && [part];
  }
  /** @type {(Part | { text: string })[]} */
  const found = [];
  let end = 0;
  for (const match of value.matchAll(PLACEHOLDER)) {
    const part = Object.hasOwn(kinds, match[1]) && kinds[match[1]](match[2]);
    if (!part) return null;
    if (match.index > end) found.push({ text: value.slice(end, match.index) });
    found.push(part);
    end = match.index + match[0].length;
  }
  const rest = value.slice(end);
  if (rest) found.push({ text: rest });
  // A brace that is left over is a placeholder with a mistake in it, and a
  // key without any part of the message would be the same for everybody.
  const isMistaken = found.some((part) => /[{}]/.test(Object(part).text ?? ''));
  return isMistaken || end === 0 ? null : found;
}

/** @param {any} spec what messageKeyParts did not understand */
function messageKeyFault(spec) {
  return partsFault(spec, ['header', 'json']);
}

/** @param {any} spec what requestKeyParts did not understand */
function requestKeyFault(spec) {
  return partsFault(spec, ['header', 'query', 'cookie']);
}

/**
 * What is wrong with a declared key that is not understood.
 *
 * @param {any} spec
 * @param {string[]} kinds
 * @returns {string | undefined}
 */
function partsFault(spec, kinds) {
  if (!isObject(spec)) return undefined;
  const names = Object.keys(spec);
  if (names.length !== 1) {
    return `expected one field, got ${names.length || 'none'}; a template joins several parts`;
  }
  const [kind] = names;
  const value = spec[kind];
  const known = [...kinds, 'template'];
  if (!known.includes(kind)) {
    return `'${kind}' is none of ${known.join(', ')}${didYouMean(kind, known)}`;
  }
  if (!isText(value) || value === '') {
    return `${kind}: expected a non-empty string, got ${shown(value)}`;
  }
  if (kind === 'json') return pointerFault(value);
  if (kind !== 'template') return undefined;
  const placeholders = [...value.matchAll(PLACEHOLDER)];
  for (const [, inner, name] of placeholders) {
    if (!kinds.includes(inner)) {
      return `template: '${inner}' is none of ${kinds.join(', ')}${didYouMean(inner, kinds)}`;
    }
    const fault = inner === 'json' && pointerFault(name);
    if (fault) return `template: ${fault}`;
  }
  return placeholders.length === 0
    ? `template: there is no placeholder, such as '{${kinds[0]}:name}', so that the key would always be the same`
    : "template: there is a '{' or '}' outside of placeholders";
}

/** @param {string} pointer */
function pointerFault(pointer) {
  if (pointerTokens(pointer) !== null) return undefined;
  // It may have been written as JSONPath or as code.
  const path = pointer.replace(/^\$?\.?/, '').replaceAll('.', '/');
  return pointer.startsWith('/')
    ? "json: in a JSON pointer '~' is written '~0', and '/' in a name '~1'"
    : `json: a JSON pointer starts with a slash: '/${path}'`;
}

/**
 * The reference tokens of a JSON pointer (RFC 6901).
 *
 * @param {string} pointer
 */
function pointerTokens(pointer) {
  if (!pointer.startsWith('/') || /~(?![01])/.test(pointer)) return null;
  const unescape = (/** @type {string} */ token) =>
    token.replaceAll('~1', '/').replaceAll('~0', '~');
  return pointer.slice(1).split('/').map(unescape);
}

/**
 * The key that a request has by declaration; undefined where a part is
 * missing, since half a key could be somebody else's.
 *
 * @param {RequestPart[]} declared
 * @param {InstanceType<typeof import('./request').Request>} request
 * @returns {string | undefined}
 */
function requestKey(declared, request) {
  let key = '';
  for (const part of declared) {
    const value = partOf(part, request);
    if (!value) return undefined;
    key += value;
  }
  return key;
}

/**
 * @param {RequestPart} part
 * @param {InstanceType<typeof import('./request').Request>} request
 * @returns {unknown}
 */
function partOf(part, request) {
  if ('text' in part) return part.text;
  if ('header' in part) {
    const { headers } = request.httpRequest;
    // 'constructor' may be a header too, and is a property without one.
    return Object.hasOwn(headers, part.header)
      ? headers[part.header]
      : undefined;
  }
  if ('query' in part) return request.resourceURL.query[part.query];
  // Whatever wsConf.parseCookies says: that is about what keyFn gets.
  const cookies = parseCookies(request.httpRequest.headers.cookie);
  return cookies.find(({ name }) => name === part.cookie)?.value;
}

/**
 * The keys that messageKeyFn returned, as the native side has them: a key is
 * used as a property name, so 5 and '5' are one key; a key that is falsy can
 * belong to nobody, since keyFn refuses it.
 *
 * @param {unknown} key
 * @returns {string | string[] | null}
 */
function keysOf(key) {
  if (!Array.isArray(key)) return isKey(key) ? String(key) : null;
  // One connection gets a message once, however often it is named.
  return [...new Set(key.filter(isKey).map(String))];
}

/**
 * An object without a text of its own names nobody, nor does the text that was
 * made of it.
 *
 * @param {unknown} key
 */
function isKey(key) {
  return key && !/^\[object .*\]$/.test(String(key));
}

module.exports = {
  isKey,
  keysOf,
  messageKeyFault,
  messageKeyParts,
  requestKey,
  requestKeyFault,
  requestKeyParts,
};
