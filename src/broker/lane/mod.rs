//! RabbitMQ: a lean lane of our own, on lapin's protocol types.
//!
//! - [`wire`] takes frames and deliveries in place and makes publishes from templates; [`outlet`] is where all frames go out.
//! - [`connect`] logs in; [`publishing`] and [`consuming`] are the two connections of a session. RabbitMQ stops reading from
//!   a connection that it blocks for publishing, and acknowledgements must not be stuck behind that.
//! - [`declare`] finds a host that answers and declares what is shared, with the ways round what a broker refuses.

mod connect;
mod consuming;
mod declare;
mod outlet;
mod publishing;
mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::topology::{ExchangeKind, Plan};
use super::{Acker, Broker, Routed, Session};
use crate::config::BrokerSettings;
use crate::error::{Error, Result};
use crate::message::{Delivery, Outgoing};
use connect::Connection;
use consuming::Consuming;
use declare::{Control, Declared};
use publishing::{Offered, Published, Publishing};

pub struct AmqpBroker {
    control: Arc<Control>,
    /// Sessions so far. Each has its own private queue: the broker may not have noticed yet that the one before is gone,
    /// and would answer RESOURCE_LOCKED for its name.
    sessions: AtomicU32,
}

impl AmqpBroker {
    pub fn new(settings: BrokerSettings) -> Self {
        let control = Control { settings, durable_queues: AtomicBool::new(false) };
        AmqpBroker { control: Arc::new(control), sessions: AtomicU32::new(0) }
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
        let settings = &self.control.settings;
        let Declared { connection, host, as_declared } = self.control.declare(&plan).await?;
        let anchors: Vec<&str> = plan
            .exchanges
            .iter()
            .filter(|exchange| exchange.kind == ExchangeKind::Direct && as_declared.contains(&exchange.name))
            .map(|exchange| exchange.name.as_str())
            .collect();
        let consuming = Consuming::new(connection, &plan, &anchors).await?;
        let publishing = Publishing::new(Connection::open(settings, &host).await?, &plan).await?;
        Ok(AmqpSession { control: self.control.clone(), plan, publishing, consuming, silence: Silence::new() })
    }

    fn address(&self) -> String {
        self.control.settings.address.clone()
    }
}

pub struct AmqpSession {
    control: Arc<Control>,
    plan: Plan,
    publishing: Publishing,
    consuming: Consuming,
    silence: Silence,
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

    async fn reopen(&self) -> Result<()> {
        self.control.declare_exchanges(&self.plan).await?;
        self.publishing.reopen().await.map_err(|broken| self.gone(broken.to_string()))
    }

    /// Sends heartbeats and waits for the broker's: two of its intervals without a sign end the session.
    async fn beat(&self) -> String {
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
                if self.silence.of(connection) > heartbeat * 2 {
                    return format!("no heartbeat for {} ms", self.silence.of(connection).as_millis());
                }
            }
            for beaten in [self.publishing.beat(heartbeat / 2), self.consuming.beat(heartbeat / 2)] {
                if let Err(broken) = beaten {
                    return broken.to_string();
                }
            }
        }
    }
}

impl Session for AmqpSession {
    async fn publish(&self, batch: &mut VecDeque<Outgoing>) -> Result<usize> {
        let mut lost = 0;
        loop {
            match self.publishing.publish(batch).await {
                Ok(Published::All { unfit }) => return Ok(lost + unfit),
                Ok(Published::ChannelClosed) => {
                    // One message at least was what the channel was closed for.
                    lost += 1;
                    self.reopen().await?;
                }
                Err(broken) => return Err(self.gone(broken.to_string())),
            }
        }
    }

    async fn publish_if_routed(&self, batch: &mut VecDeque<Outgoing>) -> Result<Routed> {
        let mut again = true;
        while let Some(message) = batch.front() {
            match self.publishing.publish_if_routed(message).await {
                Ok(Offered::Routed(false)) => return Ok(Routed::No),
                Ok(Offered::Routed(true)) => {
                    batch.pop_front();
                }
                // The exchange may have gone; whatever else it was, it would be the same the next time.
                Ok(Offered::ChannelClosed { for_want_of_exchange: true }) if again => {
                    again = false;
                    self.reopen().await?;
                }
                Ok(Offered::ChannelClosed { .. }) => {
                    batch.pop_front();
                    self.reopen().await?;
                    return Ok(Routed::Refused);
                }
                Ok(Offered::Unfit) => {
                    batch.pop_front();
                    return Ok(Routed::Refused);
                }
                Err(broken) => return Err(self.gone(broken.to_string())),
            }
        }
        Ok(Routed::Yes)
    }

    async fn receive(&self, into: &mut Vec<Delivery>, max: usize) -> Result<()> {
        let heard = || self.silence.heard(&self.silence.consuming);
        self.consuming.receive(into, max, heard).await.map_err(|detail| self.gone(detail))
    }

    fn acker(&self) -> Arc<dyn Acker> {
        self.consuming.acker()
    }

    async fn lost(&self) -> Error {
        let heard = || self.silence.heard(&self.silence.publishing);
        let detail = tokio::select! {
            detail = self.publishing.listen(heard) => detail,
            detail = self.beat() => detail,
        };
        self.gone(detail)
    }

    async fn close(&self) {
        self.publishing.close().await;
        self.consuming.close().await;
    }
}
