'use strict';

// mqConf: the broker.

const os = require('node:os');
const { version } = require('../../package.json');
const { URL_FORMS, addressOf, parseHost, readUrl } = require('./url');
const {
  MAX_PORT,
  isContent,
  isIntegerWithin,
  isObject,
  isPort,
  isText,
  plainJson,
  shown,
  warn,
} = require('../checks');
const { OptionError } = require('../errors');
const {
  MAX_BYTES,
  MAX_MS,
  MAX_NAME,
  NO_TIMEOUT,
  boolean,
  check,
  defaultsOf,
  fileName,
  fileNames,
  integer,
  name,
  oneOf,
  secret,
} = require('./rules');
const { tlsSettings } = require('./tls');

/** @typedef {import('./rules').Rule} Rule */

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

// An AMQP short, which heartbeat and prefetch are on the wire.
const MAX_SHORT = 65535;
// Gateways append a random part to the name of their queue.
const MAX_NAME_STEM = 200;

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
  caFile: fileNames,
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
    faultOf: hostFault,
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
 * What is wrong with a host that cannot be one.
 *
 * @param {any} value
 * @returns {string | undefined}
 */
function hostFault(value) {
  const wrong = [value].flat().find((host) => parseHost(host) === null);
  if (typeof wrong !== 'string') return undefined;
  // A url may hold a password, so its text does not go into the error.
  if (wrong.includes('://')) return 'got a url: give it as mqConf.url';
  return wrong.includes(',') && !wrong.includes('@')
    ? `got ${shown(wrong)}: give several hosts as an array`
    : undefined;
}

/**
 * Checks mqConf and fills in what it leaves out.
 *
 * @param {unknown} mqConf
 * @param {'gateway' | 'worker'} role
 * @returns {MqSettings}
 * @throws {OptionError} that names the option
 */
function mqSettings(mqConf = {}, role) {
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
    // RabbitMQ's management and its logs show a connection by this name.
    connection_name: `message-engin ${role} ${os.hostname()} ${process.pid}`,
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

module.exports = { mqSettings };
