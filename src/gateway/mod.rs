//! The server side: connections on one end, the line to the broker on the other, the hub between them.

pub mod delivery_guard;
mod dispatcher;
pub mod hub;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::broker::memory::MemoryBroker;
use crate::broker::rabbitmq::AmqpBroker;
use crate::broker::supervisor::ConnectionSupervisor;
use crate::broker::topology::{Role, Topology};
use crate::broker::{Batches, Broker};
use crate::config::{BrokerKind, BrokerSettings, SocketSettings};
use crate::connection::{CloseStatus, Connection, GOING_AWAY, Handle, REPLACED, RESTARTING, Sink, Stream};
use crate::error::Result;
use crate::gateway::hub::Hub;
use crate::host::{ConnectionEvents, DeliveryExecutor, MessageKeys, spawn_on};
use crate::message::key_template::KeyTemplate;
use crate::message::{Content, HeaderInterner, Headers, JSON, OCTETS, OutboundMessage, Properties, Route, status_body};

/// The answer to a connection that found no room for its status: the broker is away, and its buffer is full.
const OVERLOADED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\
    X-WebSocket-Reject-Reason: no room while the broker is away\r\nRetry-After: 5\r\n\r\n";

/// What such a connection may have sent before it has read that.
const REFUSED_BYTES: u64 = 1024 * 1024;
/// How long what waits for the broker may take at the end.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Gateway {
    shared: Arc<GatewayShared>,
}

struct GatewayShared {
    hub: Hub<Handle>,
    socket: Arc<SocketSettings>,
    line: ConnectionSupervisor,
    fields: HeaderInterner,
    counters: GatewayCounters,
    closing: AtomicBool,
    /// Connections whose tasks run, including those that are closing.
    running: watch::Sender<usize>,
    keys: KeySource,
    /// With at-least-once: how many deliveries may be out and not acknowledged.
    at_least_once: Option<usize>,
}

/// Who says which connections a message is for.
pub enum KeySource {
    /// JavaScript. Let go of at close, since it keeps the process alive.
    Asked(Mutex<Option<Arc<dyn MessageKeys>>>),
    Declared(KeyTemplate),
}

impl KeySource {
    pub fn asked(keys: Arc<dyn MessageKeys>) -> Self {
        KeySource::Asked(Mutex::new(Some(keys)))
    }

    /// Where the work on deliveries costs least.
    fn executor(&self) -> Option<Arc<dyn DeliveryExecutor>> {
        match self {
            KeySource::Asked(keys) => keys.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.executor(),
            KeySource::Declared(_) => None,
        }
    }
}

#[derive(Default)]
struct GatewayCounters {
    accepted: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    ignored_binary: AtomicU64,
    duplicates: AtomicU64,
    unmatched: AtomicU64,
    overflowed: AtomicU64,
}

/// A snapshot; every number counts since the start, but for `connections` and `buffered`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub connections: u64,
    pub accepted: u64,
    pub received: u64,
    pub received_bytes: u64,
    pub sent: u64,
    pub sent_bytes: u64,
    pub ignored_binary: u64,
    pub duplicates: u64,
    pub unmatched: u64,
    pub overflowed: u64,
    pub published: u64,
    /// Bytes that wait for the broker.
    pub buffered: u64,
    pub lost: u64,
    pub reconnects: u64,
}

/// A connection that keyFn has named.
pub struct AcceptedUpgrade {
    pub key: Box<str>,
    /// The value that keyFn returned, as JSON.
    pub key_json: Box<str>,
    pub headers: Headers,
    /// The whole HTTP response with status 101.
    pub response: Vec<u8>,
    /// What came behind the upgrade request.
    pub head: Vec<u8>,
}

impl Gateway {
    /// Resolves when the topology stands and deliveries come. `unique` names the private queue.
    pub async fn start(
        settings: BrokerSettings,
        socket: SocketSettings,
        unique: &str,
        events: Arc<dyn ConnectionEvents>,
        keys: KeySource,
    ) -> Result<Gateway> {
        match settings.kind {
            BrokerKind::Amqp => {
                let broker = AmqpBroker::new(settings.clone(), keys.executor())?;
                Gateway::start_on(broker, settings, socket, unique, events, keys).await
            }
            BrokerKind::Memory => {
                let broker = MemoryBroker::named(&settings.memory_name);
                Gateway::start_on(broker, settings, socket, unique, events, keys).await
            }
        }
    }

