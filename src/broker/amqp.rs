//! RabbitMQ through lapin. A session is two connections: RabbitMQ stops reading from a connection that it blocks for
//! publishing, and acknowledgements must not be stuck behind that.

mod declare;
mod table;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use lapin::types::{FieldTable, LongString, ShortString};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ErrorKind, Event};
use tokio::sync::Mutex as AsyncMutex;

use super::topology::Plan;
use super::{Acker, Broker, Session};
use crate::config::{AuthMechanism, BrokerSettings, Host};
use crate::error::{Error, Result};
use crate::message::{Delivery, Outgoing, Route};

/// The original's frame_max; larger frames gain nothing for messages of a browser's size.
const FRAME_MAX: u32 = 131_072;

pub struct AmqpBroker {
    settings: BrokerSettings,
    /// The broker refuses transient shared queues: remembered, since each refusal costs a connection.
    durable_queues: AtomicBool,
    /// Connections so far. Each has its own private queue: the broker may not have noticed yet that the one before is
    /// gone, and would answer RESOURCE_LOCKED for its name.
    sessions: AtomicU32,
}

impl AmqpBroker {
    pub fn new(settings: BrokerSettings) -> Self {
        AmqpBroker { settings, durable_queues: AtomicBool::new(false), sessions: AtomicU32::new(0) }
    }

    /// The first host that answers. What one refuses, another of the same cluster would refuse too, so a refusal ends it.
    async fn open(&self) -> Result<Connection> {
        let hosts = &self.settings.hosts;
        let share =
            Duration::from_millis(self.settings.connection_timeout) / u32::try_from(hosts.len()).unwrap_or(1).max(1);
        let mut error = Error::Closed { what: "list of hosts" };
        for host in hosts {
            let attempt = Connection::connect_uri(self.uri(host), self.properties());
            match tokio::time::timeout(share, attempt).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(refusal)) => {
                    error = self.explain(&refusal);
                    if matches!(error, Error::Refused { .. }) {
                        break;
                    }
                }
                Err(_) => {
                    error = Error::TimedOut {
                        address: self.address(),
                        after_ms: u64::try_from(share.as_millis()).unwrap_or(u64::MAX),
                    };
                }
            }
        }
        Err(error)
    }

    fn uri(&self, host: &Host) -> AMQPUri {
        let settings = &self.settings;
        AMQPUri {
            scheme: AMQPScheme::AMQP,
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo { username: settings.login.clone(), password: settings.password.clone() },
                host: host.host.clone(),
                port: host.port,
            },
            vhost: settings.vhost.clone(),
            query: AMQPQueryString {
                frame_max: Some(FRAME_MAX),
                heartbeat: Some(settings.heartbeat),
                connection_timeout: Some(settings.connection_timeout),
                auth_mechanism: Some(match settings.auth_mechanism {
                    AuthMechanism::Amqplain => SASLMechanism::AMQPlain,
                    AuthMechanism::Plain => SASLMechanism::Plain,
                    AuthMechanism::External => SASLMechanism::External,
                    AuthMechanism::Anonymous => SASLMechanism::Anonymous,
                }),
                ..AMQPQueryString::default()
            },
        }
    }

    fn properties(&self) -> ConnectionProperties {
        let mut properties = ConnectionProperties::default();
        let defaults = [("product", "message-engin"), ("version", env!("CARGO_PKG_VERSION"))];
        for (name, value) in defaults {
            properties = properties.with_client_property(name.into(), LongString::from(value));
        }
        for (name, value) in &self.settings.client_properties {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if let Ok(name) = ShortString::try_new(name.as_str()) {
                properties = properties.with_client_property(name, LongString::from(text));
            }
        }
        properties
    }

    fn explain(&self, error: &lapin::Error) -> Error {
        explain(error, self.address())
    }
}

impl Broker for AmqpBroker {
    type Session = AmqpSession;

