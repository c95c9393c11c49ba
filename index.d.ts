import type { EventEmitter } from 'node:events';
import type { IncomingMessage, Server as HttpServer } from 'node:http';
import type { Server as HttpsServer } from 'node:https';
import type { Socket } from 'node:net';
import type { UrlWithParsedQuery } from 'node:url';

// Without this line every declaration below would count as exported.
export {};

// ---------------------------------------------------------------- the server

/** Holds browsers' WebSockets and stands between them and the broker. */
export const server: {
  /**
   * Takes over the WebSocket upgrades of `wsConf.httpServer` and connects them
   * with the broker.
   *
   * Resolves once the exchanges and queues stand and upgrades are taken.
   * Rejects with an {@link OptionError} for a setting that cannot be used, and
   * with a {@link MessageEnginError} (`code` 'ECONNREFUSED', 'ACCESS_REFUSED',
   * ...) when the broker cannot be had within `mqConf.connectionTimeout`.
   *
   * Works with `await`, and under co 3.1 and 4.6 with `yield`, `yield*` and
   * `co(...)`.
   */
  start(mqConf: MqConf | undefined, wsConf: WsConf): Yieldable<Gateway>;
};

/**
 * What {@link server.start} resolves to. No event needs a listener: none of
 * them ends the process.
 */
export interface Gateway extends TypedEmitter<GatewayEvents> {
  /** Open WebSocket connections of this gateway. */
  readonly size: number;

  /**
   * Takes no more upgrades, closes the WebSockets with 1001, publishes their
   * statuses, and leaves the broker. The http server stays as it is. Calling
   * it again gives the same promise.
   *
   * With `drain`, in ms, it closes them one by one, evenly over that time, with
   * 1012, so that they do not all come back at once; upgrades are refused with
   * 503 meanwhile, and messages still go both ways.
   */
  close(options?: { drain?: number }): Yieldable<void>;

  /** True from `close()` on: what a health check should tell a balancer. */
  readonly draining: boolean;

  /** Counters since start, and what is held at this moment. */
  stats(): GatewayStats;
}

export interface GatewayEvents {
  /**
   * The broker connection is lost; an attempt to restore it follows. Without a
   * listener the first one is a process warning.
   */
  reconnecting: [info: Reconnecting];
  /** The broker connection is restored and traffic goes on. */
  ready: [];
  /**
   * Messages that had been handed to the broker are lost, and counted as
   * `undeliverable`: the broker closed the channel, one was refused, or no
   * gateway was there. Without a listener the first time is a process warning,
   * unless no gateway was there (`NO_ROUTE`, told once until one is there again).
   */
  lost: [info: Lost];
  /**
   * The broker takes no messages for now (connection.blocked), with its
   * reason: a memory or disk alarm. What is sent waits; browsers are not read.
   */
  blocked: [reason: string];
  /** It takes messages again. */
  unblocked: [];
  /**
   * `messageKeyFn` threw for this message, which reached nobody here. Without a
   * listener the first one is a process warning.
   */
  messageKeyError: [error: unknown, message: any, headers: Headers];
  /**
   * A browser's message or status, with its connection's headers, that the
   * broker cannot be given; `error` says why. The headers of a connection are
   * checked at its upgrade, so this happens only where the broker has agreed on
   * smaller frames since (`error.code` 'ERR_HEADERS_TOO_LARGE'). Without a
   * listener the first one is a process warning.
   */
  undeliverable: [message: unknown, headers: Headers, error: unknown];
  /**
   * `keyFn` or `origins` threw for this request, or `keyFn` left a key or headers
   * that cannot be used; it was refused. Without a listener the first one is a
   * process warning, unless it is a refusal: an error that has a `status`.
   */
  keyError: [error: unknown, request: Request];
  /** `close()` is done. */
  close: [];
  /** Emitted only when there is a listener, so that it never ends a process. */
  error: [error: Error];
}

