'use strict';

const { isIPv6 } = require('node:net');
const { version } = require('../package.json');
const { OptionError } = require('./errors');
const { messageKeyParts, requestKeyParts } = require('./keys');

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
 * @property {boolean} tls
 * @property {Record<string, unknown>} clientProperties JSON values
 * @property {boolean} reconnect
 * @property {'linear' | 'exponential'} reconnectBackoffStrategy
 * @property {number} reconnectBackoffTime ms
 * @property {number} reconnectExponentialLimit ms
 * @property {boolean} routingKeyInPayload
 * @property {boolean} deliveryTagInPayload
 * @property {number} bufferSize bytes
 * @property {number} prefetch messages
 * @property {string} receiveExchange
 * @property {string} receiveQueue
 * @property {string} statusExchange
 * @property {string} statusQueue
 * @property {string} messageExchange
 * @property {string} messageQueue
 * @property {string} address for error texts; holds no login and no password
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
 * @property {boolean} keepalive
 * @property {number} keepaliveInterval ms
 * @property {boolean} dropConnectionOnKeepaliveTimeout
 * @property {number} keepaliveGracePeriod ms
 * @property {boolean} useNativeKeepalive
 * @property {number} closeTimeout ms
 * @property {boolean} disableNagleAlgorithm
 * @property {boolean} binary
 * @property {number} maxBackpressure bytes
 * @property {number} threads of the process, for all its gateways and clients
 * @property {boolean} ignoreXForwardedFor
 * @property {boolean} parseCookies
 * @property {boolean} parseExtensions
 * @property {import('node:http').Server[]} httpServers each one once
 */

/**
 * What one option may be. `expected` completes 'expected ...' in an error;
 * `secret` keeps the value out of it; `to` makes a setting of a value that
 * fits; `checkedOnly` options make no setting.
 *
 * @typedef {object} Rule
 * @property {string} expected
 * @property {(value: any) => boolean} fits
 * @property {(value: any) => unknown} [to]
 * @property {unknown} [fallback]
 * @property {boolean} [required]
 * @property {boolean} [secret]
 * @property {boolean} [checkedOnly]
 * @property {string} [unless] the option that may be given in its place
 */

const MAX_MS = 2 ** 32 - 1;
const MAX_BYTES = Number.MAX_SAFE_INTEGER;
const MAX_THREADS = 64;
const MAX_PORT = 65535;
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

/**
 * Options of mqConf: those of node-amqp 0.2.7 (both of its arguments), the
 * names of message-engin 0.0.5 and our own.
 *
 * @type {Record<string, Rule>}
 */
