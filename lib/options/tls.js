'use strict';

// mqConf.ssl: files read, keys decrypted, and certificates looked at, so that
// whatever is wrong with them is said at the start and by the option's name.

const crypto = require('node:crypto');
const fs = require('node:fs');
const tls = require('node:tls');
const { shown } = require('../checks');
const { OptionError, fromNative } = require('../errors');
const { readPfx } = require('../native/addon');

/**
 * Certificates and keys as PEM texts.
 *
 * @typedef {object} TlsSettings
 * @property {string} trusted whose signature a server's certificate may have
 * @property {{ certificate: string, from: number, until: number }[]} pinned
 *   certificates that a server may have itself; the times are in seconds
 * @property {string} certificate ours, with what is between it and its root
 * @property {string} key unencrypted; '' for none
 * @property {boolean} rejectUnauthorized
 * @property {string} serverName '' for the host's
 *
 * @typedef {object} Identity
 * @property {crypto.KeyObject} key
 * @property {crypto.X509Certificate[]} chain
 * @property {crypto.X509Certificate[]} trusted
 *
 * @typedef {{ option: string, parts: Buffer[] }} Given
 */

const PEM_CERTIFICATE =
  /-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----[^-]+-----END [A-Z0-9 ]+-----/g;
const CURVES = ['prime256v1', 'secp384r1'];
const FOREVER = Number.MAX_SAFE_INTEGER;

/**
 * @param {Record<string, any>} ssl fields of mqConf.ssl, of the right types
 * @returns {TlsSettings}
 * @throws {OptionError} without any secret
 */
function tlsSettings(ssl) {
  const identity = identityOf(ssl);
  const ca = given(ssl, 'ca');
  const authorities = ca && certificatesOf(ca);
  const trusted = [
    ...(authorities ?? rootCertificates()),
    ...(identity?.trusted ?? []),
  ];
  return {
    trusted: trusted.join('\n'),
    pinned: (authorities ?? []).map((certificate) => ({
      certificate: certificate.toString(),
      from: Math.max(0, seconds(certificate.validFrom) || 0),
      until: seconds(certificate.validTo) || FOREVER,
    })),
    certificate: identity?.chain.join('\n') ?? '',
    key: identity
      ? identity.key.export({ type: 'pkcs8', format: 'pem' }).toString()
      : '',
    rejectUnauthorized: ssl.rejectUnauthorized ?? true,
    serverName: ssl.servername ?? '',
  };
}

/**
 * What Node itself trusts, so that the broker's certificate is judged like
 * that of any other server this process talks to.
 *
 * @returns {readonly string[]}
 */
function rootCertificates() {
  const { getCACertificates } = /** @type {any} */ (tls);
  if (getCACertificates) return getCACertificates('default');
  // Before Node 22.15.
  const extra = process.env.NODE_EXTRA_CA_CERTS;
  if (!extra) return tls.rootCertificates;
  try {
    return [...tls.rootCertificates, fs.readFileSync(extra, 'utf8')];
  } catch {
    // Node has warned of it.
    return tls.rootCertificates;
  }
}

/**
 * The client's own certificate, if there is one.
 *
 * @param {Record<string, any>} ssl
 * @returns {Identity | null}
 */
function identityOf(ssl) {
  const pfx = given(ssl, 'pfx');
  const key = given(ssl, 'key');
  const cert = given(ssl, 'cert');
  if (pfx) {
    const other = key ?? cert;
    if (other) {
      throw new OptionError(other.option, `${pfx.option} holds it already`);
    }
    return fromPfx(pfx, ssl.passphrase ?? '');
  }
  if (!key && !cert) return null;
  if (!key || !cert) {
    const [there, missing] = key ? [key, 'cert'] : [cert, 'key'];
    const option = /** @type {Given} */ (there).option;
    throw new OptionError(
      option,
      `mqConf.ssl.${missing} or mqConf.ssl.${missing}File is needed with it`,
    );
  }
  const chain = certificatesOf(cert);
  const privateKey = readKey(key, ssl.passphrase);
  if (!chain[0].checkPrivateKey(privateKey)) {
    throw new OptionError(
      key.option,
      `not the key of the first certificate in ${cert.option}`,
    );
  }
  return { key: privateKey, chain, trusted: [] };
}

/**
 * @param {Given} pfx
 * @param {string} passphrase
 * @returns {Identity}
 */
