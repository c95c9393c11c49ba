'use strict';

// An ES module imports by name what require() gives.

const test = require('ava');

const required = require('../..');

test('each export can be imported by its name', async (t) => {
  const { default: all, ...imported } = await import('../../index.js');
  t.is(all, required);
  for (const [name, value] of Object.entries(required)) {
    t.is(imported[name], value, name);
  }
});
