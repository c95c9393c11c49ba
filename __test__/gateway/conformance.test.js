'use strict';

// Every case of support/conformance.js, through the gateway, the embedded broker
// and a worker that echoes, over TCP and over TLS, in whatever pieces the bytes
// come.

const http = require('node:http');
const test = require('ava');
const { embedded } = require('../support/brokers');
const { CASES } = require('../support/conformance');
const { OP, closing, frame } = require('../support/frames');
const { RawPeer } = require('../support/raw');
const { secureServer } = require('../support/secure');
const { until } = require('../support/until');
const { listen, open } = require('../support/world');

const MIB = 1024 * 1024;
const AT_ONCE = 8;

/**
 * How the frames of a case are cut up on their way.
 *
 * @type {Record<string, (frames: Buffer[]) => Buffer[]>}
 */
const PIECES = {
  'at once': (frames) => [Buffer.concat(frames)],
  'frame by frame': (frames) => frames,
  'in pieces': (frames) => {
    const bytes = Buffer.concat(frames);
    const size = bytes.length < 300 ? 1 : Math.ceil(bytes.length / 50);
    return Array.from({ length: Math.ceil(bytes.length / size) }, (_, n) =>
      bytes.subarray(n * size, (n + 1) * size),
    );
  },
};

async function echo(t, secure) {
  const httpServer = await listen(
    t,
    secure ? secureServer() : http.createServer(),
  );
  const world = await open(t, embedded, {
    ws: {
      httpServer,
      binary: true,
      maxReceivedFrameSize: MIB,
      closeTimeout: 2000,
    },
  });
  world.client.on('message', (message, headers, { raw, contentType }) => {
    const octets = contentType === 'application/octet-stream';
    world.client.send(octets ? raw : raw.toString(), headers);
  });
  const { port } = httpServer.address();
  let count = 0;
  return async () => {
    count += 1;
    const key = `k${count}`;
    const raw = await RawPeer.connect({ host: '127.0.0.1', port, secure });
    await raw.upgrade(`/?key=${key}`, { to: key });
    return raw;
  };
}

/** What a case comes to, in the words of its table. */
async function outcome(raw, { send, messages = [], pongs = [], code }, cut) {
  for (const piece of cut(send)) {
    if (raw.ended) break;
    raw.socket.write(piece);
    // So that each piece is read on its own, or almost.
    await new Promise((resolve) => setImmediate(resolve));
  }
  const of = (opcode) => raw.frames.filter((got) => got.opcode === opcode);
  if (code === undefined) {
    await until(
      () =>
        raw.ended ||
        (raw.messages.length >= messages.length &&
          of(OP.pong).length >= pongs.length),
    );
    raw.socket.write(frame(OP.close, closing(1000)));
  }
  await until(() => raw.ended);
  raw.socket.end();
  await raw.closed;
  const [close] = of(OP.close);
  return {
    messages: raw.messages.map((payload) => payload.toString('hex')),
    pongs: of(OP.pong).map(({ payload }) => payload.toString('hex')),
    closes: of(OP.close).length,
    // Behind the close frame nothing comes.
    last: raw.frames.at(-1) === close && raw.bytes.length === 0,
    code: close?.code ?? null,
    error: raw.error,
  };
}

function wanted({ messages = [], pongs = [], code = 1000 }) {
  const digits = (payload) => Buffer.from(payload).toString('hex');
  return {
    messages: messages.map(digits),
    pongs: pongs.map(digits),
    closes: 1,
    last: true,
    code,
    error: undefined,
  };
}

for (const secure of [false, true]) {
  for (const [group, cases] of Object.entries(CASES)) {
    test.serial(
      `${secure ? 'wss' : 'ws'}: ${group.toLowerCase()}`,
      async (t) => {
        t.timeout(120_000);
        const connect = await echo(t, secure);
        const runs = cases.flatMap((each) =>
          Object.entries(PIECES).map(([how, cut]) => ({ each, how, cut })),
        );
        const walk = async () => {
          for (let run; (run = runs.pop());) {
            const { each, how, cut } = run;
            const raw = await connect();
            const got = await outcome(raw, each, cut).finally(() =>
              raw.leave(),
            );
            const want = wanted(each);
            if (each.leaves && !got.messages.length) want.messages = [];
            // As text: comparing long strings deeply takes minutes where they differ.
            const [is, should] = [got, want].map((value) =>
              JSON.stringify(value),
            );
            if (is !== should) {
              t.fail(
                `${each.name}, ${how}: ${is.slice(-200)}, not ${should.slice(-200)}`,
              );
            }
          }
        };
        await Promise.all(Array.from({ length: AT_ONCE }, walk));
        t.is(runs.length, 0);
      },
    );
  }
}