export interface GatewayStats {
  /** WebSocket connections that are open now. */
  connections: number;
  /** Upgrades accepted. */
  accepted: number;
  /** Upgrades whose key is being asked for now. */
  handshakes: number;
  /** Upgrades refused, for whatever reason. */
  rejected: number;
  /** Of them, those that `wsConf.origins` does not allow. */
  rejectedByOrigins: number;
  /** Of them, those beyond `wsConf.maxConnections`. */
  rejectedByMaxConnections: number;
  /** Of them, those that came faster than `wsConf.connectionRate`. */
  rejectedByConnectionRate: number;
  /** Of them, those whose key took longer than `wsConf.handshakeTimeout`. */
  rejectedByHandshakeTimeout: number;
  /** Messages that came from browsers. */
  received: number;
  /** Bytes in them. */
  receivedBytes: number;
  /** Messages sent to browsers; one to many counts once for each. */
  sent: number;
  /** Bytes in them. */
  sentBytes: number;
  /** Binary frames that were ignored because `wsConf.binary` is false. */
  ignoredBinary: number;
  /**
   * With 'at-least-once': messages to browsers that came a second time,
   * redelivered by the broker or published again after a lost connection, and
   * were dropped.
   */
  duplicates: number;
  /**
   * Messages to browsers with a header that cannot be read: nested deeper than
   * 64 levels, or of a type that RabbitMQ's AMQP 0-9-1 does not have. The header
   * is left out. (With `messageKey`, headers are not read.)
   */
  unreadableHeaders: number;
  /** Messages from workers whose key is not connected here. */
  unmatched: number;
  /** Calls of `messageKeyFn` that threw. */
  keyErrors: number;
  /**
   * Times that `keyFn` or `origins` failed: it threw an error without a
   * `status`, or `keyFn` left a key or headers that cannot be used.
   */
  keyFnErrors: number;
  /** Messages not sent, to connections that are closing or read too slowly for `wsConf.maxBackpressure`. */
  overflowed: number;
  /** Messages and statuses handed to the broker. */
  published: number;
  /** Bytes that wait for the broker now. */
  buffered: number;
  /** Messages lost with a connection to the broker, or that found no room in `mqConf.bufferSize`. */
  undeliverable: number;
  /** Times that the broker connection was restored. */
  reconnects: number;
}

// ---------------------------------------------------------------- the client

/** A back-office process: receives what browsers send, and sends to them. */
export class Client extends TypedEmitter<ClientEvents> {
  /** @throws {OptionError} for a setting that cannot be used. */
  constructor(mqConf?: MqConf);

  /**
   * Connects, declares the exchanges and queues, and consumes messages while
   * there are listeners for 'message', and statuses while there are some for
   * 'status'; without listeners, other clients get them.
   * Resolves to this client. Rejects with a {@link MessageEnginError} when the
   * broker cannot be had within `mqConf.connectionTimeout`.
   */
  init(): Yieldable<this>;

  /**
   * Sends a message to the gateways, which give it to the connections whose
   * key `messageKeyFn` derives from it.
   *
   * A Buffer reaches the browser as a binary frame, a string as that text, and
   * anything else as its JSON text.
   *
   * @returns false when `mqConf.bufferSize` is reached, or while the broker
   *   takes nothing ('blocked'): hold on until 'drain'.
   * @throws {MessageEnginError} before `init()` and after `close()`; never for
   *   a lost connection.
   * @throws {TypeError} for a message or headers that cannot be carried: with
   *   `code` 'ERR_HEADERS_TOO_LARGE' for headers that do not fit into one frame of
   *   the broker (128 KiB by default), 'ERR_INVALID_ARG_TYPE' for headers that
   *   are no object, and 'ERR_INVALID_ARG_VALUE' for the rest: see {@link
   *   HeaderValue}.
   */
  send(message: unknown, headers?: Headers): boolean;

  /**
   * `send` as a thunk, for `yield client.$send(message)` under co. It waits for
   * 'drain' where `send` returns false; what `send` would not take is an error
   * ('ERR_BUFFER_FULL').
   */
  $send(message: unknown, headers?: Headers): Thunk<boolean>;

  /**
   * Stops consuming, waits for the promises of listeners that have a message in
   * hand, for at most `timeout` ms (default 30000), sends what waits and leaves
   * the broker. With 'at-least-once', what they do not finish by then goes to
   * another client.
   *
   * A listener must not wait for it: each would wait for the other.
   */
  close(options?: { timeout?: number }): Yieldable<void>;

  /**
   * Counters since `init()`, and what is held at this moment; after `close()`
   * too.
   *
   * @throws {MessageEnginError} before `init()`.
   */
  stats(): ClientStats;
}

