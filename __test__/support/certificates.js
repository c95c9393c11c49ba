'use strict';

// Certificates as a broker's operator makes them, with openssl.

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const PASSPHRASE = 'pa$$phrase-äö';
const LOCAL = 'subjectAltName=DNS:localhost,IP:127.0.0.1';

/**
 * A folder of certificates, all of one authority, which is gone at the end of
 * the tests.
 *
 * @param {import('ava').TestFn} test
 */
function certificates(test) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-ca-'));
  test.after.always('its certificates are removed', () =>
    fs.rmSync(folder, { recursive: true, force: true }),
  );
  const file = (name) => path.join(folder, name);
  const openssl = (...args) =>
    execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' });

  /** @param {string[]} kind */
  function newKey(name, kind = ['ec', '-pkeyopt', 'ec_paramgen_curve:P-256']) {
    openssl('genpkey', '-algorithm', ...kind, '-out', `${name}.key`);
  }

  /** A key and a certificate that it has signed itself. */
  function selfSigned(name, ...extensions) {
    newKey(name);
    const ext = extensions.flatMap((each) => ['-addext', each]);
    openssl(
      ...['req', '-x509', '-days', '2', '-subj', `/CN=${name}`],
      ...['-key', `${name}.key`, '-out', `${name}.pem`, ...ext],
    );
    return read(name);
  }

  /** A key and a certificate that an authority has signed. */
  function signed(name, extension, { by = 'ca', kind, days = '2' } = {}) {
    newKey(name, kind);
    fs.writeFileSync(file(`${name}.ext`), `${extension}\n`);
    openssl(
      ...['req', '-new', '-subj', `/CN=${name}`],
      ...['-key', `${name}.key`, '-out', `${name}.csr`],
    );
    openssl(
      ...['x509', '-req', '-days', days, '-in', `${name}.csr`],
      ...['-CA', `${by}.pem`, '-CAkey', `${by}.key`, '-CAcreateserial'],
      ...['-extfile', `${name}.ext`, '-out', `${name}.pem`],
    );
    return read(name);
  }

  function read(name) {
    return {
      keyFile: file(`${name}.key`),
      certFile: file(`${name}.pem`),
      key: fs.readFileSync(file(`${name}.key`)),
      cert: fs.readFileSync(file(`${name}.pem`)),
    };
  }

  /** @param {string[]} how further options of openssl */
  function pfx(name, passphrase, ...how) {
    openssl(
      ...['pkcs12', '-export', '-inkey', `${name}.key`, '-in', `${name}.pem`],
      ...['-certfile', 'ca.pem', '-passout', `pass:${passphrase}`, ...how],
      ...['-out', `${name}.pfx`],
    );
    return fs.readFileSync(file(`${name}.pfx`));
  }

  /** @param {string[]} how further options of openssl */
  function encryptedKey(name, passphrase, ...how) {
    openssl(
      ...['pkcs8', '-topk8', '-in', `${name}.key`, ...how],
      ...['-passout', `pass:${passphrase}`, '-out', `${name}.enc`],
    );
    return file(`${name}.enc`);
  }

  selfSigned('ca');
  return { encryptedKey, file, newKey, pfx, read, selfSigned, signed };
}

module.exports = { LOCAL, PASSPHRASE, certificates };
