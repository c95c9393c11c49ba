'use strict';

// A thread may end at any moment, with whatever it has open, and the process
// goes on. Whether two threads meet at a wrong moment is a matter of chance:
// MESSAGE_ENGIN_TEST_THREADS=12x150 npm run test:nodes -- process/threads
// ends 150 threads in each of 12 processes, in each way on each broker.

const test = require('ava');
const { forEachBroker } = require('../support/brokers');
const { run } = require('../support/children');
const { certificate } = require('../support/secure');
const { until } = require('../support/until');

/** Processes, and threads that each of them starts and ends. */
const [RUNS, ROUNDS] = (process.env.MESSAGE_ENGIN_TEST_THREADS ?? '1x6')
  .split('x')
  .map(Number);

const { key, cert } = certificate();
const CERTIFICATE = JSON.stringify({ key: `${key}`, cert: `${cert}` });

/** What a thread may take when the machine has much else to do. */
const PATIENCE = 10_000;

const WAYS = {
  traffic: 'terminated amid traffic',
  bridge: 'terminated amid traffic over TLS',
  exit: 'ended by process.exit() amid traffic',
  starting: 'terminated while it starts',
  keyFn: 'terminated while keyFn has not answered',
  closing: 'terminated while it closes',
  draining: 'terminated while it drains',
};

for (const [end, what] of Object.entries(WAYS)) {
  for (let number = 1; number <= RUNS; number += 1) {
    const title = `a thread is ${what}${RUNS > 1 ? `, ${number}` : ''}`;
    forEachBroker(test.serial, title, async (t, broker) => {
      t.timeout(ROUNDS * PATIENCE);
      const script = run(t, 'processes/thread-ends.js', {
        MQ_CONF: JSON.stringify(broker.settings()),
        END: end,
        ROUNDS,
        ...(end === 'bridge' && { CERTIFICATE }),
      });
      const ended = await until(() => script.ended, ROUNDS * PATIENCE);
      t.is(script.stderr, '');
      t.is(script.stdout, `${ROUNDS} threads ended\n`);
      t.deepEqual(ended, { code: 0, signal: null });
    });
  }
}
