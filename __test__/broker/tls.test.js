'use strict';

// Over TLS a broker is what it is over plain TCP, and knows who is who.

const { execFile } = require('node:child_process');
const { once } = require('node:events');
const net = require('node:net');
const path = require('node:path');
const tls = require('node:tls');
const { promisify } = require('node:util');
const test = require('ava');
const { startRabbit } = require('../../scripts/rabbitmq');
const { unique } = require('../support/brokers');
const { LOCAL, PASSPHRASE, certificates } = require('../support/certificates');
const { flood } = require('../support/event-loop');
const { NAMES, isExternal, list } = require('../support/rabbit');
const { until } = require('../support/until');
const { door, worker } = require('../support/world');
const { Client } = require('../..');

const made = certificates(test);
const ca = made.read('ca');
const host = made.signed('host', LOCAL);
const RSA = ['rsa', '-pkeyopt', 'rsa_keygen_bits:2048'];
const FOR_CLIENTS = 'extendedKeyUsage=clientAuth';
made.signed('worker', FOR_CLIENTS, { kind: RSA });

/** @type {import('../../scripts/rabbitmq').Rabbit} takes everybody */
let open;
/** @type {import('../../scripts/rabbitmq').Rabbit} takes those with certificate */
let strict;

// A broker of others has other certificates.
const over = isExternal ? test.skip : test;

if (!isExternal) {
  test.before('two brokers are there', async (t) => {
    t.timeout(180_000);
    const forAll = { ca: ca.cert, cert: host.cert, key: host.key };
    [open, strict] = await Promise.all([
      startRabbit({ tls: forAll }),
      startRabbit({
        tls: { ...forAll, requireClients: true },
        plugins: ['rabbitmq_auth_mechanism_ssl'],
        settings: {
          'auth_mechanisms.1': 'EXTERNAL',
          'auth_mechanisms.2': 'PLAIN',
          'auth_mechanisms.3': 'AMQPLAIN',
          ssl_cert_login_from: 'common_name',
        },
      }),
    ]);
    await strict.ctl('add_user', 'worker', unique());
    const all = ['.*', '.*', '.*'];
    await strict.ctl('set_permissions', '-p', '/', 'worker', ...all);
  });
  test.after.always('they are stopped', () =>
    Promise.all([open?.stop(), strict?.stop()]),
  );
}

/** An mqConf with names that no other test has. */
function conf(rabbit, ssl, rest = {}) {
  const id = unique();
  return {
    host: 'localhost',
    port: rabbit.tlsPort,
    ssl: { enabled: true, caFile: ca.certFile, ...ssl },
    clientProperties: { product: id },
    ...Object.fromEntries(NAMES.map((name) => [name, `${name}-${id}`])),
    ...rest,
  };
}

/** What the broker knows of the connections with these settings. */
async function connections(rabbit, { clientProperties }) {
  const columns = ['user', 'ssl', 'auth_mechanism', 'client_properties'];
  const all = await list(rabbit, 'connections', ...columns);
  return all.filter(({ client_properties: properties }) =>
    JSON.stringify(properties).includes(`"${clientProperties.product}"`),
  );
}

/** Messages come through, small and large, both ways. */
async function carries(t, mqConf) {
  const { client, messages, statuses } = await worker(t, mqConf);
  const front = await door(t, mqConf, { maxReceivedFrameSize: 1 << 20 });
  const peer = await front.connect('k');
  const large = 'ä'.repeat(150_000);
  const texts = ['small', large, ...Array.from({ length: 500 }, String)];
  for (const text of texts) peer.sendJson({ text });
  await until(() => messages.length === texts.length);
  t.deepEqual(
    messages.map(({ message }) => message.text),
    texts,
  );
  for (const text of texts) client.send(text, { to: 'k' });
  t.deepEqual(await peer.received(texts.length), texts);
  t.is(statuses.length, 1);
  return { client, front, messages, peer };
}

over.serial('a broker that is killed is found again', async (t) => {
  t.timeout(120_000);
  const { keyFile, certFile } = made.read('worker');
  const mqConf = {
    ...conf(strict, { keyFile, certFile }),
    authMechanism: 'EXTERNAL',
    reconnectBackoffTime: 100,
  };
  const { client, front, messages, peer } = await carries(t, mqConf);
  const lost = [client, front.gateway].map((each) =>
    once(each, 'reconnecting'),
  );
  await strict.kill9();
  for (const [{ error }] of await Promise.all(lost)) {
    t.is(error.code, 'ERR_CONNECTION_LOST');
    t.true(error.address.startsWith('amqps://localhost:'));
  }
  const ready = [client, front.gateway].map((each) => once(each, 'ready'));
  const before = messages.length;
  peer.sendJson('meanwhile');
  await strict.restart();
  await Promise.all(ready);
  await until(() => messages.length > before);
  t.is(messages.at(-1).message, 'meanwhile');
  client.send('back', { to: 'k' });
  await until(() => peer.messages.at(-1) === 'back');
});

