'use strict';

// npm test: makes the clone ready, starts a RabbitMQ for all tests to share,
// and runs them. `npm test -- cargo jest` runs these suites alone.

const { prepare } = require('./prepare');
const { shareEnv, startRabbit } = require('./rabbitmq');
const { step, script, Problem } = require('./lib/steps');
const suites = require('./lib/suites');

const SUITES = /** @type {const} */ (['cargo', 'ava', 'jest']);

script(async () => {
  const wanted = process.argv.slice(2);
  const unknown = wanted.find((name) => !SUITES.some((s) => s === name));
  if (unknown) {
    throw new Problem(
      `There is no suite "${unknown}": say ${SUITES.join(', ')}.`,
    );
  }
  await prepare();
  step('starting RabbitMQ');
  const rabbit = await startRabbit();
  step(`RabbitMQ ${rabbit.version} answers on port ${rabbit.port}`);
  const env = shareEnv(rabbit);
  const chosen = SUITES.filter((s) => !wanted.length || wanted.includes(s));
  const total = await suites.runAll(
    Object.fromEntries(chosen.map((name) => [name, () => suites[name](env)])),
  );
  await rabbit.stop();
  suites.conclude('npm test', total);
});
