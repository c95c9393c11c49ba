'use strict';

// What makes an HTTP request a WebSocket handshake.

/** @typedef {import('node:http').IncomingMessage} IncomingMessage */

const VERSIONS = ['8', '13'];

/**
 * The refusals of the opening handshake (RFC 6455, section 4.2.1), with the
 * reasons of WebSocket-Node 1.0.35 where it has one.
 *
 * @param {IncomingMessage} httpRequest
 * @returns {{ status: number, reason: string, headers: Record<string, string> } | null}
 *   null when the request may go on
 */
function refusalOf(httpRequest) {
  const { headers, method } = httpRequest;
  if (method !== 'GET') {
    return refusal(405, 'Client must use the GET method.', { Allow: 'GET' });
  }
  if (!isWebSocket(httpRequest)) {
    return refusal(400, 'Client must ask for an upgrade to websocket.');
  }
  const { httpVersionMajor: major, httpVersionMinor: minor } = httpRequest;
  if (major < 1 || (major === 1 && minor < 1)) {
    return refusal(400, 'Client must use HTTP/1.1 or newer.');
  }
  if (!headers.host) {
    return refusal(400, 'Client must provide a Host header.');
  }
  // Proxies and servers that disagree about either of these two disagree
  // about who asks what (RFC 9112, sections 3.2 and 6.3).
  if (countOf(httpRequest, 'host') > 1) {
    return refusal(400, 'Client must provide one Host header.');
  }
  if (hasBody(headers)) {
    return refusal(400, 'Client must not send a body.');
  }
  const key = headers['sec-websocket-key'];
  if (!key) {
    return refusal(400, 'Client must provide a value for Sec-WebSocket-Key.');
  }
  // Not as a number: parseInt would take '13, 8', '13.0' and '13abc' for 13,
  // and the client and a proxy in between might take them for something else.
  const version = headers['sec-websocket-version'];
  if (!version) {
    return refusal(
      400,
      'Client must provide a value for Sec-WebSocket-Version.',
    );
  }
  if (!VERSIONS.includes(version)) {
    // The missing space is WebSocket-Node's, and part of its text.
    return refusal(
      426,
      `Unsupported websocket client version: ${version}` +
        'Only versions 8 and 13 are supported.',
      { 'Sec-WebSocket-Version': '13' },
    );
  }
  if (!/^[A-Za-z0-9+/]{22}==$/.test(key)) {
    return refusal(400, 'Sec-WebSocket-Key is not 16 bytes in base64.');
  }
  return null;
}

/**
 * @param {number} status
 * @param {string} reason
 * @param {Record<string, string>} [headers]
 */
function refusal(status, reason, headers = {}) {
  return { status, reason, headers };
}

/** @param {IncomingMessage} httpRequest */
function isWebSocket({ headers }) {
  return /(?:^|,)\s*websocket\s*(?:,|$)/i.test(headers.upgrade ?? '');
}

/**
 * NaN for a version that refusalOf() refuses.
 *
 * @param {IncomingMessage} httpRequest
 */
function versionOf({ headers }) {
  return Number(headers['sec-websocket-version']);
}

/**
 * @param {IncomingMessage} httpRequest
 * @param {string} wanted in lower case
 */
function countOf({ rawHeaders }, wanted) {
  return rawHeaders.filter(
    (name, index) => index % 2 === 0 && name.toLowerCase() === wanted,
  ).length;
}

/** @param {import('node:http').IncomingHttpHeaders} headers */
function hasBody(headers) {
  const { 'content-length': length, 'transfer-encoding': encoding } = headers;
  return encoding !== undefined || Number(length ?? 0) !== 0;
}

module.exports = { isWebSocket, refusalOf, versionOf };
