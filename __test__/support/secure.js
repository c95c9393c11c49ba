'use strict';

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const https = require('node:https');
const os = require('node:os');
const path = require('node:path');

/**
 * A key and a certificate that it has signed itself.
 *
 * @param {string} [name]
 */
function certificate(name = 'localhost') {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-tls-'));
  try {
    const [key, cert] = ['key.pem', 'cert.pem'].map((name) =>
      path.join(folder, name),
    );
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-nodes', '-days', '2', '-subj', `/CN=${name}`],
        ...['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'],
        ...['-keyout', key, '-out', cert],
      ],
      { stdio: 'pipe' },
    );
    return { key: fs.readFileSync(key), cert: fs.readFileSync(cert) };
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

let made;

/**
 * @param {import('node:http').RequestListener} [listener]
 * @param {import('node:https').ServerOptions} [options]
 */
function secureServer(listener, options) {
  made ??= certificate();
  return https.createServer({ ...made, ...options }, listener);
}

module.exports = { certificate, secureServer };
