'use strict';

// What RabbitMQ refuses is told in its own words, and with advice only where
// that advice can help.

const http = require('node:http');
const test = require('ava');
const { Client } = require('../..');
const { unique } = require('../support/brokers');
const { isExternal, withOwnRabbit } = require('../support/rabbit');
const { listen } = require('../support/world');

const { rabbit, settings } = withOwnRabbit(test);
const ours = isExternal ? test.skip : test;
const GUARANTEES = ['at-most-once', 'at-least-once'];

/** A vhost of its own, with these limits. */
async function limited(limits) {
  const vhost = unique();
  await rabbit().ctl('add_vhost', vhost);
  const all = ['.*', '.*', '.*'];
  await rabbit().ctl('set_permissions', '-p', vhost, 'guest', ...all);
  const json = JSON.stringify(limits);
  await rabbit().ctl('set_vhost_limits', '-p', vhost, json);
  return vhost;
}

for (const delivery of GUARANTEES) {
  ours(`${delivery}: the limit of queues is reached`, async (t) => {
    const vhost = await limited({ 'max-queues': 0 });
    const client = new Client({ ...settings(), vhost, delivery });
    const error = await t.throwsAsync(() => client.init());
    t.log(error.message);
    t.is(error.code, 'PRECONDITION_FAILED');
    t.regex(error.message, /queue limit in vhost/);
    t.notRegex(error.message, /delete the one|another name/);
  });

  ours(`${delivery}: the limit of connections is reached`, async (t) => {
    const vhost = await limited({ 'max-connections': 0 });
    const client = new Client({ ...settings(), vhost, delivery });
    const error = await t.throwsAsync(() => client.init());
    t.is(error.code, 'NOT_ALLOWED');
    t.regex(error.message, /connection limit/);
  });
}

ours('an HTTP port is no broker', async (t) => {
  const server = await listen(t, http.createServer());
  const { port } = server.address();
  const client = new Client({ host: '127.0.0.1', port });
  const error = await t.throwsAsync(() => client.init());
  t.is(error.code, 'EPROTO');
  t.true(error.message.includes(`127.0.0.1:${port}`));
  t.regex(error.message, /speaks HTTP/);
});
