'use strict';

const { fromNative, textOf, warnOf } = require('./errors');
const { decodeHeaders, decodeText } = require('./native/message-codec');

/** @typedef {import('node:events').EventEmitter} EventEmitter */

/**
 * The events that a process warning has stood in for, by emitter.
 *
 * @type {WeakMap<EventEmitter, Set<string>>}
 */
const warned = new WeakMap();

/**
 * Tells an emitter's listeners what happened to the broker's connection.
 *
 * @param {EventEmitter} emitter
 * @param {string} name
 * @param {string} json details of the native side
 */
function emitConnectionEvent(emitter, name, json) {
  const details = JSON.parse(json);
  if (details.error) details.error = fromNative(new Error(details.error));
  if (name === 'reconnecting') {
    const text = () => `${textOf(details.error)}; connecting again`;
    emitOrWarn(emitter, name, text, details);
  } else if (name === 'lost') {
    const { count, error } = details;
    const text = () => `Messages are lost (${count}): ${textOf(error)}`;
    // That nobody is there is no failure: gateways come and go.
    if (error.code === 'NO_ROUTE') safeEmit(emitter, name, details);
    else emitOrWarn(emitter, name, text, details);
  } else if (name === 'blocked') {
    safeEmit(emitter, name, details.reason);
  } else if (name === 'undeliverable') {
    const { error, contentType, headers, text, octets } = details;
    const message =
      text === undefined
        ? Buffer.from(octets, 'hex')
        : decodeText(text, contentType);
    const what = () => `A message cannot be delivered: ${textOf(error)}`;
    emitOrWarn(emitter, name, what, message, decodeHeaders(headers), error);
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
 * @param {EventEmitter} emitter
 * @param {string} name
 * @param {...unknown} values
 */
function safeEmit(emitter, name, ...values) {
  safely(() => emitter.emit(name, ...values));
}

/**
 * Emits an event that reports a failure. Without a listener the first one of
 * the emitter is a process warning; the later ones are only counted (stats()),
 * since one cause mostly makes many.
 *
 * @param {EventEmitter} emitter
 * @param {string} name
 * @param {() => string} text of the warning, without a full stop
 * @param {...unknown} values
 */
function emitOrWarn(emitter, name, text, ...values) {
  if (emitter.listenerCount(name) > 0) {
    safeEmit(emitter, name, ...values);
    return;
  }
  const names = warned.get(emitter) ?? new Set();
  if (names.has(name)) return;
  warned.set(emitter, names.add(name));
  const code = name.replace(/[A-Z]/g, '_$&').toUpperCase();
  process.emitWarning(`${text()}. Listen to '${name}' to see each one.`, {
    type: 'MessageEnginWarning',
    code: `MESSAGE_ENGIN_${code}`,
  });
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

module.exports = { emitConnectionEvent, emitOrWarn, safeEmit, safely };