over('the broker may be signed by any of several', async (t) => {
  const other = made.selfSigned('several');
  for (const ssl of [
    { caFile: [other.certFile, ca.certFile] },
    { caFile: undefined, ca: [other.cert, ca.cert] },
  ]) {
    await worker(t, conf(open, ssl));
  }
  const client = new Client(conf(open, { caFile: [other.certFile] }));
  const error = await t.throwsAsync(client.init());
  t.regex(error.code, /CERT|SIGN/);
});

over('messages go both ways', async (t) => {
  const mqConf = conf(open);
  await carries(t, mqConf);
  const known = await until(async () => {
    const found = await connections(open, mqConf);
    return found.length === 4 && found;
  });
  t.deepEqual(
    new Set(known.map(({ user, ssl }) => `${user} ${ssl}`)),
    new Set(['guest true']),
  );
});

over('an amqps: url is enough to ask for TLS', async (t) => {
  const { port, host: name, ...mqConf } = conf(open);
  const url = `amqps://guest:guest@${name}:${port}/%2F`;
  await carries(t, { ...mqConf, url, ssl: { ca: ca.cert.toString() } });
});

over('heartbeats keep a quiet connection', async (t) => {
  const mqConf = conf(open, {}, { heartbeat: 2 });
  const { client, statuses } = await worker(t, mqConf);
  const front = await door(t, mqConf);
  const events = [];
  client.on('reconnecting', (info) => events.push(info));
  front.gateway.on('reconnecting', (info) => events.push(info));
  const start = performance.now();
  // The broker ends a connection that it has not heard of for two intervals.
  await until(() => performance.now() - start > 7000);
  t.deepEqual(events, []);
  await front.connect('k');
  await until(() => statuses.length === 1);
});

const OLD = ['-certpbe', 'PBE-SHA1-3DES', '-keypbe', 'PBE-SHA1-3DES'];
const AES = ['-v2', 'aes-256-cbc'];

/** @type {Record<string, () => object>} */
const IDENTITIES = {
  files: () => {
    const { keyFile, certFile } = made.read('worker');
    return { keyFile, certFile };
  },
  'texts, and several authorities': () => {
    const { key, cert } = made.read('worker');
    const other = made.selfSigned('other-ca').cert;
    return {
      key: key.toString(),
      cert: cert.toString(),
      ca: [other.toString(), ca.cert.toString()],
      caFile: undefined,
    };
  },
  Buffers: () => {
    const { key, cert } = made.read('worker');
    return { key, cert, ca: ca.cert, caFile: undefined };
  },
  'a key that is encrypted': () => ({
    certFile: made.read('worker').certFile,
    keyFile: made.encryptedKey('worker', PASSPHRASE, ...AES),
    passphrase: PASSPHRASE,
  }),
  'a PKCS #12 file': () => {
    made.pfx('worker', PASSPHRASE);
    return { pfxFile: made.file('worker.pfx'), passphrase: PASSPHRASE };
  },
  'an old PKCS #12 file, in a Buffer': () => ({
    pfx: made.pfx('worker', 'plain', ...OLD, '-macalg', 'sha1'),
    passphrase: 'plain',
  }),
  'a PKCS #12 file without passphrase': () => ({ pfx: made.pfx('worker', '') }),
  'a key on P-384': () => {
    const kind = ['ec', '-pkeyopt', 'ec_paramgen_curve:P-384'];
    made.signed('p384', `${FOR_CLIENTS}`, { kind });
    const { key, cert } = made.read('p384');
    return { key, cert };
  },
};

for (const [what, identity] of Object.entries(IDENTITIES)) {
  // One after the other, since some write the same files.
  over.serial(
    `the broker knows a client by its certificate: ${what}`,
    async (t) => {
      const ssl = identity();
      const name = what.includes('P-384') ? 'p384' : 'worker';
      if (name === 'p384') {
        await strict.ctl('add_user', name, unique());
        const all = ['.*', '.*', '.*'];
        await strict.ctl('set_permissions', '-p', '/', name, ...all);
      }
      const mqConf = conf(strict, ssl, { authMechanism: 'EXTERNAL' });
      await worker(t, mqConf);
      const [known] = await until(async () => {
        const found = await connections(strict, mqConf);
        return found.length && found;
      });
      t.is(known.user, name);
      t.is(known.auth_mechanism, 'EXTERNAL');
    },
  );
}

over('with a certificate, a password counts as elsewhere', async (t) => {
  const { key, cert } = made.read('worker');
  const mqConf = conf(strict, { key, cert });
  await carries(t, mqConf);
  const error = await t.throwsAsync(
    new Client({ ...mqConf, password: 'wrong' }).init(),
  );
  t.is(error.code, 'ACCESS_REFUSED');
});

