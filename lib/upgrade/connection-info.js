'use strict';

const { checkHeaderSize } = require('../native/header-limit');
const { encodeHeaders } = require('../native/message-codec');

/**
 * @typedef {InstanceType<typeof import('./request').Request>} KeyRequest
 * @typedef {import('../../binding').NativeGateway} NativeGateway
 */

/**
 * @typedef {Omit<import('./adopt-socket').AcceptedUpgrade, 'response'>} UpgradeInfo
 */

/**
 * What the native side has to know of a connection.
 *
 * @param {KeyRequest} request
 * @param {unknown} key
 * @param {NativeGateway} native
 * @returns {UpgradeInfo}
 * @throws for a key that has no text, and for headers that cannot be carried
 */
function connectionInfo(request, key, native) {
  return {
    key: String(key),
    keyJson: keyJson(key),
    headers: headersOf(request, native),
  };
}

/**
 * @param {KeyRequest} request with what keyFn has written into its headers
 * @param {NativeGateway} native
 * @throws {TypeError} with the status of the answer
 */
function headersOf({ httpRequest }, native) {
  let status = 500;
  try {
    const headers = encodeHeaders(httpRequest.headers);
    // Each message and status of the connection carries them.
    status = 431;
    const size = () => native.headerSize(headers);
    checkHeaderSize(headers.length, native.headerLimit(), size);
    return headers;
  } catch (error) {
    throw Object.assign(/** @type {TypeError} */ (error), { status });
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

module.exports = { connectionInfo };
