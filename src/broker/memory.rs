//! The embedded broker: exchanges, queues, competing consumers, prefetch and bounds inside one process.
//!
//! It is RabbitMQ's semantics for what [`Topology`] declares, so that a laptop, a test and a small installation see the same
//! behaviour. Brokers are found by name, by every thread of the process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::{Notify, mpsc};

use super::topology::{self, ExchangeKind, Routes, Topology};
use crate::broker::{Acker, Broker, Routed, Session, Settlement, next_session};
use crate::error::{Error, Result};
use crate::message::{Delivery, Envelope, OutboundMessage, Route};
use crate::queue::byte_queue::Weight;

/// Bytes in one queue beyond which publishers wait.
const QUEUE_LIMIT: usize = 16 * 1024 * 1024;

pub struct MemoryBroker {
    name: String,
    state: Arc<Mutex<BrokerState>>,
}

#[derive(Default)]
struct BrokerState {
    exchanges: HashMap<String, MemoryExchange>,
    queues: HashMap<String, MemoryQueue>,
    next_consumer: u64,
}

struct MemoryExchange {
    kind: ExchangeKind,
    /// Routing key and queue name.
    bindings: Vec<(String, String)>,
}

#[derive(Default)]
struct MemoryQueue {
    /// One gateway's own.
    private: bool,
    ready: VecDeque<Stored>,
    last_place: u64,
    weight: usize,
    /// In turn: the next delivery goes to the first that has room.
    consumers: VecDeque<Consumer>,
    /// Publishers that wait for room in this queue.
    room: Arc<Notify>,
}

#[derive(Clone)]
struct Stored {
    /// Its place in the queue, which it keeps when it comes back.
    place: u64,
    message: OutboundMessage,
    /// Its publisher's.
    plan: Arc<Topology>,
    redelivered: bool,
}

struct Consumer {
    id: u64,
    session: u32,
    /// It takes no more, for now or for good.
    cancelled: bool,
    route: Route,
    prefetch: usize,
    next_tag: u64,
    unacknowledged: VecDeque<(u64, Stored)>,
    inbox: Arc<Inbox>,
}

#[derive(Default)]
struct Inbox {
    deliveries: Mutex<VecDeque<Delivery>>,
    arrived: Notify,
}

impl Inbox {
    fn take(&self, into: &mut Vec<Delivery>, max: usize) -> usize {
        let mut deliveries = lock(&self.deliveries);
        let ready = deliveries.len().min(max);
        into.extend(deliveries.drain(..ready));
        ready
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryBroker {
    /// The broker of that name; it lives as long as somebody is connected to it.
    pub fn named(name: &str) -> Self {
        static BROKERS: OnceLock<Mutex<HashMap<String, Weak<Mutex<BrokerState>>>>> = OnceLock::new();
        let mut brokers = lock(BROKERS.get_or_init(Mutex::default));
        brokers.retain(|_, state| state.strong_count() > 0);
        let state = brokers.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let state = Arc::<Mutex<BrokerState>>::default();
            brokers.insert(name.to_owned(), Arc::downgrade(&state));
            state
        });
        MemoryBroker { name: name.to_owned(), state }
    }
}

impl BrokerState {
    fn declare(&mut self, declared: &topology::Queue) -> &mut MemoryQueue {
        if let Some(exchange) = self.exchanges.get_mut(&declared.exchange) {
            let binding = (declared.binding_key.clone(), declared.name.clone());
            if !exchange.bindings.contains(&binding) {
                exchange.bindings.push(binding);
            }
        }
        let queue = self.queues.entry(declared.name.clone()).or_default();
        queue.private = declared.private;
        queue
    }
}

impl Broker for MemoryBroker {
    type Session = MemorySession;

    async fn connect(&self, plan: &Topology) -> Result<MemorySession> {
        let inbox = Arc::<Inbox>::default();
        let session = next_session();
        let mut state = lock(&self.state);
        for exchange in &plan.exchanges {
            let fresh = || MemoryExchange { kind: exchange.kind, bindings: Vec::new() };
            state.exchanges.entry(exchange.name.clone()).or_insert_with(fresh);
        }
        let mut consumers = Vec::new();
        for queue in &plan.queues {
            let id = state.next_consumer;
            state.next_consumer += 1;
            let declared = state.declare(queue);
            declared.consumers.push_back(Consumer {
                id,
                session,
                cancelled: !plan.consumed.contains(queue.route),
                route: queue.route,
                prefetch: plan.prefetch.max(1).into(),
                next_tag: 1,
                unacknowledged: VecDeque::new(),
                inbox: inbox.clone(),
            });
            consumers.push((queue.route, queue.name.clone(), id));
        }
        for queue in &plan.publish_queues {
            state.declare(queue);
        }
        // What waited for a consumer.
        for queue in &plan.queues {
            state.declare(queue).dispatch();
        }
        drop(state);
        let acker = MemoryAcker { session, state: self.state.clone(), consumers };
        let (give_back, given_back) = mpsc::unbounded_channel();
        let (plan, acker, given_back) = (Arc::new(plan.clone()), Arc::new(acker), given_back.into());
        Ok(MemorySession { plan, acker, inbox, give_back, given_back })
    }

