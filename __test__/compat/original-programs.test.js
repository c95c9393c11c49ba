'use strict';

// The three programs of the original's own page run as they stand: they
// connect, send, get the echo, and see who comes and goes.

const test = require('ava');
const { run } = require('../support/children');
const { withOwnRabbit } = require('../support/rabbit');

// They use the default names, which other tests on a shared broker might too.
const { rabbit } = withOwnRabbit(test);

test('server, client and ws client under co 3.1 and websocket 1.0.35', async (t) => {
  const { host, port } = rabbit();
  const env = { AMQP_HOST: host, AMQP_PORT: port, PORT: 0 };
  const server = run(t, 'seed/server.js', env);
  const client = run(t, 'seed/client.js', env);
  const [, PORT] = await server.prints(/listening on port (\d+)/);
  await server.prints(/^started$/m);
  await client.prints(/^started$/m);

  const browser = run(t, 'seed/ws-client.js', { PORT });
  await browser.prints(/^WebSocket client connected$/m);
  await server.prints(/^key: dn1:appid1 \{/m);
  await client.prints(/^status change \{ status: 1, key: 'dn1:appid1' \}$/m);

  const message =
    /\{\s+dn: 'dn1',\s+appid: 'appid1',\s+ct: \d+,\s+content: '(\d+)'\s+\}/;
  const [, content] = await client.prints(message);
  const [, asked] = await server.prints(
    new RegExp(`^message key ${message.source}`, 'm'),
  );
  t.is(asked, content);
  const echo = new RegExp(`^Received: ${content} \\+(\\d+)ms$`, 'm');
  const [, time] = await browser.prints(echo);
  t.true(Number(time) < 20_000);
  // The one after it, a second later.
  const [, , another] = await browser.prints(
    /^Received: (\d+) .*\nReceived: (\d+) /m,
  );
  t.true(client.stdout.includes(`content: '${another}'`));

  browser.child.kill('SIGKILL');
  const [gone] = await client.prints(/^status change \{\s+status: 0,[^}]+\}/m);
  t.regex(gone, /key: 'dn1:appid1'/);
  t.regex(gone, /reasonCode: 1006/);
  t.regex(gone, /description: 'Connection dropped by remote peer\.'/);

  t.deepEqual([server.ended, client.ended], [null, null]);
  t.is(server.stderr + client.stderr, '');
});