export interface ClientEvents {
  /**
   * A browser's message: the value of its JSON; the text itself when it is not
   * JSON; a Buffer for a binary frame.
   */
  message: [message: any, headers: Headers, info: MessageInfo];
  /** A connection of a key came or went. */
  status: [status: Status, headers: Headers, info: MessageInfo];
  /** `send` returned false, and there is room again. */
  drain: [];
  /**
   * The broker connection is lost; an attempt to restore it follows. Without a
   * listener the first one is a process warning.
   */
  reconnecting: [info: Reconnecting];
  /** The broker connection is restored and traffic goes on. */
  ready: [];
  /**
   * Messages that had been handed to the broker are lost, and counted as
   * `undeliverable`: the broker closed the channel, one was refused, or no
   * gateway was there. Without a listener the first time is a process warning,
   * unless no gateway was there (`NO_ROUTE`, told once until one is there again).
   */
  lost: [info: Lost];
  /**
   * The broker takes no messages for now (connection.blocked), with its
   * reason: a memory or disk alarm. What is sent waits; browsers are not read.
   */
  blocked: [reason: string];
  /** It takes messages again. */
  unblocked: [];
  /**
   * A message that found no room in twice `mqConf.bufferSize` and was not sent;
   * or, with an `error`, one whose headers are too large for the frames of a
   * broker that `send` did not know yet ('ERR_HEADERS_TOO_LARGE'); or a received
   * one for which a listener failed when it came again, and which is dropped ('at-least-once' without `deadLetterExchange`). Without a
   * listener the first one is a process warning.
   */
  undeliverable: [
    message: unknown,
    headers: Headers | undefined,
    error?: unknown,
  ];
  /**
   * With 'at-least-once': a listener threw or rejected. The message comes again
   * once (`info.redelivered`); after that it is dead-lettered or dropped. Without
   * a listener the first one is a process warning.
   */
  listenerError: [
    error: unknown,
    message: any,
    headers: Headers,
    info: MessageInfo,
  ];
  /** `close()` is done. */
  close: [];
  /** Emitted only when there is a listener, so that it never ends a process. */
  error: [error: Error];
}

export interface ClientStats {
  /** Messages that came from browsers. */
  received: number;
  /** Bytes in them. */
  receivedBytes: number;
  /** Messages taken by `send` and `$send`. */
  sent: number;
  /** Bytes in them. */
  sentBytes: number;
  /** Messages handed to the broker. */
  published: number;
  /** Bytes that wait for the broker now. */
  buffered: number;
  /**
   * Messages lost with a connection to the broker, that found no room in twice
   * `mqConf.bufferSize`, whose headers are too large for the broker after a
   * reconnect, or that listeners failed for and are dropped.
   */
  undeliverable: number;
  /**
   * Messages and statuses with a header that cannot be read: nested deeper than
   * 64 levels, or of a type that RabbitMQ's AMQP 0-9-1 does not have. The header
   * is left out.
   */
  unreadableHeaders: number;
  /** Times that a listener threw or rejected, with 'at-least-once'. */
  listenerErrors: number;
  /** Times that the broker connection was restored. */
  reconnects: number;
}

/** A connection of a key came (1) or went (0). */
export interface Status {
  status: 1 | 0;
  /** The value that `keyFn` returned. */
  key: Key;
  /** The WebSocket close code (RFC 6455, section 7.4), with status 0. */
  reasonCode?: number;
  /** The close reason, or the standard text of the code, with status 0. */
  description?: string;
  /** With `mqConf.routingKeyInPayload`. */
  _routingKey?: string;
  /** With `mqConf.deliveryTagInPayload`. */
  _deliveryTag?: number;
}

/** How the broker delivered a message. */
export interface MessageInfo {
  routingKey: string;
  exchange: string;
  /** It was delivered before, to somebody who did not finish with it. */
  redelivered: boolean;
  /** '' when it has none. */
  contentType: string;
  /**
   * The publisher's id of the message, the same whenever it comes again; with
   * `mqConf.delivery` 'at-least-once' each message has one.
   */
  messageId: string | undefined;
  /** The body as it came. */
  raw: Buffer;
}

// -------------------------------------------------------- what both have

/** Messages that were handed to the broker and are not sent again. */
export interface Lost {
  /**
   * How many. With 'at-most-once', those that were on their way on a channel
   * which the broker closed (20 ms at the most): some may have arrived.
   */
  count: number;
  /** Why: `code` 'NOT_FOUND', 'ACCESS_REFUSED', 'PRECONDITION_FAILED', 'NO_ROUTE', ... */
  error: MessageEnginError;
}

