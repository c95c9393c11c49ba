'use strict';

// Who may ask for a key at all: what wsConf says about upgrades before keyFn
// hears of them.

const { isFunction, typeName } = require('../checks');
const { didYouMean } = require('../options/near-name');

/**
 * @typedef {import('./request').Rejection} Rejection
 * @typedef {InstanceType<typeof import('./request').Request>} Request
 * @typedef {'origins' | 'maxConnections' | 'connectionRate'} Limit
 * @typedef {{ limit: Limit, rejection: Rejection, error?: unknown }} Denial
 */

/**
 * What wsConf.origins can be: `includes` is case-insensitive and knows
 * wildcards.
 *
 * @typedef {{ includes: (origin: string) => boolean }} OriginList
 * @typedef {(origin: string | undefined, request: Request) => unknown} OriginFunction
 * @typedef {{ perSecond: number, burst: number }} Rate
 */

// Nobody knows when a connection will go; this only keeps those who wait from
// knocking in a loop.
const FULL_RETRY_SECONDS = 5;

class Admission {
  #settings;
  #conf;
  #bucket;

  /**
   * @param {import('../options/gateway').WsSettings} settings
   * @param {unknown} conf the user's own wsConf: its functions are its methods
   * @param {() => number} [now] ms, of a clock that never goes back
   */
  constructor(settings, conf, now = () => performance.now()) {
    this.#settings = settings;
    this.#conf = conf;
    this.#bucket =
      settings.connectionRate && new TokenBucket(settings.connectionRate, now);
  }

  /**
   * What will never do is said before what would do later, and only who is let
   * in costs the others a part of the rate.
   *
   * @param {Request} request
   * @param {() => number} held connections that are open or asked about
   * @returns {Denial | null}
   */
  check(request, held) {
    const { maxConnections } = this.#settings;
    const stranger = this.#checkOrigin(request);
    if (stranger) return stranger;
    if (maxConnections > 0 && held() >= maxConnections) {
      return busy('maxConnections', 'Too many connections', FULL_RETRY_SECONDS);
    }
    const wait = this.#bucket?.take() ?? 0;
    return wait > 0
      ? busy('connectionRate', 'Too many connections at once', wait)
      : null;
  }

  /**
   * @param {Request} request
   * @returns {Denial | null}
   */
  #checkOrigin(request) {
    const { origins } = this.#settings;
    if (!origins) return null;
    const rejection = { status: 403, reason: 'Origin not allowed' };
    try {
      const allowed = isFunction(origins)
        ? answerOf(origins.call(this.#conf, request.origin, request))
        : // Browsers send an Origin with each handshake, so who sends none
          // acts for nobody's web page.
          request.origin === undefined || origins.includes(request.origin);
      return allowed ? null : { limit: 'origins', rejection };
    } catch (error) {
      return { limit: 'origins', rejection, error };
    }
  }
}

/**
 * @param {any} answer of wsConf.origins
 * @throws {TypeError} for a promise, which would let everybody in
 */
function answerOf(answer) {
  if (!isFunction(answer?.then)) return Boolean(answer);
  // Its rejection must not end the process either.
  answer.then(null, () => {});
  throw new TypeError(
    'wsConf.origins returned a promise; it must return true or false',
  );
}

/**
 * @param {Limit} limit
 * @param {string} reason
 * @param {number} seconds
 * @returns {Denial}
 */
function busy(limit, reason, seconds) {
  const headers = { 'Retry-After': String(Math.ceil(seconds)) };
  return { limit, rejection: { status: 503, reason, headers } };
}

/** Fills evenly with time, up to `burst`. */
class TokenBucket {
  #perSecond;
  #burst;
  #now;
  #tokens;
  #filled;

  /**
   * @param {Rate} rate
   * @param {() => number} now ms
   */
  constructor({ perSecond, burst }, now) {
    this.#perSecond = perSecond;
    this.#burst = burst;
    this.#now = now;
    this.#tokens = burst;
    this.#filled = now();
  }