function fromPfx({ option, parts }, passphrase) {
  let content;
  try {
    content = readPfx(parts[0], passphrase);
  } catch (error) {
    throw new OptionError(option, fromNative(error).message);
  }
  const certificates = content.certificates.map(
    (der) => new crypto.X509Certificate(der),
  );
  for (const der of content.keys) {
    const key = crypto.createPrivateKey({
      key: der,
      format: 'der',
      type: 'pkcs8',
    });
    const own = certificates.find((each) => each.checkPrivateKey(key));
    if (!own) continue;
    const trusted = certificates.filter((each) => each !== own);
    return { key: usable(key, option), chain: [own, ...trusted], trusted };
  }
  throw new OptionError(option, 'it holds no key with its certificate');
}

/**
 * @param {Given} given
 * @param {string} [passphrase]
 */
function readKey({ option, parts }, passphrase) {
  /** @type {crypto.KeyObject} */
  let key;
  try {
    key = crypto.createPrivateKey({ key: parts[0], passphrase });
  } catch (error) {
    // The error itself may not pass: it may show its input.
    const { code } = /** @type {NodeJS.ErrnoException} */ (error);
    throw new OptionError(
      option,
      parts[0].includes('ENCRYPTED')
        ? whyEncrypted(code, passphrase)
        : "expected a private key in PEM ('-----BEGIN PRIVATE KEY-----')",
    );
  }
  return usable(key, option);
}

/**
 * @param {string | undefined} code
 * @param {string} [passphrase]
 */
function whyEncrypted(code, passphrase) {
  if (!passphrase)
    return 'it is encrypted, and mqConf.ssl.passphrase is needed';
  return code?.includes('UNSUPPORTED')
    ? 'it is encrypted in a way that this Node.js does not know; ' +
        "'openssl pkcs8 -topk8 -v2 aes-256-cbc -in old.pem -out new.pem' converts it"
    : 'it cannot be decrypted with mqConf.ssl.passphrase';
}

/**
 * The kinds of keys that the native side can sign with.
 *
 * @param {crypto.KeyObject} key
 * @param {string} option
 */
function usable(key, option) {
  const type = key.asymmetricKeyType;
  const { modulusLength = 0, namedCurve = '' } = key.asymmetricKeyDetails ?? {};
  const fits =
    type === 'ed25519' ||
    (type === 'rsa' && modulusLength >= 2048 && modulusLength <= 4096) ||
    (type === 'ec' && CURVES.includes(namedCurve));
  if (fits) return key;
  const kind = [type, namedCurve || modulusLength || ''].join(' ').trim();
  throw new OptionError(
    option,
    `expected an RSA key of 2048 to 4096 bits or one of the kinds P-256, P-384 and Ed25519, got ${kind}`,
  );
}

/**
 * @param {Given} given
 * @returns {crypto.X509Certificate[]} at least one
 */
function certificatesOf({ option, parts }) {
  const texts = parts.flatMap((part) => {
    const found = part.toString('latin1').match(PEM_CERTIFICATE);
    if (!found) {
      throw new OptionError(
        option,
        "expected certificates in PEM ('-----BEGIN CERTIFICATE-----')",
      );
    }
    return found;
  });
  try {
    return texts.map((text) => new crypto.X509Certificate(text));
  } catch {
    throw new OptionError(option, 'it holds a certificate that is broken');
  }
}

/**
 * The content of an option that is given as itself or as a file.
 *
 * @param {Record<string, any>} ssl
 * @param {'key' | 'cert' | 'ca' | 'pfx'} name
 * @returns {Given | null}
 */
function given(ssl, name) {
  const [value, file] = [ssl[name], ssl[`${name}File`]];
  const option = `mqConf.ssl.${name}`;
  if (value !== undefined && file) {
    throw new OptionError(
      option,
      `give either this or ${option}File, not both`,
    );
  }
  if (value !== undefined) {
    const parts = [value].flat().map((part) => Buffer.from(part));
    return { option, parts };
  }
  if (!file) return null;
  const parts = [file].flat().map((name) => readFile(name, option));
  return { option: `${option}File`, parts };
}

/**
 * @param {string} file
 * @param {string} option that holds content
 */
function readFile(file, option) {
  if (file.includes('-----BEGIN')) {
    // Not shown: it may be the key.
    throw new OptionError(
      `${option}File`,
      `expected the name of a file, got PEM, which ${option} takes`,
    );
  }
  try {
    return fs.readFileSync(file);
  } catch (error) {
    const { code } = /** @type {NodeJS.ErrnoException} */ (error);
    throw new OptionError(
      `${option}File`,
      `cannot read ${shown(file)} (${code})`,
    );
  }
}

/** @param {string} date as X509Certificate writes it */
function seconds(date) {
  return Math.floor(Date.parse(date) / 1000);
}

module.exports = { tlsSettings };
