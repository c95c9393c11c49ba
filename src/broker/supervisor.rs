//! The line to the broker: the one reconnect loop, for gateways and clients, for every kind of broker.
//!
//! connect -> declare -> consume -> publish, and again from the start when the connection is lost. What is to be published
//! waits meanwhile in a buffer that is bounded in bytes; who fills it is held back.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{AbortHandle, abortable};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::batch_pacer::BatchPacer;
use super::publish_loop::PublishLoop;
use super::topology::{Routes, Topology};
use super::wake_filter::WakeFiltered;
use crate::broker::{Batch, Broker, Session, Settlement};
use crate::config::{BackoffStrategy, BrokerSettings};
use crate::error::{Error, Result};
use crate::host::{ConnectionEvents, DeliveryExecutor};
use crate::message::OutboundMessage;
use crate::queue::byte_queue::ByteQueue;

/// Deliveries that go on together. 64 are as good as 256 for the crossing into JavaScript, and hold nobody up.
const RECEIVE_BATCH: usize = 64;
/// A batch from which on its own size has paid for the step, and the next one need not wait to become larger. With a small
/// prefetch a part of that is much already, and the broker waits for it to be acknowledged.
const WORTHWHILE: usize = 16;
const WORTHWHILE_PART: usize = 8;
/// Batches that may wait between the broker and whoever works on them.
const BATCHES_WAITING: usize = 4;
/// What connecting takes, and the most that is waited for others to be back as well.
const CONNECTING: Duration = Duration::from_millis(250);
const MOST_PATIENCE: Duration = Duration::from_secs(5);
/// How long the broker has to answer the closing of a connection that has nothing left to carry.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// The end that gateways and clients hold.
pub struct ConnectionSupervisor {
    pub outgoing: Arc<ByteQueue<OutboundMessage>>,
    pub counters: Arc<ConnectionCounters>,
    header_limit: Arc<AtomicUsize>,
    stop: watch::Sender<Stop>,
    quiet: watch::Sender<bool>,
    consumed: watch::Sender<Routes>,
    ended: watch::Receiver<bool>,
}

#[derive(Default)]
pub struct ConnectionCounters {
    /// Below zero while something is back that is counted only at the end of its batch.
    published: AtomicI64,
    pub reconnects: AtomicU64,
    /// Messages that were being handed over when the connection went, or still waited at the end.
    pub lost: AtomicU64,
}

impl ConnectionCounters {
    pub fn published(&self) -> u64 {
        u64::try_from(self.published.load(Ordering::Relaxed)).unwrap_or(0)
    }

    pub(super) fn publish(&self, count: usize) {
        self.published.fetch_add(count as i64, Ordering::Relaxed);
    }

    /// They count as published and wait once more.
    fn take_back(&self, count: usize) {
        self.published.fetch_sub(count as i64, Ordering::Relaxed);
    }

