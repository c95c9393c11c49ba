//! RabbitMQ: a lean lane of our own, on lapin's protocol types.
//!
//! - [`wire`] takes frames and deliveries in place and makes publishes from templates; [`writer`] is where all frames go out.
//! - [`stream`] is TCP or, with [`tls`], TLS.
//! - [`connect`] logs in; [`publishing`] and [`consuming`] are the two connections of a session. RabbitMQ stops reading from
//!   a connection that it blocks for publishing, and acknowledgements must not be stuck behind that.
//! - [`window`] holds what is not confirmed, [`settling`] what is to be acknowledged.
//! - [`declare`] finds a host that answers and declares what is shared, with the ways round what a broker refuses.

mod ack_tracker;
mod confirm_window;
mod consume_channel;
mod declare;
mod frame_reader;
mod frame_writer;
mod login;
mod publish_channel;
mod returned_message;
mod stream;
mod tls;

#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    //! The reader of the broker's bytes, for the fuzz targets.
    pub use super::frame_reader::{Broken, FrameReader, METHOD, parse_method};
}

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::topology::{Routes, Topology};
use crate::broker::{Acker, Broker, FRAME_EXTRA, Routed, Session};
use crate::config::BrokerSettings;
use crate::error::{Error, Result};
use crate::host::DeliveryExecutor;
use crate::message::{Delivery, OutboundMessage, Route};
use consume_channel::ConsumeChannel;
use declare::{Control, Declared, Resolve};
use frame_reader::Broken;
use login::{Endpoint, reply_code};
use publish_channel::{Offered, PublishChannel, Published};
use tls::Tls;

/// The least time between two declarations of what has gone.
const DECLARE_INTERVAL: Duration = Duration::from_millis(250);
/// How often all of it is tried where an exchange is not found: one that is autoDelete goes with the last of those who had
/// it before, be it between its declaration and its binding.
const DECLARE_ATTEMPTS: usize = 3;
/// Bytes of a body from which on a message goes alone where nothing is confirmed. What a broker takes is set for each
/// (RabbitMQ's max_message_size), and hardly below this.
const LARGE: usize = 1024 * 1024;
/// How often what is consumed is bound again.
const BIND_INTERVAL: Duration = Duration::from_secs(1);
/// How long after an exchange was deleted everybody has bound to it again.
const BOUND_AGAIN: Duration = Duration::from_millis(1250);

pub struct AmqpBroker {
    control: Arc<Control>,
    /// Sessions so far. Each has its own exclusive queue: the broker may not have noticed yet that the one before is gone,
    /// and would answer RESOURCE_LOCKED for its name.
    sessions: AtomicU32,
    executor: Option<Arc<dyn DeliveryExecutor>>,
}

impl AmqpBroker {
    /// `executor` reads the deliveries, where that can be.
    pub fn new(settings: BrokerSettings, executor: Option<Arc<dyn DeliveryExecutor>>) -> Result<Self> {
        AmqpBroker::with_resolver(settings, executor, Arc::new(declare::resolve))
    }

    fn with_resolver(
        settings: BrokerSettings,
        executor: Option<Arc<dyn DeliveryExecutor>>,
        resolve: Resolve,
    ) -> Result<Self> {
        let tls = settings.tls.as_ref().map(Tls::new).transpose()?;
        let (durable_queues, first) = (AtomicBool::new(false), AtomicUsize::new(0));
        let control = Control { settings, tls, durable_queues, first, resolve };
        Ok(AmqpBroker { control: Arc::new(control), sessions: AtomicU32::new(0), executor })
    }

    /// On the first host that answers.
    async fn session(&self, plan: &Topology) -> Result<AmqpSession> {
        let mut plan = plan.clone();
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        let renamed = session > 0 && !plan.is_at_least_once();
        for queue in plan.queues.iter_mut().filter(|queue| queue.private && renamed) {
            queue.name = format!("{}-{session}", queue.name);
        }
        let Declared { connection, endpoint, standing } = self.control.declare(&plan).await?;
        // First what may be refused: deliveries that come and cannot be answered would go back to their queue.
        let publishing = PublishChannel::new(self.control.connect(&endpoint).await?, &plan).await?;
        let consuming = ConsumeChannel::new(connection, &plan, &standing, self.executor.as_deref()).await?;
        self.control.first.store(0, Ordering::Relaxed);
        Ok(AmqpSession {
            control: self.control.clone(),
            endpoint,
            plan,
            publishing,
            consuming,
            silence: Silence::new(),
            careful: AtomicBool::new(false),
            returned: AtomicU64::new(0),
            declared: Mutex::new(None),
            refused: AtomicUsize::new(0),
            refusal: std::sync::Mutex::default(),
            unrouted: AtomicBool::new(false),
        })
    }
}

