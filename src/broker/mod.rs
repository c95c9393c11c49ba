//! The seam: what a broker does for a gateway or a client, whoever the broker is.
//!
//! A [`Broker`] connects, with the topology declared and the consumers up, and gives a [`Session`]. A session lives until
//! its connection is lost and is never mended: the [`line`] throws it away and connects again.

mod apart;
mod carrier;
pub mod lane;
pub mod line;
pub mod memory;
pub mod topology;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::message::{Delivery, Outgoing, Route};
use topology::Plan;

pub trait Broker: Send + Sync + 'static {
    type Session: Session;

    /// Connects, declares what `plan` says and starts to consume.
    fn connect(&self, plan: &Plan) -> impl Future<Output = Result<Self::Session>> + Send;

    /// For error texts; never with login or password.
    fn address(&self) -> String;
}

pub trait Session: Send + Sync + 'static {
    /// Whether the broker can be handed this message at all.
    fn fits(&self, _message: &Outgoing) -> bool {
        true
    }

    /// Publishes in order and resolves when the broker has been handed all of it. After an error `batch` holds what was
    /// certainly not handed over. Answers how many messages, of this batch or before, the broker has refused for good.
    fn publish(&self, batch: &mut VecDeque<Outgoing>) -> impl Future<Output = Result<usize>> + Send;

    /// Publishes the one message in `batch` if the broker has a queue for it; otherwise leaves it there.
    fn publish_if_routed(&self, batch: &mut VecDeque<Outgoing>) -> impl Future<Output = Result<Routed>> + Send;

    /// Resolves when something that was published has come back: `publish`, also of nothing, deals with it.
    fn returned(&self) -> impl Future<Output = ()> + Send;

    /// Resolves when nothing that was published can come back any more. Answers how many messages were refused meanwhile.
    fn settle(&self) -> impl Future<Output = Result<usize>> + Send;

    /// What was handed over and has not arrived for certain, in order; asked once the session is over.
    fn unsettled(&self) -> VecDeque<Outgoing>;

    /// How many messages were refused and nobody has been answered of; asked once the session is over.
    fn refused(&self) -> usize {
        0
    }

    /// Waits for a delivery, then appends what is ready, in order, `max` at the most.
    fn receive(&self, into: &mut Vec<Delivery>, max: usize) -> impl Future<Output = Result<()>> + Send;

    /// Asks the broker for no more; what is on its way may still come.
    fn stop_receiving(&self) -> impl Future<Output = Result<()>> + Send;

    /// What acknowledges this session's deliveries.
    fn acker(&self) -> Arc<dyn Acker>;

    /// Resolves when the connection is gone, with the reason. `blocked` is told when the broker stops taking messages, with
    /// its reason, and when it goes on.
    fn lost(&self, blocked: impl Fn(Option<&str>) + Send + Sync) -> impl Future<Output = Error> + Send;

    /// Ends the session; what was published before has reached the broker when it resolves.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// What became of a message that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routed {
    Yes,
    /// There is no queue for it; it is still in the batch.
    No,
    /// The broker does not take it, for its size, say. Lost.
    Refused,
}

/// Acknowledges deliveries. A session that is gone takes its unacknowledged deliveries with it, so there is no error here.
pub trait Acker: Send + Sync {
    /// Every delivery that came through `route` up to and including `tag`.
    fn ack(&self, route: Route, tag: u64);

    /// One delivery.
    fn settle(&self, route: Route, tag: u64, settlement: Settlement);

    /// The session that its deliveries name.
    fn session(&self) -> u32;

    /// Whether a delivery is this session's. Those of one that is over belong to the broker again.
    fn gave(&self, delivery: &Delivery) -> bool {
        delivery.session == self.session()
    }

    /// One delivery, if it is this session's.
    fn settle_own(&self, delivery: &Delivery, settlement: Settlement) {
        if self.gave(delivery) {
            self.settle(delivery.route, delivery.tag, settlement);
        }
    }
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Acknowledged.
    Done,
    /// Back to its queue: it is delivered again.
    Again,
    /// Out of its queue: to the dead-letter exchange where there is one.
    Drop,
}

/// A number for a new session, which no other in this process has.
pub fn next_session() -> u32 {
    static SESSIONS: AtomicU32 = AtomicU32::new(0);
    SESSIONS.fetch_add(1, Ordering::Relaxed)
}

/// Deliveries that were ready together.
pub struct Batch {
    pub deliveries: Vec<Delivery>,
    /// Who acknowledges them, each up to an index: a batch may span a reconnect, and tags are those of their session.
    ackers: Vec<(Arc<dyn Acker>, usize)>,
}

impl Batch {
    pub fn new(deliveries: Vec<Delivery>, acker: Arc<dyn Acker>) -> Self {
        let ackers = vec![(acker, deliveries.len())];
        Batch { deliveries, ackers }
    }

    /// Waits for a batch and joins to it what waits behind it, up to about `enough` deliveries: fewer and larger steps for
    /// whoever works on them, and none is waited for.
    pub async fn gather(batches: &mut mpsc::Receiver<Batch>, enough: usize) -> Option<Batch> {
        let mut batch = batches.recv().await?;
        batch.join_waiting(batches, enough);
        Some(batch)
    }

    pub fn join_waiting(&mut self, batches: &mut mpsc::Receiver<Batch>, enough: usize) {
        while self.deliveries.len() < enough {
            let Ok(mut next) = batches.try_recv() else { break };
            let before = self.deliveries.len();
            self.deliveries.append(&mut next.deliveries);
            self.ackers.extend(next.ackers.into_iter().map(|(acker, end)| (acker, before + end)));
        }
    }

    /// What acknowledges the last of them.
    pub fn acker(&self) -> Option<&Arc<dyn Acker>> {
        self.ackers.last().map(|(acker, _)| acker)
    }

    /// The deliveries, and what acknowledges them later.
    pub fn share(self) -> (Arc<[Delivery]>, impl FnOnce(&[Delivery])) {
        let Batch { deliveries, ackers } = self;
        (deliveries.into(), move |deliveries: &[Delivery]| ack(deliveries, &ackers))
    }

    pub fn ack(self) {
        ack(&self.deliveries, &self.ackers);
    }
}

/// Once a session and route, since tags count for each channel.
fn ack(deliveries: &[Delivery], ackers: &[(Arc<dyn Acker>, usize)]) {
    let mut start = 0;
    for (index, (acker, end)) in ackers.iter().enumerate() {
        let same = ackers.get(index + 1).is_some_and(|(next, _)| Arc::ptr_eq(next, acker));
        if same {
            continue;
        }
        for route in [Route::Receive, Route::Status, Route::Message] {
            if let Some(last) = deliveries[start..*end].iter().rev().find(|delivery| delivery.route == route) {
                acker.ack(route, last.tag);
            }
        }
        start = *end;
    }
}
