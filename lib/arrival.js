'use strict';

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
 * @throws for a key that has no text
 */
function arrivalOf(request, key) {
  return {
    key: String(key),
    keyJson: keyJson(key),
    headers: JSON.stringify(request.httpRequest.headers),
  };
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
