'use strict';

// One file and one case after the other: each has the machine for itself.
module.exports = {
  files: ['__test__/faults/*.test.js'],
  // The limits of each test and file are those of limits.js.
  require: [
    ['./__test__/support/limits.js', { test: 240, file: 600, exit: 75 }],
  ],
  timeout: '10m',
  concurrency: 1,
  serial: true,
  workerThreads: false,
};
