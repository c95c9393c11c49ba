'use strict';

// npm run bench: measures message-engin beside what else could do its job, and
// beside the least that the job can cost. README.md says what and how.

const { startRabbit } = require('../scripts/rabbitmq');
const { script, step } = require('../scripts/lib/steps');
const { readOptions } = require('./lib/options');
const { prepare } = require('./lib/prepare');
const { family, machine } = require('./lib/proc');
const { measureAll } = require('./lib/plan');
const { report } = require('./lib/report');

script(async () => {
  const options = readOptions(process.argv.slice(2));
  const notes = await prepare(options.package);
  for (const note of notes) step(`NOTE: ${note}`);
  step('starting RabbitMQ');
  const rabbit = await startRabbit();
  step(`RabbitMQ ${rabbit.version} answers on port ${rabbit.port}`);
  const brokerPids = rabbit.pid ? family(rabbit.pid) : [];
  const about = { ...machine(), rabbitmq: rabbit.version };
  const measured = await measureAll({ rabbit, brokerPids, options }, notes);
  await rabbit.stop();
  await report(options, about, measured);
});
