'use strict';

// Who sent what, what came of it, and what that says: nothing is lost, nothing
// is out of order, and nothing comes twice without saying so.

/** Numbered messages in one direction, a row of numbers a key. */
class Way {
  /** @param {string} name */
  constructor(name) {
    this.name = name;
    /**
     * @type {Map<string, { sent: number[], seen: boolean[], max: number,
     *   ids: (string | undefined)[] }>} `sent` holds times, NaN for what was
     *   not taken
     */
    this.rows = new Map();
    this.sent = 0;
    this.refused = 0;
    /** All that came. */
    this.received = 0;
    /** Without what came again. */
    this.distinct = 0;
    this.doubled = 0;
    /** Of these, without a mark that it was delivered before. */
    this.unmarked = 0;
    /** Seen for the first time, without a mark, after a later one. */
    this.disorder = 0;
    /** Redelivered with another id. */
    this.renamed = 0;
    /** An id that another message had. */
    this.borrowed = 0;
    /** @type {Map<string, string>} */
    this.owners = new Map();
    /** Those that seem to break a rule, for the eye. @type {string[]} */
    this.notes = [];
  }

  /** @param {string} key */
  row(key) {
    let row = this.rows.get(key);
    if (!row) {
      row = { sent: [], seen: [], max: -1, ids: [] };
      this.rows.set(key, row);
    }
    return row;
  }

  /** The next number of this key, which is sent now. @param {string} key */
  send(key) {
    const { length } = this.row(key).sent;
    this.noteSent(key, length);
    return length;
  }

  /** @param {string} key @param {number} n @param {number} [at] */
  noteSent(key, n, at = Date.now()) {
    this.row(key).sent[n] = at;
    this.sent += 1;
  }

  /** It was not taken, and whoever sent it was told. @param {string} key @param {number} n */
  refuse(key, n) {
    this.row(key).sent[n] = NaN;
    this.refused += 1;
  }

  /**
   * @param {string} key
   * @param {number} n
   * @param {{ marked?: boolean, id?: string }} [how]
   */
  got(key, n, { marked = false, id } = {}) {
    const row = this.row(key);
    this.received += 1;
    if (row.seen[n]) {
      this.doubled += 1;
      if (!marked) this.unmarked += 1;
      if (row.ids[n] !== id) this.#note('renamed', key, n);
      return;
    }
    row.seen[n] = true;
    row.ids[n] = id;
    this.distinct += 1;
    if (id !== undefined) {
      if (this.owners.has(id)) this.#note('borrowed', key, n);
      this.owners.set(id, `${key} ${n}`);
    }
    if (n < row.max && !marked) this.#note('disorder', key, n);
    row.max = Math.max(row.max, n);
  }

  /**
   * @param {'renamed' | 'borrowed' | 'disorder'} what
   * @param {string} key
   * @param {number} n
   */
  #note(what, key, n) {
    this[what] += 1;
    const { max } = this.row(key);
    if (this.notes.length < 10)
      this.notes.push(`${what}: ${key} ${n} (${max})`);
  }

  /** How many were taken and have not come. */
  get missing() {
    return this.sent - this.refused - this.distinct;
  }

  /** The last one that was taken has come for each key. */
  get caughtUp() {
    for (const { sent, seen } of this.rows.values()) {
      const last = sent.findLastIndex((at) => !Number.isNaN(at));
      if (last >= 0 && !seen[last]) return false;
    }
    return true;
  }

  /**
   * What was taken in that time (of Date.now()) and has not come.
   *
   * @param {{ since?: number, until?: number }} [span]
   */
  lost({ since = 0, until = Infinity } = {}) {
    const lost = [];
    for (const [key, { sent, seen }] of this.rows) {
      for (const [n, at] of sent.entries()) {
        if (!seen[n] && at >= since && at <= until) lost.push({ key, n, at });
      }
    }
    return lost;
  }
}

class Ledger {
  constructor() {
    this.up = new Way('browser to worker');
    this.down = new Way('worker to browser');
    this.ways = [this.up, this.down];
  }

  table() {
    const head =
      'way                     sent  refused  received  doubled  unmarked     lost  disorder';
    const lines = this.ways.map((way) =>
      [
        way.name.padEnd(18),
        ...[way.sent, way.refused, way.received, way.doubled, way.unmarked],
        ...[way.missing, way.disorder],
      ]
        .map((cell) => String(cell).padStart(9))
        .join(' '),
    );
    const notes = this.ways.flatMap(({ notes }) => notes);
    return [head, ...lines, ...notes].join('\n');
  }

  /**
   * Nothing is lost, nothing is out of order, and what comes again comes to
   * workers alone, with a mark.
   *
   * @param {import('ava').ExecutionContext} t
   * @param {{ since?: number, until?: number, overtaken?: boolean }} [span] else
   *   of all that was sent; overtaken: what the broker refused may be overtaken,
   *   and browsers cannot see marks
   */
  isWhole(t, span) {
    t.log(this.table());
    for (const way of this.ways) {
      const lost = way.lost(span);
      t.is(lost.length, 0, `${way.name}, lost: ${excerpt(lost)}`);
      const mayDiffer = span?.overtaken && way === this.down;
      t.true(
        mayDiffer || way.disorder === 0,
        `${way.name}, out of order: ${way.notes}`,
      );
      t.is(way.renamed, 0, `${way.name}, ids that changed: ${way.notes}`);
      t.is(way.borrowed, 0, `${way.name}, ids used twice: ${way.notes}`);
    }
    t.is(this.up.unmarked, 0, `${this.up.name}, again without a mark`);
    t.is(this.down.doubled, 0, `${this.down.name}, again`);
  }
}

/** @param {{ key: string, n: number }[]} lost */
function excerpt(lost) {
  return lost
    .slice(0, 10)
    .map(({ key, n }) => `${key} ${n}`)
    .join(', ');
}

module.exports = { Ledger };
