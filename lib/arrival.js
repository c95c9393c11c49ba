'use strict';

const { encodeHeaders } = require('./message');

/** @typedef {InstanceType<typeof import('./request').Request>} KeyRequest */

/**
 * @typedef {Omit<import('./handover').Arrival, 'response'>} KnownArrival
 */

/**
 * What the native side has to know of a connection.
 *
 * @param {KeyRequest} request
 * @param {unknown} key
 * @returns {KnownArrival}
 * @throws for a key that has no text, and for headers that cannot be carried
 */
function arrivalOf(request, key) {
  return {
    key: String(key),
    keyJson: keyJson(key),
    headers: headersOf(request),
  };
}

/**
 * @param {KeyRequest} request with what keyFn has written into its headers
 * @throws {TypeError} with the status of the answer
 */
function headersOf({ httpRequest }) {
  try {
    return encodeHeaders(httpRequest.headers);
  } catch (error) {
    throw Object.assign(/** @type {TypeError} */ (error), { status: 500 });
  }
}

/**
 * The value that status messages carry.
 *
 * @param {unknown} key
 */
function keyJson(key) {
  try {
    return JSON.stringify(key) ?? JSON.stringify(String(key));
  } catch {
    return JSON.stringify(String(key));
  }
}

module.exports = { arrivalOf };