impl Broker for AmqpBroker {
    type Session = AmqpSession;

    async fn connect(&self, plan: &Topology) -> Result<AmqpSession> {
        for _ in 1..DECLARE_ATTEMPTS {
            match self.session_anywhere(plan).await {
                Err(Error::Refused { code: "NOT_FOUND", .. }) => (),
                result => return result,
            }
        }
        self.session_anywhere(plan).await
    }

    fn address(&self) -> String {
        self.control.settings.address.clone()
    }
}

impl AmqpBroker {
    /// On the first host that answers and stays.
    async fn session_anywhere(&self, plan: &Topology) -> Result<AmqpSession> {
        let first = &self.control.first;
        for _ in 1..self.control.settings.hosts.len() {
            let before = first.load(Ordering::Relaxed);
            let result = self.session(plan).await;
            // What one host says of our declarations another would say too. One that goes away after it had answered, with a
            // word (320, when it is stopped) or without, leaves it to another.
            let is_final = match &result {
                Ok(_) => true,
                Err(Error::Refused { code, .. }) => *code != "CONNECTION_FORCED",
                Err(_) => false,
            };
            if is_final || first.load(Ordering::Relaxed) == before {
                return result;
            }
        }
        self.session(plan).await
    }
}

/// What came back and is being published again: what does not go out is kept.
struct Back<'a> {
    messages: VecDeque<OutboundMessage>,
    publishing: &'a PublishChannel,
}

impl Drop for Back<'_> {
    fn drop(&mut self) {
        self.publishing.put_back(&mut self.messages);
    }
}

pub struct AmqpSession {
    control: Arc<Control>,
    endpoint: Endpoint,
    plan: Topology,
    publishing: PublishChannel,
    consuming: ConsumeChannel,
    silence: Silence,
    /// The broker has closed the channel for something that one of the messages said: they go one by one.
    careful: AtomicBool,
    /// How many messages had come back for want of a queue when things were declared last.
    returned: AtomicU64,
    /// When things were last declared again.
    declared: Mutex<Option<Instant>>,
    /// Messages that the broker has refused for good, and that nobody has been told of.
    refused: AtomicUsize,
    /// Why the last of them was refused.
    refusal: std::sync::Mutex<Option<Error>>,
    /// It has been told that there is no queue for what is published here.
    unrouted: AtomicBool,
}

/// When each connection was last heard, in ms since the session began.
struct Silence {
    began: Instant,
    publishing: AtomicU64,
    consuming: AtomicU64,
}

