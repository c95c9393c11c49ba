'use strict';

const { decodeHeaders, decodeText, OCTETS } = require('./message-codec');

// In step with src/node/delivery_codec.rs.
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
const DIGITS = 5;
const REDELIVERED = 1;
const STATUS = 2;
const UTF8 = 4;
const REPEATED = 8;
const PASSING = 2 ** 28;
/** Headers that may come back and need not be encoded again. */
const REMEMBERED = 64;
/** How many times its own size a part of a batch may hold of it. */
const MOST_HELD = 4;

/**
 * A text of the native side's dictionary; for a header table, what it says.
 *
 * @typedef {object} Entry
 * @property {string} text
 * @property {number} id
 * @property {Deliveries | null} owner to which the headers may come back
 * @property {number} generation of its dictionary
 * @property {Record<string, any> | null | undefined} template the headers;
 *   null for those that are read anew each time: they cannot be copied by their
 *   fields alone, or come but once
 * @property {number} size fields of the template
 */

/**
 * The deliveries of one gateway or client as the native side hands them over:
 * a batch in one string, and texts that repeat as entries of a dictionary.
 */
class Deliveries {
  #returning;
  /** @type {Entry[]} */
  #entries = [];
  #generation = 0;
  /** The headers that were handed out last, in a ring. @type {object[]} */
  #given = [];
  /** What they were made from. @type {Entry[]} */
  #givenFrom = [];
  #last = 0;

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
   * @param {string} text how many deliveries there are, numbers of all, then
   *   their bodies
   * @param {Buffer | null} [octets] the bodies, where one of them is not ASCII
   * @param {string[]} [fresh] texts that are new
   * @param {number} [first] the entry of the first of them
   * @param {string[]} [passing] header tables that this batch alone refers to
   * @returns {Delivery[]}
   */
  open(text, octets, fresh = [], first, passing = []) {
    if (first === 0) {
      this.#entries = [];
      this.#generation += 1;
    }
    const entries = this.#entries;
    const owner = this.#returning ? this : null;
    const generation = this.#generation;
    for (const text of fresh) {
      const id = entries.length;
      entries.push(makeEntry(text, id, owner, generation, undefined));
    }
    const own = passing.map((text) =>
      makeEntry(text, -1, null, generation, null),
    );
    const deliveries = [];
    const count = numberAt(text, 0);
    let start = octets ? 0 : (1 + count * WORDS) * DIGITS;
    for (let index = 0; index < count; index += 1) {
      const delivery = new Delivery(text, octets, index, start, entries, own);
      deliveries.push(delivery);
      start = delivery.end;
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
    const entry = this.#entryBehind(headers);
    if (entry?.generation !== this.#generation) return undefined;
    const given = /** @type {Record<string, unknown>} */ (headers);
    const template = /** @type {Record<string, unknown>} */ (entry.template);
    let count = 0;
    for (const name in given) {
      if (given[name] !== template[name]) return undefined;
      count += 1;
    }
    return count === entry.size ? entry.id : undefined;
  }

  /**
   * About how many bytes headers take.
   *
   * @param {string | number} headers as JSON, or as the number of an entry
   */
  sizeOf(headers) {
    return typeof headers === 'string'
      ? headers.length
      : this.#entries[headers].text.length;
  }

  /**
   * Remembers headers that are handed out, for a while: most come back at once.
   *
   * @param {object} headers
   * @param {Entry} entry
   */
  remember(headers, entry) {
    this.#last = (this.#last + 1) % REMEMBERED;
    this.#given[this.#last] = headers;
    this.#givenFrom[this.#last] = entry;
  }

  /**
   * @param {object} headers
   * @returns {Entry | undefined}
   */
  #entryBehind(headers) {
    for (let age = 0; age < REMEMBERED; age += 1) {
      const index = (this.#last - age + REMEMBERED) % REMEMBERED;
      if (this.#given[index] === headers) return this.#givenFrom[index];
    }
    return undefined;
  }
}

/**
 * @param {string} text
 * @param {number} id
 * @param {Entry['owner']} owner
 * @param {number} generation
 * @param {Entry['template']} template
 * @returns {Entry}
 */
function makeEntry(text, id, owner, generation, template) {
  return { text, id, owner, generation, template, size: 0 };
}

/**
 * @param {string} text
 * @param {number} at where the number begins
 */
function numberAt(text, at) {
  const low =
    text.charCodeAt(at) |
    (text.charCodeAt(at + 1) << 7) |
    (text.charCodeAt(at + 2) << 14) |
    (text.charCodeAt(at + 3) << 21);
  return low + text.charCodeAt(at + 4) * 2 ** 28;
}

/** One delivery of a batch; what nobody asks for is not made. */
class Delivery {
  #text;
  #octets;
  #at;
  #start;
  #bodyEnd;
  #entries;
  #headers;
  /** @type {Buffer | undefined} */
  #raw;

  /**
   * @param {string} text
   * @param {Buffer | null | undefined} octets
   * @param {number} index within the batch
   * @param {number} start of its body
   * @param {Entry[]} entries
   * @param {Entry[]} own headers of this batch alone
   */
  constructor(text, octets, index, start, entries, own) {
    this.#text = text;
    this.#octets = octets;
    this.#at = (1 + index * WORDS) * DIGITS;
    this.#start = start;
    this.#bodyEnd = this.#number(BODY_END);
    this.#entries = entries;
    const headers = this.#number(HEADERS);
    this.#headers =
      headers < PASSING ? entries[headers] : own[headers - PASSING];
  }

  /** @param {number} which */
  #number(which) {
    return numberAt(this.#text, this.#at + which * DIGITS);
  }

  /** @param {number} which */
  #entry(which) {
    return this.#entries[this.#number(which)];
  }

  /** Where the next one begins. */
  get end() {
    return this.#number(END);
  }

  get bytes() {
    return this.#bodyEnd - this.#start;
  }

  get raw() {
    this.#raw ??= this.#octets
      ? ownOctets(this.#octets, this.#start, this.#bodyEnd)
      : Buffer.from(this.#text.slice(this.#start, this.#bodyEnd), 'latin1');
    return this.#raw;
  }

  /** @returns {string | undefined} */
  get messageId() {
    const { end } = this;
    if (end === this.#bodyEnd) return undefined;
    return this.#octets
      ? this.#octets.toString('utf8', this.#bodyEnd, end)
      : ownText(this.#text, this.#bodyEnd, end);
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

  /** Of the broker's connection; its tags count within it. */
  get session() {
    return this.#number(SESSION);
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
      this.session,
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
    const text = this.#octets
      ? this.#octets.toString('utf8', this.#start, this.#bodyEnd)
      : this.#text.slice(this.#start, this.#bodyEnd);
    const message = decodeText(text, contentType);
    return message === text && !this.#octets
      ? ownText(this.#text, this.#start, this.#bodyEnd)
      : message;
  }

  /**
   * Each caller gets an object of its own, which it may change.
   *
   * @returns {Record<string, any>}
   */
  headers() {
    const entry = this.#headers;
    if (entry.template === undefined) {
      const headers = decodeHeaders(entry.text);
      entry.template = isFlat(headers) ? headers : null;
      entry.size = Object.keys(headers).length;
    }
    if (entry.template === null) return decodeHeaders(entry.text);
    const headers = { ...entry.template };
    entry.owner?.remember(headers, entry);
    return headers;
  }
}

/**
 * A part of a batch that does not hold all of it, or not much more than
 * itself: V8 makes no copy of a slice.
 *
 * @param {string} batch ASCII
 * @param {number} start
 * @param {number} end
 */
function ownText(batch, start, end) {
  const text = batch.slice(start, end);
  return isSmall(text, batch)
    ? Buffer.from(text, 'latin1').toString('latin1')
    : text;
}

/**
 * The same of octets.
 *
 * @param {Buffer} batch
 * @param {number} start
 * @param {number} end
 */
function ownOctets(batch, start, end) {
  const octets = batch.subarray(start, end);
  return isSmall(octets, batch) ? Buffer.from(octets) : octets;
}

/**
 * @param {{ length: number }} part
 * @param {{ length: number }} batch
 */
function isSmall(part, batch) {
  return part.length * MOST_HELD < batch.length;
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
