'use strict';

// Reads from the header of an addon for which system it was built, and from an
// ELF file also which versions of the C library it needs.

const fs = require('node:fs');

const ELF_MACHINES = { 62: 'x64', 183: 'arm64' };
const MACH_O_CPUS = { 0x01000007: 'x64', 0x0100000c: 'arm64' };
const PE_MACHINES = { 0x8664: 'x64', 0xaa64: 'arm64' };
const SHT_DYNAMIC = 6;
const SHT_GNU_VERNEED = 0x6ffffffe;
const DT_NEEDED = 1;

/**
 * @typedef {object} AddonFile
 * @property {string} os as in process.platform
 * @property {string} cpu as in process.arch
 * @property {'glibc' | 'musl'} [libc] of an ELF file
 * @property {string[]} [glibc] the versions that it needs, the newest last
 */

/** @param {Record<number, string>} names @param {number} machine */
function cpuName(names, machine) {
  const cpu = names[machine];
  if (!cpu) throw new Error(`unknown machine 0x${machine.toString(16)}`);
  return cpu;
}

/** @param {string} a @param {string} b */
function compareVersions(a, b) {
  return a.localeCompare(b, 'en', { numeric: true });
}

/** @param {Buffer} bytes @param {number} start */
function stringAt(bytes, start) {
  return bytes.toString('latin1', start, bytes.indexOf(0, start));
}

/**
 * The sections of a 64-bit, little-endian ELF file.
 *
 * @param {Buffer} bytes
 */
function elfSections(bytes) {
  const start = Number(bytes.readBigUInt64LE(40));
  const size = bytes.readUInt16LE(58);
  return Array.from({ length: bytes.readUInt16LE(60) }, (_, index) => {
    const at = start + index * size;
    return {
      type: bytes.readUInt32LE(at + 4),
      offset: Number(bytes.readBigUInt64LE(at + 24)),
      size: Number(bytes.readBigUInt64LE(at + 32)),
      // For the dynamic section and the needed versions: where their names are.
      link: bytes.readUInt32LE(at + 40),
      // For the needed versions: how many libraries are listed.
      info: bytes.readUInt32LE(at + 44),
    };
  });
}

/**
 * @param {Buffer} bytes
 * @returns {AddonFile}
 */
function inspectElf(bytes) {
  if (bytes[4] !== 2 || bytes[5] !== 1) {
    throw new Error('not a 64-bit, little-endian ELF file');
  }
  const sections = elfSections(bytes);
  const libraries = [];
  const versions = new Set();
  for (const { type, offset, size, link, info } of sections) {
    const names = sections[link]?.offset;
    if (type === SHT_DYNAMIC) {
      for (let at = offset; at < offset + size; at += 16) {
        if (bytes.readBigUInt64LE(at) !== BigInt(DT_NEEDED)) continue;
        const name = Number(bytes.readBigUInt64LE(at + 8));
        libraries.push(stringAt(bytes, names + name));
      }
    }
    if (type !== SHT_GNU_VERNEED) continue;
    let library = offset;
    for (let left = info; left > 0; left -= 1) {
      let version = library + bytes.readUInt32LE(library + 8);
      for (let more = bytes.readUInt16LE(library + 2); more > 0; more -= 1) {
        const name = names + bytes.readUInt32LE(version + 8);
        versions.add(stringAt(bytes, name));
        version += bytes.readUInt32LE(version + 12);
      }
      library += bytes.readUInt32LE(library + 12);
    }
  }
  const glibc = [...versions]
    .filter((name) => name.startsWith('GLIBC_'))
    .map((name) => name.slice('GLIBC_'.length))
    .sort(compareVersions);
  const isGlibc = libraries.some((name) => /^libc\.so\.6$/.test(name));
  return {
    os: 'linux',
    cpu: cpuName(ELF_MACHINES, bytes.readUInt16LE(18)),
    libc: isGlibc || glibc.length > 0 ? 'glibc' : 'musl',
    glibc,
  };
}

/**
 * @param {string} file
 * @returns {AddonFile}
 */
function inspectAddon(file) {
  const bytes = fs.readFileSync(file);
  if (bytes.length < 64) throw new Error('too short for an addon');
  if (bytes.readUInt32BE(0) === 0x7f454c46) return inspectElf(bytes);
  if (bytes.readUInt32LE(0) === 0xfeedfacf) {
    const cpu = cpuName(MACH_O_CPUS, bytes.readUInt32LE(4));
    return { os: 'darwin', cpu };
  }
  if (bytes.toString('latin1', 0, 2) === 'MZ') {
    const header = bytes.readUInt32LE(60);
    if (bytes.toString('latin1', header, header + 4) === 'PE\0\0') {
      const cpu = cpuName(PE_MACHINES, bytes.readUInt16LE(header + 4));
      return { os: 'win32', cpu };
    }
  }
  throw new Error('not an ELF, Mach-O or PE file');
}

module.exports = { compareVersions, inspectAddon };