    fn address(&self) -> String {
        format!("memory://{}", self.name)
    }
}

pub struct MemorySession {
    plan: Arc<Topology>,
    acker: Arc<MemoryAcker>,
    inbox: Arc<Inbox>,
    give_back: mpsc::UnboundedSender<Route>,
    given_back: tokio::sync::Mutex<mpsc::UnboundedReceiver<Route>>,
}

impl MemorySession {
    /// What a consumer has taken stays its own until it is settled, and tags go on: it is switched off and on, not replaced.
    fn switch(&self, wanted: impl Fn(Route) -> bool) {
        let mut state = lock(&self.acker.state);
        for (route, name, id) in &self.acker.consumers {
            let Some(queue) = state.queues.get_mut(name) else { continue };
            for consumer in queue.consumers.iter_mut().filter(|consumer| consumer.id == *id) {
                let was_cancelled = std::mem::replace(&mut consumer.cancelled, !wanted(*route));
                if consumer.cancelled && !was_cancelled {
                    let _ = self.give_back.send(*route);
                }
            }
            queue.dispatch();
        }
    }

    /// Routes one message, or gives back what to wait for. A queue that is full holds the publisher back for all of them,
    /// as RabbitMQ's flow control does.
    ///
    /// Statuses that nobody listens to must not hold up the messages behind them: of those the oldest are dropped. Answers
    /// how many.
    fn route(&self, message: &OutboundMessage) -> std::result::Result<usize, Arc<Notify>> {
        let (exchange_name, key) = self.plan.target(message.route);
        let mut state = lock(&self.acker.state);
        let Some(exchange) = state.exchanges.get(exchange_name) else { return Ok(0) };
        let matches = |binding: &&(String, String)| exchange.kind == ExchangeKind::Fanout || binding.0 == key;
        let names: Vec<String> = exchange.bindings.iter().filter(matches).map(|binding| binding.1.clone()).collect();
        let mut dropped = 0;
        for name in &names {
            let Some(queue) = state.queues.get_mut(name) else { continue };
            if message.route == Route::Status && queue.consumers.iter().all(|consumer| consumer.cancelled) {
                dropped += queue.drop_oldest();
            }
            if queue.weight >= QUEUE_LIMIT {
                return Err(queue.room.clone());
            }
        }
        for name in names {
            if let Some(queue) = state.queues.get_mut(&name) {
                queue.weight += message.weight();
                queue.last_place += 1;
                queue.ready.push_back(Stored {
                    place: queue.last_place,
                    message: message.clone(),
                    plan: self.plan.clone(),
                    redelivered: false,
                });
                queue.dispatch();
            }
        }
        Ok(dropped)
    }
}

impl Stored {
    fn envelope(&self) -> Envelope {
        let OutboundMessage { route, properties, id, .. } = &self.message;
        let (exchange, routing_key) = self.plan.target(*route);
        Envelope::new(exchange, routing_key, |out| properties.write(out, &self.plan.unique, *id))
    }
}

impl MemoryQueue {
    /// Gives ready messages to consumers in turn, as far as their prefetch allows.
    fn dispatch(&mut self) {
        while !self.ready.is_empty() {
            let has_room =
                |consumer: &Consumer| !consumer.cancelled && consumer.unacknowledged.len() < consumer.prefetch;
            let Some(index) = self.consumers.iter().position(has_room) else { return };
            self.consumers.rotate_left(index);
            let (Some(stored), Some(consumer)) = (self.ready.pop_front(), self.consumers.front_mut()) else { return };
            let tag = consumer.next_tag;
            consumer.next_tag += 1;
            let delivery = Delivery {
                route: consumer.route,
                redelivered: stored.redelivered,
                repeated: stored.message.id.again,
                tag,
                session: consumer.session,
                envelope: stored.envelope(),
                body: stored.message.body.clone(),
            };
            consumer.unacknowledged.push_back((tag, stored));
            lock(&consumer.inbox.deliveries).push_back(delivery);
            consumer.inbox.arrived.notify_one();
            self.consumers.rotate_left(1);
        }
    }

    fn ack(&mut self, id: u64, tag: u64) {
        let Some(consumer) = self.consumers.iter_mut().find(|consumer| consumer.id == id) else { return };
        let settled = consumer.unacknowledged.partition_point(|(of, _)| *of <= tag);
        for (_, stored) in consumer.unacknowledged.drain(..settled) {
            self.weight -= stored.message.weight();
        }
        self.relieved();
    }

    fn settle(&mut self, id: u64, tag: u64, settlement: Settlement) {
        let Some(consumer) = self.consumers.iter_mut().find(|consumer| consumer.id == id) else { return };
        let Ok(index) = consumer.unacknowledged.binary_search_by_key(&tag, |(of, _)| *of) else { return };
        let Some((_, stored)) = consumer.unacknowledged.remove(index) else { return };
        if settlement == Settlement::Again {
            self.take_back(stored);
        } else {
            self.weight -= stored.message.weight();
        }
        self.relieved();
    }

