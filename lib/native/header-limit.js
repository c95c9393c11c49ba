'use strict';

const { fromNative } = require('../errors');

/**
 * Bytes of AMQP that a character of header JSON stands for, at most: those of
 * a text in UTF-8. An integer of one digit and its comma take five.
 */
const BYTES_PER_CHARACTER = 3;
/** What a content header has beside the table of headers, at most. */
const OTHER_BYTES = 128;

/**
 * Headers must fit into one frame, whose size the broker and this side agree
 * on (frame_max). The exact size costs as much as encoding them, so it is asked
 * for only where the length of their JSON does not say enough.
 *
 * @param {number} length characters of their JSON
 * @param {number} limit bytes of a content header
 * @param {() => number} size bytes of the content header
 * @throws {TypeError} with code ERR_HEADERS_TOO_LARGE
 */
function checkHeaderSize(length, limit, size) {
  if (length * BYTES_PER_CHARACTER + OTHER_BYTES <= limit) return;
  const bytes = asked(size);
  if (bytes <= limit) return;
  // As src/error.rs says it.
  const error = new TypeError(
    `the headers take ${bytes} bytes, and a frame of the broker carries ` +
      `${limit}: put large values, such as a long list of keys, into the message`,
  );
  throw Object.assign(error, { code: 'ERR_HEADERS_TOO_LARGE' });
}

/** @param {() => number} size */
function asked(size) {
  try {
    return size();
  } catch (cause) {
    const { message, code } = fromNative(cause);
    throw Object.assign(new TypeError(message, { cause }), { code });
  }
}

module.exports = { checkHeaderSize };