    async fn connect(&self, plan: &Plan) -> Result<AmqpSession> {
        let mut plan = plan.clone();
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        for queue in plan.queues.iter_mut().filter(|queue| queue.private && session > 0) {
            queue.name = format!("{}-{session}", queue.name);
        }
        let consuming = self.declared(&plan).await?;
        let publishing = self.open().await?;
        let fails = |error: lapin::Error| self.explain(&error);
        let publisher = publishing.create_channel().await.map_err(fails)?;
        let mut consumers = Vec::new();
        for queue in &plan.queues {
            let channel = consuming.create_channel().await.map_err(fails)?;
            channel.basic_qos(plan.prefetch, BasicQosOptions::default()).await.map_err(fails)?;
            let consumer = channel
                .basic_consume(
                    queue.name.as_str().into(),
                    "".into(),
                    BasicConsumeOptions { exclusive: queue.private, ..BasicConsumeOptions::default() },
                    FieldTable::default(),
                )
                .await
                .map_err(fails)?;
            consumers.push(Consuming { route: queue.route, channel, consumer });
        }
        let acker = LapinAcker {
            channels: consumers.iter().map(|consuming| (consuming.route, consuming.channel.clone())).collect(),
        };
        Ok(AmqpSession {
            address: self.address(),
            targets: [Route::Receive, Route::Status, Route::Message].map(|route| {
                let (exchange, key) = plan.target(route);
                (exchange.into(), key.into())
            }),
            plan,
            publisher: AsyncMutex::new(publisher),
            publishing,
            consuming,
            consumers: Mutex::new(consumers),
            acker: Arc::new(acker),
        })
    }

    fn address(&self) -> String {
        self.settings.address.clone()
    }
}

pub struct AmqpSession {
    address: String,
    plan: Plan,
    /// Exchange and routing key by route.
    targets: [(ShortString, ShortString); 3],
    publishing: Connection,
    publisher: AsyncMutex<Channel>,
    consuming: Connection,
    consumers: Mutex<Vec<Consuming>>,
    acker: Arc<LapinAcker>,
}

struct Consuming {
    route: Route,
    channel: Channel,
    consumer: Consumer,
}

impl AmqpSession {
    /// Hands over what it can. An error of the channel alone leaves the rest in `batch`.
    async fn publish_on(&self, channel: &Channel, batch: &mut VecDeque<Outgoing>) -> lapin::Result<()> {
        let mut last = None;
        while let Some(message) = batch.front() {
            let (exchange, key) = &self.targets[message.route as usize];
            let properties = message.properties.encoded(table::properties).cloned().unwrap_or_default();
            // lapin has taken the message after the first poll; awaiting only the last of a batch makes one write of many.
            let mut publishing =
                Box::pin(publish_one(channel.clone(), exchange.clone(), key.clone(), message.body.clone(), properties));
            match publishing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(())) => last = None,
                Poll::Pending => last = Some(publishing),
            }
            batch.pop_front();
        }
        match last {
            Some(publishing) => publishing.await,
            None => Ok(()),
        }
    }

    fn lost_because(&self, error: &lapin::Error) -> Error {
        Error::Lost { address: self.address.clone(), detail: error.to_string() }
    }

    /// A channel that ended under us, most often because an autoDelete exchange went with its last queue: declares the
    /// exchanges again and goes on with a new channel.
    async fn reopen(&self) -> lapin::Result<Channel> {
        declare::exchanges(&self.publishing, &self.plan).await?;
        self.publishing.create_channel().await
    }
}

async fn publish_one(
    channel: Channel,
    exchange: ShortString,
    key: ShortString,
    body: bytes::Bytes,
    properties: BasicProperties,
) -> lapin::Result<()> {
    channel.basic_publish(exchange, key, BasicPublishOptions::default(), &body, properties).await.map(|_| ())
}

impl Session for AmqpSession {
    async fn publish(&self, batch: &mut VecDeque<Outgoing>) -> Result<()> {
        let mut channel = self.publisher.lock().await;
        if !channel.status().connected() {
            *channel = self.reopen().await.map_err(|error| self.lost_because(&error))?;
        }
        let Err(error) = self.publish_on(&channel, batch).await else { return Ok(()) };
        if !self.publishing.status().connected() {
            return Err(self.lost_because(&error));
        }
        *channel = self.reopen().await.map_err(|error| self.lost_because(&error))?;
        self.publish_on(&channel, batch).await.map_err(|error| self.lost_because(&error))
    }