export interface Reconnecting {
  /** 1 for the first attempt after the loss. */
  attempt: number;
  /** Until that attempt, in ms. */
  delay: number;
  /** Why the connection, or the attempt before this one, failed. */
  error: Error;
}

/** Names a connection. 5 and '5' are one key. */
export type Key = string | number;

/**
 * A value of an AMQP header field. A Date is carried in whole seconds. In place
 * of these, a number, string or boolean object and what a `toJSON()` returns are
 * taken; a field that is undefined is left out; half a surrogate pair in a text
 * becomes U+FFFD, as in a Buffer. What cannot be carried is an error: a name of
 * more than 255 bytes in UTF-8, a Date that is invalid or before 1970, NaN and
 * Infinity, a bigint, function or symbol, undefined in an array, an object of a
 * class without fields (a Map, the Headers of fetch), and more than 32 levels.
 */
export type HeaderValue =
  | string
  | number
  | boolean
  | null
  | Date
  | Buffer
  | HeaderValue[]
  | { [name: string]: HeaderValue };

/**
 * The headers of a message. Those that come from a gateway are the headers of
 * the upgrade request, their names in lower case.
 */
export type Headers = Record<string, HeaderValue>;

/** A promise that generators under co 3.1 and co 4.6 can yield and drive. */
export interface Yieldable<T> extends Promise<T> {
  next(value?: any): IteratorResult<Promise<T>, T>;
  throw(error: unknown): IteratorResult<Promise<T>, T>;
  return(value: T): IteratorResult<Promise<T>, T>;
  [Symbol.iterator](): Generator<Promise<T>, T, any>;
}

/**
 * A function that waits for a callback. For `$send`, `flushed` is what `send`
 * returns.
 */
export type Thunk<T> = (
  callback: (error: Error | null, flushed?: T) => void,
) => void;

/** An error of the broker, the connection or the package itself. */
export class MessageEnginError extends Error {
  constructor(
    code: string,
    message: string,
    extra?: { address?: string; cause?: unknown; [name: string]: unknown },
  );
  /** For programs: 'ECONNREFUSED', 'ACCESS_REFUSED', ... */
  code: string;
  /** The broker it is about, without login and password. */
  address?: string;
}

/** A setting of mqConf or wsConf that cannot be used. */
export class OptionError extends TypeError {
  constructor(option: string, text: string);
  code: 'ERR_INVALID_OPTION';
  /** The full name, such as 'mqConf.port'. */
  option: string;
}

// ----------------------------------------------------------------- settings

/**
 * The broker: node-amqp's connection options, the names of exchanges and
 * queues, and what is ours. An option that is not known is ignored with a
 * process warning.
 */
export interface MqConf {
  /**
   * 'amqp://login:password@host:port/vhost', each part percent-encoded; an
   * empty vhost means '/'. With 'amqps:' over TLS. Single fields override it. 'memory:' and
   * 'memory://name' are the embedded broker, inside this process.
   */
  url?: string;
  /**
   * A host name or address, with an optional ':port' ('[::1]:5672' for IPv6),
   * or several that are tried in turn. Default 'localhost'.
   */
  host?: string | readonly string[];
  /** For hosts that name none; 5671 with TLS. Default 5672. */
  port?: number | string;
  /** Index of the host to try first. Default: in the order given. */
  hostPreference?: number;
  /** Default 'guest'. */
  login?: string;
  /** Default 'guest'. */
  password?: string;
  /** Default '/'. */
  vhost?: string;
  /**
   * EXTERNAL: the broker knows the client by the certificate of `ssl` (its
   * plugin rabbitmq_auth_mechanism_ssl). ANONYMOUS: from RabbitMQ 4 on. A
   * broker that does not offer it is an 'ACCESS_REFUSED' that says what it
   * does offer. Default 'AMQPLAIN'.
   */
  authMechanism?: 'AMQPLAIN' | 'PLAIN' | 'EXTERNAL' | 'ANONYMOUS';
  /** In ms; 0 for no limit. Default 10000. */
  connectionTimeout?: number;
  /** In seconds; 0 for none. Default 15. */
  heartbeat?: number;
  /** TCP_NODELAY on the broker connection. Default true. */
  noDelay?: boolean;
  /**
   * TLS to the broker; true is `{ enabled: true }`. An 'amqps:' url enables it
   * too. Default: disabled.
   */
  ssl?: boolean | SslOptions;
  /**
   * Shown by the broker's management tools, beside our `product`, `version`
   * and `platform`; JSON values, with names of up to 255 bytes. Default {}.
   */
  clientProperties?: Record<string, unknown>;

