'use strict';

const { createHash } = require('node:crypto');
const { STATUS_CODES } = require('node:http');
const url = require('node:url');
const { isToken } = require('../checks');
const { parseCookies, printable, quoted, setCookies } = require('./cookies');
const { versionOf } = require('./handshake');

/**
 * @typedef {import('../..').Request} PublicRequest
 * @typedef {import('../..').Cookie} Cookie
 * @typedef {import('../..').SetCookie} SetCookie
 * @typedef {import('../..').Extension} Extension
 * @typedef {import('../options/gateway').WsSettings} WsSettings
 */

/**
 * A refusal, before it is made fit for the wire.
 *
 * @typedef {object} Rejection
 * @property {unknown} status
 * @property {unknown} [reason]
 * @property {unknown} [headers]
 */

// RFC 6455, section 1.3.
const ACCEPT_GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
// The refusal has no body and ends the connection; a second opinion on that
// would contradict what is sent.
const FRAMING = ['connection', 'content-length', 'transfer-encoding'];

/**
 * A WebSocket upgrade that waits for its key: what keyFn gets. It has the
 * properties of a WebSocketRequest of WebSocket-Node 1.0.35, with the same
 * values. It must be made before the socket is given away, since a destroyed
 * socket has no remote address.
 *
 * @implements {PublicRequest}
 */
class Request {
  #settings;
  #resolved = false;
  /** @type {{ protocol: unknown, origin: unknown, cookies: string[] } | undefined} */
  #acceptance;
  /** @type {import('node:url').UrlWithParsedQuery | undefined} */
  #resourceURL;
  /** @type {Extension[] | undefined} */
  #requestedExtensions;
  /** @type {Cookie[] | undefined} */
  #cookies;

  /**
   * The request must have passed refusalOf().
   *
   * @param {import('node:http').IncomingMessage} httpRequest
   * @param {import('node:stream').Duplex} socket
   * @param {Pick<WsSettings, 'ignoreXForwardedFor' | 'parseCookies' | 'parseExtensions'>} settings
   */
  constructor(httpRequest, socket, settings) {
    const { headers } = httpRequest;
    this.#settings = settings;
    this.httpRequest = httpRequest;
    this.socket = /** @type {import('node:net').Socket} */ (socket);
    this.resource = /** @type {string} */ (httpRequest.url);
    this.host = /** @type {string} */ (headers.host);
    this.key = /** @type {string} */ (headers['sec-websocket-key']);
    this.webSocketVersion = versionOf(httpRequest);
    this.origin = /** @type {string | undefined} */ (
      headers[this.webSocketVersion === 8 ? 'sec-websocket-origin' : 'origin']
    );

    const peer = this.socket.remoteAddress;
    const forwarded = settings.ignoreXForwardedFor
      ? undefined
      : headers['x-forwarded-for'];
    this.remoteAddresses = forwarded ? [...list(forwarded), peer] : [peer];
    this.remoteAddress = this.remoteAddresses[0];

    const protocols = list(headers['sec-websocket-protocol']);
    this.requestedProtocols = protocols.map((name) => name.toLowerCase());
    /** @type {Record<string, string>} */
    this.protocolFullCaseMap = Object.fromEntries(
      protocols.map((name) => [name.toLowerCase(), name]),
    );

    /** @type {Rejection | null} */
    this.rejection = null;
  }

