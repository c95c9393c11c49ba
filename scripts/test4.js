'use strict';

// npm run test:rabbitmq4: the tests on RabbitMQ 4, once as it comes and once
// refusing transient shared queues, as RabbitMQ 4.3 does by default.

const { prepare } = require('./prepare');
const { shareEnv, startRabbit } = require('./rabbitmq');
const { ensureRoot, isAvailable, Unavailable } = require('./rabbitmq4');
const { step, script } = require('./lib/steps');
const suites = require('./lib/suites');

/** Also read by tests that start a broker of their own, through startRabbit. */
const modes = ['permitted', 'refused'].map((mode) => ({
  mode,
  env: {
    MESSAGE_ENGIN_TEST_RABBITMQ: '4',
    MESSAGE_ENGIN_TEST_TRANSIENT_QUEUES: mode,
  },
}));

/** @returns {Promise<string | null>} why RabbitMQ 4 cannot run here */
async function obstacle() {
  const { ok, why } = await isAvailable();
  if (!ok) return `RabbitMQ 4 cannot run here: ${why}.`;
  try {
    await ensureRoot();
    return null;
  } catch (error) {
    if (error instanceof Unavailable) return error.message;
    throw error;
  }
}

script(async () => {
  const why = await obstacle();
  if (why) {
    console.log(`SKIPPED: ${why}`);
    return;
  }
  await prepare();
  const total = { passed: 0, failed: 0 };
  for (const { mode, env } of modes) {
    const rabbit = await startRabbit({
      version: '4',
      permitTransientQueues: mode === 'permitted',
    });
    step(`RabbitMQ ${rabbit.version}, transient shared queues ${mode}`);
    const shared = { ...env, ...shareEnv(rabbit) };
    const { passed, failed } = await suites.runAll({
      [`cargo, ${mode}`]: () => suites.cargo(shared),
      [`ava, ${mode}`]: () => suites.ava(shared),
    });
    total.passed += passed;
    total.failed += failed;
    await rabbit.stop();
  }
  suites.conclude('npm run test:rabbitmq4', total);
});
