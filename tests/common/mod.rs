//! What the tests share: both brokers, browsers over in-memory streams, and listeners that write down what they hear.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{SinkExt, StreamExt};
use message_engin::broker::topology::Routes;
use message_engin::config::{BrokerSettings, SocketSettings};
use message_engin::error::{Error, Result};
use message_engin::gateway::{AcceptedUpgrade, Gateway, KeySource};
use message_engin::host::{ConnectionEvents, Keys, ListenerOutcome, Listeners, MessageKeys};
use message_engin::message::{Delivery, Headers, JSON, OCTETS, OutboundMessage, Properties, Route, Value};
use message_engin::worker::Worker;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it did not happen in time")
}

pub async fn until(condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within(met).await;
}

/// Settings as `lib/options.js` would give them, with names of their own.
pub fn broker(url: &str) -> BrokerSettings {
    static NAMES: AtomicU32 = AtomicU32::new(0);
    let unique = format!("{}-{}", std::process::id(), NAMES.fetch_add(1, Ordering::Relaxed));
    let memory = url.starts_with("memory:");
    let (authority, _vhost) = url.trim_start_matches("amqp://").split_once('/').unwrap_or((url, ""));
    let (login, place) = authority.split_once('@').unwrap_or(("guest:guest", authority));
    let (login, password) = login.split_once(':').unwrap_or((login, ""));
    let (host, port) = place.rsplit_once(':').unwrap_or((place, "5672"));
    let port: u16 = port.parse().unwrap_or(5672);
    serde_json::from_value(serde_json::json!({
        "kind": if memory { "memory" } else { "amqp" },
        "memoryName": unique,
        "hosts": [{ "host": host, "port": port }],
        "vhost": "/", "login": login, "password": password, "authMechanism": "AMQPLAIN",
        "connectionTimeout": 10000, "heartbeat": 15, "noDelay": true, "clientProperties": {},
        "reconnect": true, "reconnectBackoffStrategy": "linear",
        "reconnectBackoffTime": 50, "reconnectExponentialLimit": 1000, "reconnectJitter": 0.0,
        "delivery": "at-most-once", "queueType": "classic", "deadLetterExchange": null, "queueExpires": 60000,
        "bufferSize": 16 << 20, "prefetch": 256,
        "receiveExchange": format!("receive-{unique}"), "receiveQueue": format!("receive-{unique}"),
        "statusExchange": format!("status-{unique}"), "statusQueue": format!("status-{unique}"),
        "messageExchange": format!("message-{unique}"), "messageQueue": format!("message-{unique}"),
        "address": url,
    }))
    .unwrap()
}

pub fn socket() -> SocketSettings {
    serde_json::from_value(serde_json::json!({
        "maxReceivedFrameSize": 65536, "maxReceivedMessageSize": 1 << 20,
        "fragmentOutgoingMessages": true, "fragmentationThreshold": 16384,
        "keepalive": true, "keepaliveInterval": 20000, "dropConnectionOnKeepaliveTimeout": true,
        "keepaliveGracePeriod": 10000, "useNativeKeepalive": false, "closeTimeout": 300,
        "binary": true, "slowConsumer": "close", "maxBackpressure": 1 << 20, "messageRate": null, "messageKey": null,
    }))
    .unwrap()
}

/// The embedded broker, and RabbitMQ where the test run names one.
pub fn brokers() -> Vec<String> {
    let rabbit = std::env::var("MESSAGE_ENGIN_TEST_AMQP").ok();
    if rabbit.is_none() {
        eprintln!("MESSAGE_ENGIN_TEST_AMQP is not set: on the embedded broker alone");
    }
    std::iter::once("memory:".to_owned()).chain(rabbit).collect()
}

/// Takes the key from the header `k`: one, or several with commas between.
pub struct KeyHeader;

