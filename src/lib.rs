//! The core of message-engin: messages between WebSocket connections and AMQP queues.
//!
//! The map, from the outside in; a room knows only those below it:
//!
//! - [`node`] is the Node-API surface: it converts, delegates and converts back. Its `uv` alone knows libuv.
//! - [`gateway`] is the server side: the hub (which connection holds which key) and the dispatcher, which writes deliveries
//!   to connections and acknowledges them once they are written.
//! - [`worker`] is the back-office side: the queues that clients share.
//! - [`broker`] is the seam: the topology, the supervisor (the one reconnect loop), the publish loop and batches; behind it
//!   `rabbitmq`, a session with RabbitMQ, and `memory`, the embedded broker.
//! - [`connection`] is one WebSocket connection, generic over its stream.
//! - [`host`] holds the traits that JavaScript implements.
//! - [`message`] is a message on its way to the broker, a delivery from it, and the keys that are declared in the settings.
//! - [`websocket`] is RFC 6455 as bytes, [`amqp`] AMQP 0-9-1 as bytes: no I/O.
//! - [`queue`] is the queue between two tasks, bounded in bytes.
//! - [`config`] holds complete, checked settings; [`pfx`] opens PKCS #12 files.
//! - [`error`] is one enum, each variant with what JavaScript sees.

#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod amqp;
pub mod broker;
pub mod config;
pub mod connection;
pub mod error;
pub mod gateway;
pub mod host;
pub mod message;
#[cfg(feature = "node")]
pub mod node;
pub mod pfx;
pub mod queue;
pub mod websocket;
pub mod worker;
