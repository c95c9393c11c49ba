'use strict';

const { version } = require('../package.json');
const { originsOf, rateOf } = require('./admission');
const { URL_FORMS, addressOf, parseHost, readUrl } = require('./broker-url');
const {
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
} = require('./checks');
const { OptionError } = require('./errors');
const { messageKeyParts, requestKeyParts } = require('./keys');
const { tlsSettings } = require('./tls');

/**
 * mqConf after checks and defaults: plain data, and all that the native side
 * gets to know about the broker.
 *
 * @typedef {object} MqSettings
 * @property {'amqp' | 'memory'} kind
 * @property {string} memoryName '' for the url 'memory:'
 * @property {{ host: string, port: number }[]} hosts in the order in which
 *   they are tried; IPv6 addresses without brackets
 * @property {string} vhost
 * @property {string} login
 * @property {string} password
 * @property {'AMQPLAIN' | 'PLAIN' | 'EXTERNAL' | 'ANONYMOUS'} authMechanism
 * @property {number} connectionTimeout ms
 * @property {number} heartbeat seconds, 0 for none
 * @property {boolean} noDelay
 * @property {import('./tls').TlsSettings | null} tls null for plain TCP
 * @property {Record<string, unknown>} clientProperties JSON values
 * @property {boolean} reconnect
 * @property {'linear' | 'exponential'} reconnectBackoffStrategy
 * @property {number} reconnectBackoffTime ms
 * @property {number} reconnectExponentialLimit ms
 * @property {number} reconnectJitter from 0 to 1
 * @property {boolean} routingKeyInPayload
 * @property {boolean} deliveryTagInPayload
 * @property {number} bufferSize bytes
 * @property {number} prefetch messages
 * @property {'at-most-once' | 'at-least-once'} delivery
 * @property {'classic' | 'quorum'} queueType
 * @property {string | null} deadLetterExchange
 * @property {number} queueExpires ms
 * @property {string} receiveExchange
 * @property {string} receiveQueue
 * @property {string} statusExchange
 * @property {string} statusQueue
 * @property {string} messageExchange
 * @property {string} messageQueue
 * @property {string} address for error texts; holds no login and no password
 */

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
 * @property {import('./keys').RequestPart[] | null} key
 * @property {import('./keys').MessagePart[] | null} messageKey
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
 * @property {import('./admission').Rate | null} connectionRate
 * @property {import('./admission').OriginList | import('./admission').OriginFunction | null} origins
 * @property {boolean} ignoreXForwardedFor
 * @property {boolean} parseCookies
 * @property {boolean} parseExtensions
 * @property {import('node:http').Server[]} httpServers each one once
 */

/**
 * What one option may be. `expected` completes 'expected ...' in an error;
 * `secret` keeps the value out of it; `to` makes a setting of a value that
 * fits; `fields` are the rules of an object's own options; `checkedOnly`
 * options make no setting.
 *
 * @typedef {object} Rule
 * @property {string} expected
 * @property {(value: any) => boolean} fits
 * @property {(value: any) => unknown} [to]
 * @property {unknown} [fallback]
 * @property {Record<string, Rule>} [fields]
 * @property {boolean} [required]
 * @property {boolean} [secret]
 * @property {boolean} [checkedOnly]
 * @property {string} [unless] the option that may be given in its place
 */

const MAX_MS = 2 ** 32 - 1;
const MAX_BYTES = Number.MAX_SAFE_INTEGER;
const MAX_THREADS = 64;
const MAX_COUNT = 2 ** 31 - 1;
// An AMQP short, which heartbeat and prefetch are on the wire, and the length
// of a short string, which names are (AMQP 0-9-1, 4.2.5).
const MAX_SHORT = 65535;
const MAX_NAME = 255;
// Gateways append a random part to the name of their queue.
const MAX_NAME_STEM = 200;
// setTimeout's limit, so that "no timeout" means that to every kind of timer.
const NO_TIMEOUT = 2 ** 31 - 1;

