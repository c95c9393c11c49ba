// Checked by tsc alone, never run: each @ts-expect-error must be an error, and
// each Assert must hold.

import { EventEmitter, once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import {
  Client,
  MessageEnginError,
  OptionError,
  server,
  type ClientStats,
  type Gateway,
  type GatewayStats,
  type Headers,
  type HeaderValue,
  type Key,
  type MessageInfo,
  type MqConf,
  type Request,
  type Status,
  type Thunk,
  type WsConf,
  type WsOptions,
  type Yieldable,
} from '..';

type Equal<A, B> =
  (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2
    ? true
    : false;
type Assert<T extends true> = T;
declare function same<A, B>(
  ...proof: Equal<A, B> extends true ? [] : [never]
): void;

const httpServer = createServer();
const wsConf: WsConf = {
  httpServer,
  keyFn: () => 'key',
  messageKeyFn: () => null,
};

// start, and every way to wait for it

export async function asyncStart() {
  const gateway = await server.start({ host: 'localhost' }, wsConf);
  same<typeof gateway, Gateway>();
  same<ReturnType<typeof server.start>, Yieldable<Gateway>>();
  await server.start(undefined, wsConf);
  // @ts-expect-error wsConf is required
  server.start({});
  // @ts-expect-error mqConf is an object
  server.start('amqp://localhost', wsConf);
}

export function* generatorStart(): Generator<unknown, void, any> {
  const gateway = yield* server.start({}, wsConf);
  same<typeof gateway, Gateway>();
  const client = yield* new Client().init();
  same<typeof client, Client>();
  yield new Client().init();
}

export function steps(waiting: Yieldable<number>) {
  const promise: Promise<number> = waiting;
  const step = waiting.next();
  if (step.done) same<typeof step.value, number>();
  else same<typeof step.value, Promise<number>>();
  return promise.then((value) => value.toFixed());
}

// mqConf

export const mqConfs: MqConf[] = [
  {},
  { url: 'amqp://guest:guest@localhost:5672/%2F' },
  { url: 'memory://name' },
  { host: ['one', 'two:5673'], hostPreference: 1, port: '5672' },
  { ssl: true },
  { url: 'amqps://localhost', ssl: { caFile: 'ca.pem' } },
  { url: 'amqps://localhost', ssl: { caFile: ['ca.pem', 'other.pem'] } },
  {
    ssl: {
      enabled: true,
      key: Buffer.of(1),
      cert: 'PEM',
      ca: ['PEM', Buffer.of(1)],
      passphrase: 'secret',
      rejectUnauthorized: false,
      servername: 'broker',
    },
  },
  {
    ssl: {
      enabled: true,
      keyFile: 'key.pem',
      certFile: 'cert.pem',
      caFile: 'ca.pem',
      pfx: Buffer.of(1),
      pfxFile: 'all.pfx',
    },
  },
  // @ts-expect-error a PKCS #12 file is not text
  { ssl: { pfx: 'text' } },
  // @ts-expect-error it is caFile
  { ssl: { cafile: 'ca.pem' } },
  {
    login: 'guest',
    password: 'guest',
    vhost: '/',
    authMechanism: 'PLAIN',
    connectionTimeout: 10000,
    heartbeat: 15,
    noDelay: true,
    clientProperties: { product: 'mine', nested: { is: ['fine'] } },
    routingKeyInPayload: true,
    deliveryTagInPayload: true,
    reconnect: true,
    reconnectBackoffStrategy: 'exponential',
    reconnectBackoffTime: 1000,
    reconnectExponentialLimit: 120000,
    reconnectJitter: 0.25,
    bufferSize: 16 * 1024 * 1024,
    prefetch: 256,
    receiveExchange: 'receiveExchange',
    receiveQueue: 'receiveQueue',
    statusExchange: 'statusExchange',
    statusQueue: 'statusQueue',
    messageExchange: 'messageExchange',
    messageQueue: 'messageQueue',
  },
  // @ts-expect-error not an option
  { hots: 'localhost' },
  // @ts-expect-error ms, not text
  { connectionTimeout: '10s' },
  // @ts-expect-error none of the four
  { authMechanism: 'plain' },
  // @ts-expect-error neither of the two
  { reconnectBackoffStrategy: 'random' },
  // @ts-expect-error a part of the time, not text
  { reconnectJitter: '25%' },
];

// what gets lost, and where it goes

export const deliveries: MqConf[] = [
  { delivery: 'at-most-once' },
  { delivery: 'at-least-once' },
  {
    delivery: 'at-least-once',
    queueType: 'quorum',
    deadLetterExchange: 'dead',
    queueExpires: 300000,
  },
  { delivery: 'at-least-once', queueType: 'classic', deadLetterExchange: null },
  // @ts-expect-error neither of the two
  { delivery: 'exactly-once' },
  // @ts-expect-error it has a default, and null is none
  { delivery: null },
  // @ts-expect-error neither of the two
  { delivery: 'at-least-once', queueType: 'stream' },
  // @ts-expect-error the name alone
  { delivery: 'at-least-once', deadLetterExchange: { name: 'dead' } },
  // @ts-expect-error ms, not text
  { delivery: 'at-least-once', queueExpires: '5m' },
];

// wsConf

export const wsConfs: WsConf[] = [
  wsConf,
  {
    httpServer: [httpServer, createSecureServer()],
    keyFn: () => undefined,
    messageKeyFn: () => ['one', 2],
    protocol: 'chat',
    origin: null,
    maxReceivedFrameSize: 65536,
    maxReceivedMessageSize: 1048576,
    fragmentOutgoingMessages: true,
    fragmentationThreshold: 16384,
    keepalive: true,
    keepaliveInterval: 20000,
    dropConnectionOnKeepaliveTimeout: true,
    keepaliveGracePeriod: 10000,
    useNativeKeepalive: false,
    assembleFragments: true,
    autoAcceptConnections: false,
    ignoreXForwardedFor: false,
    parseCookies: true,
    parseExtensions: true,
    disableNagleAlgorithm: true,
    closeTimeout: 5000,
    binary: true,
    maxBackpressure: 1048576,
    path: '/chat',
    slowConsumer: 'wait',
    threads: 2,
    messageRate: { messages: 50, bytes: 1e6, burst: 2, policy: 'close' },
  },
  { ...wsConf, path: null, slowConsumer: 'drop' },
  { ...wsConf, slowConsumer: 'close' },
  // @ts-expect-error one path
  { ...wsConf, path: ['/a', '/b'] },
  // @ts-expect-error no pattern
  { ...wsConf, path: /^.chat/ },
  // @ts-expect-error none of the three
  { ...wsConf, slowConsumer: 'kill' },
  // @ts-expect-error a number of them
  { ...wsConf, threads: 'all' },
  { ...wsConf, messageRate: null },
  { ...wsConf, messageRate: { messages: 0.5 } },
  // @ts-expect-error neither of the two
  { ...wsConf, messageRate: { messages: 50, policy: 'drop' } },
  // @ts-expect-error not an option
  { ...wsConf, messageRate: { perSecond: 50 } },
  // @ts-expect-error keyFn decides
  { ...wsConf, autoAcceptConnections: true },
  // @ts-expect-error messages are whole
  { ...wsConf, assembleFragments: false },
  // @ts-expect-error not an option
  { ...wsConf, keepAlive: true },
  // @ts-expect-error not a server
  { ...wsConf, httpServer: 8080 },
  // @ts-expect-error an object is no key
  { ...wsConf, keyFn: () => ({ user: 1 }) },
  // @ts-expect-error messageKeyFn is synchronous
  { ...wsConf, messageKeyFn: async () => 'key' },
];

// who may come in

export const admissions: WsConf[] = [
  { ...wsConf, handshakeTimeout: 5000, maxConnections: 0, connectionRate: 0.5 },
  { ...wsConf, connectionRate: { perSecond: 10 }, origins: null },
  {
    ...wsConf,
    connectionRate: { perSecond: 10, burst: 50 },
    origins: ['https://*.a.example', 'null'] as const,
  },
  {
    ...wsConf,
    origins(origin, request) {
      same<typeof origin, string | undefined>();
      same<typeof request, Request>();
      same<typeof this, WsOptions>();
      return origin !== undefined && request.host === new URL(origin).host;
    },
  },
  // @ts-expect-error ms, not text
  { ...wsConf, handshakeTimeout: '5s' },
  // @ts-expect-error 0 says none
  { ...wsConf, maxConnections: null },
  // @ts-expect-error per second
  { ...wsConf, connectionRate: { perMinute: 60 } },
  // @ts-expect-error a burst of what?
  { ...wsConf, connectionRate: { burst: 60 } },
  // @ts-expect-error a list, also of one
  { ...wsConf, origins: 'https://a.example' },
  // @ts-expect-error no patterns
  { ...wsConf, origins: [/example/] },
  // @ts-expect-error synchronous
  { ...wsConf, origins: async () => true },
];

// keyFn and messageKeyFn in each of their forms, with what they are given

export const forms: WsConf[] = [
  {
    ...wsConf,
    async keyFn(request, gateway) {
      same<typeof request, Request>();
      same<typeof gateway, Gateway>();
      same<typeof this, WsOptions>();
      return request.cookies.find(({ name }) => name === 'user')?.value;
    },
    messageKeyFn(message, headers, info) {
      same<typeof headers, Headers>();
      same<typeof info, { contentType: string }>();
      same<typeof this, WsOptions>();
      return [message.to, 5] as const;
    },
  },
  {
    ...wsConf,
    *keyFn(request) {
      const user: { id: number } = yield Promise.resolve({ id: 1 });
      return request.host === 'localhost' && user.id;
    },
  },
  {
    ...wsConf,
    keyFn(request) {
      request.reject(403, 'not today', { 'Retry-After': 60 });
    },
    messageKeyFn: ({ to }) => to || false,
  },
];

// A generator function as old code has it, without any annotation but one.
export function* oldKeyFn(request: { httpRequest: IncomingMessage }) {
  const { appid }: { appid?: string } = yield request.httpRequest.headers;
  return appid;
}
export const oldConf: WsConf = { ...wsConf, keyFn: oldKeyFn };

export function request(request: Request) {
  same<typeof request.httpRequest, IncomingMessage>();
  same<typeof request.remoteAddresses, (string | undefined)[]>();
  same<typeof request.cookies, { name: string; value: string | null }[]>();
  const room: string | string[] | undefined = request.resourceURL.query.room;
  const values: (string | undefined)[] = request.requestedExtensions.flatMap(
    ({ params }) => params.map(({ value }) => value),
  );
  request.accept('chat', null, [
    { name: 'a', value: 'b', maxage: 60, secure: true, expires: new Date() },
  ]);
  // @ts-expect-error a cookie has a value
  request.accept(null, null, [{ name: 'a' }]);
  // @ts-expect-error status comes first
  request.reject('bad request');
  return [room, values];
}

// the gateway

export function gateway(gateway: Gateway) {
  const emitter: EventEmitter = gateway;
  same<typeof gateway.size, number>();
  same<ReturnType<typeof gateway.close>, Yieldable<void>>();
  same<ReturnType<typeof gateway.stats>, GatewayStats>();
  same<typeof gateway.draining, boolean>();
  gateway.close({});
  gateway.close({ drain: 10000 });
  // @ts-expect-error ms, not text
  gateway.close({ drain: '10s' });
  // @ts-expect-error a gateway has no listeners to wait for
  gateway.close({ timeout: 10000 });
  // @ts-expect-error close() decides
  gateway.draining = true;
  gateway
    .on('blocked', (reason) => same<typeof reason, string>())
    .on('unblocked', () => {})
    .on('error', (error) => same<typeof error, Error>())
    .on('close', () => {});
  // @ts-expect-error unblocked has no reason
  gateway.on('unblocked', (reason: string) => reason);
  // @ts-expect-error the client's event
  gateway.on('listenerError', () => {});
  gateway
    .on('reconnecting', ({ attempt, delay, error }) => {
      same<typeof attempt, number>();
      same<typeof delay, number>();
      same<typeof error, Error>();
    })
    .once('ready', () => {})
    .on('undeliverable', (message, headers, error) => {
      same<typeof message, unknown>();
      same<typeof headers, Headers>();
      same<typeof error, unknown>();
    })
    .on('messageKeyError', (error, message, headers) => {
      same<typeof error, unknown>();
      same<typeof headers, Headers>();
      return message.any;
    })
    .addListener('keyError', (error, request) => {
      same<typeof request, Request>();
      return error;
    })
    .off('ready', () => {});
  // @ts-expect-error ready has no arguments
  gateway.on('ready', (info: string) => info);
  // @ts-expect-error not an event
  gateway.on('message', () => {});
  // @ts-expect-error size is counted, not set
  gateway.size = 5;
  return emitter;
}

type StatNames =
  | 'connections'
  | 'accepted'
  | 'handshakes'
  | 'rejected'
  | 'rejectedByOrigins'
  | 'rejectedByMaxConnections'
  | 'rejectedByConnectionRate'
  | 'rejectedByHandshakeTimeout'
  | 'received'
  | 'receivedBytes'
  | 'sent'
  | 'sentBytes'
  | 'ignoredBinary'
  | 'duplicates'
  | 'unreadableHeaders'
  | 'unmatched'
  | 'keyErrors'
  | 'keyFnErrors'
  | 'overflowed'
  | 'published'
  | 'buffered'
  | 'undeliverable'
  | 'reconnects';
export type StatsAreNumbers = Assert<
  Equal<
    { -readonly [N in keyof GatewayStats]: GatewayStats[N] },
    Record<StatNames, number>
  >
>;
export type ClientStatsAreNumbers = Assert<
  Equal<ClientStats[keyof ClientStats], number>
>;

// the client

export async function client() {
  const client = new Client({ url: 'memory:' });
  const emitter: EventEmitter = client;
  same<Awaited<ReturnType<typeof client.init>>, Client>();
  same<ReturnType<typeof client.close>, Yieldable<void>>();
  same<ReturnType<typeof client.stats>, ClientStats>();

  same<ReturnType<typeof client.send>, boolean>();
  client.send({ to: 'key' });
  client.send('text', { trace: 'abc', nested: { list: [1, true, null] } });
  client.send(Buffer.of(1), { at: new Date(), raw: Buffer.of(2) });
  client.on('message', (message, headers) => client.send(message, headers));
  // @ts-expect-error a function is no header value
  client.send({}, { bad: () => {} });

  const thunk = client.$send({ to: 'key' }, { trace: 'abc' });
  same<typeof thunk, Thunk<boolean>>();
  thunk((error, flushed) => {
    same<typeof error, Error | null>();
    same<typeof flushed, boolean | undefined>();
  });

  client
    .on('message', (message, headers, info) => {
      same<typeof headers, Headers>();
      same<typeof info, MessageInfo>();
      same<typeof info.raw, Buffer>();
      same<typeof info.messageId, string | undefined>();
      same<typeof info.redelivered, boolean>();
      same<typeof info.routingKey, string>();
      same<typeof info.exchange, string>();
      same<typeof info.contentType, string>();
      return message.anything;
    })
    .on('status', (status, headers, info) => {
      same<typeof status, Status>();
      same<typeof status.status, 1 | 0>();
      same<typeof status.key, Key>();
      same<typeof status.reasonCode, number | undefined>();
      same<typeof headers, Headers>();
      same<typeof info, MessageInfo>();
    })
    .on('drain', () => {})
    .on('reconnecting', ({ attempt }) => attempt.toFixed())
    .on('ready', () => {})
    .prependListener('error', (error) => error.message)
    .on('blocked', (reason) => same<typeof reason, string>())
    .on('unblocked', () => {})
    .on('undeliverable', (message, headers, error) => {
      same<typeof message, unknown>();
      same<typeof headers, Headers | undefined>();
      same<typeof error, unknown>();
    })
    .on('listenerError', (error, message, headers, info) => {
      same<typeof error, unknown>();
      same<typeof headers, Headers>();
      same<typeof info, MessageInfo>();
      return message.anything;
    })
    .on('close', () => {});
  // Whoever returns a promise is waited for.
  client.on('message', async (message) => message.anything);
  // @ts-expect-error close has no arguments
  client.on('close', (code: number) => code);
  // @ts-expect-error anything can be thrown
  client.on('listenerError', (error: Error) => error.message);
  // @ts-expect-error blocked tells a reason, not an error
  client.on('blocked', (error: Error) => error.message);
  // @ts-expect-error not every message has an id
  client.on('message', (message, headers, { messageId }) => messageId.length);
  client.close({ timeout: 10000 });
  // @ts-expect-error ms, not text
  client.close({ timeout: '10s' });
  // @ts-expect-error a client has no browsers
  client.close({ drain: 10000 });
  // @ts-expect-error misspelled
  client.on('mesage', () => {});
  // @ts-expect-error the second argument holds headers
  client.on('message', (message, headers: string) => headers + message);
  await once(client, 'ready');
  return emitter;
}

export class Worker extends Client {
  constructor() {
    super({ url: 'memory:' });
    this.on('message', (message) => this.send(message));
  }
}

export async function worker() {
  const worker = await new Worker().init();
  same<typeof worker, Worker>();
}

export type HeaderValues = Assert<
  Equal<
    HeaderValue,
    | string
    | number
    | boolean
    | null
    | Date
    | Buffer
    | HeaderValue[]
    | { [name: string]: HeaderValue }
  >
>;

// errors

export function errors(error: unknown) {
  if (error instanceof OptionError) {
    const base: TypeError = error;
    same<typeof error.option, string>();
    same<typeof error.code, 'ERR_INVALID_OPTION'>();
    return base;
  }
  if (error instanceof MessageEnginError) {
    const base: Error = error;
    same<typeof error.code, string>();
    same<typeof error.address, string | undefined>();
    return base;
  }
  return new MessageEnginError('CLOSED', 'closed', { address: 'memory:' });
}

// a key is asked for or declared, and one of the two is there

export const declared: WsConf[] = [
  { httpServer, key: { header: 'k' }, messageKey: { json: '/to/id' } },
  { httpServer, key: { query: 'k' }, messageKeyFn: () => 'key' },
  { httpServer, key: { cookie: 'k' }, messageKey: { header: 'k' } },
  {
    httpServer,
    key: { template: '{header:dn}:{query:k}' },
    messageKey: { template: '{header:dn}:{json:/k}' },
  },
  // @ts-expect-error no word of the message's key
  { httpServer, keyFn: () => 'key' },
  // @ts-expect-error both
  { httpServer, keyFn: () => 'k', key: { header: 'k' }, messageKeyFn: () => 1 },
  // @ts-expect-error a request has no body
  { httpServer, key: { json: '/k' }, messageKeyFn: () => 'key' },
];
