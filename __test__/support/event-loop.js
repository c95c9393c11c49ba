'use strict';

// A process whose event loop has another user beside the package.

const { run } = require('./children');

/**
 * @param {import('ava').ExecutionContext} t
 * @param {string} what the other user does
 * @param {Record<string, any>} conf
 */
function share(t, what, conf) {
  const env = { MQ_CONF: JSON.stringify(conf), WHAT: what };
  return run(t, 'processes/event-loop.js', env);
}

/**
 * @param {import('ava').ExecutionContext} t
 * @param {ReturnType<typeof share>} script
 */
async function endsWell(t, script) {
  t.deepEqual(await script.end(), { code: 0, signal: null });
  t.is(script.stderr, '');
}

/**
 * Other callbacks get their turn while messages come faster than they are
 * heard.
 *
 * @param {import('ava').ExecutionContext} t
 * @param {Record<string, any>} conf
 */
async function flood(t, conf) {
  const script = share(t, 'flood', conf);
  const { answers, turns } = await script.tells('flood');
  t.is(answers, 20_000);
  t.true(turns > 10, `${turns} turns`);
  await endsWell(t, script);
}

module.exports = { endsWell, flood, share };
