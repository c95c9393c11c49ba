'use strict';

// Who may ask for a key at all: what wsConf says about upgrades before keyFn
// hears of them.

const { isFunction } = require('./checks');

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
   * @param {import('./ws-options').WsSettings} settings
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
  const known = new Set(value.map(canonicalOrigin));
  if (known.has(undefined)) return undefined;
  return {
    includes(origin) {
      const text = origin.toLowerCase();
      return known.has(text) || known.has(text.replace(FIRST_LABEL, '$1*.'));
    },
  };
}

const FIRST_LABEL = /^([a-z][a-z0-9+.-]*:\/\/)[^.*:/[\]]+\./;

/**
 * An origin as browsers write it (RFC 6454, section 6.2): in lower case and
 * ASCII, without the usual port.
 *
 * @param {unknown} origin
 * @returns {string | undefined} undefined when it is none
 */
function canonicalOrigin(origin) {
  if (origin === 'null') return origin;
  if (typeof origin !== 'string') return undefined;
  const [, scheme, host] =
    /^([a-z][a-z0-9+.-]*):\/\/([^\s/?#@\\]+)$/i.exec(origin) ?? [];
  // A wildcard stands for one whole label, and not for a whole domain's.
  if (!host || /\*/.test(host.replace(/^\*\.(?=[^.]+\.[^.])/, ''))) {
    return undefined;
  }
  if (!/^https?$/i.test(scheme)) return origin.toLowerCase();
  return URL.canParse(origin) ? new URL(origin).origin : undefined;
}

module.exports = { Admission, originsOf, rateOf };
