'use strict';

// The licence texts of everything that is linked into an addon. They ask to be
// shipped with it.

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { root } = require('./project');
const { Problem } = require('./steps');

const TEXT = /^(licen[cs]e|copying|copyright|notice|unlicense)/i;

/**
 * @typedef {object} Crate
 * @property {string} id
 * @property {string} name
 * @property {string} version
 * @property {string} license
 * @property {string[]} authors
 * @property {string} manifest_path
 * @property {{ kind: string[] }[]} targets
 */

/** @param {string} command @param {string[]} args */
function output(command, args) {
  const options = /** @type {const} */ ({ cwd: root, encoding: 'utf8' });
  return execFileSync(command, args, { ...options, maxBuffer: 2 ** 28 });
}

/**
 * The crates that are linked into the addon for a target: not those that run
 * while it is built.
 *
 * @param {string} target
 * @returns {Crate[]}
 */
function linkedCrates(target) {
  const args = ['metadata', '--format-version', '1', '--locked'];
  const { packages, resolve } = JSON.parse(
    output('cargo', [...args, '--filter-platform', target]),
  );
  const crates = new Map(
    packages.map((/** @type {Crate} */ crate) => [crate.id, crate]),
  );
  const nodes = new Map(
    resolve.nodes.map((/** @type {any} */ node) => [node.id, node]),
  );
  const linked = new Set();
  const visit = (/** @type {string} */ id) => {
    const isMacro = crates
      .get(id)
      .targets.some((/** @type {any} */ { kind }) =>
        kind.includes('proc-macro'),
      );
    if (linked.has(id) || isMacro) return;
    linked.add(id);
    for (const { pkg, dep_kinds: kinds } of nodes.get(id).deps) {
      if (kinds.some((/** @type {any} */ { kind }) => kind === null))
        visit(pkg);
    }
  };
  visit(resolve.root);
  linked.delete(resolve.root);
  return [...linked]
    .map((id) => crates.get(id))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** The licence texts of a crate. @param {string} folder */
function textsIn(folder) {
  return fs
    .readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isFile() && TEXT.test(entry.name))
    .map(({ name }) => fs.readFileSync(path.join(folder, name), 'utf8').trim());
}

/**
 * What stands for the text of a crate that ships none: it can be had under the
 * licence of this package, so its authors and that text will do.
 *
 * @param {Crate} crate
 */
function mitText({ name, license, authors }) {
  if (!/\bMIT\b/.test(license)) {
    throw new Error(`${name} (${license}) ships no licence text`);
  }
  const holders = authors.join(', ') || `the authors of ${name}`;
  return fs
    .readFileSync(path.join(root, 'LICENSE'), 'utf8')
    .replace(/^Copyright .*$/m, `Copyright (c) ${holders}`)
    .trim();
}

/** The licences of the standard library, a page that comes with the compiler. */
function standardLibrary() {
  const sysroot = output('rustc', ['--print', 'sysroot']).trim();
  const name = path.join('share', 'doc', 'rust', 'COPYRIGHT-library.html');
  const file = path.join(sysroot, name);
  if (!fs.existsSync(file)) {
    throw new Problem(
      `${file} is missing, the licences of Rust's standard library: use a Rust that rustup has installed`,
    );
  }
  return fs.readFileSync(file, 'utf8');
}

/**
 * The licences of the linked crates, in one text.
 *
 * @param {string} target
 */
function crateLicences(target) {
  const parts = linkedCrates(target).map((crate) => {
    const texts = textsIn(path.dirname(crate.manifest_path));
    return {
      title: `${crate.name} ${crate.version}, ${crate.license}`,
      texts: texts.length > 0 ? texts : [mitText(crate)],
    };
  });
  // Many crates share a text, but for how its lines are broken.
  /** @type {Map<string, { titles: string[], text: string }>} */
  const blocks = new Map();
  for (const { title, texts } of parts) {
    for (const text of texts) {
      const key = text.replace(/\s+/g, ' ');
      const block = blocks.get(key) ?? { titles: [], text };
      block.titles.push(title);
      blocks.set(key, block);
    }
  }
  return [
    'The crates that are linked into the addon of this package, and their licences.\n',
    ...Array.from(
      blocks.values(),
      ({ titles, text }) => `${titles.join('\n')}\n\n${text}\n`,
    ),
  ].join(`\n${'-'.repeat(80)}\n\n`);
}

/** The files that are shipped with each addon. */
const LICENCE_FILES = /** @type {const} */ ({
  crates: 'THIRD-PARTY-LICENSES',
  standardLibrary: 'THIRD-PARTY-LICENSES-STD.html',
});

/**
 * @param {string} target
 * @returns {Record<string, string>} texts by file name
 */
function licenceTexts(target) {
  return {
    [LICENCE_FILES.crates]: crateLicences(target),
    [LICENCE_FILES.standardLibrary]: standardLibrary(),
  };
}

module.exports = { LICENCE_FILES, licenceTexts, linkedCrates };
