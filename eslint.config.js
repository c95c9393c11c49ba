'use strict';

const js = require('@eslint/js');
const globals = require('globals');

module.exports = [
  { ignores: ['binding.js', 'target/', 'fuzz/target/', 'npm/'] },
  js.configs.recommended,
  {
    files: ['**/*.js', '**/*.cjs'],
    languageOptions: {
      ecmaVersion: 2023,
      sourceType: 'commonjs',
      globals: globals.node,
    },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      strict: ['error', 'global'],
      eqeqeq: ['error', 'always', { null: 'ignore' }],
      'no-var': 'error',
      'prefer-const': 'error',
      // A keyFn may be a generator function and have nothing to wait for.
      'require-yield': 'off',
    },
  },
  {
    files: ['__test__/jest/**/*.js', '__test__/fixtures/planted/jest/*.js'],
    languageOptions: { globals: globals.jest },
  },
  {
    files: ['examples/**/public/**/*.js'],
    languageOptions: { sourceType: 'script', globals: globals.browser },
    rules: { strict: ['error', 'safe'] },
  },
];
