'use strict';

// What index.d.ts says about options.

const fs = require('node:fs');
const path = require('node:path');

const FILE = path.join(__dirname, '..', '..', 'index.d.ts');

/**
 * The options of an interface, with the defaults that its comments name.
 *
 * @param {string} name
 * @returns {[option: string, fallback: string | undefined][]}
 */
function declaredOptions(name) {
  const [, rest] = fs
    .readFileSync(FILE, 'utf8')
    .split(`\nexport interface ${name} {\n`);
  const [members] = rest.split('\n}\n');
  const found = members.matchAll(
    /^ {2}(?:\/\*\*([^]*?)\*\/\n {2})?(\w+)\??:/gm,
  );
  return Array.from(found, ([, comment = '', option]) => {
    const text = comment.replace(/\s+\*?\s*/g, ' ');
    return [option, /Default ('[^']*'|[\w{}]+(?:\.\d+)?)/.exec(text)?.[1]];
  });
}

/** Their names alone. @param {string} name */
const optionNames = (name) => declaredOptions(name).map(([option]) => option);

module.exports = { declaredOptions, optionNames };