/** @type {(fallback: boolean) => Rule} */
const boolean = (fallback) => ({
  fallback,
  expected: 'a boolean',
  fits: (value) => typeof value === 'boolean',
});

/** @type {(fallback: number, min: number, max: number, unit: string) => Rule} */
const integer = (fallback, min, max, unit) => ({
  fallback,
  expected: `an integer from ${min} to ${max} (${unit})`,
  fits: (value) => isIntegerWithin(value, min, max),
});

/** @type {(unit: string) => Rule} */
const positive = (unit) => ({
  expected: `a finite number above 0 (${unit})`,
  fits: (value) => Number.isFinite(value) && value > 0,
});

/** @type {(...choices: [string, ...string[]]) => Rule} */
const oneOf = (...choices) => ({
  fallback: choices[0],
  expected: `one of ${choices.map((choice) => `'${choice}'`).join(', ')}`,
  fits: (value) => choices.includes(value),
});

/** @type {(value: boolean, why: string) => Rule} */
const always = (value, why) => ({
  checkedOnly: true,
  expected: `${value}, since ${why}`,
  fits: (given) => given === value,
});

/** @type {(fallback: string, maxBytes?: number) => Rule} */
const name = (fallback, maxBytes = MAX_NAME) => ({
  fallback,
  expected: `a non-empty string of at most ${maxBytes} bytes in UTF-8`,
  fits: (value) => isText(value, maxBytes) && value !== '',
});

/** @type {(type: string, fits: (value: any) => boolean) => Rule} */
const required = (expected, fits) => ({ expected, fits, required: true });

/** @type {Rule} */
const fileName = {
  expected: 'the name of a file',
  fits: (value) => isText(value) && !value.includes('\0'),
  // A secret that was meant for the field without 'File'.
  secret: true,
};

/** @type {(expected: string, fits: (value: any) => boolean) => Rule} */
const secret = (expected, fits) => ({ expected, fits, secret: true });

/**
 * Options of mqConf.ssl: those of node-amqp 0.2.7, and what they are files of.
 *
 * @type {Record<string, Rule>}
 */
const sslRules = {
  // No fallback: a url decides where this does not.
  enabled: {
    expected: 'a boolean',
    fits: (value) => typeof value === 'boolean',
  },
  key: secret('a private key in PEM', isContent),
  keyFile: fileName,
  cert: secret('certificates in PEM', isContent),
  certFile: fileName,
  ca: secret('certificates in PEM, or a non-empty array of them', (value) =>
    Array.isArray(value)
      ? value.length > 0 && value.every(isContent)
      : isContent(value),
  ),
  caFile: fileName,
  pfx: secret('a Buffer', (value) => ArrayBuffer.isView(value)),
  pfxFile: fileName,
  passphrase: secret('a well-formed Unicode string', (value) => isText(value)),
  rejectUnauthorized: boolean(true),
  servername: {
    expected: 'a host name or address',
    fits: (value) => parseHost(value)?.host === value,
  },
};

/**
 * Options of mqConf: those of node-amqp 0.2.7 (both of its arguments), the
 * names of message-engin 0.0.5 and our own.
 *
 * @type {Record<string, Rule>}
 */