impl MessageKeys for KeyHeader {
    fn keys(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, Result<Vec<Keys>>> {
        let key = |delivery: &Delivery| match delivery.text_header("k") {
            Some(keys) if keys.contains(',') => Keys::Many(keys.split(',').map(Into::into).collect()),
            Some(key) => Keys::One(key.into()),
            _ => Keys::None,
        };
        let keys = batch.iter().map(key).collect();
        Box::pin(async move { Ok(keys) })
    }
}

/// Writes down what happens to a line.
#[derive(Default)]
pub struct Events(pub Mutex<Vec<String>>);

impl ConnectionEvents for Events {
    fn reconnecting(&self, attempt: u32, delay_ms: u64, _error: &Error) {
        self.0.lock().unwrap().push(format!("reconnecting {attempt} after {delay_ms}"));
    }
    fn ready(&self) {
        self.0.lock().unwrap().push("ready".into());
    }
    fn blocked(&self, reason: Option<&str>) {
        self.0.lock().unwrap().push(format!("blocked {reason:?}"));
    }
    fn failed(&self, error: &Error) {
        self.0.lock().unwrap().push(format!("failed {}", error.code()));
    }
    fn undeliverable(&self, _message: &OutboundMessage, error: &Error) {
        self.0.lock().unwrap().push(format!("undeliverable {}", error.code()));
    }
    fn drain(&self) {
        self.0.lock().unwrap().push("drain".into());
    }
}

/// Gives every delivery to a channel.
pub struct Heard(pub mpsc::UnboundedSender<Delivery>);

impl Listeners for Heard {
    fn deliver(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, Result<ListenerOutcome>> {
        for delivery in batch.iter() {
            let _ = self.0.send(delivery.clone());
        }
        Box::pin(async { Ok(ListenerOutcome::All) })
    }
}

pub async fn gateway(settings: &BrokerSettings, socket: SocketSettings) -> Gateway {
    static UNIQUE: AtomicU32 = AtomicU32::new(0);
    let unique = format!("{}", UNIQUE.fetch_add(1, Ordering::Relaxed));
    let events = Arc::<Events>::default();
    within(Gateway::start(settings.clone(), socket, &unique, events, KeySource::asked(Arc::new(KeyHeader))))
        .await
        .unwrap()
}

/// What a client with listeners for both consumes.
pub fn everything() -> Routes {
    [Route::Receive, Route::Status].into_iter().collect()
}

pub async fn worker(settings: &BrokerSettings) -> (Worker, mpsc::UnboundedReceiver<Delivery>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let events = Arc::<Events>::default();
    let worker =
        within(Worker::start(settings.clone(), "w", everything(), events, Arc::new(Heard(sender)))).await.unwrap();
    (worker, receiver)
}

/// The next delivery of a route; what comes through the other is passed over.
pub async fn next(heard: &mut mpsc::UnboundedReceiver<Delivery>, route: Route) -> Delivery {
    loop {
        let delivery = within(heard.recv()).await.expect("the worker has ended");
        if delivery.route == route {
            return delivery;
        }
    }
}

pub fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.body.to_vec()).unwrap()
}

pub fn to(key: &str, content_type: &str, body: impl Into<bytes::Bytes>) -> OutboundMessage {
    let headers = Headers(vec![("k".into(), Value::Text(key.into()))]);
    OutboundMessage::new(Route::Message, Arc::new(Properties::new(content_type, &headers)), body.into())
}

pub fn json(key: &str, body: &str) -> OutboundMessage {
    to(key, JSON, body.to_owned())
}

pub fn octets(key: &str, body: &[u8]) -> OutboundMessage {
    to(key, OCTETS, body.to_vec())
}

/// A browser that a gateway has accepted.
pub struct Browser(pub WebSocketStream<DuplexStream>);

impl Browser {
    pub async fn connect(gateway: &Gateway, key: &str) -> Browser {
        let (ours, theirs) = duplex(64 * 1024);
        gateway.accept(
            theirs,
            AcceptedUpgrade {
                key: key.into(),
                key_json: format!("\"{key}\"").into(),
                headers: Headers(vec![("x-name".into(), Value::Text(key.into()))]),
                response: b"hello".to_vec(),
                head: Vec::new(),
            },
        );
        Browser::over(ours).await
    }

    pub async fn over(mut stream: DuplexStream) -> Browser {
        let mut response = [0; 5];
        within(stream.read_exact(&mut response)).await.unwrap();
        assert_eq!(&response, b"hello");
        Browser(WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
    }

    pub async fn send(&mut self, text: &str) {
        within(self.0.send(Message::Text(text.into()))).await.unwrap();
    }

    pub async fn next(&mut self) -> Message {
        within(self.0.next()).await.expect("the connection has ended").unwrap()
    }

    /// Reads to the end; the close frame's code, if there was one.
    pub async fn close_code(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some(Ok(message)) = within(self.0.next()).await {
            if let Message::Close(frame) = message {
                code = frame.map(|frame| frame.code.into());
            }
        }
        code
    }
}
