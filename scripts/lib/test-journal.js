'use strict';

// Which test files and tests have begun and which have ended. The processes of
// the tests append to one file, so that `npm test` can name what had not ended
// after such a process has crashed or had to be killed.

const fs = require('node:fs');
const path = require('node:path');
const { root } = require('./project');

/** The environment variable with the name of the file. */
const VARIABLE = 'MESSAGE_ENGIN_TEST_JOURNAL';

/**
 * @param {'begin' | 'end'} event
 * @param {string} file of the test
 * @param {string} [title] without it, the process of the file is meant
 */
function note(event, file, title = '') {
  const journal = process.env[VARIABLE];
  if (!journal) return;
  const name = path.relative(root, file);
  fs.appendFileSync(journal, `${JSON.stringify([event, name, title])}\n`);
}

/**
 * What has begun and not ended, a line each. A file is named alone when no test
 * of it was running.
 *
 * @param {string} journal
 * @returns {string[]}
 */
function unfinished(journal) {
  /** @type {Map<string, Set<string>>} */
  const open = new Map();
  for (const line of fs.readFileSync(journal, 'utf8').split('\n')) {
    if (!line) continue;
    const [event, file, title] = JSON.parse(line);
    const titles = open.get(file) ?? new Set();
    open.set(file, titles);
    if (event === 'begin') titles.add(title);
    else titles.delete(title);
  }
  return [...open].flatMap(([file, titles]) => {
    const tests = [...titles].filter(Boolean);
    if (tests.length > 0) return tests.map((title) => `${file}: ${title}`);
    return titles.size > 0 ? [`${file}: its process, outside of a test`] : [];
  });
}

/**
 * What keeps this process alive: the resources of Node, and the handles of
 * native code, which Node does not count among them. An open client or gateway
 * of message-engin is such a handle.
 */
function openResources() {
  /** @type {any} */
  const { report } = process;
  // Newer Nodes then look up no names of peers.
  report.excludeNetwork = true;
  const { libuv } = report.getReport();
  const names = [
    ...process.getActiveResourcesInfo(),
    ...libuv
      .filter((/** @type {any} */ h) => h.type === 'async' && h.is_referenced)
      .map(() => 'NativeHandle'),
  ];
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].map(([name, count]) => `${count} ${name}`).join(', ');
}

module.exports = { VARIABLE, note, openResources, unfinished };
