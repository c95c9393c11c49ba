'use strict';

// wsConf: the WebSocket side.

const {
  originsFault,
  originsOf,
  rateFault,
  rateOf,
} = require('../upgrade/admission');
const {
  isFunction,
  isObject,
  isServer,
  isText,
  isToken,
} = require('../checks');
const {
  MAX_BYTES,
  MAX_MS,
  NO_TIMEOUT,
  always,
  boolean,
  check,
  defaultsOf,
  integer,
  limit,
  oneOf,
  positive,
  required,
} = require('./rules');
const {
  messageKeyFault,
  messageKeyParts,
  requestKeyFault,
  requestKeyParts,
} = require('../upgrade/keys');

/** @typedef {import('./rules').Rule} Rule */

/**
 * @typedef {object} MessageRate
 * @property {number} [messages] a second
 * @property {number} [bytes] a second
 * @property {number} burst seconds
 * @property {'slow' | 'close'} policy
 */

/**
 * wsConf after checks and defaults.
 *
 * @typedef {object} WsSettings
 * @property {import('../upgrade/keys').RequestPart[] | null} key
 * @property {import('../upgrade/keys').MessagePart[] | null} messageKey
 * @property {string | null} path
 * @property {string | null} protocol
 * @property {string | null} origin
 * @property {number} maxReceivedFrameSize bytes
 * @property {number} maxReceivedMessageSize bytes
 * @property {boolean} fragmentOutgoingMessages
 * @property {number} fragmentationThreshold bytes
 * @property {boolean} keepalive
 * @property {number} keepaliveInterval ms
 * @property {boolean} dropConnectionOnKeepaliveTimeout
 * @property {number} keepaliveGracePeriod ms
 * @property {boolean} useNativeKeepalive
 * @property {number} closeTimeout ms
 * @property {boolean} disableNagleAlgorithm
 * @property {boolean} binary
 * @property {number} maxBackpressure bytes
 * @property {'close' | 'drop' | 'wait'} slowConsumer
 * @property {MessageRate | null} messageRate
 * @property {number} threads of the process, for all its gateways and clients
 * @property {number} handshakeTimeout ms, 0 for none
 * @property {number} maxConnections 0 for no limit
 * @property {import('../upgrade/admission').Rate | null} connectionRate
 * @property {import('../upgrade/admission').OriginList | import('../upgrade/admission').OriginFunction | null} origins
 * @property {boolean} ignoreXForwardedFor
 * @property {boolean} parseCookies
 * @property {boolean} parseExtensions
 * @property {import('node:http').Server[]} httpServers each one once
 */

const MAX_THREADS = 64;
const MAX_COUNT = 2 ** 31 - 1;

/**
 * Options of wsConf: those of a WebSocketServer of WebSocket-Node 1.0.35,
 * those of message-engin 0.0.5 and our own.
 *
 * @type {Record<string, Rule>}
 */