    /// Until there is room for one more; answers how many.
    fn drop_oldest(&mut self) -> usize {
        let mut dropped = 0;
        while self.weight >= QUEUE_LIMIT {
            let Some(stored) = self.ready.pop_front() else { break };
            self.weight -= stored.message.weight();
            dropped += 1;
        }
        dropped
    }

    fn relieved(&mut self) {
        if self.weight < QUEUE_LIMIT {
            self.room.notify_waiters();
        }
        self.dispatch();
    }

    /// To its place, as RabbitMQ does, and marked.
    fn take_back(&mut self, stored: Stored) {
        let index = self.ready.partition_point(|other| other.place < stored.place);
        self.ready.insert(index, Stored { redelivered: true, ..stored });
    }

    /// Takes a consumer out; what it had not acknowledged comes back.
    fn leave(&mut self, id: u64) {
        let Some(index) = self.consumers.iter().position(|consumer| consumer.id == id) else { return };
        let Some(consumer) = self.consumers.remove(index) else { return };
        for (_, stored) in consumer.unacknowledged {
            self.take_back(stored);
        }
        self.dispatch();
    }
}

impl Session for MemorySession {
    async fn publish(&self, batch: &mut VecDeque<OutboundMessage>) -> Result<usize> {
        let mut dropped = 0;
        while let Some(message) = batch.front() {
            match self.route(message) {
                Ok(count) => {
                    dropped += count;
                    batch.pop_front();
                }
                Err(room) => {
                    let notified = room.notified();
                    tokio::pin!(notified);
                    notified.as_mut().enable();
                    // Room may have come between the refusal and the registration.
                    if let Ok(count) = self.route(message) {
                        dropped += count;
                        batch.pop_front();
                    } else {
                        notified.await;
                    }
                }
            }
        }
        Ok(dropped)
    }

    async fn publish_if_routed(&self, batch: &mut VecDeque<OutboundMessage>) -> Result<Routed> {
        self.publish(batch).await.map(|_| Routed::Yes)
    }

    /// Whatever is published is in its queue.
    async fn returned(&self) {
        std::future::pending().await
    }

    async fn settle(&self) -> Result<usize> {
        Ok(0)
    }

    fn unsettled(&self) -> VecDeque<OutboundMessage> {
        VecDeque::new()
    }

    async fn consume(&self, routes: Routes) -> Result<()> {
        self.switch(|route| routes.contains(route));
        Ok(())
    }

    async fn given_back(&self) -> Route {
        match self.given_back.lock().await.recv().await {
            Some(route) => route,
            None => std::future::pending().await,
        }
    }

    async fn stop_receiving(&self) -> Result<()> {
        self.switch(|_| false);
        Ok(())
    }

    async fn receive(&self, into: &mut Vec<Delivery>, max: usize) -> Result<()> {
        loop {
            if self.inbox.take(into, max) > 0 {
                return Ok(());
            }
            self.inbox.arrived.notified().await;
        }
    }

    fn acker(&self) -> Arc<dyn Acker> {
        self.acker.clone()
    }

    async fn lost(&self, _blocked: impl Fn(Option<&str>) + Send + Sync) -> Error {
        std::future::pending().await
    }

    async fn close(&self) {
        self.acker.leave();
    }
}

impl Drop for MemorySession {
    fn drop(&mut self) {
        self.acker.leave();
    }
}

struct MemoryAcker {
    session: u32,
    state: Arc<Mutex<BrokerState>>,
    /// Route, queue and consumer id.
    consumers: Vec<(Route, String, u64)>,
}

impl MemoryAcker {
    /// Ends the consumers. A gateway's own queue goes with it, and its bindings; a shared one waits for the next client.
    fn leave(&self) {
        let mut state = lock(&self.state);
        for (_, name, id) in &self.consumers {
            let Some(queue) = state.queues.get_mut(name) else { continue };
            queue.leave(*id);
            if queue.consumers.is_empty() && queue.private {
                queue.room.notify_waiters();
                state.queues.remove(name);
                for exchange in state.exchanges.values_mut() {
                    exchange.bindings.retain(|(_, bound)| bound != name);
                }
            }
        }
    }
}

impl MemoryAcker {
    fn with(&self, route: Route, mut change: impl FnMut(&mut MemoryQueue, u64)) {
        let mut state = lock(&self.state);
        for (_, name, id) in self.consumers.iter().filter(|(of, ..)| *of == route) {
            if let Some(queue) = state.queues.get_mut(name) {
                change(queue, *id);
            }
        }
    }
}

impl Acker for MemoryAcker {
    fn ack(&self, route: Route, tag: u64) {
        self.with(route, |queue, id| queue.ack(id, tag));
    }

    fn settle(&self, route: Route, tag: u64, settlement: Settlement) {
        self.with(route, |queue, id| queue.settle(id, tag, settlement));
    }

    fn session(&self) -> u32 {
        self.session
    }
}
