'use strict';

// Several Jest test files in one process use the package, and Jest ends by
// itself afterwards.

const { execFile } = require('node:child_process');
const path = require('node:path');
const { promisify } = require('node:util');
const test = require('ava');

const jest = path.join(
  path.dirname(require.resolve('jest/package.json')),
  'bin/jest.js',
);
const config = path.join(__dirname, '..', 'jest', 'jest.config.js');

for (const options of [
  ['--runInBand'],
  ['--detectOpenHandles'],
  // Alone: what is opened once a process shows in its first file only.
  ['--detectOpenHandles', 'handles'],
]) {
  test(`jest ${options.join(' ')}`, async (t) => {
    t.timeout(250_000);
    const args = [jest, '--config', config, ...options];
    // It rejects for a test that fails, and for a Jest that does not end.
    const { stderr } = await promisify(execFile)(process.execPath, args, {
      timeout: 200_000,
    });
    t.regex(stderr, /^Test Suites: +(\d+) passed, \1 total$/m);
    t.notRegex(stderr, /did not exit|open handle|leak/i);
  });
}