    /// On a broker that is given, whichever one the settings name.
    pub async fn start_on(
        broker: impl Broker,
        settings: BrokerSettings,
        socket: SocketSettings,
        unique: &str,
        events: Arc<dyn ConnectionEvents>,
        keys: KeySource,
    ) -> Result<Gateway> {
        let plan = Topology::new(&settings, Role::Gateway, unique);
        let at_least_once = plan.is_at_least_once().then_some(usize::from(settings.prefetch));
        let executor = keys.executor();
        let (line, batches) = ConnectionSupervisor::open(broker, plan, &settings, events, executor.clone()).await?;
        let shared = Arc::new(GatewayShared {
            hub: Hub::default(),
            socket: Arc::new(socket),
            line,
            fields: HeaderInterner::default(),
            counters: GatewayCounters::default(),
            closing: AtomicBool::new(false),
            running: watch::Sender::new(0),
            keys,
            at_least_once,
        });
        spawn_on(executor, dispatcher::deliver(shared.clone(), Batches::new(batches)));
        Ok(Gateway { shared })
    }

    /// Takes over a connection; runs on a task of its own. Must be called within the runtime.
    pub fn accept<S: Stream + 'static>(&self, stream: S, arrival: AcceptedUpgrade) {
        let shared = self.shared.clone();
        shared.running.send_modify(|count| *count += 1);
        tokio::spawn(async move {
            let running = RunningGuard(shared.clone());
            serve(shared, stream, arrival).await;
            drop(running);
        });
    }

    /// No more connections; browsers get 1001, or 1012 one by one over the time of `drain`, statuses go out, then the line
    /// ends.
    pub async fn close(&self, drain: Duration) {
        let shared = &self.shared;
        if !drain.is_zero() {
            let mut peers = Vec::new();
            shared.hub.each(|peer| peers.push(Arc::downgrade(peer)));
            let (began, count) = (Instant::now(), u32::try_from(peers.len()).unwrap_or(u32::MAX));
            for (index, peer) in (1..).zip(&peers) {
                tokio::time::sleep_until(began + drain / count * index).await;
                if let Some(peer) = peer.upgrade() {
                    peer.close(RESTARTING);
                }
            }
        }
        shared.closing.store(true, Ordering::SeqCst);
        shared.hub.each(|peer| peer.close(GOING_AWAY));
        let patience = Duration::from_millis(shared.socket.close_timeout);
        let mut running = shared.running.subscribe();
        // A browser has closeTimeout for what waits, for its answer, and for its FIN; nobody can hold this up for longer.
        let _ = timeout(patience * 3 + Duration::from_secs(1), running.wait_for(|count| *count == 0)).await;
        shared.line.close(PUBLISH_PATIENCE).await;
        shared.let_go();
    }

    /// Connections that hold a socket, including those that are not in the hub yet and those that are closing.
    pub fn running(&self) -> usize {
        *self.shared.running.borrow()
    }

    /// Bytes that the content header of a message may have.
    pub fn header_limit(&self) -> usize {
        self.shared.line.header_limit()
    }

    /// Bytes of the content header that messages of a connection with these headers have, at most.
    pub fn header_size(&self, headers: &Headers) -> usize {
        let GatewayShared { socket, at_least_once, .. } = &*self.shared;
        let content_type = if socket.binary { OCTETS } else { JSON };
        Properties::tracked_if(at_least_once.is_some(), content_type, headers).header_size()
    }

    pub fn stats(&self) -> Stats {
        let GatewayShared { hub, line, counters, .. } = &*self.shared;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            connections: hub.len() as u64,
            accepted: read(&counters.accepted),
            received: read(&counters.received),
            received_bytes: read(&counters.received_bytes),
            sent: read(&counters.sent),
            sent_bytes: read(&counters.sent_bytes),
            ignored_binary: read(&counters.ignored_binary),
            duplicates: read(&counters.duplicates),
            unmatched: read(&counters.unmatched),
            overflowed: read(&counters.overflowed),
            published: line.counters.published(),
            buffered: line.outgoing.weight() as u64,
            lost: read(&line.counters.lost) + line.outgoing.refused(),
            reconnects: read(&line.counters.reconnects),
        }
    }
}

