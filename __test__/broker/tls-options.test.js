'use strict';

// What is wrong with a certificate or a key is said at the start, by the name
// of its option and without a secret.

const fs = require('node:fs');
const { inspect } = require('node:util');
const test = require('ava');
const { Client, OptionError } = require('../..');
const { PASSPHRASE, certificates } = require('../support/certificates');

const made = certificates(test);
const ca = made.read('ca');
const own = made.signed('own', 'extendedKeyUsage=clientAuth');
const other = made.selfSigned('other');
const p521 = made.signed('p521', 'extendedKeyUsage=clientAuth', {
  kind: ['ec', '-pkeyopt', 'ec_paramgen_curve:P-521'],
});
const encrypted = made.encryptedKey('own', PASSPHRASE, '-v2', 'aes-256-cbc');
const pfx = made.pfx('own', PASSPHRASE);
const broken = Buffer.from(
  ca.cert.toString().replace(/\n[A-Za-z0-9+/]{20}/, '\nAAAAAAAAAAAAAAAAAAAA'),
);
const SECRET = /\$\$|BEGIN (?!CERTIFICATE-----'\)|PRIVATE KEY-----'\))/;

/** @type {[option: string, ssl: Record<string, any>, text: RegExp][]} */
const BAD = [
  ['enabled', { enabled: 'yes' }, /expected a boolean, got "yes"/],
  ['rejectUnauthorized', { rejectUnauthorized: 0 }, /expected a boolean/],
  ['passphrase', { passphrase: 5 }, /expected .* string, got a number/],
  ['servername', { servername: 'a b' }, /expected a host name/],
  ['servername', { servername: 'host:1' }, /expected a host name/],
  ['ca', { ca: [] }, /non-empty array of them, got an array/],
  ['ca', { ca: 5 }, /expected certificates/],
  ['ca', { ca: 'no PEM' }, /expected certificates in PEM/],
  ['ca', { ca: [ca.cert, own.key] }, /expected certificates in PEM/],
  ['ca', { ca: broken }, /broken/],
  ['caFile', { caFile: ca.cert }, /expected the name of a file, .* an object/],
  ['caFile', { caFile: [] }, /non-empty array of them, got an array/],
  ['caFile', { caFile: [ca.certFile, '/no/file'] }, /cannot read "\/no\/file"/],
  ['caFile', { caFile: [ca.certFile, own.keyFile] }, /certificates in PEM/],
  [
    'certFile',
    { certFile: [own.certFile] },
    /the name of a file, got an array/,
  ],
  ['caFile', { caFile: '/no/such/file' }, /cannot read ".*" \(ENOENT\)/],
  [
    'keyFile',
    { keyFile: own.key.toString() },
    /expected the name of a file, got PEM/,
  ],
  ['caFile', { caFile: own.keyFile }, /expected certificates in PEM/],
  ['certFile', { certFile: own.certFile }, /ssl.key or .*keyFile is needed/],
  ['key', { key: own.key }, /ssl.cert or .*certFile is needed/],
  ['key', { key: own.key, keyFile: own.keyFile }, /not both/],
  ['key', { key: other.key, cert: own.cert }, /not the key of .*ssl\.cert$/],
  ['key', { key: own.cert, cert: own.cert }, /expected a private key in PEM/],
  ['key', { key: p521.key, cert: p521.cert }, /P-384 .*, got ec secp521r1/],
  [
    'keyFile',
    { keyFile: encrypted, cert: own.cert },
    /encrypted, and mqConf.ssl.passphrase is needed/,
  ],
  [
    'keyFile',
    { keyFile: encrypted, cert: own.cert, passphrase: 'pa$$' },
    /cannot be decrypted with mqConf.ssl.passphrase/,
  ],
  ['pfx', { pfx: 'text' }, /expected a Buffer, got a string/],
  ['pfx', { pfx: own.cert }, /cannot be read/],
  ['pfx', { pfx, passphrase: 'pa$$' }, /cannot be decrypted/],
  ['pfx', { pfx }, /cannot be decrypted/],
  ['pfxFile', { pfxFile: '/no/such/file' }, /cannot read/],
  ['cert', { pfx, cert: own.cert }, /mqConf.ssl.pfx holds it/],
];

for (const [index, [option, ssl, text]] of BAD.entries()) {
  test(`${index}: mqConf.ssl.${option}: ${text.source}`, (t) => {
    const error = t.throws(
      () => new Client({ ssl: { enabled: true, ...ssl } }),
      { instanceOf: OptionError, code: 'ERR_INVALID_OPTION' },
    );
    t.is(error.option, `mqConf.ssl.${option}`);
    t.true(error.message.startsWith(`mqConf.ssl.${option}: `));
    t.regex(error.message, text);
    t.notRegex(inspect(error), SECRET);
    t.notRegex(JSON.stringify(error), SECRET);
  });
}

test('what is not enabled is not read', (t) => {
  t.notThrows(() => new Client({ ssl: { enabled: false, caFile: '/none' } }));
  t.notThrows(() => new Client({ ssl: false }));
  t.true(fs.existsSync(own.keyFile));
});

/** The address that errors name. */
async function address(t, mqConf) {
  const client = new Client({ connectionTimeout: 3000, ...mqConf });
  t.teardown(() => client.close());
  const error = await t.throwsAsync(() => client.init());
  return error.address;
}

test('the port is 5671 with TLS, unless one is given', async (t) => {
  // Nothing connects to a broadcast address, whichever ports this machine has.
  const host = '255.255.255.255';
  const url = (scheme, port = '') => `${scheme}://${host}${port}/`;
  const on = { enabled: true };
  for (const [mqConf, wanted] of [
    [{ host }, 'amqp://255.255.255.255:5672/%2F'],
    [{ host, ssl: true }, 'amqps://255.255.255.255:5671/%2F'],
    [{ host, ssl: on, port: 77 }, 'amqps://255.255.255.255:77/%2F'],
    [
      { host: [host, `${host}:78`], ssl: on },
      `amqps://${host}:5671,${host}:78/%2F`,
    ],
    [{ url: url('amqp') }, 'amqp://255.255.255.255:5672/%2F'],
    [{ url: url('amqps') }, 'amqps://255.255.255.255:5671/%2F'],
    [{ url: url('amqps', ':79') }, 'amqps://255.255.255.255:79/%2F'],
    [{ url: url('amqp'), ssl: on }, 'amqps://255.255.255.255:5671/%2F'],
    [
      { url: url('amqps'), ssl: { enabled: false } },
      'amqp://255.255.255.255:5672/%2F',
    ],
    [
      { url: url('amqps'), ssl: { ca: ca.cert } },
      'amqps://255.255.255.255:5671/%2F',
    ],
  ]) {
    t.is(await address(t, mqConf), wanted);
  }
});

test.serial('ssl that is not enabled is a warning', async (t) => {
  const warnings = [];
  const listener = ({ message }) => warnings.push(message);
  process.on('warning', listener);
  t.teardown(() => process.removeListener('warning', listener));
  new Client({ ssl: { ca: ca.cert } });
  new Client({ ssl: { enabled: true, ca: ca.cert, fancy: 1 } });
  new Client({ ssl: { enabled: false, ca: ca.cert } });
  new Client({ ssl: true });
  await new Promise((resolve) => setImmediate(resolve));
  t.deepEqual(warnings, [
    'mqConf.ssl has no effect without enabled: true or an amqps: url',
    'mqConf.ssl.fancy is not an option of message-engin and is ignored',
  ]);
});
