'use strict';

// npm run test:faults: what happens to messages when brokers, networks,
// workers and browsers fail, under load. `npm run test:faults -- loss line`
// runs these files alone.

const fs = require('node:fs');
const path = require('node:path');
const { prepare } = require('./prepare');
const { shareEnv, startRabbit } = require('./rabbitmq');
const { root } = require('./lib/project');
const { step, script, Problem } = require('./lib/steps');
const suites = require('./lib/suites');

const FOLDER = path.join('__test__', 'faults');
const SUFFIX = '.test.js';

script(async () => {
  const files = fs
    .readdirSync(path.join(root, FOLDER))
    .filter((name) => name.endsWith(SUFFIX))
    .map((name) => name.slice(0, -SUFFIX.length));
  const wanted = process.argv.slice(2);
  const unknown = wanted.find((name) => !files.includes(name));
  if (unknown) {
    throw new Problem(
      `There is no file "${unknown}": say ${files.join(', ')}.`,
    );
  }
  await prepare();
  step('starting RabbitMQ');
  const rabbit = await startRabbit();
  step(`RabbitMQ ${rabbit.version} answers on port ${rabbit.port}`);
  const env = shareEnv(rabbit);
  const chosen = wanted.map((name) => path.join(FOLDER, name + SUFFIX));
  const config = path.join(FOLDER, 'ava.config.cjs');
  const total = await suites.runAll({
    faults: () => suites.ava(env, { args: ['--config', config, ...chosen] }),
  });
  await rabbit.stop();
  suites.conclude('npm run test:faults', total);
});
