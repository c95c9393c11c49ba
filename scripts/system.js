'use strict';

// Installs what the tests need of the system and a bare Debian lacks.

const { aptInstall, aptProblem } = require('./lib/apt');
const { which } = require('./lib/project');
const { step, script } = require('./lib/steps');

/** Commands, and the Debian packages that bring them. */
const NEEDED = {
  chromium: 'chromium',
  'rabbitmq-server': 'rabbitmq-server',
  debootstrap: 'debootstrap',
  nginx: 'nginx',
};

script(async () => {
  const missing = Object.entries(NEEDED)
    .filter(([command]) => !which(command, ['/usr/lib/rabbitmq/bin']))
    .map(([, name]) => name);
  if (missing.length === 0) {
    step(`${Object.keys(NEEDED).join(', ')} are here`);
    return;
  }
  const problem = aptProblem();
  if (problem) {
    step(`missing: ${missing.join(', ')}, not installed since ${problem}`);
    return;
  }
  await aptInstall(missing);
});