    /// They count as published and were not taken after all.
    pub(super) fn lose(&self, count: usize) {
        self.take_back(count);
        self.lost.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// When to stop: a graceful stop publishes what waits, up to the deadline.
#[derive(Clone, Copy, PartialEq)]
enum Stop {
    No,
    By(Instant),
}

/// How long to wait before the next attempt (node-amqp's `reconnectBackoffStrategy` and its two times).
#[derive(Clone, Copy)]
struct Backoff {
    strategy: BackoffStrategy,
    time: u64,
    limit: u64,
    /// The part of a delay that may be missing or come on top, so that those who lost a broker together do not come back
    /// together.
    jitter: f64,
}

impl Backoff {
    /// How long those who lost a broker together and have the same settings may take to be back, behind the first of them:
    /// that is, as long as their attempts follow each other within seconds.
    fn all_are_back(self) -> Duration {
        let longest = self.time as f64 * (1.0 + self.jitter);
        (Duration::from_millis(longest as u64) + CONNECTING).min(MOST_PATIENCE)
    }

    fn delay(self, attempt: u32) -> u64 {
        let delay = match self.strategy {
            BackoffStrategy::Linear => self.time,
            BackoffStrategy::Exponential => {
                self.time.saturating_mul(1 << attempt.saturating_sub(1).min(30)).min(self.limit)
            }
        };
        let spread = (delay as f64 * self.jitter) as u64;
        let random = RandomState::new().build_hasher().finish();
        let delay = delay - spread + random % (2 * spread + 1);
        match self.strategy {
            BackoffStrategy::Linear => delay,
            BackoffStrategy::Exponential => delay.min(self.limit),
        }
    }
}

impl ConnectionSupervisor {
    /// Connects; an error here is final, since whoever calls has nothing yet that could be lost. Deliveries are received
    /// at `executor`, where the broker can do that.
    pub async fn open<B: Broker>(
        broker: B,
        plan: Topology,
        settings: &BrokerSettings,
        events: Arc<dyn ConnectionEvents>,
        executor: Option<Arc<dyn DeliveryExecutor>>,
    ) -> Result<(ConnectionSupervisor, mpsc::Receiver<Batch>)> {
        let outgoing = Arc::new(ByteQueue::new(settings.buffer_size));
        let counters = Arc::new(ConnectionCounters::default());
        let header_limit = Arc::<AtomicUsize>::default();
        let (stop, stopped) = watch::channel(Stop::No);
        let (quiet, quieted) = watch::channel(false);
        let (consumed, wanted) = watch::channel(plan.consumed);
        let (end, ended) = watch::channel(false);
        let (batches, receiver) = mpsc::channel(BATCHES_WAITING);
        let (first, connected) = oneshot::channel();
        let timeout = Duration::from_millis(settings.connection_timeout);
        let runner = Runner {
            broker,
            plan,
            outgoing: outgoing.clone(),
            counters: counters.clone(),
            header_limit: header_limit.clone(),
            events,
            executor,
            batches,
            stopped,
            quieted,
            wanted,
            last_number: 0,
            timeout,
            backoff: Backoff {
                strategy: settings.reconnect_backoff_strategy,
                time: settings.reconnect_backoff_time,
                limit: settings.reconnect_exponential_limit,
                jitter: settings.reconnect_jitter,
            },
            reconnect: settings.reconnect,
        };
        tokio::spawn(async move {
            runner.run(first).await;
            end.send_replace(true);
        });
        match connected.await {
            Ok(Ok(())) => {
                Ok((ConnectionSupervisor { outgoing, counters, header_limit, stop, quiet, consumed, ended }, receiver))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Closed { what: "connection" }),
        }
    }

    /// Consumes these of the plan's queues and no others, in this session and those that follow.
    pub fn consume(&self, routes: Routes) {
        self.consumed.send_replace(routes);
    }

    /// Bytes that the content header of a message may have, as agreed with the broker last.
    pub fn header_limit(&self) -> usize {
        self.header_limit.load(Ordering::Relaxed)
    }

    /// Hands out nothing more; what comes from now on goes back to its queue.
    pub fn stop_receiving(&self) {
        self.quiet.send_replace(true);
    }

    /// Takes nothing more, publishes what waits if that succeeds within `patience`, and ends the connection.
    pub async fn close(&self, patience: Duration) {
        self.outgoing.close();
        self.stop.send_if_modified(|stop| {
            let first = *stop == Stop::No;
            if first {
                *stop = Stop::By(Instant::now() + patience);
            }
            first
        });
        let mut ended = self.ended.clone();
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

struct Runner<B> {
    broker: B,
    plan: Topology,
    outgoing: Arc<ByteQueue<OutboundMessage>>,
    counters: Arc<ConnectionCounters>,
    header_limit: Arc<AtomicUsize>,
    events: Arc<dyn ConnectionEvents>,
    executor: Option<Arc<dyn DeliveryExecutor>>,
    batches: mpsc::Sender<Batch>,
    stopped: watch::Receiver<Stop>,
    /// No more deliveries are wanted.
    quieted: watch::Receiver<bool>,
    /// What is to be consumed.
    wanted: watch::Receiver<Routes>,
    /// Of the messages that have one.
    last_number: u64,
    timeout: Duration,
    backoff: Backoff,
    reconnect: bool,
}

impl<B: Broker> Runner<B> {
    async fn run(mut self, first: oneshot::Sender<Result<()>>) {
        let mut session = match self.connect().await {
            Ok(session) => {
                let _ = first.send(Ok(()));
                Arc::new(session)
            }
            Err(error) => {
                let _ = first.send(Err(error));
                return;
            }
        };
        let mut was_lost = false;
        loop {
            let result = self.serve(&session, was_lost).await;
            let was_blocked = self.outgoing.hold(false);
            let mut unsettled = session.unsettled();
            self.counters.take_back(unsettled.len());
            self.outgoing.put_back(&mut unsettled);
            let refused = session.refused();
            self.counters.lose(refused);
            if refused > 0
                && let Some(error) = session.refusal()
            {
                self.events.lost(refused, &error);
            }
            let Err(error) = result else { break };
            was_lost = true;
            // Dropped before the next attempt: an exclusive queue must be free again.
            drop(session);
            let is_stopping = *self.stopped.borrow() != Stop::No;
            if is_stopping && (self.outgoing.is_empty() || !self.reconnect) {
                break;
            }
            if was_blocked {
                // Nobody will say so any more.
                self.events.blocked(None);
            }
            if !self.reconnect {
                self.events.failed(&error);
                break;
            }
            match self.again(error).await {
                Some(next) => session = Arc::new(next),
                None => break,
            }
            self.counters.reconnects.fetch_add(1, Ordering::Relaxed);
            self.events.ready();
        }
        self.outgoing.close();
        let left = self.outgoing.clear();
        // What comes after this is refused, and counted there.
        self.counters.lost.fetch_add(left as u64, Ordering::Relaxed);
    }

    async fn connect(&self) -> Result<B::Session> {
        let consumed = if *self.quieted.borrow() { Routes::NONE } else { *self.wanted.borrow() };
        let plan = self.plan.clone().with_consumed(consumed);
        match tokio::time::timeout(self.timeout, self.broker.connect(&plan)).await {
            Ok(result) => result.inspect(|session| self.header_limit.store(session.header_limit(), Ordering::Relaxed)),
            Err(_) => Err(Error::TimedOut {
                address: self.broker.address(),
                after_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }

    /// Tries until it succeeds; None when a stop came first.
    async fn again(&mut self, mut error: Error) -> Option<B::Session> {
        for attempt in 1.. {
            let delay = self.backoff.delay(attempt);
            self.events.reconnecting(attempt, delay, &error);
            let mut stopped = self.stopped.clone();
            let deadline = async {
                let stop = stopped.wait_for(|stop| *stop != Stop::No).await.map(|stop| *stop);
                if let Ok(Stop::By(deadline)) = stop
                    && !self.outgoing.is_empty()
                {
                    tokio::time::sleep_until(deadline).await;
                }
            };
            let attempt = async {
                sleep(Duration::from_millis(delay)).await;
                self.connect().await
            };
            tokio::select! {
                biased;
                () = deadline => return None,
                result = attempt => match result {
                    Ok(session) => return Some(session),
                    Err(next) => error = next,
                },
            }
        }
        None
    }

    /// Publishes and consumes until the connection is lost (Err) or a stop has been carried out (Ok).
    async fn serve(&mut self, session: &Arc<B::Session>, was_lost: bool) -> Result<()> {
        let mut stopped = self.stopped.clone();
        let mut stop = WakeFiltered::new(async move {
            // The sender is dropped with the Line: that is a stop without patience.
            match stopped.wait_for(|stop| *stop != Stop::No).await.map(|stop| *stop) {
                Ok(Stop::By(deadline)) => deadline,
                _ => Instant::now(),
            }
        });
        let carrier = PublishLoop {
            session: &**session,
            outgoing: &self.outgoing,
            counters: &self.counters,
            events: &*self.events,
            at_least_once: self.plan.is_at_least_once(),
            last_number: &mut self.last_number,
        };
        // Who declares what it publishes to has nothing to wait for.
        let others = was_lost && self.plan.publish_queues.is_empty() && !self.plan.is_at_least_once();
        let (patience, mut stopping) = (self.backoff.all_are_back(), self.stopped.clone());
        let find_route = others.then_some(async move {
            tokio::select! {
                () = sleep(patience) => (),
                _ = stopping.wait_for(|stop| *stop != Stop::No) => (),
            }
        });
        let mut publish = WakeFiltered::new(carrier.run(find_route));
        let blocked = |reason: Option<&str>| {
            self.outgoing.hold(reason.is_some());
            self.events.blocked(reason);
        };
        let mut lost = WakeFiltered::new(session.lost(blocked));
        let executor = self.executor.as_deref().filter(|_| session.can_move());
        let consumption = Consumption {
            session: session.clone(),
            batches: self.batches.clone(),
            quieted: self.quieted.clone(),
            wanted: self.wanted.clone(),
            prefetch: self.plan.prefetch,
            events: self.events.clone(),
        };
        let consume = consume(consumption);
        let mut received = match executor {
            Some(executor) => WakeFiltered::new(run_on(executor, consume)),
            None => WakeFiltered::new(consume),
        };
        let stopping = tokio::select! {
            biased;
            deadline = &mut stop => Some(deadline),
            error = &mut lost => return Err(error),
            // Only a closed buffer ends publishing without an error: a stop is on its way and everything is out already.
            result = &mut publish => { result?; None }
            result = &mut received => return result,
        };
        drop(received);
        if let Some(deadline) = stopping {
            // A connection that is lost now is made once more for what waits, as long as there is time.
            tokio::select! {
                biased;
                result = timeout_at(deadline, &mut publish) => result.unwrap_or(Ok(()))?,
                error = &mut lost => return Err(error),
            }
        }
        // Both ends of the connection are needed for its goodbye. It is said whether or not all is out, since it tells
        // what has been handled.
        drop((publish, lost));
        let _ = tokio::time::timeout(CLOSE_PATIENCE, session.close()).await;
        Ok(())
    }
}

/// Runs a task at a place for as long as this is waited for.
async fn run_on<T: Send + 'static>(
    executor: &dyn DeliveryExecutor,
    task: impl Future<Output = T> + Send + 'static,
) -> T {
    let (answer, answered) = oneshot::channel();
    let (task, abort) = abortable(task);
    let _abort = AbortOnDrop(abort);
    executor.spawn(Box::pin(async move {
        if let Ok(result) = task.await {
            let _ = answer.send(result);
        }
    }));
    match answered.await {
        Ok(result) => result,
        // The place has gone, and with it whoever works on deliveries: the owner is closing, and says so through the stop.
        Err(_) => std::future::pending().await,
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What consuming needs, at the place or here.
struct Consumption<S> {
    session: Arc<S>,
    batches: mpsc::Sender<Batch>,
    quieted: watch::Receiver<bool>,
    wanted: watch::Receiver<Routes>,
    prefetch: u16,
    events: Arc<dyn ConnectionEvents>,
}

/// Has the session consume what is wanted. Ends with an error alone.
async fn follow<S: Session>(session: &S, mut wanted: watch::Receiver<Routes>) -> Result<()> {
    loop {
        let routes = *wanted.borrow_and_update();
        session.consume(routes).await?;
        if wanted.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Tells which queues the session has given back.
async fn tell_given_back<S: Session>(session: &S, events: &dyn ConnectionEvents) {
    loop {
        events.given_back(session.given_back().await);
    }
}

async fn consume<S: Session>(consumption: Consumption<S>) -> Result<()> {
    let Consumption { session, batches, mut quieted, wanted: routes, prefetch, events } = consumption;
    let acker = session.acker();
    let mut wanted = !*quieted.borrow();
    if !wanted {
        session.stop_receiving().await?;
    }
    let mut quiet = WakeFiltered::new(async move {
        if quieted.wait_for(|quiet| *quiet).await.is_err() {
            std::future::pending().await
        }
    });
    let mut followed = WakeFiltered::new(async {
        tokio::select! {
            result = follow(&*session, routes) => result,
            () = tell_given_back(&*session, &*events) => Ok(()),
        }
    });
    let worthwhile = WORTHWHILE.min(usize::from(prefetch) / WORTHWHILE_PART);
    let (mut pace, mut last) = (BatchPacer::default(), 0);
    loop {
        if last < worthwhile {
            pace.pause().await;
        }
        let mut deliveries = Vec::with_capacity(last.max(1));
        tokio::select! {
            biased;
            () = &mut quiet, if wanted => {
                wanted = false;
                session.stop_receiving().await?;
            }
            // What ends consumers is not to start any again.
            result = &mut followed, if wanted => return result,
            received = session.receive(&mut deliveries, RECEIVE_BATCH) => received?,
        }
        last = deliveries.len();
        pace.count(last);
        if !wanted {
            deliveries.iter().for_each(|delivery| acker.settle_own(delivery, Settlement::Again));
        } else if batches.send(Batch::new(deliveries, acker.clone())).await.is_err() {
            // Nobody works on deliveries any more: the owner is closing, and says so through the stop.
            return std::future::pending().await;
        }
    }
}
