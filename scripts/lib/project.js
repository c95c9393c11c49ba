'use strict';

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const root = path.resolve(__dirname, '..', '..');

/**
 * The JavaScript file behind a command of an installed package. Running it
 * with this very Node spares npx, which would ask the network for a package
 * that is not installed.
 *
 * @param {string} packageName
 * @param {string} [command]
 */
function bin(packageName, command = packageName) {
  const folder = path.join(root, 'node_modules', packageName);
  const text = fs.readFileSync(path.join(folder, 'package.json'), 'utf8');
  const commands = JSON.parse(text).bin;
  return path.join(
    folder,
    typeof commands === 'string' ? commands : commands[command],
  );
}

/** Where downloads are kept between runs: outside the tree. */
function cacheDir() {
  const dir =
    process.env.MESSAGE_ENGIN_CACHE ||
    path.join(os.tmpdir(), 'message-engin-cache');
  fs.mkdirSync(dir, { recursive: true });
  return dir;
}

/**
 * Looks through PATH and some further folders.
 *
 * @param {string} command
 * @param {string[]} [folders] looked at first
 * @returns {string | null}
 */
function which(command, folders = []) {
  const inPath = (process.env.PATH || '').split(path.delimiter);
  for (const folder of [...folders, ...inPath, '/usr/sbin', '/sbin']) {
    if (!folder) continue;
    const file = path.join(folder, command);
    try {
      fs.accessSync(file, fs.constants.X_OK);
      return file;
    } catch {
      continue;
    }
  }
  return null;
}

/**
 * The command that runs npm, also where it is not on PATH: npm tells what it
 * runs where it is itself.
 *
 * @returns {string[]}
 */
function npmCommand() {
  const npm = process.env.npm_execpath;
  return npm?.endsWith('.js') ? [process.execPath, npm] : ['npm'];
}

const isRoot = () => process.getuid?.() === 0;

module.exports = { root, bin, cacheDir, npmCommand, which, isRoot };
