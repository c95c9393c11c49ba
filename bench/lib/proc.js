'use strict';

// What the kernel says about processes. It counts CPU time in ticks, of 10 ms
// usually, so a measurement must be long against that.

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');

const TICK =
  1e6 / Number(execFileSync('getconf', ['CLK_TCK'], { timeout: 5000 }));

/** The fields of /proc/PID/stat behind the name, which may hold anything. */
function stat(/** @type {number | string} */ pid) {
  const text = fs.readFileSync(`/proc/${pid}/stat`, 'latin1');
  return text.slice(text.lastIndexOf(')') + 2).split(' ');
}

/** The same; null once it has ended. RabbitMQ's helpers come and go. */
function statOf(/** @type {number | string} */ pid) {
  try {
    return stat(pid);
  } catch {
    return null;
  }
}

/**
 * User and system time of these processes, in microseconds.
 *
 * @param {number[]} pids
 */
function cpu(pids) {
  let ticks = 0;
  for (const pid of pids) {
    const fields = statOf(pid);
    if (fields) ticks += Number(fields[11]) + Number(fields[12]);
  }
  return ticks * TICK;
}

/**
 * A process and all that it has started.
 *
 * @param {number} root
 */
function family(root) {
  const parents = new Map();
  for (const name of fs.readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const fields = statOf(name);
    if (fields) parents.set(Number(name), Number(fields[1]));
  }
  const found = [root];
  for (const pid of found) {
    for (const [child, parent] of parents) {
      if (parent === pid) found.push(child);
    }
  }
  return found;
}

/** Resident memory in bytes. */
function rss(/** @type {number} */ pid) {
  const status = fs.readFileSync(`/proc/${pid}/status`, 'latin1');
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1024;
}

function machine() {
  const [{ model }] = os.cpus();
  return {
    cpu: model.trim(),
    cores: os.availableParallelism(),
    memory: `${Math.round(os.totalmem() / 2 ** 30)} GiB`,
    system: `${os.type()} ${os.release()}`,
    node: process.version,
    load: os.loadavg().map((value) => Number(value.toFixed(2))),
  };
}

module.exports = { cpu, family, machine, rss };
