//! Settings as `lib/options/broker.js` and `lib/options/gateway.js` hand them over: checked, complete, plain data.
//! Nothing here has a default.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use crate::message::key_template::KeyTemplate;

/// Everything about the broker; one field for each key of `mqSettings` in `lib/options/broker.js`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerSettings {
    pub kind: BrokerKind,
    /// Which embedded broker; two gateways or clients with one name meet.
    pub memory_name: String,
    /// In the order in which they are tried.
    pub hosts: Vec<Host>,
    pub vhost: String,
    pub login: String,
    pub password: String,
    pub auth_mechanism: AuthMechanism,
    /// ms, for everything from the first packet to the declared topology.
    pub connection_timeout: u64,
    /// Seconds; 0 is none.
    pub heartbeat: u16,
    /// TCP_NODELAY on the connections to the broker.
    pub no_delay: bool,
    /// None: plain TCP.
    pub tls: Option<TlsSettings>,
    pub client_properties: BTreeMap<String, serde_json::Value>,
    pub reconnect: bool,
    pub reconnect_backoff_strategy: BackoffStrategy,
    /// ms
    pub reconnect_backoff_time: u64,
    /// ms
    pub reconnect_exponential_limit: u64,
    /// From 0 to 1: the part of a delay by which it may be shorter or longer.
    pub reconnect_jitter: f64,
    /// Bytes that may wait for the broker before producers are held back.
    pub buffer_size: usize,
    /// Deliveries that may be unacknowledged on one channel.
    pub prefetch: u16,
    pub delivery: Guarantee,
    /// Of the queues of at-least-once.
    pub queue_type: QueueType,
    /// Where messages go that no listener takes, with at-least-once.
    pub dead_letter_exchange: Option<String>,
    /// ms that a gateway's queue outlives its gateway's connection, with at-least-once.
    pub queue_expires: u64,
    pub receive_exchange: String,
    pub receive_queue: String,
    pub status_exchange: String,
    pub status_queue: String,
    pub message_exchange: String,
    pub message_queue: String,
    /// For error texts; never with login or password.
    pub address: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum BrokerKind {
    Amqp,
    Memory,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Host {
    pub host: String,
    pub port: u16,
}

/// TLS to the broker; certificates and keys are PEM texts that have been read and checked.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsSettings {
    /// Certificates that servers' may be signed by.
    pub trusted: String,
    /// Certificates that a server may have itself, whoever signed them.
    pub pinned: Vec<PinnedCertificate>,
    /// Our certificate and those between it and its root; empty for none.
    pub certificate: String,
    /// The PKCS #8 key of our certificate, or empty.
    pub key: String,
    pub reject_unauthorized: bool,
    /// The name that the server's certificate must have; empty for the host's.
    pub server_name: String,
}

/// Written by hand: the key is not for logs.
impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings").field("reject_unauthorized", &self.reject_unauthorized).finish_non_exhaustive()
    }
}

#[derive(Clone, Deserialize)]
pub struct PinnedCertificate {
    pub certificate: String,
    /// Seconds since 1970.
    pub from: u64,
    pub until: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub enum AuthMechanism {
    Amqplain,
    Plain,
    External,
    Anonymous,
}

/// What is done for a message to arrive.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Guarantee {
    /// What is on its way when a connection breaks may be lost, and nothing arrives twice.
    AtMostOnce,
    /// Durable queues, publisher confirms, acknowledgements: nothing is lost, and some may arrive twice.
    AtLeastOnce,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum QueueType {
    Classic,
    Quorum,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum BackoffStrategy {
    Linear,
    Exponential,
}

/// What every WebSocket connection of a gateway is held to; one field for each key of `wsSettings` that concerns the socket.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketSettings {
    /// Bytes of one frame's payload; more closes with 1009.
    pub max_received_frame_size: usize,
    /// Bytes of one message; more closes with 1009.
    pub max_received_message_size: usize,
    /// Whether messages of more than `fragmentation_threshold` bytes go out as fragments of that size.
    pub fragment_outgoing_messages: bool,
    pub fragmentation_threshold: usize,
    pub keepalive: bool,
    /// ms without data from the browser until a ping goes out.
    pub keepalive_interval: u64,
    pub drop_connection_on_keepalive_timeout: bool,
    /// ms after a ping within which something must come.
    pub keepalive_grace_period: u64,
    /// True leaves liveness to TCP keep-alive: no pings.
    pub use_native_keepalive: bool,
    /// ms that a browser has to answer a close frame.
    pub close_timeout: u64,
    /// Whether binary frames go to the worker; otherwise they are ignored and counted.
    pub binary: bool,
    /// Bytes that may wait for one browser.
    pub max_backpressure: usize,
    /// What becomes of messages beyond that.
    pub slow_consumer: SlowConsumer,
    /// How fast messages may come; no limit where there is none.
    pub message_rate: Option<MessageRate>,
    /// Which connections a message is for, where that is declared; otherwise JavaScript is asked.
    pub message_key: Option<KeyTemplate>,
}

impl SocketSettings {
    /// Bytes of payload that a frame to a browser has at most.
    pub fn fragment(&self) -> usize {
        if self.fragment_outgoing_messages { self.fragmentation_threshold } else { usize::MAX }
    }
}

/// What becomes of a connection that does not take its messages as fast as they come.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SlowConsumer {
    /// It is closed with 1013.
    Close,
    /// What finds no room is dropped.
    Drop,
    /// Everybody waits for it.
    Wait,
}

/// At least one of `messages` and `bytes` is there.
#[derive(Clone, Debug, Deserialize)]
pub struct MessageRate {
    /// A second.
    pub messages: Option<f64>,
    /// A second.
    pub bytes: Option<f64>,
    /// Seconds: what the rate gives in them may come at once.
    pub burst: f64,
    pub policy: RatePolicy,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RatePolicy {
    /// The socket is not read until the next message may come.
    Slow,
    /// Whoever is faster is closed with 1008.
    Close,
}
