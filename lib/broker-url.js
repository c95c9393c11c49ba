'use strict';

// Where a broker is: mqConf.url and mqConf.host, and the address that errors
// name.

const { isIPv6 } = require('node:net');
const { isPort, isText, warn } = require('./checks');
const { OptionError } = require('./errors');

const URL_FORMS =
  "'amqp[s]://login:password@host:port/vhost' with each part " +
  "percent-encoded, 'memory:' or 'memory://name'";
// A short string (AMQP 0-9-1, 4.2.5).
const MAX_VHOST = 255;

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
    throw new OptionError('mqConf.url', `expected ${URL_FORMS}`);
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
  const port = url.port && Number(url.port);
  const vhost = decodeURIComponent(url.pathname.slice(1));
  if (
    !(tls || url.protocol === 'amqp:') ||
    !slashes ||
    // A '#' that is not encoded would cut off most of the url unseen.
    url.hash ||
    !(port === '' || isPort(port)) ||
    !(host === '' || parseHost(host)) ||
    !isText(vhost, MAX_VHOST)
  ) {
    return null;
  }
  if (url.search) {
    warn(
      'The query of mqConf.url is not known to message-engin and is ignored',
    );
  }
  return {
    ssl: { enabled: tls },
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

/**
 * The broker for error texts, without login and password.
 *
 * @param {import('./mq-options').MqSettings} settings
 */
function addressOf({ kind, memoryName, hosts, vhost, tls }) {
  if (kind === 'memory') {
    return `memory:${memoryName && `//${encodeURIComponent(memoryName)}`}`;
  }
  const authorities = hosts.map(
    ({ host, port }) => `${isIPv6(host) ? `[${host}]` : host}:${port}`,
  );
  return `amqp${tls ? 's' : ''}://${authorities.join()}/${encodeURIComponent(vhost)}`;
}

module.exports = { URL_FORMS, addressOf, parseHost, readUrl };
