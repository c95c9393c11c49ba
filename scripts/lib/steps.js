'use strict';

const started = process.hrtime.bigint();

function elapsed() {
  const seconds = Number(process.hrtime.bigint() - started) / 1e9;
  return `${seconds.toFixed(1).padStart(6)} s`;
}

/**
 * One line of progress.
 *
 * @param {string} text
 */
function step(text) {
  console.log(`[${elapsed()}] ${text}`);
}

/** What a user can act on: printed as its one sentence, without a stack. */
class Problem extends Error {}

/**
 * Runs a script's main function, and ends with a sentence when it fails.
 *
 * @param {() => unknown} main
 */
async function script(main) {
  try {
    await main();
  } catch (error) {
    const text = error instanceof Problem ? error.message : error;
    console.error(`[${elapsed()}] FAILED:`, text);
    process.exit(1);
  }
}

module.exports = { step, script, Problem };