/** Nobody gets in, and the error says why. */
async function refused(
  t,
  mqConf,
  code,
  text = /^cannot reach the broker at amqps:/,
) {
  const error = await t.throwsAsync(new Client(mqConf).init());
  t.regex(error.code, code);
  t.regex(error.message, text);
  t.true(error.address.startsWith('amqps://'), error.address);
}

over('a broker that wants a certificate gets none', async (t) => {
  await refused(
    t,
    conf(strict),
    /^ERR_SSL_\w+_ALERT_(CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE)$/,
  );
  const stranger = made.selfSigned('stranger');
  const { key, cert } = stranger;
  await refused(
    t,
    conf(strict, { key, cert }),
    /^ERR_SSL_\w+_ALERT_(UNKNOWN_CA|BAD_CERTIFICATE)$/,
  );
});

over('a broker whose certificate is not to be trusted', async (t) => {
  const foreign = made.selfSigned('foreign-ca');
  const bad = [
    [{ caFile: foreign.certFile }, /^SELF_SIGNED_CERT_IN_CHAIN$/],
    [{ caFile: undefined }, /^SELF_SIGNED_CERT_IN_CHAIN$/],
    [{ servername: 'elsewhere.example' }, /^ERR_TLS_CERT_ALTNAME_INVALID$/],
  ];
  for (const [ssl, code] of bad) {
    await refused(t, conf(open, ssl), code);
    await carries(t, conf(open, { ...ssl, rejectUnauthorized: false }));
  }
  await carries(
    t,
    conf(open, { servername: 'localhost' }, { host: '127.0.0.1' }),
  );
});

over('TLS and plain TCP do not understand each other', async (t) => {
  const plain = { ...conf(open), port: open.port };
  const noTls = new RegExp(
    `^cannot reach the broker at amqps://localhost:${open.port}/.*no TLS.*amqp:`,
  );
  await refused(t, plain, /^ERR_SSL_WRONG_VERSION_NUMBER$/, noTls);
  const error = await t.throwsAsync(
    new Client({ ...conf(open), ssl: false }).init(),
  );
  t.is(error.code, 'EPROTO');
  t.regex(error.message, /speaks TLS.*amqps:/);
  t.true(error.message.includes(`amqp://localhost:${open.tlsPort}/`));
});

/** The broker behind a TLS server with another certificate. */
async function behind(t, { key, cert }) {
  const sockets = new Set();
  const front = tls.createServer({ key, cert }, (socket) => {
    const upstream = net.connect(open.port, open.host);
    for (const each of [socket, upstream]) {
      sockets.add(each);
      each.on('error', () => each.destroy());
    }
    socket.pipe(upstream).pipe(socket);
  });
  front.on('tlsClientError', () => {});
  await new Promise((resolve) => front.listen(0, '127.0.0.1', () => resolve()));
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    front.close();
  });
  return { tlsPort: front.address().port };
}

over('certificates of every kind', async (t) => {
  const own = made.selfSigned('own', LOCAL);
  const rabbit = await behind(t, own);
  await refused(t, conf(rabbit), /^DEPTH_ZERO_SELF_SIGNED_CERT$/);
  await carries(t, conf(rabbit, { caFile: own.certFile }));
  await refused(
    t,
    conf(rabbit, { caFile: own.certFile, servername: 'other' }),
    /^ERR_TLS_CERT_ALTNAME_INVALID$/,
  );

  const late = made.signed('late', LOCAL, { days: '-1' });
  const expired = await behind(t, late);
  await refused(t, conf(expired), /^CERT_HAS_EXPIRED$/);
  await refused(
    t,
    conf(expired, { ca: late.cert, caFile: undefined }),
    /^CERT_HAS_EXPIRED$/,
  );
  await carries(t, conf(expired, { rejectUnauthorized: false }));

  // It does not send its authority's certificate along.
  const leaf = await behind(t, host);
  await carries(t, conf(leaf));
  await refused(
    t,
    conf(leaf, { caFile: undefined }),
    /^UNABLE_TO_VERIFY_LEAF_SIGNATURE$/,
  );

  const forClients = await behind(
    t,
    made.signed('odd', `${LOCAL}\n${FOR_CLIENTS}`),
  );
  await refused(t, conf(forClients), /^INVALID_PURPOSE$/);
});

over('without ca, what Node trusts is trusted', async (t) => {
  const mqConf = conf(open, { caFile: undefined });
  const program = `
    const { Client } = require(${JSON.stringify(path.resolve(__dirname, '..', '..'))});
    const client = new Client(${JSON.stringify(mqConf)});
    client.init().then(() => client.close()).then(() => console.log('went well'));
  `;
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['-e', program],
    { env: { ...process.env, NODE_EXTRA_CA_CERTS: ca.certFile } },
  );
  t.is(stdout.trim(), 'went well');
});

over('other callbacks get their turn under a flood', (t) =>
  flood(t, conf(open)),
);