const mqRules = {
  url: {
    expected: URL_FORMS,
    fits: (value) => isText(value),
    to: (value) => (value === '' ? undefined : readUrl(value)),
    secret: true,
  },
  host: {
    fallback: 'localhost',
    expected:
      "a host name or address, with an optional ':port', or a non-empty " +
      'array of them',
    fits: (value) =>
      Array.isArray(value)
        ? value.length > 0 && value.every((host) => parseHost(host) !== null)
        : parseHost(value) !== null,
  },
  port: {
    expected: `an integer from 1 to ${MAX_PORT}`,
    // Ports often come from the environment, and node-amqp takes them as
    // strings too.
    fits: (value) =>
      isPort(isText(value) && /^\d+$/.test(value) ? Number(value) : value),
    to: Number,
  },
  hostPreference: {
    expected: 'an index into host',
    fits: (value) => isIntegerWithin(value, 0, MAX_BYTES),
  },
  login: {
    fallback: 'guest',
    expected: 'a well-formed Unicode string',
    fits: (value) => isText(value),
    secret: true,
  },
  password: {
    fallback: 'guest',
    expected: 'a well-formed Unicode string',
    fits: (value) => isText(value),
    secret: true,
  },
  vhost: {
    fallback: '/',
    expected: `a string of at most ${MAX_NAME} bytes in UTF-8`,
    fits: (value) => isText(value, MAX_NAME),
    to: (value) => value || '/',
  },
  authMechanism: oneOf('AMQPLAIN', 'PLAIN', 'EXTERNAL', 'ANONYMOUS'),
  connectionTimeout: {
    ...integer(10000, 0, MAX_MS, 'ms, 0 for no limit'),
    to: (value) => value || NO_TIMEOUT,
  },
  heartbeat: integer(15, 0, MAX_SHORT, 'seconds, 0 for none'),
  noDelay: boolean(true),
  ssl: {
    expected: 'a boolean or an object',
    fits: (value) => typeof value === 'boolean' || isObject(value),
    to: (value) =>
      isObject(value)
        ? check(value, 'mqConf.ssl', sslRules)
        : { enabled: value },
    secret: true,
  },
  clientProperties: {
    expected: 'an object of JSON values',
    fits: (value) => isObject(value) && plainJson(value) !== undefined,
    to: (value) => plainJson(value),
  },
  routingKeyInPayload: boolean(false),
  deliveryTagInPayload: boolean(false),
  reconnect: boolean(true),
  reconnectBackoffStrategy: oneOf('linear', 'exponential'),
  reconnectBackoffTime: integer(1000, 1, MAX_MS, 'ms'),
  reconnectExponentialLimit: integer(120000, 1, MAX_MS, 'ms'),
  reconnectJitter: {
    fallback: 0.25,
    expected: 'a number from 0 to 1',
    fits: (value) => typeof value === 'number' && value >= 0 && value <= 1,
  },
  bufferSize: integer(16 * 1024 * 1024, 1, MAX_BYTES, 'bytes'),
  prefetch: integer(256, 1, MAX_SHORT, 'messages'),
  delivery: oneOf('at-most-once', 'at-least-once'),
  queueType: oneOf('classic', 'quorum'),
  deadLetterExchange: {
    fallback: null,
    expected: `the name of an exchange, of at most ${MAX_NAME} bytes, or null`,
    fits: (value) =>
      value === null || (isText(value, MAX_NAME) && value !== ''),
  },
  queueExpires: integer(5 * 60 * 1000, 1, NO_TIMEOUT, 'ms'),
  receiveExchange: name('receiveExchange'),
  receiveQueue: name('receiveQueue'),
  statusExchange: name('statusExchange'),
  statusQueue: name('statusQueue'),
  messageExchange: name('messageExchange'),
  messageQueue: name('messageQueue', MAX_NAME_STEM),
};

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
    to: requestKeyParts,
  },
  messageKey: {
    fallback: null,
    expected:
      "one of { header }, { json: '/pointer' } or { template: '{header:name}:{json:/pointer}' }",
    fits: (value) => messageKeyParts(value) !== null,
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
  maxReceivedFrameSize: integer(64 * 1024, 1, MAX_BYTES, 'bytes'),
  maxReceivedMessageSize: integer(1024 * 1024, 1, MAX_BYTES, 'bytes'),
  fragmentOutgoingMessages: boolean(true),
  fragmentationThreshold: integer(16 * 1024, 1, MAX_BYTES, 'bytes'),
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
    to: rateOf,
  },
  origins: {
    fallback: null,
    expected:
      "a non-empty array of origins ('https://a.example', " +
      "'https://*.a.example', 'null'), without a path, or a function, or null",
    fits: (value) => originsOf(value) !== undefined,
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
 * Checks mqConf and fills in what it leaves out.
 *
 * @param {unknown} [mqConf]
 * @returns {MqSettings}
 * @throws {OptionError} that names the option
 */
function mqSettings(mqConf = {}) {
  const { url, ...given } = check(mqConf, 'mqConf', mqRules);
  // A single field says more than the url does, as in node-amqp.
  /** @type {Record<string, any>} */
  const all = { kind: 'amqp', memoryName: '', ...defaultsOf(mqRules) };
  const { host, port, hostPreference, ssl, ...rest } = Object.assign(
    all,
    url,
    given,
  );
  const enabled = ssl?.enabled ?? url?.ssl?.enabled ?? false;
  if (ssl && ssl.enabled === undefined && !enabled) {
    warn('mqConf.ssl has no effect without enabled: true or an amqps: url');
  }
  for (const option of ['queueType', 'deadLetterExchange', 'queueExpires']) {
    const isDefault = rest[option] === mqRules[option].fallback;
    if (rest.delivery !== 'at-least-once' && !isDefault) {
      throw new OptionError(
        `mqConf.${option}`,
        "works only with mqConf.delivery 'at-least-once'",
      );
    }
  }
  if (rest.kind === 'memory' && rest.deadLetterExchange !== null) {
    throw new OptionError(
      'mqConf.deadLetterExchange',
      'the embedded broker has none',
    );
  }
  const hosts = [host].flat().map((text) => {
    const usual = port ?? (enabled ? 5671 : 5672);
    return { host: text, port: usual, ...parseHost(text) };
  });
  if (hostPreference !== undefined) {
    const preferred = Math.min(hostPreference, hosts.length - 1);
    hosts.unshift(...hosts.splice(preferred, 1));
  }
  const clientProperties = {
    product: 'message-engin',
    version,
    platform: `Node.js ${process.version}`,
    ...rest.clientProperties,
  };
  const settings = /** @type {MqSettings} */ (
    /** @type {unknown} */ ({
      ...rest,
      hosts,
      tls: enabled ? tlsSettings(ssl) : null,
      clientProperties,
    })
  );
  settings.address = addressOf(settings);
  return settings;
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

/**
 * @param {Record<string, Rule>} rules
 * @returns {Record<string, any>}
 */
function defaultsOf(rules) {
  return Object.fromEntries(
    Object.entries(rules)
      .filter(([, rule]) => rule.fallback !== undefined && !rule.checkedOnly)
      .map(([option, rule]) => [option, rule.fallback]),
  );
}

/**
 * The options that are given, checked and converted; a warning for each one
 * that no rule knows.
 *
 * @param {any} conf
 * @param {string} label
 * @param {Record<string, Rule>} rules
 * @returns {Record<string, any>}
 */
function check(conf, label, rules) {
  if (!isObject(conf)) {
    throw new OptionError(label, `expected an object, got ${typeName(conf)}`);
  }
  /** @type {Record<string, any>} */
  const given = {};
  for (const [option, rule] of Object.entries(rules)) {
    const value = conf[option];
    const alternative = rule.unless && conf[rule.unless] !== undefined;
    if (alternative && value !== undefined) {
      throw new OptionError(
        `${label}.${option}`,
        `give either this or ${label}.${rule.unless}, not both`,
      );
    }
    if (value === undefined && (!rule.required || alternative)) continue;
    if (!rule.fits(value)) {
      const got = rule.secret ? typeName(value) : shown(value);
      throw new OptionError(
        `${label}.${option}`,
        `expected ${rule.expected}, got ${got}`,
      );
    }
    if (rule.checkedOnly) continue;
    given[option] =
      rule.fields && value !== null
        ? {
            ...defaultsOf(rule.fields),
            ...check(value, `${label}.${option}`, rule.fields),
          }
        : rule.to
          ? rule.to(value)
          : value;
  }
  // Not Object.keys: configurations are made with Object.create(defaults) too.
  for (const option in conf) {
    if (conf[option] === undefined || Object.hasOwn(rules, option)) continue;
    warn(`${label}.${option} is not an option of message-engin and is ignored`);
  }
  return given;
}

module.exports = { mqSettings, wsSettings };
