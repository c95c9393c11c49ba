'use strict';

/** Made-up things that depend on the seed alone. */
class Dice {
  #state;

  /** @param {number} seed */
  constructor(seed) {
    this.#state = seed;
  }

  /** Mulberry32. @param {number} limit @returns {number} an integer below it */
  below(limit) {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit;
  }

  /** @template T @param {T[]} things @returns {T} */
  of(things) {
    return things[this.below(things.length)];
  }

  /** Any UTF-16. @param {number} most */
  text(most) {
    const length = this.below(most);
    return String.fromCharCode(
      ...Array.from({ length }, () => this.below(this.below(2) ? 128 : 65536)),
    );
  }

  /** Any bytes, as latin1. @param {number} most */
  bytes(most) {
    const length = this.below(most);
    return String.fromCharCode(
      ...Array.from({ length }, () => this.below(256)),
    );
  }
}

module.exports = { Dice };