const mqRules = {
  url: {
    expected:
      "'amqp://login:password@host:port/vhost' with each part " +
      "percent-encoded, 'memory:' or 'memory://name'",
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
    fallback: 5672,
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
    expected: 'an object whose enabled is a boolean',
    fits: (value) =>
      typeof value === 'boolean' ||
      (isObject(value) &&
        ['boolean', 'undefined'].includes(typeof value.enabled)),
    to: (value) => value === true || value.enabled === true,
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
  bufferSize: integer(16 * 1024 * 1024, 1, MAX_BYTES, 'bytes'),
  prefetch: integer(256, 1, MAX_SHORT, 'messages'),
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
  // Each message goes out as one frame: browsers see no difference.
  fragmentOutgoingMessages: { ...boolean(true), checkedOnly: true },
  fragmentationThreshold: {
    ...integer(16 * 1024, 1, MAX_BYTES, 'bytes'),
    checkedOnly: true,
  },
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
  ignoreXForwardedFor: boolean(false),
  parseCookies: boolean(true),
  parseExtensions: boolean(true),
  disableNagleAlgorithm: boolean(true),
  closeTimeout: integer(5000, 0, MAX_MS, 'ms'),
  binary: boolean(false),
  maxBackpressure: integer(1024 * 1024, 1, MAX_BYTES, 'bytes'),
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
  if (ssl) {
    throw new OptionError(
      given.ssl ? 'mqConf.ssl' : 'mqConf.url',
      'TLS to the broker is not supported yet',
    );
  }
  const hosts = [host].flat().map((text) => {
    return { host: text, port, ...parseHost(text) };
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
    /** @type {unknown} */ ({ ...rest, hosts, tls: false, clientProperties })
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
    if (!rule.checkedOnly) given[option] = rule.to ? rule.to(value) : value;
  }
  // Not Object.keys: configurations are made with Object.create(defaults) too.
  for (const option in conf) {
    if (conf[option] === undefined || Object.hasOwn(rules, option)) continue;
    warn(`${label}.${option} is not an option of message-engin and is ignored`);
  }
  return given;
}

/** @param {string} text */
function warn(text) {
  process.emitWarning(text, {
    type: 'MessageEnginWarning',
    code: 'MESSAGE_ENGIN_UNKNOWN_OPTION',
  });
}

/**
 * The settings that a url holds; what it leaves out is left out here too.
 * The vhost is the whole path after its first '/', as in node-amqp.
 *
 * @param {string} text
 * @returns {Record<string, unknown>}
 * @throws {OptionError} without any part of the url, which may hold a password
 */
function readUrl(text) {
  /** @type {Record<string, unknown> | null} */
  let settings;
  try {
    const url = new URL(text);
    settings =
      url.protocol === 'memory:' ? memoryFromUrl(url) : brokerFromUrl(url);
  } catch {
    // Neither URL's errors nor those of decodeURIComponent may pass: they
    // carry their input.
    settings = null;
  }
  if (!settings) {
    throw new OptionError('mqConf.url', `expected ${mqRules.url.expected}`);
  }
  return Object.fromEntries(
    Object.entries(settings).filter(([, value]) => value !== ''),
  );
}

/** @param {URL} url */
function memoryFromUrl(url) {
  const memoryName = decodeURIComponent(url.hostname);
  // Anything beyond the name would be lost in silence.
  const plain = ['memory:', `memory://${url.hostname}`].includes(
    url.href.replace(/\/+$/, ''),
  );
  return plain ? { kind: 'memory', memoryName } : null;
}

/** @param {URL} url */
function brokerFromUrl(url) {
  const tls = url.protocol === 'amqps:';
  const slashes = url.href.startsWith(`${url.protocol}//`);
  const host = decodeURIComponent(url.hostname);
  const port = Number(url.port || (tls ? 5671 : 5672));
  const vhost = decodeURIComponent(url.pathname.slice(1));
  if (
    !(tls || url.protocol === 'amqp:') ||
    !slashes ||
    // A '#' that is not encoded would cut off most of the url unseen.
    url.hash ||
    !isPort(port) ||
    !(host === '' || parseHost(host)) ||
    !isText(vhost, MAX_NAME)
  ) {
    return null;
  }
  if (url.search) {
    warn(
      'The query of mqConf.url is not known to message-engin and is ignored',
    );
  }
  return {
    ssl: tls,
    host,
    port,
    vhost,
    login: decodeURIComponent(url.username),
    password: decodeURIComponent(url.password),
  };
}

/**
 * 'name', 'name:port', '127.0.0.1:port', '::1', '[::1]' or '[::1]:port'.
 *
 * @param {unknown} text
 * @returns {{ host: string, port?: number } | null}
 */
function parseHost(text) {
  if (!isText(text)) return null;
  if (isIPv6(text)) return { host: text };
  const parts =
    /^(?:\[(?<ipv6>[^\]]+)\]|(?<name>[^\s\p{Cc}:/@?#|\\[\]]+))(?::(?<port>\d+))?$/u.exec(
      text,
    )?.groups;
  if (!parts || (parts.ipv6 && !isIPv6(parts.ipv6))) return null;
  const host = parts.ipv6 ?? parts.name;
  if (parts.port === undefined) return { host };
  const port = Number(parts.port);
  return isPort(port) ? { host, port } : null;
}

/** @param {MqSettings} settings */
function addressOf({ kind, memoryName, hosts, vhost }) {
  if (kind === 'memory') {
    return `memory:${memoryName && `//${encodeURIComponent(memoryName)}`}`;
  }
  const authorities = hosts.map(
    ({ host, port }) => `${isIPv6(host) ? `[${host}]` : host}:${port}`,
  );
  return `amqp://${authorities.join()}/${encodeURIComponent(vhost)}`;
}

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
    isObject(value) && isFunction(value.on) && isFunction(value.removeListener)
  );
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
        if (!isText(key) || (typeof item === 'string' && !isText(item))) {
          throw new TypeError('not UTF-8');
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

module.exports = { mqSettings, wsSettings, isToken };