  /** Add `_routingKey` to each received message. Default false. */
  routingKeyInPayload?: boolean;
  /** Add `_deliveryTag` to each received message. Default false. */
  deliveryTagInPayload?: boolean;

  /** Restore a lost connection. Default true. */
  reconnect?: boolean;
  /**
   * Whether the time between attempts stays ('linear') or doubles
   * ('exponential'). Default 'linear'.
   */
  reconnectBackoffStrategy?: 'linear' | 'exponential';
  /** Until the first attempt, in ms. Default 1000. */
  reconnectBackoffTime?: number;
  /** The longest that 'exponential' waits, in ms. Default 120000. */
  reconnectExponentialLimit?: number;
  /**
   * The part of each of these times, from 0 to 1, by which it is shorter or
   * longer at random, so that not all come back at once. Default 0.25.
   */
  reconnectJitter?: number;

  /**
   * 'at-most-once' (default) is the original's wire: what is on its way when a
   * connection breaks may be lost, and nothing is sent twice; only what a
   * worker had in hand comes again, marked by `info.redelivered`. 'at-least-once'
   * loses nothing: durable exchanges and queues, persistent messages,
   * publisher confirms, and a message is done with when its listeners are;
   * some may come twice, marked by `info.redelivered` and with the same
   * `info.messageId`. All gateways and clients of one broker need the same.
   */
  delivery?: 'at-most-once' | 'at-least-once';
  /**
   * Of the queues of 'at-least-once': 'quorum' for clusters. Default
   * 'classic'.
   */
  queueType?: 'classic' | 'quorum';
  /**
   * With 'at-least-once': where messages go for which a listener failed when they came again.
   * It must exist. Default null: they are dropped, with the client's event
   * 'undeliverable'.
   */
  deadLetterExchange?: string | null;
  /**
   * With 'at-least-once': how long a gateway's queue waits for its gateway to
   * come back, in ms (x-expires). Default 300000 (5 minutes).
   */
  queueExpires?: number;

  /** What may wait for the broker, in bytes. Default 16777216 (16 MiB). */
  bufferSize?: number;
  /** Unacknowledged messages that the broker may send. Default 256. */
  prefetch?: number;

  /** From browsers to workers; direct. Default 'receiveExchange'. */
  receiveExchange?: string;
  /** Shared by all clients; also the routing key. Default 'receiveQueue'. */
  receiveQueue?: string;
  /** Connection statuses to workers; direct. Default 'statusExchange'. */
  statusExchange?: string;
  /** Shared by all clients; also the routing key. Default 'statusQueue'. */
  statusQueue?: string;
  /** From workers to gateways; fanout. Default 'messageExchange'. */
  messageExchange?: string;
  /**
   * A gateway's own queue is called this, '-' and a random part. At most 200
   * bytes. Default 'messageQueue'.
   */
  messageQueue?: string;
}

/**
 * TLS to the broker. Files are read once, when the client is made or the
 * server is started; what is wrong with them is an {@link OptionError}.
 *
 * A broker that is not trusted is a {@link MessageEnginError} with the `code`
 * that Node has for it: 'SELF_SIGNED_CERT_IN_CHAIN', 'CERT_HAS_EXPIRED',
 * 'DEPTH_ZERO_SELF_SIGNED_CERT', 'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
 * 'ERR_TLS_CERT_ALTNAME_INVALID', ...
 */
