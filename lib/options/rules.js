'use strict';

// What options can be, and how they are checked: errors name the option.

const {
  isIntegerWithin,
  isObject,
  isText,
  shown,
  typeName,
  warn,
} = require('../checks');
const { OptionError } = require('../errors');
const { didYouMean, nearName } = require('./near-name');

/**
 * What one option may be. `expected` completes 'expected ...' in an error, and
 * `faultOf` says in place of that what is wrong with a value that does not fit,
 * where it can; `secret` keeps the value out of it; `to` makes a setting of a value that
 * fits; `fields` are the rules of an object's own options; `checkedOnly`
 * options make no setting.
 *
 * @typedef {object} Rule
 * @property {string} expected
 * @property {(value: any) => boolean} fits
 * @property {(value: any) => string | undefined} [faultOf]
 * @property {(value: any) => unknown} [to]
 * @property {unknown} [fallback]
 * @property {Record<string, Rule>} [fields]
 * @property {boolean} [required]
 * @property {boolean} [secret]
 * @property {boolean} [checkedOnly]
 * @property {string} [unless] the option that may be given in its place
 */

// The length of a short string, which names are (AMQP 0-9-1, 4.2.5).
const MAX_NAME = 255;
// setTimeout's limit, so that "no timeout" means that to every kind of timer.
const NO_TIMEOUT = 2 ** 31 - 1;
const MAX_MS = 2 ** 32 - 1;
const MAX_BYTES = Number.MAX_SAFE_INTEGER;

/** @type {(fallback: boolean) => Rule} */
const boolean = (fallback) => ({
  fallback,
  expected: 'a boolean',
  fits: (value) => typeof value === 'boolean',
});

/** @type {(fallback: number, min: number, max: number, unit: string) => Rule} */
const integer = (fallback, min, max, unit) => ({
  fallback,
  expected: `an integer from ${min} to ${max} (${unit})`,
  fits: (value) => isIntegerWithin(value, min, max),
});

/** @type {(fallback: number) => Rule} */
const limit = (fallback) => {
  const { expected, fits } = integer(fallback, 1, MAX_BYTES, 'bytes');
  return {
    fallback,
    expected: `${expected} or Infinity`,
    fits: (value) => value === Infinity || fits(value),
    to: (value) => Math.min(value, MAX_BYTES),
  };
};

/** @type {(unit: string) => Rule} */
const positive = (unit) => ({
  expected: `a finite number above 0 (${unit})`,
  fits: (value) => Number.isFinite(value) && value > 0,
});

/** @type {(...choices: [string, ...string[]]) => Rule} */
const oneOf = (...choices) => ({
  fallback: choices[0],
  expected: `one of ${choices.map((choice) => `'${choice}'`).join(', ')}`,
  fits: (value) => choices.includes(value),
});

/** @type {(value: boolean, why: string) => Rule} */
const always = (value, why) => ({
  checkedOnly: true,
  expected: `${value}, since ${why}`,
  fits: (given) => given === value,
});

/** @type {(fallback: string, maxBytes?: number) => Rule} */
const name = (fallback, maxBytes = MAX_NAME) => ({
  fallback,
  expected: `a non-empty string of at most ${maxBytes} bytes in UTF-8`,
  fits: (value) => isText(value, maxBytes) && value !== '',
});

/** @type {(type: string, fits: (value: any) => boolean) => Rule} */
const required = (expected, fits) => ({ expected, fits, required: true });

/** @type {(value: any) => boolean} */
const isFileName = (value) => isText(value) && !value.includes('\0');

/** @type {Rule} */
const fileName = {
  expected: 'the name of a file',
  fits: isFileName,
  // A secret that was meant for the field without 'File'.
  secret: true,
};

/** @type {Rule} */
const fileNames = {
  ...fileName,
  expected: 'the name of a file, or a non-empty array of them',
  fits: (value) =>
    Array.isArray(value)
      ? value.length > 0 && value.every(isFileName)
      : isFileName(value),
};

/** @type {(expected: string, fits: (value: any) => boolean) => Rule} */
const secret = (expected, fits) => ({ expected, fits, secret: true });

/**
 * A time that a method was given.
 *
 * @param {string} option
 * @param {unknown} value
 * @param {number} max
 * @returns {number} ms
 * @throws {OptionError} that names the option
 */
function milliseconds(option, value, max) {
  const { fits, expected } = integer(0, 0, max, 'ms');
  if (!fits(value)) {
    throw new OptionError(option, `expected ${expected}, got ${shown(value)}`);
  }
  return /** @type {number} */ (value);
}

/**
 * @param {Record<string, Rule>} rules
 * @returns {Record<string, any>}
 */
function defaultsOf(rules) {
  return Object.fromEntries(
    Object.entries(rules)
      .filter(([, rule]) => rule.fallback !== undefined && !rule.checkedOnly)
      .map(([option, rule]) => [option, rule.fallback]),
  );
}

/**
 * The options that are given, checked and converted; a warning for each one
 * that no rule knows.
 *
 * @param {any} conf
 * @param {string} label
 * @param {Record<string, Rule>} rules
 * @returns {Record<string, any>}
 */
function check(conf, label, rules) {
  if (!isObject(conf)) {
    const way =
      'url' in rules && typeof conf === 'string'
        ? ': give a url as { url }'
        : '';
    throw new OptionError(
      label,
      `expected an object, got ${typeName(conf)}${way}`,
    );
  }
  /** @type {Record<string, any>} */
  const given = {};
  for (const [option, rule] of Object.entries(rules)) {
    const value = conf[option];
    const alternative = rule.unless && conf[rule.unless] !== undefined;
    if (alternative && value !== undefined) {
      throw new OptionError(
        `${label}.${option}`,
        `give either this or ${label}.${rule.unless}, not both`,
      );
    }
    if (value === undefined && (!rule.required || alternative)) continue;
    if (!rule.fits(value)) {
      const text =
        value === undefined
          ? `expected ${rule.expected}${misspelled(conf, option, rules)}`
          : rule.faultOf?.(value);
      const got = rule.secret ? typeName(value) : shown(value);
      throw new OptionError(
        `${label}.${option}`,
        text ?? `expected ${rule.expected}, got ${got}`,
      );
    }
    if (rule.checkedOnly) continue;
    given[option] =
      rule.fields && value !== null
        ? {
            ...defaultsOf(rule.fields),
            ...check(value, `${label}.${option}`, rule.fields),
          }
        : rule.to
          ? rule.to(value)
          : value;
  }
  // Not Object.keys: configurations are made with Object.create(defaults) too.
  const known = Object.keys(rules);
  for (const option in conf) {
    if (conf[option] === undefined || Object.hasOwn(rules, option)) continue;
    warn(
      `${label}.${option} is not an option of message-engin and is ignored` +
        didYouMean(option, known),
    );
  }
  return given;
}

/**
 * What an error of a missing option says when a name like it is there.
 *
 * @param {any} conf
 * @param {string} missing
 * @param {Record<string, Rule>} rules
 */
function misspelled(conf, missing, rules) {
  const known = Object.keys(rules);
  for (const option in conf) {
    if (Object.hasOwn(rules, option)) continue;
    if (nearName(option, known) === missing) {
      return `, got nothing, but '${option}'. Did you mean '${missing}'?`;
    }
  }
  return ', got nothing';
}

module.exports = {
  MAX_BYTES,
  MAX_MS,
  MAX_NAME,
  NO_TIMEOUT,
  always,
  boolean,
  check,
  defaultsOf,
  fileName,
  fileNames,
  integer,
  limit,
  milliseconds,
  name,
  oneOf,
  positive,
  required,
  secret,
};