    async fn receive(&self, into: &mut Vec<Delivery>, max: usize) -> Result<()> {
        poll_fn(|cx| {
            let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
            for consuming in consumers.iter_mut() {
                while into.len() < max {
                    match Pin::new(&mut consuming.consumer).poll_next(cx) {
                        Poll::Ready(Some(Ok(delivery))) => into.push(table::delivery(consuming.route, delivery)),
                        Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.lost_because(&error))),
                        Poll::Ready(None) => {
                            let detail = "the broker cancelled the consumer".into();
                            return Poll::Ready(Err(Error::Lost { address: self.address.clone(), detail }));
                        }
                        Poll::Pending => break,
                    }
                }
            }
            if into.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
        })
        .await
    }

    fn acker(&self) -> Arc<dyn Acker> {
        self.acker.clone()
    }

    async fn lost(&self) -> Error {
        let both_stand = || self.publishing.status().connected() && self.consuming.status().connected();
        let mut events = futures_util::stream::select(
            Box::pin(self.publishing.events_listener()),
            Box::pin(self.consuming.events_listener()),
        );
        // What happened before somebody listened is not told again.
        while both_stand() {
            match events.next().await {
                // An error of one channel is told here too, and is no loss of the connection.
                Some(Event::Error(error)) if !both_stand() => return self.lost_because(&error),
                Some(_) => (),
                None => break,
            }
        }
        Error::Lost { address: self.address.clone(), detail: "the connection ended".into() }
    }

    async fn close(&self) {
        // Publishing first: its answer says that the broker has everything.
        let _ = self.publishing.close(200, "OK".into()).await;
        let _ = self.consuming.close(200, "OK".into()).await;
    }
}

struct LapinAcker {
    channels: Vec<(Route, Channel)>,
}

impl Acker for LapinAcker {
    fn ack(&self, route: Route, tag: u64) {
        for (_, channel) in self.channels.iter().filter(|(of, _)| *of == route) {
            // lapin has queued the frame after the first poll; what a lost connection does not take needs no ack.
            let _ = channel.basic_ack(tag, BasicAckOptions { multiple: true }).now_or_never();
        }
    }
}

/// What a failed attempt means to the user.
fn explain(error: &lapin::Error, address: String) -> Error {
    match error.kind() {
        ErrorKind::ProtocolError(refusal) => {
            Error::Refused { code: reply_code(refusal.kind()), address, detail: refusal.get_message().to_string() }
        }
        ErrorKind::IOError(io) => Error::Unreachable { code: io_code(io), address, detail: io.to_string() },
        _ => Error::Unreachable { code: "ECONNRESET", address, detail: error.to_string() },
    }
}

/// The constants of AMQP 0-9-1, section 1.1 of its generated documentation.
fn reply_code(kind: &AMQPErrorKind) -> &'static str {
    match kind.get_id() {
        311 => "CONTENT_TOO_LARGE",
        313 => "NO_CONSUMERS",
        320 => "CONNECTION_FORCED",
        402 => "INVALID_PATH",
        403 => "ACCESS_REFUSED",
        404 => "NOT_FOUND",
        405 => "RESOURCE_LOCKED",
        406 => "PRECONDITION_FAILED",
        501 => "FRAME_ERROR",
        502 => "SYNTAX_ERROR",
        503 => "COMMAND_INVALID",
        504 => "CHANNEL_ERROR",
        505 => "UNEXPECTED_FRAME",
        506 => "RESOURCE_ERROR",
        530 => "NOT_ALLOWED",
        540 => "NOT_IMPLEMENTED",
        _ => "INTERNAL_ERROR",
    }
}

fn io_code(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => "ECONNREFUSED",
        Kind::ConnectionReset | Kind::UnexpectedEof | Kind::BrokenPipe => "ECONNRESET",
        Kind::ConnectionAborted => "ECONNABORTED",
        Kind::TimedOut => "ETIMEDOUT",
        Kind::HostUnreachable => "EHOSTUNREACH",
        Kind::NetworkUnreachable => "ENETUNREACH",
        Kind::AddrNotAvailable => "EADDRNOTAVAIL",
        Kind::NotFound => "ENOTFOUND",
        // The resolver's errors have no kind of their own in std.
        _ if error.to_string().contains("lookup") => "ENOTFOUND",
        _ => "EIO",
    }
}

fn is_internal_error(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(refusal)
        if matches!(refusal.kind(), AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR)))
}