impl GatewayShared {
    fn publish_status(&self, key_json: &str, properties: &Arc<Properties>, reason: Option<&CloseStatus>) {
        let reason = reason.map(|ended| (ended.code, ended.description.as_str()));
        let body = status_body(key_json, reason);
        // Under the hub's lock nothing can wait. Two for each connection are the most, and a connection waited for room.
        self.line.outgoing.force_push(OutboundMessage::new(Route::Status, properties.clone(), body));
    }

    fn let_go(&self) {
        if let KeySource::Asked(keys) = &self.keys {
            keys.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// Counts a connection's task, however it ends.
struct RunningGuard(Arc<GatewayShared>);

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.0.running.send_modify(|count| *count -= 1);
    }
}

/// The life of one connection. What is needed only at its start is let go of before it is waited for: there are many.
async fn serve<S: Stream>(shared: Arc<GatewayShared>, mut stream: S, arrival: AcceptedUpgrade) {
    let patience = Duration::from_millis(shared.socket.close_timeout);
    if Box::pin(timeout(patience, shared.line.outgoing.room())).await.is_err() {
        // Whoever waited longer would only come back, and hold one socket more each time.
        let refuse = async {
            stream.write_all(OVERLOADED).await?;
            stream.shutdown().await?;
            // What it has sent meanwhile would turn the answer into a reset.
            copy(&mut stream.take(REFUSED_BYTES), &mut sink()).await
        };
        let _ = Box::pin(timeout(patience, refuse)).await;
        return;
    }
    let AcceptedUpgrade { key, key_json, headers, response, head } = arrival;
    let properties = Properties::tracked_if(shared.at_least_once.is_some(), JSON, &headers).sharing(&shared.fields);
    let properties = Arc::new(properties);
    drop(headers);
    let handle = Handle::new(&shared.socket);
    let entered = || shared.publish_status(&key_json, &properties, None);
    if let Some(before) = shared.hub.enter(&key, handle.clone(), entered) {
        before.close(REPLACED);
    }
    if shared.closing.load(Ordering::SeqCst) {
        handle.close(GOING_AWAY);
    }
    shared.counters.accepted.fetch_add(1, Ordering::Relaxed);

    // The beginning and the end of a connection are boxed: their state would lie in every idle one otherwise.
    let opened = Box::pin(Connection::open(stream, response, head, handle.clone(), shared.socket.clone())).await;
    let leave = |ended: CloseStatus| {
        let left = || shared.publish_status(&key_json, &properties, Some(&ended));
        shared.hub.leave(&key, &handle, left);
    };
    let Some(mut peer) = opened else {
        let description = "TCP connection lost before handshake completed.".into();
        return leave(CloseStatus { code: 1006, description });
    };
    let mut publisher = Publisher { shared: &shared, json: properties.clone(), octets: None, waiting: None };
    let (ended, unsent) = peer.run(&mut publisher).await;
    shared.counters.count_unsent(unsent);
    // Its last message may have to wait for room, and its status comes after that; its socket waits for neither.
    let depart = async {
        publisher.finish().await;
        leave(ended);
    };
    Box::pin(async { tokio::join!(peer.linger(), depart) }).await;
}

/// One connection's messages on their way to the broker.
struct Publisher<'a> {
    shared: &'a GatewayShared,
    json: Arc<Properties>,
    octets: Option<Arc<Properties>>,
    /// Read, but found no room yet.
    waiting: Option<OutboundMessage>,
}

impl Publisher<'_> {
    async fn finish(&mut self) {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await;
    }
}

impl Sink for Publisher<'_> {
    fn take(&mut self, content: Content) {
        let counters = &self.shared.counters;
        let (bytes, properties) = match content {
            Content::Text(bytes) => (bytes, self.json.clone()),
            Content::Binary(_) if !self.shared.socket.binary => {
                counters.ignored_binary.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Content::Binary(bytes) => {
                let octets = self.octets.get_or_insert_with(|| Arc::new(self.json.with_content_type(OCTETS)));
                (bytes, octets.clone())
            }
        };
        counters.received.fetch_add(1, Ordering::Relaxed);
        counters.received_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.waiting = Some(OutboundMessage::new(Route::Receive, properties, bytes));
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.line.outgoing.poll_push(cx, &mut self.waiting)
    }
}

impl GatewayCounters {
    /// Frames that were counted as sent and stayed behind.
    fn count_unsent(&self, frames: usize) {
        self.sent.fetch_sub(frames as u64, Ordering::Relaxed);
        self.overflowed.fetch_add(frames as u64, Ordering::Relaxed);
    }

    /// A frame with so many bytes of payload.
    fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
