'use strict';

// Where a broker is: mqConf.url and mqConf.host, and the address that errors
// name.

const { isIPv6 } = require('node:net');
const { MAX_PORT, isPort, isText, warn } = require('../checks');
const { OptionError } = require('../errors');

const URL_FORMS =
  "'amqp[s]://login:password@host:port/vhost' with each part " +
  "percent-encoded, 'memory:' or 'memory://name'";
// A short string (AMQP 0-9-1, 4.2.5).
const MAX_VHOST = 255;

const ENCODE =
  'encode it with encodeURIComponent, or give mqConf.login and mqConf.password ' +
  'in place of it';

/**
 * The settings that a url holds; what it leaves out is left out here too.
 * The vhost is the whole path after its first '/', as in node-amqp.
 *
 * @param {string} given
 * @returns {Record<string, unknown>}
 * @throws {OptionError} without any part of the url, which may hold a password
 */
function readUrl(given) {
  // As URL does.
  const text = given.trim();
  const [, scheme, slashes] = /^([a-z][a-z0-9+.-]*):(\/\/)?/i.exec(text) ?? [];
  const settings = /^memory$/i.test(scheme)
    ? memoryFromUrl(text)
    : brokerFromUrl(text, scheme, slashes !== undefined);
  return Object.fromEntries(
    Object.entries(settings).filter(([, value]) => value !== ''),
  );
}

/** @param {string} text */
function memoryFromUrl(text) {
  const url = parsed(text);
  const memoryName = url && decoded(url.hostname);
  // Anything beyond the name would be lost in silence.
  const plain =
    url &&
    ['memory:', `memory://${url.hostname}`].includes(
      url.href.replace(/\/+$/, ''),
    );
  if (!plain || memoryName === null) {
    throw wrong("'memory:' has a name at most: 'memory://name'");
  }
  return { kind: 'memory', memoryName };
}

/**
 * @param {string} text
 * @param {string | undefined} scheme
 * @param {boolean} hasSlashes
 */
function brokerFromUrl(text, scheme, hasSlashes) {
  if (/^["']/.test(text)) throw wrong('it begins with a quotation mark');
  if (!/^amqps?$/i.test(scheme ?? '')) {
    throw wrong("its scheme is none of 'amqp', 'amqps' and 'memory'");
  }
  if (!hasSlashes) throw wrong("'//' is missing after its scheme");
  const url = parsed(text);
  // What is not encoded ends the login or the password early, and the rest is
  // taken for another part: '@' is then behind the host.
  const [, authority, rest] = /** @type {RegExpExecArray} */ (
    /^\w+:\/\/([^/?#]*)(.*)$/s.exec(text)
  );
  if (!authority.includes('@') && rest.includes('@')) {
    throw wrong(
      "it holds an '@' behind a '/', '?' or '#': if these are parts of a login " +
        `or password, ${ENCODE}; in a vhost, encode the '@' as '%40'`,
    );
  }
  if (!url) throw wrong(authorityFault(authority));
  const host = decoded(url.hostname);
  if (host === null || !(host === '' || parseHost(host))) {
    throw wrong(hostFault(url.hostname));
  }
  const port = url.port && Number(url.port);
  if (!(port === '' || isPort(port))) throw wrong(PORT_FAULT);
  if (url.hash) {
    throw wrong("it holds a '#', which is to be encoded as '%23'");
  }
  const [login, password, vhost] = [
    ['login', url.username],
    ['password', url.password],
    ['vhost', url.pathname.slice(1)],
  ].map(([part, encoded]) => {
    const value = decoded(encoded);
    if (value !== null) return value;
    const way = part === 'vhost' ? 'encode it with encodeURIComponent' : ENCODE;
    throw wrong(`its ${part} holds a '%' that encodes nothing: ${way}`);
  });
  if (!isText(vhost, MAX_VHOST)) {
    throw wrong(`its vhost has more than ${MAX_VHOST} bytes`);
  }
  if (url.search) {
    warn(
      'The query of mqConf.url is not known to message-engin and is ignored',
    );
  }
  const ssl = { enabled: url.protocol === 'amqps:' };
  return { ssl, host, port, vhost, login, password };
}

const PORT_FAULT = `its port is no integer from 1 to ${MAX_PORT}`;

/**
 * What is wrong with an authority that no url can have.
 *
 * @param {string} authority
 */
function authorityFault(authority) {
  const place = authority.slice(authority.lastIndexOf('@') + 1);
  const isSeveral = place.includes(',') && place.split(',').every(parseHost);
  const [, host, port] = /^(\[[^\]]*\]|[^:[]*)(?::(.*))?$/s.exec(place) ?? [];
  if (isSeveral || !host) return hostFault(place);
  const isNumber = port === undefined || /^\d*$/.test(port);
  if (isNumber && Number(port ?? 1) <= MAX_PORT) return hostFault(host);
  // 'login:password/...' reads as host and port.
  return isNumber
    ? PORT_FAULT
    : `${PORT_FAULT} (if it is a part of a password: ${ENCODE})`;
}

/** @param {string} host */
function hostFault(host) {
  return host.includes(',')
    ? 'it has several hosts: give them as an array in mqConf.host'
    : 'its host is neither a name nor an address';
}

/** @param {string} text */
function parsed(text) {
  // URL's errors carry their input.
  return URL.canParse(text) ? new URL(text) : null;
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

/** @param {string} fault */
function wrong(fault) {
  return new OptionError('mqConf.url', `expected ${URL_FORMS}, but ${fault}`);
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
    /^(?:\[(?<ipv6>[^\]]+)\]|(?<name>[^\s\p{Cc}:/@?#|\\[\],]+))(?::(?<port>\d+))?$/u.exec(
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
 * @param {import('./broker').MqSettings} settings
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