const wsRules = {
  httpServer: {
    ...required(
      'an http.Server or https.Server, or a non-empty array of them',
      (value) =>
        Array.isArray(value)
          ? value.length > 0 && value.every(isServer)
          : isServer(value),
    ),
    faultOf: serverFault,
    // Two listeners on one server would fight for the same socket.
    to: (value) => [...new Set([value].flat())],
  },
  // Called as methods of wsConf itself, so that `this` in them is wsConf.
  keyFn: {
    ...required('a function (or wsConf.key)', isFunction),
    checkedOnly: true,
    unless: 'key',
  },
  messageKeyFn: {
    ...required('a function (or wsConf.messageKey)', isFunction),
    checkedOnly: true,
    unless: 'messageKey',
  },
  key: {
    fallback: null,
    expected:
      "one of { header }, { query }, { cookie } or { template: '{header:name}:{query:name}' }",
    fits: (value) => requestKeyParts(value) !== null,
    faultOf: requestKeyFault,
    to: requestKeyParts,
  },
  messageKey: {
    fallback: null,
    expected:
      "one of { header }, { json: '/pointer' } or { template: '{header:name}:{json:/pointer}' }",
    fits: (value) => messageKeyParts(value) !== null,
    faultOf: messageKeyFault,
    to: messageKeyParts,
  },
  path: {
    fallback: null,
    expected: "a path such as '/chat', without a query, or null",
    fits: (value) =>
      value === null || (isText(value) && /^\/[^?#]*$/.test(value)),
  },
  protocol: {
    fallback: null,
    expected: 'a subprotocol name (an RFC 7230 token) or null',
    fits: (value) => value === null || value === '' || isToken(value),
    to: (value) => value || null,
  },
  origin: {
    fallback: null,
    expected: 'a string of printable ASCII characters or null',
    fits: (value) =>
      value === null ||
      (typeof value === 'string' && /^[\x20-\x7e]*$/.test(value)),
    to: (value) => value || null,
  },
  maxReceivedFrameSize: limit(64 * 1024),
  maxReceivedMessageSize: limit(1024 * 1024),
  fragmentOutgoingMessages: boolean(true),
  fragmentationThreshold: limit(16 * 1024),
  keepalive: boolean(true),
  keepaliveInterval: integer(20000, 1, MAX_MS, 'ms'),
  dropConnectionOnKeepaliveTimeout: boolean(true),
  keepaliveGracePeriod: integer(10000, 1, MAX_MS, 'ms'),
  useNativeKeepalive: boolean(false),
  assembleFragments: always(
    true,
    'workers receive whole messages and never single frames',
  ),
  autoAcceptConnections: always(
    false,
    'a connection is known by the key that keyFn gives it',
  ),
  handshakeTimeout: integer(10000, 0, NO_TIMEOUT, 'ms, 0 for no limit'),
  maxConnections: integer(0, 0, MAX_COUNT, 'connections, 0 for no limit'),
  connectionRate: {
    fallback: null,
    expected:
      'connections per second (a number above 0, or 0 for no limit) or ' +
      '{ perSecond, burst }, burst an integer from 1',
    fits: (value) => rateOf(value) !== undefined,
    faultOf: rateFault,
    to: rateOf,
  },
  origins: {
    fallback: null,
    expected:
      "a non-empty array of origins ('https://a.example', " +
      "'https://*.a.example', 'null'), without a path, or a function, or null",
    fits: (value) => originsOf(value) !== undefined,
    faultOf: originsFault,
    to: originsOf,
  },
  ignoreXForwardedFor: boolean(false),
  parseCookies: boolean(true),
  parseExtensions: boolean(true),
  disableNagleAlgorithm: boolean(true),
  closeTimeout: integer(5000, 0, MAX_MS, 'ms'),
  binary: boolean(false),
  maxBackpressure: integer(1024 * 1024, 1, MAX_BYTES, 'bytes'),
  slowConsumer: oneOf('close', 'drop', 'wait'),
  messageRate: {
    fallback: null,
    expected: 'null or an object with messages, bytes or both',
    fits: (value) =>
      value === null ||
      (isObject(value) &&
        (value.messages !== undefined || value.bytes !== undefined)),
    fields: {
      messages: positive('messages a second'),
      bytes: positive('bytes a second'),
      burst: { ...positive('seconds'), fallback: 1 },
      policy: oneOf('slow', 'close'),
    },
  },
  threads: integer(1, 1, MAX_THREADS, 'threads'),
};

/**
 * Where a web framework was given in place of its server.
 *
 * @param {any} value
 * @returns {string | undefined}
 */
function serverFault(value) {
  const app = [value].flat().find((each) => !isServer(each));
  if (isFunction(app)) {
    // Express and Connect: an app is a listener of requests.
    return 'got a function: of an app, make a server with http.createServer(app)';
  }
  if (isFunction(app?.callback) && isFunction(app.listen)) {
    return 'got an app: make a server of it with http.createServer(app.callback())';
  }
  return isServer(app?.server)
    ? 'got an object that has a server: give its property server'
    : undefined;
}

/**
 * Checks wsConf and fills in what it leaves out. keyFn and messageKeyFn are
 * checked, but stay where they are.
 *
 * @param {unknown} wsConf
 * @returns {WsSettings}
 * @throws {OptionError} that names the option
 */
function wsSettings(wsConf) {
  const { httpServer, ...rest } = {
    ...defaultsOf(wsRules),
    ...check(wsConf, 'wsConf', wsRules),
  };
  return /** @type {WsSettings} */ ({ ...rest, httpServers: httpServer });
}

module.exports = { wsSettings };
