'use strict';

// npm run test:nodes: the ava tests under each Node that is supported, with the
// one addon that was built. `npm run test:nodes -- 22` takes that Node alone,
// `npm run test:nodes -- 22 process/threads` that Node and
// __test__/process/threads.test.js.

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { prepare } = require('./prepare');
const { shareEnv, startRabbit } = require('./rabbitmq');
const { cacheDir } = require('./lib/project');
const { run } = require('./lib/run');
const { step, script, Problem } = require('./lib/steps');
const suites = require('./lib/suites');

const MAJORS = ['20', '22', '24'];

/** The npm package that holds nothing but Node for this system. */
function packageName() {
  const system = process.platform === 'win32' ? 'win' : process.platform;
  return `node-${system}-${process.arch}`;
}

/**
 * Fetches the newest Node of a major version, or takes the one fetched before
 * when the registry cannot be reached.
 *
 * @param {string} major
 * @returns {Promise<string>} its executable
 */
async function fetchNode(major) {
  const name = packageName();
  const folder = path.join(cacheDir(), `node-${major}`);
  fs.mkdirSync(folder, { recursive: true });
  const manifest = path.join(folder, 'package.json');
  fs.writeFileSync(manifest, '{ "private": true }\n');
  const result = await run(
    'npm',
    ['install', '--no-save', '--no-audit', '--no-fund', `${name}@${major}`],
    { cwd: folder, quiet: true },
  );
  const file = process.platform === 'win32' ? 'node.exe' : 'node';
  const node = path.join(folder, 'node_modules', name, 'bin', file);
  if (!fs.existsSync(node)) {
    const why = result.lines.find((line) => /error/i.test(line));
    throw new Problem(`npm brought no ${name}@${major}: ${why}`);
  }
  return node;
}

script(async () => {
  const args = process.argv.slice(2);
  const given = args.filter((arg) => /^\d+$/.test(arg));
  const majors = given.length > 0 ? given : MAJORS;
  const files = args
    .filter((arg) => !given.includes(arg))
    .map((name) => `__test__/${name}.test.js`);
  await prepare();
  const rabbit = await startRabbit();
  step(`RabbitMQ ${rabbit.version} answers on port ${rabbit.port}`);
  /** @type {Record<string, () => Promise<import('./lib/suites').Outcome>>} */
  const runs = {};
  for (const major of majors) {
    const node = await fetchNode(major);
    const version = execFileSync(node, ['--version'], { encoding: 'utf8' });
    const PATH = [path.dirname(node), process.env.PATH].join(path.delimiter);
    const env = { ...shareEnv(rabbit), PATH };
    runs[`ava, Node ${version.trim()}`] = () =>
      suites.ava(env, { node, args: files });
  }
  const total = await suites.runAll(runs);
  await rabbit.stop();
  suites.conclude('npm run test:nodes', total);
});
