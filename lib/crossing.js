'use strict';

const { decodeHeaders, decodeText, OCTETS } = require('./message');

// In step with src/node/crossing.rs.
const WORDS = 10;
const [
  BODY_END,
  END,
  HEADERS,
  TYPE,
  KEY,
  EXCHANGE,
  FLAGS,
  TAG,
  TAG_HIGH,
  SESSION,
] = Array(WORDS).keys();
const REDELIVERED = 1;
const STATUS = 2;
const ASCII = 4;
const UTF8 = 8;
const REPEATED = 16;

/**
 * A text of the native side's dictionary; for a header table, what it says.
 *
 * @typedef {object} Entry
 * @property {string} text
 * @property {number} id
 * @property {Deliveries | null} owner to which the headers may come back
 * @property {number} generation of its dictionary
 * @property {Record<string, any> | null | undefined} template the headers;
 *   null for those that cannot be copied by their fields alone
 * @property {number} size fields of the template
 */

/** What its constructor returns takes the place of `this`. */
class Given {
  /** @param {object} object */
  constructor(object) {
    return object;
  }
}

/**
 * Remembers which entry an object of headers was made from, by a private
 * field: nothing that looks at the object sees it, and a copy has none.
 */
class Mark extends Given {
  #entry;

  /**
   * @param {object} headers
   * @param {Entry} entry
   */
  constructor(headers, entry) {
    super(headers);
    this.#entry = entry;
  }

  /**
   * @param {any} headers
   * @returns {Entry | undefined}
   */
  static of(headers) {
    return #entry in headers ? headers.#entry : undefined;
  }
}

/**
 * The deliveries of one gateway or client as the native side hands them over:
 * a batch in one Buffer, and texts that repeat as entries of a dictionary.
 */
class Deliveries {
  #returning;
  /** @type {Entry[]} */
  #entries = [];
  #generation = 0;

  /**
   * @param {{ returning?: boolean }} [options] returning: headers may come
   *   back, and are to be known then
   */
  constructor({ returning = false } = {}) {
    this.#returning = returning;
  }

  /**
   * Must be called with each batch at once: the native side counts on what
   * crossed before.
   *
   * @param {Buffer} bytes numbers of all deliveries, then their bodies
   * @param {number} count
   * @param {string[]} fresh texts that are new
   * @param {number} first the entry of the first of them
   * @returns {Delivery[]}
   */
  open(bytes, count, fresh, first) {
    if (first === 0) {
      this.#entries = [];
      this.#generation += 1;
    }
    const entries = this.#entries;
    for (const text of fresh) {
      entries.push({
        text,
        id: entries.length,
        owner: this.#returning ? this : null,
        generation: this.#generation,
        template: undefined,
        size: 0,
      });
    }
    const numbers = count * WORDS;
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, numbers);
    const deliveries = [];
    let start = words.byteLength;
    for (let at = 0; at < numbers; at += WORDS) {
      deliveries.push(new Delivery(bytes, words, at, start, entries));
      start = words[at + END];
    }
    return deliveries;
  }

  /**
   * The number of headers that came from here and are unchanged: what the
   * native side need not be told again.
   *
   * @param {unknown} headers
   * @returns {number | undefined}
   */
  entryOf(headers) {
    if (typeof headers !== 'object' || headers === null) return undefined;
    const entry = Mark.of(headers);
    if (entry?.owner !== this || entry.generation !== this.#generation) {
      return undefined;
    }
    const given = /** @type {Record<string, unknown>} */ (headers);
    const template = /** @type {Record<string, unknown>} */ (entry.template);
    let count = 0;
    for (const name in given) {
      if (given[name] !== template[name]) return undefined;
      count += 1;
    }
    return count === entry.size ? entry.id : undefined;
  }
}

/** One delivery of a batch; what nobody asks for is not made. */
class Delivery {
  #bytes;
  #words;
  #at;
  #start;
  #entries;

  /**
   * @param {Buffer} bytes
   * @param {Uint32Array} words
   * @param {number} at the first of its numbers
   * @param {number} start of its body
   * @param {Entry[]} entries
   */
  constructor(bytes, words, at, start, entries) {
    this.#bytes = bytes;
    this.#words = words;
    this.#at = at;
    this.#start = start;
    this.#entries = entries;
  }

  /** @param {number} which */
  #number(which) {
    return this.#words[this.#at + which];
  }

  /** @param {number} which */
  #entry(which) {
    return this.#entries[this.#number(which)];
  }

  get bytes() {
    return this.#number(BODY_END) - this.#start;
  }

  get raw() {
    return this.#bytes.subarray(this.#start, this.#number(BODY_END));
  }

  /** @returns {string | undefined} */
  get messageId() {
    const [start, end] = [this.#number(BODY_END), this.#number(END)];
    return start === end ? undefined : this.#bytes.toString('utf8', start, end);
  }

  get contentType() {
    return this.#entry(TYPE).text;
  }

  get routingKey() {
    return this.#entry(KEY).text;
  }

  get exchange() {
    return this.#entry(EXCHANGE).text;
  }

  /** The broker has delivered it before. */
  get returned() {
    return (this.#number(FLAGS) & REDELIVERED) !== 0;
  }

  /** It may have been here, or with somebody else, before. */
  get redelivered() {
    return (this.#number(FLAGS) & (REDELIVERED | REPEATED)) !== 0;
  }

  get isStatus() {
    return (this.#number(FLAGS) & STATUS) !== 0;
  }

  get tag() {
    return this.#number(TAG) + this.#number(TAG_HIGH) * 2 ** 32;
  }

  /**
   * What the native side has to know to settle it.
   *
   * @param {number} outcome
   */
  settlement(outcome) {
    return [
      this.#number(SESSION),
      this.isStatus ? 1 : 0,
      this.#number(TAG),
      this.#number(TAG_HIGH),
      outcome,
    ];
  }

  /** @returns {unknown} */
  message() {
    const flags = this.#number(FLAGS);
    const { contentType } = this;
    if (contentType === OCTETS || (flags & UTF8) === 0) return this.raw;
    const encoding = (flags & ASCII) === 0 ? 'utf8' : 'latin1';
    const end = this.#number(BODY_END);
    return decodeText(
      this.#bytes.toString(encoding, this.#start, end),
      contentType,
    );
  }

  /**
   * Each caller gets an object of its own, which it may change.
   *
   * @returns {Record<string, any>}
   */
  headers() {
    const entry = this.#entry(HEADERS);
    if (entry.template === undefined) {
      const headers = decodeHeaders(entry.text);
      entry.template = isFlat(headers) ? headers : null;
      entry.size = Object.keys(headers).length;
    }
    if (entry.template === null) return decodeHeaders(entry.text);
    const headers = { ...entry.template };
    if (entry.owner) new Mark(headers, entry);
    return headers;
  }
}

/**
 * Whether a copy of its fields is a copy of all of it.
 *
 * @param {Record<string, any>} headers
 */
function isFlat(headers) {
  return Object.values(headers).every(
    (value) => typeof value !== 'object' || value === null,
  );
}

module.exports = { Deliveries, Delivery };