export interface SslOptions {
  /** Default: false, or true with an 'amqps:' url. */
  enabled?: boolean;
  /**
   * Our private key in PEM, for brokers that want a certificate: RSA of 2048
   * to 4096 bits, P-256, P-384 or Ed25519; `passphrase` opens one that is
   * encrypted.
   */
  key?: string | Uint8Array;
  keyFile?: string;
  /** Our certificate in PEM, and those between it and its root. */
  cert?: string | Uint8Array;
  certFile?: string;
  /**
   * Who may have signed the broker's certificate, in PEM; the certificate
   * itself will do. Default: whom Node.js trusts, NODE_EXTRA_CA_CERTS included.
   */
  ca?: string | Uint8Array | readonly (string | Uint8Array)[];
  caFile?: string | readonly string[];
  /** Key and certificate as PKCS #12, in place of `key` and `cert`. */
  pfx?: Uint8Array;
  pfxFile?: string;
  /** Of the key or the PKCS #12 file. */
  passphrase?: string;
  /**
   * False takes any certificate of any name, and with it anybody between here
   * and the broker. Default true.
   */
  rejectUnauthorized?: boolean;
  /** The name that the broker's certificate must have. Default: the host. */
  servername?: string;
}

/**
 * The WebSocket side: WebSocket-Node's server options, the two functions that
 * say who is who, and what is ours. An option that is not known is ignored
 * with a process warning.
 */
export interface WsOptions {
  /** Whose upgrades are taken. Other requests go on as before. */
  httpServer: HttpServer | HttpsServer | readonly (HttpServer | HttpsServer)[];

  /**
   * Names the connection that a request asks for: a plain, async or generator
   * function (run by co). A falsy key answers 404, and so does an object, which
   * is told by 'keyError'; a thrown error answers its `status`, or else 404,
   * with its `reason`. Either this or `key` is
   * required.
   */
  keyFn?: KeyFn;
  /** In place of keyFn: where the key stands in the request. */
  key?: DeclaredKey;

  /**
   * Says to which key or keys a worker's message goes. Synchronous; called on
   * each gateway for each message. What it throws is told by the event
   * 'messageKeyError'. Either this or `messageKey` is required.
   */
  messageKeyFn?: MessageKeyFn;
  /**
   * In place of messageKeyFn: where the key stands in the message. No message
   * enters JavaScript then.
   */
  messageKey?: DeclaredMessageKey;

  /**
   * What `keyFn` may take, in ms from the upgrade; after that the answer is
   * 408, and what `keyFn` still says does not count. 0 for no limit. Default
   * 10000. (A request that is not complete is a matter of the http server's
   * own `headersTimeout` and `requestTimeout`.)
   */
  handshakeTimeout?: number;
  /**
   * Connections that may be open, closing or waiting for their key at one
   * time; who comes beyond that is refused with 503 and Retry-After before
   * `keyFn` runs, also where he would replace another. 0 for no limit. Default
   * 0.
   */
  maxConnections?: number;
  /**
   * Connections that may come in a second; who comes faster is refused with
   * 503 and Retry-After before `keyFn` runs. `burst` of them, by default as
   * many as in a second, may come at once. 0 for no limit. Default 0.
   */
  connectionRate?: number | { perSecond: number; burst?: number };
  /**
   * The web pages that may connect, by the Origin that browsers send; others
   * are refused with 403 before `keyFn` runs. Origins are written
   * 'https://a.example:8443', where a first label of '*' stands for any one
   * label ('https://*.a.example'), and 'null' is that of sandboxed pages and
   * local files. A list lets clients pass that send no Origin, which no
   * browser does; a function is asked about them too, with undefined. It is
   * synchronous, and what it throws refuses the request and is told by the
   * event 'keyError'. Default null: all.
   */
  origins?: readonly string[] | OriginsFn | null;

  /**
   * Only upgrades of this path (without query) are taken, and at once; others
   * are left to other listeners, and those that nobody takes within
   * `handshakeTimeout` get 404. Default null: all that no one else takes.
   */
  path?: string | null;

  /** The subprotocol that is accepted. Default: none. */
  protocol?: string | null;
  /** The Origin of the response. Default: the request's own. */
  origin?: string | null;

  /**
   * In bytes; a larger frame closes the connection with 1009. Browsers may put
   * a message of up to 131000 bytes into one frame. Infinity for no limit.
   * Default 65536 (64 KiB).
   */
  maxReceivedFrameSize?: number;
  /**
   * In bytes; a larger message closes the connection with 1009. Infinity for
   * no limit. Default 1048576 (1 MiB).
   */
  maxReceivedMessageSize?: number;
  /**
   * Send messages larger than `fragmentationThreshold` as fragments of that
   * size, between which pongs may go out. Browsers put them together. Default
   * true.
   */
  fragmentOutgoingMessages?: boolean;
  /** In bytes; Infinity for no fragments. Default 16384 (16 KiB). */
  fragmentationThreshold?: number;