  /**
   * The whole response of a refusal, to be written as latin1. Whatever it is
   * given, it makes one valid HTTP/1.1 response of it and does not throw: a
   * status that is no redirect and no error becomes 403 (WebSocket-Node's
   * default), characters that headers cannot have are left out, as are
   * headers that cannot be read, and those beyond latin1 become '?'.
   *
   * @param {Rejection} rejection
   * @returns {string}
   */
  static rejectResponse({ status, reason, headers }) {
    const code =
      Number.isInteger(status) && Number(status) >= 300 && Number(status) < 600
        ? Number(status)
        : 403;
    const lines = [
      `HTTP/1.1 ${code} ${STATUS_CODES[code] ?? ''}`,
      'Connection: close',
      'Content-Length: 0',
    ];
    if (reason) lines.push(field('X-WebSocket-Reject-Reason', reason));
    for (const [given, value] of fieldsOf(headers)) {
      const name = given.replace(/[^\w!#$%&'*+\-.^`|~]/g, '');
      if (!name || FRAMING.includes(name.toLowerCase())) continue;
      for (const item of [value].flat()) {
        if (item !== undefined && item !== null) lines.push(field(name, item));
      }
    }
    return response(lines);
  }

  /**
   * The resource in parts, its query parsed.
   *
   * @throws {Error} with status 400 for a resource that is no URL; thrown on
   *   by keyFn, it is the answer that WebSocket-Node gives
   */
  get resourceURL() {
    try {
      // The legacy parser, since keyFns read its fields: query is an object
      // and pathname is not normalised. Its class, because url.parse() itself
      // prints a deprecation on newer Nodes.
      const { Url } = /** @type {any} */ (url);
      return (this.#resourceURL ??= new Url().parse(this.resource, true));
    } catch (error) {
      const reason = error instanceof Error ? error.message : 'Invalid URL';
      throw Object.assign(new Error(reason, { cause: error }), {
        status: 400,
        reason,
      });
    }
  }

  set resourceURL(value) {
    this.#resourceURL = value;
  }

  get requestedExtensions() {
    return (this.#requestedExtensions ??= this.#settings.parseExtensions
      ? parseExtensions(this.httpRequest.headers['sec-websocket-extensions'])
      : []);
  }

  set requestedExtensions(value) {
    this.#requestedExtensions = value;
  }

  get cookies() {
    return (this.#cookies ??= this.#settings.parseCookies
      ? parseCookies(this.httpRequest.headers.cookie)
      : []);
  }

  set cookies(value) {
    this.#cookies = value;
  }

  /**
   * Says what the response shall carry if the key that keyFn returns is taken.
   * Without it, and for arguments that are undefined, wsConf.protocol and
   * wsConf.origin decide; null or '' leaves the header out.
   *
   * @param {string | null} [protocol] one that the client requested; case does
   *   not matter
   * @param {string | null} [origin]
   * @param {SetCookie[] | null} [cookies] to set (RFC 6265, section 4.1), with
   *   the attributes of WebSocket-Node
   * @throws {Error} for what cannot be sent; the request is then rejected with
   *   500, as WebSocket-Node does
   */
  accept(protocol, origin, cookies) {
    this.#resolve();
    try {
      if (protocol) this.#subprotocol(protocol);
      this.#acceptance = {
        protocol,
        origin: origin && printable(origin, 'origin'),
        cookies: setCookies(cookies ?? []),
      };
    } catch (error) {
      this.#reject(500, error instanceof Error ? error.message : undefined);
      throw error;
    }
  }

  /**
   * Refuses the connection, whatever keyFn returns.
   *
   * @param {number} [status] 403 when it is not one of 300 to 599
   * @param {string} [reason] for the header X-WebSocket-Reject-Reason
   * @param {Record<string, string | number | readonly string[]>} [extraHeaders]
   */
  reject(status = 403, reason, extraHeaders) {
    this.#resolve();
    this.#reject(status, reason, extraHeaders);
  }

  /**
   * The answer to a request whose key is taken: the whole 101 response
   * (RFC 6455, section 4.2.2), to be written as latin1, or the refusal that
   * keyFn or an impossible subprotocol makes of it.
   *
   * @param {string | null} [defaultProtocol] wsConf.protocol
   * @param {string | null} [defaultOrigin] wsConf.origin; without it the
   *   client's own origin is sent back
   * @returns {{ response: string, rejection?: undefined }
   *   | { response?: undefined, rejection: Rejection }}
   */
  acceptResponse(defaultProtocol, defaultOrigin) {
    if (this.rejection) return { rejection: this.rejection };
    const {
      protocol = defaultProtocol,
      origin = defaultOrigin || this.origin,
      cookies = [],
    } = this.#acceptance ?? {};
    const lines = [
      'HTTP/1.1 101 Switching Protocols',
      'Upgrade: websocket',
      'Connection: Upgrade',
      field('Sec-WebSocket-Accept', acceptKey(this.key)),
    ];
    if (protocol) {
      try {
        const name = this.#subprotocol(protocol);
        lines.push(field('Sec-WebSocket-Protocol', name));
      } catch (error) {
        const { message } = /** @type {Error} */ (error);
        return { rejection: { status: 500, reason: message, headers: {} } };
      }
    }
    if (origin) {
      const prefix = this.webSocketVersion === 8 ? 'Sec-WebSocket-' : '';
      lines.push(field(`${prefix}Origin`, origin));
    }
    lines.push(...cookies.map((cookie) => field('Set-Cookie', cookie)));
    return { response: response(lines) };
  }

  #resolve() {
    if (this.#resolved) {
      throw new Error('A request may only be accepted or rejected one time.');
    }
    this.#resolved = true;
  }

  /**
   * @param {unknown} status
   * @param {unknown} [reason]
   * @param {unknown} [headers]
   */
  #reject(status, reason, headers = {}) {
    this.rejection = { status, reason, headers };
  }

  /**
   * The subprotocol as the client wrote it, which is what browsers compare.
   *
   * @param {unknown} protocol
   */
  #subprotocol(protocol) {
    if (!isToken(protocol)) {
      throw new Error(`Illegal character in subprotocol ${quoted(protocol)}.`);
    }
    const key = protocol.toLowerCase();
    if (!this.requestedProtocols.includes(key)) {
      throw new Error('Specified protocol was not requested by the client.');
    }
    const requested = this.protocolFullCaseMap[key];
    return isToken(requested) ? requested : protocol;
  }
}

/** @param {string | string[] | undefined} header */
function list(header) {
  return header ? String(header).split(/,\s*/) : [];
}

/**
 * @param {string | undefined} header
 * @returns {Extension[]}
 */
function parseExtensions(header) {
  return list(header?.toLowerCase()).map((extension) => {
    const [name, ...params] = extension.split(/;\s*/);
    return {
      name,
      params: params.map((param) => {
        const [key, value] = param.split('=');
        return { name: key, value };
      }),
    };
  });
}

/** @param {string} key */
function acceptKey(key) {
  return createHash('sha1').update(`${key}${ACCEPT_GUID}`).digest('base64');
}

/**
 * One header line; no value can end it.
 *
 * @param {string} name
 * @param {unknown} value
 */
function field(name, value) {
  const text = stringOf(value)
    .replace(/[^\t\x20-\x7e\xa0-\u{10ffff}]/gu, '')
    .replace(/[^\t\x20-\xff]/gu, '?');
  return `${name}: ${text}`;
}

/**
 * @param {any} headers
 * @returns {[name: string, value: unknown][]} none where they cannot be read
 */
function fieldsOf(headers) {
  try {
    return typeof headers === 'object' ? Object.entries(headers ?? {}) : [];
  } catch {
    return [];
  }
}

/** @param {unknown} value */
function stringOf(value) {
  try {
    return String(value);
  } catch {
    return '';
  }
}

/** @param {string[]} lines */
function response(lines) {
  return `${lines.join('\r\n')}\r\n\r\n`;
}

module.exports = { Request };
