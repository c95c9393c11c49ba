'use strict';

const { MessageEnginError } = require('./errors');

/** @typedef {typeof import('../binding')} Native */

/**
 * The native addon, or one sentence on why it is not there: the generated
 * loader keeps its reasons in a chain of causes.
 *
 * @returns {Native}
 */
function load() {
  try {
    return require('../binding.js');
  } catch (cause) {
    const reasons = [];
    for (let error = /** @type {any} */ (cause); error; error = error.cause) {
      reasons.push(String(error.message ?? error).split('\n', 1)[0]);
    }
    throw new MessageEnginError(
      'ERR_NO_NATIVE_ADDON',
      `the native addon for ${process.platform} ${process.arch} cannot be loaded ` +
        `(in a clone, "npm run build" makes it): ${reasons.join('; ')}`,
      { cause },
    );
  }
}

module.exports = load();
