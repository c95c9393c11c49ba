//! What waits for the broker, on its way to a session; what the session does not take goes back.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::supervisor::ConnectionCounters;
use super::wake_filter::WakeFiltered;
use crate::broker::{Routed, Session};
use crate::error::{Error, Result};
use crate::host::ConnectionEvents;
use crate::message::OutboundMessage;
use crate::queue::byte_queue::ByteQueue;

/// What is handed to the broker at once; also what a lost connection may take with it.
const PUBLISH_BATCH: usize = 128;
const PUBLISH_BYTES: usize = 256 * 1024;
/// How long a backlog waits for the other side's queues after a loss, and how often it looks.
const ROUTE_PATIENCE: Duration = Duration::from_secs(30);
const ROUTE_INTERVAL: Duration = Duration::from_millis(100);
/// A write so soon after the one before is a sign of load.
const BUSY: Duration = Duration::from_micros(250);

/// Carries what waits in the buffer to a session.
pub struct PublishLoop<'a, S> {
    pub session: &'a S,
    pub outgoing: &'a ByteQueue<OutboundMessage>,
    pub counters: &'a ConnectionCounters,
    pub events: &'a dyn ConnectionEvents,
    /// At-least-once: messages are numbered, and a session remembers what it has taken.
    pub at_least_once: bool,
    pub last_number: &'a mut u64,
}

impl<S: Session> PublishLoop<'_, S> {
    /// Ends with Ok when the buffer is closed and empty, and what was in it has arrived. `others`: they declare the
    /// queues, and have had their time for it when this resolves.
    pub async fn run(mut self, others: Option<impl Future<Output = ()> + Send>) -> Result<()> {
        if let Some(others) = others {
            others.await;
            self.find_route().await?;
        }
        let mut batch = VecDeque::new();
        let mut wrote = None;
        let session = self.session;
        let mut returned = WakeFiltered::new(session.returned());
        loop {
            let more = tokio::select! {
                biased;
                more = std::future::poll_fn(|cx| self.outgoing.poll_ready(cx)) => more,
                () = &mut returned => {
                    returned = WakeFiltered::new(session.returned());
                    let refused = session.publish(&mut batch).await?;
                    self.lose(refused);
                    continue;
                }
            };
            if !more {
                let refused = session.settle().await?;
                self.lose(refused);
                return Ok(());
            }
            // Under load the first of many messages would go out alone: whoever else is ready gets the turn first.
            if wrote.is_some_and(|wrote: Instant| wrote.elapsed() < BUSY) {
                tokio::task::yield_now().await;
            }
            self.outgoing.drain(&mut batch, PUBLISH_BATCH, PUBLISH_BYTES).await;
            self.leave_out_unfit(&mut batch);
            self.number(&mut batch);
            let mut guard = self.guard(&mut batch);
            let refused = session.publish(guard.batch).await?;
            self.counters.publish(guard.count);
            guard.count = 0;
            drop(guard);
            self.lose(refused);
            wrote = Some(Instant::now());
        }
    }

    /// Counts and tells what the broker has refused.
    fn lose(&self, count: usize) {
        self.counters.lose(count);
        if count > 0
            && let Some(error) = self.session.refusal()
        {
            self.events.lost(count, &error);
        }
    }

    /// Before anything can be interrupted: what can never go out is lost now, and only once. Headers are checked when they
    /// are made; these are too large since the broker has agreed on smaller frames than before.
    fn leave_out_unfit(&self, batch: &mut VecDeque<OutboundMessage>) {
        batch.retain(|message| {
            let fits = self.session.fits(message);
            if !fits {
                let bytes = message.properties.header_size();
                let error = Error::HeadersTooLarge { bytes, limit: self.session.header_limit() };
                self.counters.lost.fetch_add(1, Ordering::Relaxed);
                self.events.undeliverable(message, &error);
            }
            fits
        });
    }

    /// A message keeps the number that it went out with first.
    fn number(&mut self, batch: &mut VecDeque<OutboundMessage>) {
        for message in batch.iter_mut().filter(|_| self.at_least_once).filter(|message| message.id.number == 0) {
            *self.last_number += 1;
            message.id.number = *self.last_number;
        }
    }

    fn guard<'g>(&'g self, batch: &'g mut VecDeque<OutboundMessage>) -> PutBack<'g> {
        let PublishLoop { outgoing, counters, at_least_once, .. } = self;
        PutBack { count: batch.len(), batch, outgoing, counters, at_least_once: *at_least_once }
    }

    /// A broker that was away may have lost its queues, and the other side may not be back to declare them: what waits here
    /// would vanish one message after the other. Of several gateways each needs them, so all have had their time before
    /// this. Holds the first message back until it has somewhere to go, or patience ends.
    async fn find_route(&mut self) -> Result<()> {
        let mut front = VecDeque::new();
        let until = Instant::now() + ROUTE_PATIENCE;
        while Instant::now() < until && self.outgoing.drain(&mut front, 1, PUBLISH_BYTES).await {
            self.leave_out_unfit(&mut front);
            if front.is_empty() {
                continue;
            }
            let mut guard = self.guard(&mut front);
            match self.session.publish_if_routed(guard.batch).await? {
                Routed::Yes => {
                    self.counters.publish(1);
                    guard.count = 0;
                    break;
                }
                // Counted as lost by the guard; the next one is offered.
                Routed::Refused => (),
                Routed::No => {
                    drop(guard);
                    sleep(ROUTE_INTERVAL).await;
                }
            }
        }
        Ok(())
    }
}

/// However publishing ends, by an error or because the connection's end was noticed elsewhere first: what the session has
/// not taken goes back to the front of the buffer.
struct PutBack<'a> {
    count: usize,
    batch: &'a mut VecDeque<OutboundMessage>,
    outgoing: &'a ByteQueue<OutboundMessage>,
    counters: &'a ConnectionCounters,
    /// The session remembers what it has taken.
    at_least_once: bool,
}

impl Drop for PutBack<'_> {
    fn drop(&mut self) {
        if self.count > 0 {
            let taken = self.count - self.batch.len();
            if self.at_least_once {
                self.counters.publish(taken);
            } else {
                self.counters.lost.fetch_add(taken as u64, Ordering::Relaxed);
            }
            self.outgoing.put_back(self.batch);
        }
    }
}
