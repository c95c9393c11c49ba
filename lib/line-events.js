'use strict';

const { fromNative, warnOf } = require('./errors');

/**
 * Tells an emitter's listeners what happened to the broker's connection.
 *
 * @param {import('node:events').EventEmitter} emitter
 * @param {string} name
 * @param {string} json details of the native side
 */
function emitLineEvent(emitter, name, json) {
  const details = JSON.parse(json);
  if (details.error) details.error = fromNative(new Error(details.error));
  if (name === 'reconnecting') {
    safeEmit(emitter, name, details);
  } else if (name === 'blocked') {
    safeEmit(emitter, name, details.reason);
  } else if (name === 'failed') {
    // An 'error' without a listener would end the process.
    if (emitter.listenerCount('error')) {
      safeEmit(emitter, 'error', details.error);
    } else {
      warnOf(details.error);
    }
  } else {
    safeEmit(emitter, name);
  }
}

/**
 * Emits, and lets what a listener throws become the uncaught exception that
 * it is, without taking what stands behind it in a batch along.
 *
 * @param {import('node:events').EventEmitter} emitter
 * @param {string} name
 * @param {...unknown} values
 */
function safeEmit(emitter, name, ...values) {
  safely(() => emitter.emit(name, ...values));
}

/** @param {() => unknown} call of somebody else's function */
function safely(call) {
  try {
    call();
  } catch (error) {
    process.nextTick(() => {
      throw error;
    });
  }
}

module.exports = { emitLineEvent, safeEmit, safely };
