'use strict';

const net = require('node:net');
const { once } = require('node:events');

const HOST = '127.0.0.1';

/**
 * Stands before several gateways, as a load balancer does: each connection
 * goes to the next one that is in.
 *
 * @param {import('ava').ExecutionContext} t
 * @param {number[]} ports
 */
async function balance(t, ports) {
  const members = new Set(ports);
  const sockets = new Set();
  let turn = 0;
  const server = net.createServer((near) => {
    const all = [...members];
    const far = net.connect(all[(turn += 1) % all.length], HOST);
    for (const [one, other] of [
      [near, far],
      [far, near],
    ]) {
      sockets.add(one);
      one.setNoDelay(true);
      one.on('error', () => {});
      one.on('close', () => {
        sockets.delete(one);
        other.destroy();
      });
    }
    near.pipe(far);
    far.pipe(near);
  });
  server.listen(0, HOST);
  await once(server, 'listening');
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(() => resolve()));
  });
  const { port } = /** @type {net.AddressInfo} */ (server.address());
  return {
    url: `ws://${HOST}:${port}/`,
    /** @param {number} port */
    takeOut: (port) => members.delete(port),
    /** @param {number} port */
    putIn: (port) => members.add(port),
  };
}

module.exports = { balance };
