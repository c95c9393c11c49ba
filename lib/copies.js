'use strict';

const path = require('node:path');

// Shared by all copies of the package in this realm. Worker threads, and test
// files under Jest, have a global object of their own.
const LOADED = Symbol.for('message-engin.loaded');

/**
 * Warns when this process has loaded the package from another folder before:
 * each copy has an embedded broker and a list of a server's gateways of its
 * own, and neither an error says so nor a message that does not arrive.
 */
function warnOfCopies() {
  const folder = path.dirname(__dirname);
  /** @type {{ folder: string, isWarned: boolean } | undefined} */
  const loaded = /** @type {any} */ (globalThis)[LOADED];
  if (!loaded) {
    Object.defineProperty(globalThis, LOADED, {
      value: { folder, isWarned: false },
    });
    return;
  }
  if (loaded.folder === folder || loaded.isWarned) return;
  loaded.isWarned = true;
  process.emitWarning(
    `message-engin is loaded twice in this process, from ${loaded.folder} ` +
      `and from ${folder}. The copies do not know of each other: a memory: ` +
      'broker of one is not that of the other. Keep one; ' +
      "'npm ls message-engin' tells who asks for which.",
    { type: 'MessageEnginWarning', code: 'MESSAGE_ENGIN_TWO_COPIES' },
  );
}

module.exports = { warnOfCopies };