  /** Ping connections that are silent. Default true. */
  keepalive?: boolean;
  /**
   * Silence until the ping, in ms: nothing is read from the browser, and it
   * takes nothing that waits for it. Default 20000.
   */
  keepaliveInterval?: number;
  /** Drop connections that do not answer the ping. Default true. */
  dropConnectionOnKeepaliveTimeout?: boolean;
  /** From the ping until the drop, in ms. Default 10000. */
  keepaliveGracePeriod?: number;
  /**
   * TCP keep-alive instead of pings, after `keepaliveInterval` in whole
   * seconds, at least one; the rest is the system's. Default false.
   */
  useNativeKeepalive?: boolean;

  /** Only true is possible: workers receive whole messages. */
  assembleFragments?: true;
  /** Only false is possible: keyFn decides about every connection. */
  autoAcceptConnections?: false;
  /**
   * Do not believe X-Forwarded-For when the remote addresses are read. Default
   * false; set it to true where no proxy of yours writes that header.
   */
  ignoreXForwardedFor?: boolean;
  /** Fill `request.cookies`. Default true. */
  parseCookies?: boolean;
  /** Fill `request.requestedExtensions`. Default true. */
  parseExtensions?: boolean;
  /** TCP_NODELAY on WebSockets. Default true. */
  disableNagleAlgorithm?: boolean;
  /**
   * How long a close waits for what still has to go out, for the answer to its
   * frame, and for the end of the connection, in ms. Default 5000.
   */
  closeTimeout?: number;

  /**
   * Give binary frames to workers, as Buffers, instead of ignoring them.
   * Default false.
   */
  binary?: boolean;
  /**
   * What may wait for a browser that reads slowly, in bytes; a burst may be
   * four times as large for half a second. Default 1048576 (1 MiB).
   */
  maxBackpressure?: number;
  /**
   * What happens to a browser for which more than that waits: 'close' closes it
   * with 1013, and its status says why; 'drop' drops the newest messages,
   * counted as `overflowed`; 'wait' lets everybody else's messages wait until
   * it has read, so one slow browser slows all of this gateway's. Default
   * 'close'.
   */
  slowConsumer?: 'close' | 'drop' | 'wait';
  /**
   * How fast the messages of one browser may come. Default null: as fast as
   * they are taken.
   */
  messageRate?: MessageRate | null;
  /**
   * Threads that carry the messages of this process, for all its gateways and
   * clients; the first start decides. Default 1.
   */
  threads?: number;
}

/**
 * How fast the messages of one connection may come: at least one of `messages`
 * and `bytes`. Whole messages are counted, pings and pongs are not. A message
 * passes when there is allowance for it; one larger than the allowance passes
 * too, and the next one waits the longer.
 */
export interface MessageRate {
  /** A second; may be a fraction. Default: not counted. */
  messages?: number;
  /** A second. Default: not counted. */
  bytes?: number;
  /** Seconds: what the rate gives in them may come at once. Default 1. */
  burst?: number;
  /**
   * 'slow': the socket is not read until there is allowance again, so that TCP
   * holds the browser back; 'close': the connection is closed with 1008.
   * Default 'slow'.
   */
  policy?: 'slow' | 'close';
}

/** The options with a function or a declaration for each of the two keys. */
export type WsConf = WsOptions &
  (
    { keyFn: KeyFn; key?: undefined } | { key: DeclaredKey; keyFn?: undefined }
  ) &
  (
    | { messageKeyFn: MessageKeyFn; messageKey?: undefined }
    | { messageKey: DeclaredMessageKey; messageKeyFn?: undefined }
  );

/**
 * Where a connection's key stands: a header, a parameter of the query, a
 * cookie, or several with text between, as in '{header:dn}:{query:appid}'.
 * Where a part is missing, the request is refused with 404.
 */
export type DeclaredKey =
  | { header: string }
  | { query: string }
  | { cookie: string }
  | { template: string };

/**
 * Where a message's key stands: a header, a JSON pointer (RFC 6901) into the
 * message, or several with text between, as in '{header:dn}:{json:/appid}'. An
 * array there is several keys. Where a part is missing, the message is for
 * nobody.
 */
export type DeclaredMessageKey =
  { header: string } | { json: string } | { template: string };

