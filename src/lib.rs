//! The core of message-engin: messages between WebSocket connections and AMQP queues.
//!
//! The map, from the outside in; a room knows only those below it:
//!
//! - [`node`] is the Node-API surface: it converts, delegates and converts back, nothing more.
//! - [`gateway`] is the server side: connections and the broker meet here, through the hub.
//! - [`worker`] is the back-office side: the queues that clients share.
//! - [`broker`] is the seam to RabbitMQ and to the embedded broker; its `line` is the one reconnect loop.
//! - [`peer`] is one WebSocket connection, generic over its stream.
//! - [`keys`] are the keys that are declared instead of asked for in JavaScript.
//! - [`receipt`] acknowledges what has been written to connections.
//! - [`pfx`] opens PKCS #12 files.
//! - [`hub`] knows which connection holds which key; the newest wins.
//! - [`buffer`] is the bounded queue between two tasks, `waiters` are those it holds back; [`pace`] makes the batches that
//!   go into JavaScript large enough.
//! - [`message`], [`config`] and [`hooks`] are plain values and the questions that JavaScript answers.
//! - [`error`] is at the bottom: one enum, each variant with what JavaScript sees.

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
