'use strict';

/**
 * An error of the broker, the connection or the package itself.
 *
 * `code` is stable and meant for programs ('ECONNREFUSED', 'ACCESS_REFUSED',
 * ...); `message` is meant for people; `address` is the broker it is about,
 * without login and password, and is there only when there is one.
 */
class MessageEnginError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{ address?: string, cause?: unknown, [name: string]: unknown }} [extra]
   *   further properties of the error; `cause` becomes that of Error
   */
  constructor(code, message, extra = {}) {
    const { cause, address, ...properties } = extra;
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    // An absent address must not show up as a property in logs.
    if (address !== undefined) this.address = address;
    Object.assign(this, properties);
  }
}

/**
 * A setting of mqConf or wsConf that cannot be used. `option` is its full
 * name, such as 'mqConf.port'; `code` is always 'ERR_INVALID_OPTION'.
 */
class OptionError extends TypeError {
  /**
   * @param {string} option
   * @param {string} text what is wrong with it, without any secret
   */
  constructor(option, text) {
    super(`${option}: ${text}`);
    this.code = 'ERR_INVALID_OPTION';
    this.option = option;
  }
}

// On the prototype, as built-in errors have it: a name of each instance's own
// would be printed a second time by util.inspect.
for (const type of [MessageEnginError, OptionError]) {
  Object.defineProperty(type.prototype, 'name', {
    value: type.name,
    writable: true,
    configurable: true,
  });
}

/**
 * Turns an error of the native addon, whose message is `CODE|address|text`
 * (the address may be empty), into a MessageEnginError. Whatever looks
 * otherwise is returned as it is.
 *
 * @param {any} error
 * @returns {any}
 */
function fromNative(error) {
  // No `instanceof Error`: inside Jest and vm contexts the addon's errors
  // belong to another realm.
  const text = typeof error === 'object' && error !== null && error.message;
  const parts =
    typeof text === 'string' &&
    /^([A-Z][A-Z0-9_]*)\|([^|]*)\|([^]*)$/.exec(text);
  if (!parts) return error;
  return new MessageEnginError(parts[1], parts[3], {
    address: parts[2] || undefined,
  });
}

/**
 * Anything can be thrown, and not everything has a text.
 *
 * @param {unknown} error
 */
function textOf(error) {
  try {
    return String(Object(error).message ?? error);
  } catch {
    return 'something without a text';
  }
}

/**
 * A process warning of an error that nobody listens to. Its text alone, since
 * Node refuses errors of another realm, as inside Jest.
 *
 * @param {any} error
 */
function warnOf(error) {
  const { name, code } = Object(error);
  process.emitWarning(textOf(error), { type: name, code });
}

module.exports = {
  MessageEnginError,
  OptionError,
  fromNative,
  textOf,
  warnOf,
};
