'use strict';

// Loaded by Jest: notes which tests run, and ends a Jest that does not end.

const { note, openResources } = require('./test-journal');

const EXIT_LIMIT = 10_000;

/** @typedef {{ path: string }} TestFile */

/** @param {{ ancestorTitles: string[], title: string }} test */
const title = (test) => [...test.ancestorTitles, test.title].join(' › ');

class JournalReporter {
  constructor() {
    /** What each file has left open, and those with failures. @type {string[]} */
    this.suspects = [];
  }

  onTestFileStart(/** @type {TestFile} */ { path }) {
    note('begin', path);
    this.before = openResources();
  }

  onTestCaseStart(/** @type {TestFile} */ { path }, /** @type {any} */ test) {
    note('begin', path, title(test));
  }

  onTestCaseResult(/** @type {TestFile} */ { path }, /** @type {any} */ test) {
    note('end', path, title(test));
    if (test.status !== 'failed') return;
    this.suspects.push(`${path}: ${title(test)}: has failed`);
  }

  onTestFileResult(/** @type {TestFile} */ { path }) {
    note('end', path);
    const after = openResources();
    if (after === this.before) return;
    this.suspects.push(`${path}: open: ${after}, before it: ${this.before}`);
  }

  onRunComplete() {
    setTimeout(() => {
      console.error('Jest does not exit although its tests are over');
      for (const line of this.suspects) console.error(line);
      process.exit(1);
    }, EXIT_LIMIT).unref();
  }
}

module.exports = JournalReporter;