export type KeyFn = (
  this: WsOptions,
  request: Request,
  gateway: Gateway,
) => MaybeKey | Promise<MaybeKey> | Generator<any, MaybeKey, any>;

export type OriginsFn = (
  this: WsOptions,
  origin: string | undefined,
  request: Request,
) => boolean;

export type MessageKeyFn = (
  this: WsOptions,
  message: any,
  headers: Headers,
  info: { contentType: string },
) => MaybeKey | readonly Key[];

/** Anything but a key says that there is none. */
export type MaybeKey = Key | null | undefined | false | void;

// -------------------------------------------------------------- the request

/**
 * A WebSocket upgrade that waits for its key, with the properties of a
 * WebSocketRequest of WebSocket-Node.
 */
export interface Request {
  /** Node's own request: method, url, headers. */
  httpRequest: IncomingMessage;
  /** The Host header. */
  host: string;
  /** The request's target, such as '/chat?room=1'. */
  resource: string;
  /** `url.parse(resource, true)`. */
  resourceURL: UrlWithParsedQuery;
  /**
   * The first of `remoteAddresses`; undefined when the socket has none (a Unix
   * socket, or one that is gone already).
   */
  remoteAddress: string | undefined;
  /**
   * The hops of X-Forwarded-For, unless `wsConf.ignoreXForwardedFor`, and the
   * address of the socket's other end.
   */
  remoteAddresses: (string | undefined)[];
  /** 8 or 13. */
  webSocketVersion: number;
  origin: string | undefined;
  /** In lower case, in the client's order. */
  requestedProtocols: string[];
  /** From the names in lower case to those that the client wrote. */
  protocolFullCaseMap: Record<string, string>;
  requestedExtensions: Extension[];
  /** In the header's order, duplicates included. */
  cookies: Cookie[];
  /** The Sec-WebSocket-Key header. */
  key: string;
  /**
   * For information, such as the addresses and ports of its ends: it is closed
   * by the time that keyFn has it.
   */
  socket: Socket;

  /**
   * Says what the response shall carry if the key that keyFn returns is taken.
   * Arguments that are undefined leave it to `wsConf.protocol` and
   * `wsConf.origin`; null or '' leaves the header out.
   *
   * @throws {Error} for a protocol that the client did not request and for
   *   what a header cannot carry; the request is then rejected with 500.
   */
  accept(
    protocol?: string | null,
    origin?: string | null,
    cookies?: SetCookie[] | null,
  ): void;

  /**
   * Refuses the connection, whatever keyFn returns. `status` is one of 300 to
   * 599 (default 403); `reason` goes out as X-WebSocket-Reject-Reason.
   *
   * @throws {Error} when it was accepted or rejected before.
   */
  reject(
    status?: number,
    reason?: string,
    extraHeaders?: Record<string, string | number | readonly string[]>,
  ): void;
}

export interface Cookie {
  name: string;
  /** URL-decoded; null for a cookie without '='. */
  value: string | null;
}

export interface Extension {
  name: string;
  params: { name: string; value: string | undefined }[];
}

/** A cookie to set. */
export interface SetCookie {
  name: string;
  /** Not encoded: only the characters of RFC 6265, section 4.1.1. */
  value: string;
  path?: string;
  domain?: string;
  expires?: Date;
  /** In seconds, above 0. */
  maxage?: number | string;
  secure?: boolean;
  httponly?: boolean;
}

// ------------------------------------------------------------ typed events

/** An EventEmitter that knows the events of `E` and their arguments. */
declare class TypedEmitter<E> extends EventEmitter {
  on<K extends keyof E & string>(event: K, listener: Listener<E[K]>): this;
  once<K extends keyof E & string>(event: K, listener: Listener<E[K]>): this;
  off<K extends keyof E & string>(event: K, listener: Listener<E[K]>): this;
  addListener<K extends keyof E & string>(
    event: K,
    listener: Listener<E[K]>,
  ): this;
  removeListener<K extends keyof E & string>(
    event: K,
    listener: Listener<E[K]>,
  ): this;
  prependListener<K extends keyof E & string>(
    event: K,
    listener: Listener<E[K]>,
  ): this;
  prependOnceListener<K extends keyof E & string>(
    event: K,
    listener: Listener<E[K]>,
  ): this;
}

type Listener<A> = A extends unknown[] ? (...args: A) => void : never;
