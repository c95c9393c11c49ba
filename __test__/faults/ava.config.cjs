'use strict';

// One file and one case after the other: each has the machine for itself.
module.exports = {
  files: ['__test__/faults/*.test.js'],
  timeout: '6m',
  concurrency: 1,
  serial: true,
  workerThreads: false,
};