impl Silence {
    fn new() -> Self {
        Silence { began: Instant::now(), publishing: AtomicU64::new(0), consuming: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn heard(&self, connection: &AtomicU64) {
        connection.store(self.now(), Ordering::Relaxed);
    }

    fn of(&self, connection: &AtomicU64) -> Duration {
        Duration::from_millis(self.now().saturating_sub(connection.load(Ordering::Relaxed)))
    }
}

impl AmqpSession {
    fn gone(&self, detail: String) -> Error {
        Error::Lost { address: self.control.settings.address.clone(), detail }
    }

    fn broken(&self, broken: Broken) -> Error {
        const CONNECTION_FORCED: u16 = 320;
        match broken {
            Broken::Closed { code, text } if code != CONNECTION_FORCED => {
                let address = self.control.settings.address.clone();
                Error::Refused { code: reply_code(code), address, detail: text }
            }
            broken => self.gone(broken.to_string()),
        }
    }

    /// Counts messages that the broker has not taken and never will.
    fn lose(&self, count: usize, error: Option<Error>) {
        self.refused.fetch_add(count, Ordering::Relaxed);
        if error.is_some() {
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = error;
        }
    }

    /// At most once, what was on its way on a closed channel may have gone with it.
    fn lose_channel(&self) {
        let count = self.publishing.lost_with_channel();
        if count > 0 {
            self.lose(count, self.publishing.closed_with().map(|broken| self.broken(broken)));
        }
    }

    /// Opens the publishing channel again, with what it publishes to declared.
    async fn reopen(&self) -> Result<()> {
        if !self.plan.is_at_least_once() {
            self.lose_channel();
        }
        if self.publishing.wants_exchange() && self.plan.publish_queues.is_empty() {
            // What is published to is bound by others, who declare it again when they do that. Declaring it here at once
            // would have messages go to nobody, or to the first of several gateways alone.
            sleep(BOUND_AGAIN).await;
        }
        self.declare_again().await?;
        self.publishing.reopen().await.map_err(|broken| self.broken(broken))
    }

    /// What goes again and again is not declared in a frenzy.
    async fn declare_again(&self) -> Result<()> {
        let mut declared = self.declared.lock().await;
        if let Some(before) = *declared {
            sleep_until(before + DECLARE_INTERVAL).await;
        }
        self.control.declare_again(&self.plan, &self.endpoint).await?;
        *declared = Some(Instant::now());
        // Whatever took one exchange away may have taken the one that is consumed from.
        self.consuming.bind_again().await.map_err(|broken| self.broken(broken))
    }

    /// Publishes what has come back, before anything else: messages keep their order.
    async fn publish_back(&self) -> Result<()> {
        while self.publishing.wants_attention() {
            if !self.publishing.is_open() {
                self.careful.fetch_or(!self.publishing.wants_exchange(), Ordering::Relaxed);
                self.reopen().await?;
            }
            let back = self.publishing.take_back().await.map_err(|broken| self.broken(broken))?;
            let mut back = Back { messages: back, publishing: &self.publishing };
            if back.messages.is_empty() {
                continue;
            }
            let returned = self.publishing.returned_count();
            if self.publishing.is_refused() {
                self.publishing.renew().await.map_err(|broken| self.broken(broken))?;
            } else if self.plan.publish_queues.is_empty() && !self.plan.is_at_least_once() {
                if !self.publishing.was_routed() {
                    self.lose_unrouted(std::mem::take(&mut back.messages).len());
                    continue;
                }
                // There was a queue until now: its exchange was deleted, and is bound again, or the last gateway has left.
                self.unrouted.store(false, Ordering::Relaxed);
                sleep(BOUND_AGAIN).await;
            } else if self.plan.publish_queues.is_empty() || self.returned.swap(returned, Ordering::Relaxed) == returned
            {
                // The queues are others', or there are queues that refuse: they may be ready later.
                sleep(DECLARE_INTERVAL).await;
            } else {
                self.declare_again().await?;
            }
            if self.careful.load(Ordering::Relaxed) {
                self.publish_one_by_one(&mut back.messages).await?;
            } else if self.plan.is_at_least_once() {
                self.publish_if_taken(back).await?;
            } else {
                self.publish_all(&mut back.messages).await?;
                // Before anything else goes out it is known whether these come back once more.
                self.barrier().await?;
            }
        }
        Ok(())
    }

    /// At most once, messages that come back since nobody is there for them. That is counted each time and told once.
    fn lose_unrouted(&self, count: usize) {
        let told = self.unrouted.swap(true, Ordering::Relaxed);
        let detail = "NO_ROUTE - no queue of a gateway is bound to the exchange for messages".to_owned();
        let address = self.control.settings.address.clone();
        self.lose(count, (!told && count > 0).then_some(Error::Refused { code: "NO_ROUTE", address, detail }));
    }

    /// The first one goes ahead, and the others only when it has been taken: as long as nobody takes them they wait here,
    /// and what is to come after them in the buffer, which is bounded.
    async fn publish_if_taken(&self, mut back: Back<'_>) -> Result<()> {
        let others = back.messages.split_off(back.messages.len().min(1));
        let mut others = Back { messages: others, publishing: &self.publishing };
        self.publish_all(&mut back.messages).await?;
        drop(back);
        self.publishing.confirmed().await;
        if !self.publishing.wants_attention() {
            self.publish_all(&mut others.messages).await?;
            drop(others);
            self.publishing.confirmed().await;
        }
        Ok(())
    }

    async fn publish_all(&self, batch: &mut VecDeque<OutboundMessage>) -> Result<()> {
        loop {
            let (count, alone) = self.together(batch);
            if alone {
                self.barrier().await?;
            }
            match self.publishing.publish(batch, count).await.map_err(|broken| self.broken(broken))? {
                Published::All => {
                    if alone {
                        self.barrier().await?;
                    }
                    if batch.is_empty() {
                        return Ok(());
                    }
                }
                Published::ChannelClosed if self.plan.is_at_least_once() => {
                    self.careful.fetch_or(!self.publishing.wants_exchange(), Ordering::Relaxed);
                    // What was on the channel goes first; it has come back.
                    self.publishing.put_behind(batch);
                    self.reopen().await?;
                    return Ok(());
                }
                Published::ChannelClosed => self.reopen().await?,
            }
        }
    }

    /// How many of the batch go together, and whether that is one alone: without confirms, whatever is on its way beside a
    /// message for which the broker closes the channel would be lost with it.
    fn together(&self, batch: &VecDeque<OutboundMessage>) -> (usize, bool) {
        if self.plan.is_at_least_once() {
            return (batch.len(), false);
        }
        match batch.iter().position(|message| message.body.len() >= LARGE) {
            Some(0) => (1, true),
            Some(count) => (count, false),
            None => (batch.len(), false),
        }
    }

    /// Resolves when the broker has looked at all that was published.
    async fn barrier(&self) -> Result<()> {
        self.publishing.barrier().await.map_err(|broken| self.broken(broken))
    }

    /// The message for which the broker closes the channel is lost, and no other.
    async fn publish_one_by_one(&self, batch: &mut VecDeque<OutboundMessage>) -> Result<()> {
        while let Some(message) = batch.pop_front() {
            let mut one = Back { messages: VecDeque::from([message]), publishing: &self.publishing };
            if let Published::All =
                self.publishing.publish(&mut one.messages, 1).await.map_err(|broken| self.broken(broken))?
            {
                self.publishing.confirmed().await;
            }
            if !self.publishing.is_open() {
                let blameless = self.publishing.wants_exchange();
                if !blameless {
                    let error = self.publishing.closed_with().map(|broken| self.broken(broken));
                    self.lose(self.publishing.drop_unconfirmed(), error);
                }
                self.reopen().await?;
                if blameless {
                    return Ok(());
                }
            }
        }
        self.careful.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// An exchange that somebody deletes takes bindings along without a word, and whoever publishes declares it anew.
    async fn bind_again(&self) -> Broken {
        loop {
            sleep(BIND_INTERVAL).await;
            if let Err(broken) = self.consuming.bind_again().await {
                return broken;
            }
        }
    }

    /// Sends heartbeats and waits for the broker's, which come twice in an interval. One and a half without a sign, looked
    /// at twice in each, end the session within two.
    async fn send_heartbeat(&self) -> Broken {
        let Some(heartbeat) = self.publishing.heartbeat.or(self.consuming.heartbeat) else {
            return std::future::pending().await;
        };
        let mut ticks = interval(heartbeat / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !self.consuming.is_listening() {
                self.silence.heard(&self.silence.consuming);
            }
            for connection in [&self.silence.publishing, &self.silence.consuming] {
                if self.silence.of(connection) > heartbeat * 3 / 2 {
                    let silence = self.silence.of(connection).as_millis();
                    return Broken::Unusable(format!("no heartbeat for {silence} ms"));
                }
            }
            for beaten in [self.publishing.send_heartbeat(heartbeat / 2), self.consuming.send_heartbeat(heartbeat / 2)]
            {
                if let Err(broken) = beaten {
                    return broken;
                }
            }
        }
    }
}

impl Session for AmqpSession {
    fn header_limit(&self) -> usize {
        self.publishing.frame_max - FRAME_EXTRA
    }

    async fn publish(&self, batch: &mut VecDeque<OutboundMessage>) -> Result<usize> {
        self.publish_back().await?;
        while !batch.is_empty() {
            self.publish_all(batch).await?;
            self.publish_back().await?;
        }
        Ok(self.refused())
    }

    async fn publish_if_routed(&self, batch: &mut VecDeque<OutboundMessage>) -> Result<Routed> {
        let mut again = true;
        // Out of the batch before it goes out: when the connection ends before the answer, it may have arrived.
        while let Some(message) = batch.pop_front() {
            match self.publishing.publish_if_routed(&message).await {
                Ok(Offered::Routed(true)) => return Ok(Routed::Yes),
                Ok(Offered::Routed(false)) => {
                    batch.push_front(message);
                    return Ok(Routed::No);
                }
                // The exchange may have gone; whatever else it was, it would be the same the next time.
                Ok(Offered::ChannelClosed { for_want_of_exchange: true }) if again => {
                    again = false;
                    batch.push_front(message);
                    self.reopen().await?;
                }
                Ok(Offered::ChannelClosed { .. }) => {
                    self.reopen().await?;
                    return Ok(Routed::Refused);
                }
                Err(broken) => return Err(self.broken(broken)),
            }
        }
        Ok(Routed::Yes)
    }

    async fn returned(&self) {
        self.publishing.returned().await;
    }

    async fn settle(&self) -> Result<usize> {
        loop {
            self.barrier().await?;
            self.publishing.confirmed().await;
            if !self.publishing.wants_attention() {
                return Ok(self.refused());
            }
            self.publish_back().await?;
        }
    }

    fn unsettled(&self) -> VecDeque<OutboundMessage> {
        self.publishing.unsettled()
    }

    fn refused(&self) -> usize {
        if !self.plan.is_at_least_once() {
            self.lose_channel();
        }
        self.refused.swap(0, Ordering::Relaxed)
    }

    fn refusal(&self) -> Option<Error> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn receive(&self, into: &mut Vec<Delivery>, max: usize) -> Result<()> {
        let heard = || self.silence.heard(&self.silence.consuming);
        self.consuming.receive(into, max, heard).await.map_err(|broken| self.broken(broken))
    }

    fn can_move(&self) -> bool {
        self.consuming.moved
    }

    async fn consume(&self, routes: Routes) -> Result<()> {
        self.consuming.consume(routes).await.map_err(|broken| self.broken(broken))
    }

    async fn given_back(&self) -> Route {
        self.consuming.given_back().await
    }

    async fn stop_receiving(&self) -> Result<()> {
        self.consuming.stop().await.map_err(|broken| self.broken(broken))
    }

    fn acker(&self) -> Arc<dyn Acker> {
        self.consuming.acker()
    }

    async fn lost(&self, blocked: impl Fn(Option<&str>) + Send + Sync) -> Error {
        let heard = || self.silence.heard(&self.silence.publishing);
        let broken = tokio::select! {
            broken = self.publishing.listen(heard, blocked) => broken,
            broken = self.publishing.survey() => broken,
            broken = self.bind_again() => broken,
            broken = self.consuming.leave() => broken,
            () = self.publishing.confirm_timeout() => Broken::Unusable("the broker confirms nothing".to_owned()),
            broken = self.send_heartbeat() => broken,
        };
        self.broken(broken)
    }

    async fn close(&self) {
        // At once: a broker that takes no messages may keep the one from answering, and not from knowing what was handled.
        tokio::join!(self.consuming.close(), self.publishing.close());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::broker::topology::Role;

    fn settings(connection_timeout: u64) -> BrokerSettings {
        let settings = json!({
            "kind": "amqp", "memoryName": "", "hosts": [{ "host": "name", "port": 5672 }], "vhost": "/",
            "login": "guest", "password": "guest", "authMechanism": "PLAIN", "connectionTimeout": connection_timeout,
            "heartbeat": 0, "noDelay": true, "tls": null, "clientProperties": {}, "reconnect": true,
            "reconnectBackoffStrategy": "linear", "reconnectBackoffTime": 1000, "reconnectExponentialLimit": 1000,
            "reconnectJitter": 0.0, "bufferSize": 1000, "prefetch": 10, "delivery": "at-most-once",
            "queueType": "classic", "deadLetterExchange": null, "queueExpires": 1000, "receiveExchange": "a",
            "receiveQueue": "b", "statusExchange": "c", "statusQueue": "d", "messageExchange": "e",
            "messageQueue": "f", "address": "amqp://name:5672/%2F",
        });
        serde_json::from_value(settings).unwrap()
    }

    #[tokio::test]
    async fn an_address_that_stays_silent_leaves_time_for_the_next_one_of_its_name() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = vec![silent.local_addr().unwrap(), other.local_addr().unwrap()];
        let limit = 3000;
        let settings = settings(limit);
        let plan = Topology::new(&settings, Role::Worker, "unique");
        let resolve: Resolve = Arc::new(move |_| {
            let addresses = addresses.clone();
            Box::pin(async move { Ok(addresses) })
        });
        let broker = AmqpBroker::with_resolver(settings, None, resolve).unwrap();
        let connecting = tokio::spawn(async move {
            timeout(Duration::from_millis(limit), broker.connect(&plan)).await.map(|result| result.map(|_| ()))
        });
        let (mut stream, _) = other.accept().await.unwrap();
        let mut header = [0; 8];
        stream.read_exact(&mut header).await.unwrap();
        assert_eq!(&header, b"AMQP\0\0\x09\x01");
        drop(stream);
        let error = connecting.await.unwrap().expect("there was time left").unwrap_err();
        assert_eq!(error.code(), "ECONNRESET");
    }
}
