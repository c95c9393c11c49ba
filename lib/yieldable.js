'use strict';

/**
 * Makes a promise that generator-based callers can use like the generator
 * that they used to get: `yield p`, `yield* p` and `co(p)` under co 3.1 and
 * co 4.6, beside `await p` and `p.then()`. It may be waited for any number of
 * times and in all these ways at once.
 *
 * A rejection that nobody waits for stays an unhandledRejection.
 *
 * @template T
 * @param {Promise<T>} promise
 * @returns {import('..').Yieldable<T>} the same promise
 */
function yieldable(promise) {
  /** @type {Promise<T> | undefined} */
  let watched;
  /** @type {(() => IteratorReturnResult<T>) | undefined} */
  let outcome;

  // co drives the object itself, and co 3.1 does so even for `yield p`. A
  // single generator behind it would serve one driver only and hand undefined
  // to the next one, so the steps depend on the promise's state alone. The
  // promise is watched from the first step on and not earlier, because
  // watching marks it as handled; handing out the watching promise gives the
  // duty to handle a rejection to the driver.
  /** @type {import('..').Yieldable<T>['next']} */
  const next = () => {
    if (outcome) return outcome();
    watched ??= promise.then(
      (value) => {
        outcome = () => ({ value, done: true });
        return value;
      },
      (error) => {
        outcome = () => {
          throw error;
        };
        throw error;
      },
    );
    return { value: watched, done: false };
  };

  const members = {
    next,
    /** @param {unknown} error */
    throw(error) {
      throw error;
    },
    /** @param {T} value */
    return(value) {
      return { value, done: true };
    },
    // A generator of its own for each `yield*` ends after one step whatever
    // the caller does; next() above would never end under a spread.
    *[Symbol.iterator]() {
      /** @type {T} */
      const value = yield promise;
      return value;
    },
  };
  for (const name of Reflect.ownKeys(members)) {
    Object.defineProperty(promise, name, {
      value: Reflect.get(members, name),
      writable: true,
      configurable: true,
    });
  }
  return /** @type {import('..').Yieldable<T>} */ (promise);
}

module.exports = { yieldable };
