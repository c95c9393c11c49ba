'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { Problem } = require('../../scripts/lib/steps');
const { GATEWAYS, PARTS } = require('./variants');

const HELP = `npm run bench -- [options]

  --quick             one short round of the main ones: ends in 3 minutes
  --package DIR       measure that copy of message-engin (default: this one)
  --rounds N          default 3, or 1 with --quick
  --parts A,B         of ${PARTS.join(', ')}
  --gateways A,B      of ${Object.keys(GATEWAYS).join(', ')}
  --seconds N         length of a measurement (default 5, or 2.5 with --quick)
  --connections N     for the saturated and paced measurements (default 200)
  --in-flight N       messages on their way when saturated (default 200)
  --idle N            connections held (default: what this machine allows, up
                      to 19,500, or 5,000 with --quick)
  --name NAME         of the results (default full, or quick)
  --minutes N         begin nothing after so long (default 90)`;

// The connections of the load generator are its descriptors and a few more.
const SPARE_FILES = 300;
const MOST_IDLE = 19_500;
// The first 200 are not counted.
const LEAST_IDLE = 400;
const QUICK_SECONDS = 165;

/** @typedef {ReturnType<typeof readOptions>} Options */

/** @param {string[]} argv */
function readOptions(argv) {
  let values;
  try {
    ({ values } = parseArgs({
      args: argv,
      options: {
        quick: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
        ...Object.fromEntries(
          [
            ...['package', 'rounds', 'parts', 'gateways', 'seconds', 'name'],
            ...['connections', 'in-flight', 'idle', 'minutes'],
          ].map((name) => [name, { type: /** @type {const} */ ('string') }]),
        ),
      },
    }));
  } catch (error) {
    throw new Problem(`${error.message}\n\n${HELP}`);
  }
  if (values.help) {
    console.log(HELP);
    process.exit(0);
  }
  const number = (name, fallback) => {
    const value = Number(values[name] ?? fallback);
    if (value > 0) return value;
    throw new Problem(`--${name} must be a number above 0.`);
  };
  const list = (name, all, fallback) => {
    const chosen = values[name]?.split(',') ?? fallback;
    const wrong = chosen.find((one) => !all.includes(one));
    if (!wrong) return all.filter((one) => chosen.includes(one));
    throw new Problem(`--${name}: "${wrong}" is not one of ${all.join(', ')}.`);
  };
  const { quick } = values;
  const seconds = number('seconds', quick ? 2.5 : 5);
  const all = Object.keys(GATEWAYS);
  return {
    quick,
    package: packageFolder(values.package),
    rounds: number('rounds', quick ? 1 : 3),
    parts: list('parts', PARTS, quick ? ['main', 'idle', 'workers'] : PARTS),
    gateways: list(
      'gateways',
      all,
      quick ? all.filter((name) => GATEWAYS[name].main) : all,
    ),
    seconds,
    warmup: Math.min(quick ? 1 : 2, seconds),
    connections: number('connections', 200),
    inFlight: number('in-flight', 200),
    idle: Math.min(
      Math.max(number('idle', quick ? 5000 : MOST_IDLE), LEAST_IDLE),
      mostFiles(),
    ),
    name: values.name ?? (quick ? 'quick' : 'full'),
    deadline:
      Date.now() +
      (quick && !values.minutes ? QUICK_SECONDS : number('minutes', 90) * 60) *
        1000,
  };
}

/** @param {string} [given] */
function packageFolder(given) {
  if (!given) return path.resolve(__dirname, '..', '..');
  const folder = path.resolve(given);
  if (!fs.existsSync(path.join(folder, 'binding.d.ts'))) {
    throw new Problem(`--package: there is no message-engin in ${given}.`);
  }
  return folder;
}

/** How many sockets one process may have. */
function mostFiles() {
  try {
    const limits = fs.readFileSync('/proc/self/limits', 'utf8');
    const soft = /^Max open files\s+(\d+)/m.exec(limits)?.[1];
    return soft ? Number(soft) - SPARE_FILES : Infinity;
  } catch {
    return 700;
  }
}

module.exports = { readOptions };
