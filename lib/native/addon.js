'use strict';

/** @typedef {typeof import('../../binding')} Native */

/** @returns {Native} */
function load() {
  try {
    return require('../../binding.js');
  } catch (error) {
    // Loaded only now: it is of no use in a process that has the addon.
    const { addonError } = require('./addon-error');
    throw addonError(error);
  }
}

module.exports = load();
