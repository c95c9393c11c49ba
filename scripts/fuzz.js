'use strict';

// npm run fuzz [-- target ...] [-- --seconds 600]: each fuzz target for a
// while. It needs cargo-fuzz and a nightly toolchain and installs neither.

const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { root, which } = require('./lib/project');
const { run } = require('./lib/run');
const { step, script, Problem } = require('./lib/steps');

const FOLDER = path.join(root, 'fuzz');
const DEFAULT_SECONDS = 60;
/** Bytes. Whatever can be found is found in small inputs, and sooner. */
const MAX_INPUT = 4096;
const LIMITS = [
  // Seconds for one input.
  '-timeout=10',
  // MiB in all, and MiB in one piece.
  '-rss_limit_mb=2048',
  '-malloc_limit_mb=256',
];

/** The targets, by their seeds. */
function allTargets() {
  return fs.readdirSync(path.join(FOLDER, 'seeds')).sort();
}

function readArguments() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { seconds: { type: 'string' } },
  });
  const seconds = Number(values.seconds ?? DEFAULT_SECONDS);
  if (!Number.isInteger(seconds) || seconds < 1) {
    throw new Problem('--seconds must be a number of seconds above 0.');
  }
  const targets = allTargets();
  const unknown = positionals.find((name) => !targets.includes(name));
  if (unknown !== undefined) {
    throw new Problem(
      `There is no target ${unknown}; there are: ${targets.join(', ')}.`,
    );
  }
  return { seconds, targets: positionals.length ? positionals : targets };
}

async function checkTools() {
  if (!which('cargo-fuzz')) {
    throw new Problem(
      'cargo-fuzz is needed: cargo install cargo-fuzz, and see that it is on PATH.',
    );
  }
  const nightly = await run('cargo', ['+nightly', '--version'], {
    quiet: true,
  });
  if (!nightly.ok) {
    throw new Problem(
      'A nightly toolchain is needed, for its sanitizers: rustup toolchain install nightly.',
    );
  }
}

/** @param {string} name */
async function build(name) {
  const args = ['+nightly', 'fuzz', 'build', name];
  const { ok } = await run('cargo', args, { prefix: '  build | ' });
  if (!ok) throw new Problem(`${name} did not build, for the reason above.`);
}

/**
 * @param {string} name
 * @param {number} seconds
 * @returns {Promise<string>} what came of it, in a few words
 */
async function fuzz(name, seconds) {
  // What is found on the way stays in corpus/, which git does not see, for the
  // next run; only the seeds are committed.
  const corpus = path.join(FOLDER, 'corpus', name);
  fs.mkdirSync(corpus, { recursive: true });
  const { ok, lines } = await run(
    'cargo',
    [
      ...['+nightly', 'fuzz', 'run', name, corpus],
      ...[path.join(FOLDER, 'seeds', name), '--'],
      `-max_total_time=${seconds}`,
      `-max_len=${MAX_INPUT}`,
      '-print_final_stats=1',
      ...LIMITS,
    ],
    { prefix: `  ${name} | ` },
  );
  const count = /number_of_executed_units: *(\d+)/.exec(lines.join('\n'))?.[1];
  if (ok) return `${count ?? 'no'} inputs, nothing found`;
  process.exitCode = 1;
  const file = /Test unit written to (\S+)/.exec(lines.join('\n'))?.[1];
  return `FAILED${file ? ` on ${path.relative(root, file)}` : ''}`;
}

script(async () => {
  const { seconds, targets } = readArguments();
  await checkTools();
  const results = [];
  for (const name of targets) {
    step(`${name}: building`);
    await build(name);
    step(`${name}: running for ${seconds} s`);
    results.push(`${name}: ${await fuzz(name, seconds)}`);
  }
  for (const result of results) step(result);
});
