'use strict';

// nginx with the configuration of the guide: while a gateway drains, browsers
// get in, at the others.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const test = require('ava');
const { which } = require('../../scripts/lib/project');
const { rabbitmq, withRabbit } = require('../support/brokers');
const { Peer } = require('../support/peers');
const { until } = require('../support/until');
const { door } = require('../support/world');

withRabbit(test);

const nginx = which('nginx');
if (!nginx) console.warn('nginx is not installed: its test is skipped');
const withNginx = nginx ? test : test.skip;

const guide = fs.readFileSync(
  path.join(__dirname, '..', '..', 'docs', 'guide', 'rolling-restarts.md'),
  'utf8',
);
const [, configuration] = /```nginx\n([^]*?)```/.exec(guide);

/**
 * The guide's nginx in front of these gateways, on a Unix socket.
 *
 * @param {import('ava').ExecutionContext} t
 * @param {number[]} ports
 */
async function startNginx(t, ports) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-nginx-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  const socket = path.join(folder, 'nginx.sock');
  let text = configuration.replace('listen 80;', `listen unix:${socket};`);
  for (const [index, port] of ports.entries()) {
    text = text.replace(`10.0.0.${index + 1}:8080`, `127.0.0.1:${port}`);
  }
  t.notRegex(text, /10\.0\.0|listen 80/);
  const file = path.join(folder, 'nginx.conf');
  const own = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((name) => `${name}_temp_path ${path.join(folder, name)};`)
    .join('\n');
  fs.writeFileSync(
    file,
    `daemon off; master_process off; pid ${folder}/nginx.pid;
    error_log stderr warn;
    events {}
    http { access_log off; ${own}
    ${text}
    }`,
  );
  const child = spawn(nginx, ['-p', folder, '-e', 'stderr', '-c', file]);
  let stderr = '';
  child.stderr.on('data', (data) => (stderr += data));
  let ended = false;
  const end = new Promise((resolve) => {
    child.once('close', () => {
      ended = true;
      resolve();
    });
  });
  t.teardown(() => {
    child.kill();
    return end;
  });
  await until(() => ended || fs.existsSync(socket));
  if (ended) throw new Error(`nginx ended: ${stderr}`);
  return { url: `ws+unix:${socket}:`, log: () => stderr };
}

withNginx('nginx sends browsers past a gateway that drains', async (t) => {
  const mqConf = rabbitmq.settings();
  const gateways = [await door(t, mqConf), await door(t, mqConf)];
  const { url, log } = await startNginx(
    t,
    gateways.map(({ port }) => port),
  );
  const connect = (key) => {
    const peer = new Peer(`${url}/chat?key=${key}`);
    t.teardown(() => peer.terminate());
    return peer.opened;
  };
  const first = await Promise.all(
    Array.from({ length: 8 }, (_, n) => connect(`first-${n}`)),
  );
  const [leaving, staying] = gateways.map(({ gateway }) => gateway);
  t.is(leaving.size + staying.size, first.length);
  t.true(leaving.size > 0, log());

  const moved = leaving.size;
  const closed = Promise.race(first.map((peer) => peer.closed));
  const drained = leaving
    .close({ drain: 1000 })
    // As at the end of its process.
    .then(() => gateways[0].httpServer.close());
  t.true(leaving.draining);
  // Each of them would have gone to the first gateway in its turn.
  for (let n = 0; n < 6; n += 1) await connect(`later-${n}`);
  t.like(await closed, { code: 1012 });
  await drained;
  t.is(leaving.size, 0);
  // And those that had to leave come back.
  for (let n = 0; n < moved; n += 1) await connect(`back-${n}`);
  t.is(staying.size, first.length + 6);
});