  /** @returns {number} 0 for a token taken, or the seconds until there is one */
  take() {
    const now = this.#now();
    const gained = ((now - this.#filled) / 1000) * this.#perSecond;
    this.#tokens = Math.min(this.#burst, this.#tokens + gained);
    this.#filled = now;
    if (this.#tokens < 1) return (1 - this.#tokens) / this.#perSecond;
    this.#tokens -= 1;
    return 0;
  }
}

/**
 * Reads wsConf.connectionRate.
 *
 * @param {any} value
 * @returns {Rate | null | undefined} null for no limit, undefined when it
 *   cannot be understood
 */
function rateOf(value) {
  if (value === 0) return null;
  const given = typeof value === 'number' ? { perSecond: value } : value;
  const { perSecond, burst, ...rest } = Object(given);
  if (!(Number.isFinite(perSecond) && perSecond > 0)) return undefined;
  if (burst !== undefined && !(Number.isSafeInteger(burst) && burst > 0)) {
    return undefined;
  }
  if (Object.keys(rest).length > 0) return undefined;
  // Below one in all, nobody would ever come in.
  return { perSecond, burst: burst ?? Math.max(1, Math.ceil(perSecond)) };
}

/**
 * What is wrong with a wsConf.connectionRate that cannot be understood.
 *
 * @param {any} value
 * @returns {string | undefined}
 */
function rateFault(value) {
  const known = ['perSecond', 'burst'];
  const name = Object.keys(Object(value)).find((each) => !known.includes(each));
  return typeof value === 'object' && name !== undefined
    ? `'${name}' is none of its fields${didYouMean(name, known)}`
    : undefined;
}

/**
 * Reads wsConf.origins.
 *
 * @param {any} value
 * @returns {OriginList | OriginFunction | null | undefined} null for no limit,
 *   undefined when it cannot be understood
 */
function originsOf(value) {
  if (value === null || isFunction(value)) return value;
  // An empty list is the mistake of whoever fills it, not a wish for nobody.
  if (!Array.isArray(value) || value.length === 0) return undefined;
  const read = Array.from(value, (entry) => readOrigin(entry));
  if (read.some(({ fault }) => fault !== undefined)) return undefined;
  const known = new Set(read.map((entry) => entry.origin));
  return {
    includes(origin) {
      const text = origin.toLowerCase();
      return known.has(text) || known.has(text.replace(FIRST_LABEL, '$1*.'));
    },
  };
}

const FIRST_LABEL = /^([a-z][a-z0-9+.-]*:\/\/)[^.*:/[\]]+\./;

/**
 * What is wrong with a wsConf.origins that cannot be understood: the first
 * entry of which that can be said.
 *
 * @param {any} value
 * @returns {string | undefined}
 */
function originsFault(value) {
  if (!Array.isArray(value)) return undefined;
  if (value.length === 0) {
    return 'an empty array would refuse all web pages; to let all connect, leave it out';
  }
  const read = Array.from(value, (entry) => readOrigin(entry));
  const index = read.findIndex(({ fault }) => fault !== undefined);
  return `entry ${index} ${read[index].fault}`;
}

/**
 * An origin as browsers write it (RFC 6454, section 6.2): in lower case and
 * ASCII, without the usual port.
 *
 * @param {unknown} entry
 * @returns {{ origin: string, fault?: undefined } | { origin?: undefined, fault: string }}
 */
function readOrigin(entry) {
  if (entry === 'null') return { origin: entry };
  if (typeof entry !== 'string') {
    return {
      fault: `is ${typeName(entry)}, not a string. To decide otherwise, give a function in place of the array`,
    };
  }
  if (entry === '*') {
    return { fault: "is '*'; to let all web pages connect, leave origins out" };
  }
  // It may hold a password, so it does not go into the text.
  if (entry.includes('@'))
    return { fault: 'holds a login, which no origin has' };
  const shown = `'${entry}'`;
  const [, scheme, rest] = /^([a-z][a-z0-9+.-]*):\/\/(.*)$/is.exec(entry) ?? [];
  if (scheme === undefined) {
    return { fault: `(${shown}) has no scheme, such as 'https://'` };
  }
  if (/\s/.test(rest)) return { fault: `(${shown}) holds a space` };
  const [host] = rest.split(/[/?#\\]/, 1);
  if (!host) return { fault: `(${shown}) has no host` };
  if (host !== rest) {
    return {
      fault: `(${shown}) goes on after the host; the origin is '${scheme}://${host}'`,
    };
  }
  // A wildcard stands for one whole label, and not for a whole domain's.
  if (host.replace(/^\*\.(?=[^.]+\.[^.])/, '').includes('*')) {
    return {
      fault: `(${shown}) has its '*' in another place than 'https://*.a.example': it stands for the whole first label, and two labels must follow`,
    };
  }
  if (!/^https?$/i.test(scheme)) return { origin: entry.toLowerCase() };
  return URL.canParse(entry)
    ? { origin: new URL(entry).origin }
    : { fault: `(${shown}) has a host or a port that cannot be` };
}

module.exports = { Admission, originsFault, originsOf, rateFault, rateOf };
