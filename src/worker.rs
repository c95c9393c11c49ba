//! The back-office side, behind `Client`: the shared queues' deliveries to its listeners, its messages to the gateways.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::broker::memory::MemoryBroker;
use crate::broker::rabbitmq::AmqpBroker;
use crate::broker::supervisor::{ConnectionCounters, ConnectionSupervisor};
use crate::broker::topology::{Role, Routes, Topology};
use crate::broker::{Acker, Batches, Broker, Settlement};
use crate::config::{BrokerKind, BrokerSettings};
use crate::error::Result;
use crate::host::{ConnectionEvents, ListenerOutcome, Listeners, spawn_on};
use crate::message::{OutboundMessage, Route};
use crate::queue::byte_queue::{Level, Refused};

/// Beyond this many times `bufferSize` nothing is taken from a sender who does not hold on.
const HARD_LIMIT: usize = 2;

#[derive(Clone)]
pub struct Worker {
    shared: Arc<WorkerShared>,
}

struct WorkerShared {
    line: ConnectionSupervisor,
    buffer_size: usize,
    events: Mutex<Option<Arc<dyn ConnectionEvents>>>,
    listeners: Mutex<Option<Arc<dyn Listeners>>>,
    /// Somebody was told to hold on and waits for `drain`.
    waiting: AtomicBool,
    /// Of the session whose deliveries came last; those of the ones before it are not this process's any more.
    acker: Mutex<Option<Arc<dyn Acker>>>,
}

/// What became of a message that was given to `send`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Taken.
    Taken,
    /// Taken; hold on until `drain`.
    HoldOn,
    /// Not taken: the buffer is at its hard limit. `drain` comes.
    Dropped,
    /// Not taken: the client is closed.
    Closed,
}

impl Worker {
    /// Resolves when the shared queues are declared, and those of `consumed` are consumed. `unique` begins the ids of its
    /// messages.
    pub async fn start(
        settings: BrokerSettings,
        unique: &str,
        consumed: Routes,
        events: Arc<dyn ConnectionEvents>,
        listeners: Arc<dyn Listeners>,
    ) -> Result<Worker> {
        match settings.kind {
            BrokerKind::Amqp => {
                let broker = AmqpBroker::new(settings.clone(), listeners.executor())?;
                Worker::start_on(broker, settings, unique, consumed, events, listeners).await
            }
            BrokerKind::Memory => {
                let broker = MemoryBroker::named(&settings.memory_name);
                Worker::start_on(broker, settings, unique, consumed, events, listeners).await
            }
        }
    }

    /// On a broker that is given, whichever one the settings name.
    pub async fn start_on(
        broker: impl Broker,
        settings: BrokerSettings,
        unique: &str,
        consumed: Routes,
        events: Arc<dyn ConnectionEvents>,
        listeners: Arc<dyn Listeners>,
    ) -> Result<Worker> {
        let plan = Topology::new(&settings, Role::Worker, unique).with_consumed(consumed);
        let executor = listeners.executor();
        let (line, batches) =
            ConnectionSupervisor::open(broker, plan, &settings, events.clone(), executor.clone()).await?;
        let shared = Arc::new(WorkerShared {
            line,
            buffer_size: settings.buffer_size,
            events: Mutex::new(Some(events)),
            listeners: Mutex::new(Some(listeners)),
            waiting: AtomicBool::new(false),
            acker: Mutex::new(None),
        });
        spawn_on(executor, deliver(shared.clone(), Batches::new(batches)));
        Ok(Worker { shared })
    }

    /// Never waits. Must be called within the runtime.
    pub fn send(&self, message: OutboundMessage) -> Sent {
        self.send_all([message]).1
    }

    /// Sends in order, up to the first that is not taken; answers how many were, and what became of the last that was
    /// looked at. Never waits. Must be called within the runtime.
    pub fn send_all(&self, messages: impl IntoIterator<Item = OutboundMessage>) -> (usize, Sent) {
        let limit = self.shared.buffer_size.saturating_mul(HARD_LIMIT);
        let (taken, last) = self.shared.line.outgoing.push_all_within(messages, limit);
        let sent = match last {
            Ok(Level::Room) => return (taken, Sent::Taken),
            Ok(Level::Full) => Sent::HoldOn,
            Err(Refused::Full(_)) => Sent::Dropped,
            Err(Refused::Closed(_)) => return (taken, Sent::Closed),
        };
        if !self.shared.waiting.swap(true, Ordering::SeqCst) {
            tokio::spawn(tell_when_drained(self.shared.clone()));
        }
        (taken, sent)
    }

    /// What became of a delivery that was heard [`ListenerOutcome::EachForItself`].
    pub fn settle(&self, session: u32, route: Route, tag: u64, settlement: Settlement) {
        let acker = self.shared.acker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(acker) = acker.as_ref().filter(|acker| acker.session() == session) {
            acker.settle(route, tag, settlement);
        }
    }

    /// Consumes these queues and no others. `ConnectionEvents::given_back` tells when one is not consumed any more; until then
    /// deliveries from it may still come, and are the listeners' to settle.
    pub fn consume(&self, routes: Routes) {
        self.shared.line.consume(routes);
    }

    /// Nothing more goes to the listeners; what comes from now on goes back to its queue.
    pub fn stop_receiving(&self) {
        self.shared.line.stop_receiving();
    }

    /// Stops consuming, publishes what waits, ends the line.
    pub async fn close(&self, patience: Duration) {
        self.shared.line.close(patience).await;
        self.shared.let_go();
    }

    /// Bytes that the content header of a message may have.
    pub fn header_limit(&self) -> usize {
        self.shared.line.header_limit()
    }

    pub fn counters(&self) -> &ConnectionCounters {
        &self.shared.line.counters
    }

    /// Bytes that wait for the broker.
    pub fn buffered(&self) -> usize {
        self.shared.line.outgoing.weight()
    }
}

impl WorkerShared {
    fn let_go(&self) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

async fn tell_when_drained(shared: Arc<WorkerShared>) {
    shared.line.outgoing.calm().await;
    shared.waiting.store(false, Ordering::SeqCst);
    if let Some(events) = shared.events.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        events.drain();
    }
}

/// Hands batches to the listeners in order, and acknowledges what they have returned from.
async fn deliver(shared: Arc<WorkerShared>, mut batches: Batches) {
    while let Some(batch) = batches.next_batch().await {
        let listeners = shared.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(listeners) = listeners else { return };
        let acker = batch.acker().cloned();
        shared.acker.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&acker);
        let (deliveries, ack) = batch.share();
        match listeners.deliver(deliveries.clone()).await {
            Ok(ListenerOutcome::All) => ack(&deliveries),
            Ok(ListenerOutcome::EachForItself) => (),
            Err(_) => {
                // Not looked at: somebody else may.
                if let Some(acker) = acker {
                    deliveries.iter().for_each(|delivery| acker.settle_own(delivery, Settlement::Again));
                }
            }
        }
    }
}
