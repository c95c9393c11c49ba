//! The seam: what a broker does for a gateway or a client, whoever the broker is.
//!
//! A [`Broker`] connects, with the topology declared and the consumers up, and gives a [`Session`]. A session lives until
//! its connection is lost and is never mended: the [`line`] throws it away and connects again.

mod batch;
pub mod batch_pacer;
pub mod memory;
mod publish_loop;
pub mod rabbitmq;
pub mod supervisor;
pub mod topology;
mod wake_filter;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};
use crate::message::{Delivery, OutboundMessage, Route};
pub use batch::{Batch, Batches};
use topology::{Routes, Topology};

/// The original's largest frame. Larger ones gain nothing for messages of a browser's size.
const FRAME_MAX: usize = 131_072;
/// What a frame takes beside its payload: type, channel and size before it, the end octet behind it.
const FRAME_EXTRA: usize = 8;

pub trait Broker: Send + Sync + 'static {
    type Session: Session;

    /// Connects, declares what `plan` says and starts to consume what it names.
    fn connect(&self, plan: &Topology) -> impl Future<Output = Result<Self::Session>> + Send;

    /// For error texts; never with login or password.
    fn address(&self) -> String;
}

pub trait Session: Send + Sync + 'static {
    /// Bytes that the content header of a message may have, since it must fit into one frame.
    fn header_limit(&self) -> usize {
        FRAME_MAX - FRAME_EXTRA
    }

    /// Whether the broker can be handed this message at all.
    fn fits(&self, message: &OutboundMessage) -> bool {
        message.properties.header_size() <= self.header_limit()
    }

    /// Publishes in order and resolves when the broker has been handed all of it. After an error `batch` holds what was
    /// certainly not handed over. Answers how many messages, of this batch or before, the broker has refused for good.
    fn publish(&self, batch: &mut VecDeque<OutboundMessage>) -> impl Future<Output = Result<usize>> + Send;

    /// Publishes the one message in `batch` if the broker has a queue for it; otherwise leaves it there.
    fn publish_if_routed(&self, batch: &mut VecDeque<OutboundMessage>) -> impl Future<Output = Result<Routed>> + Send;

    /// Resolves when something that was published has come back: `publish`, also of nothing, deals with it.
    fn returned(&self) -> impl Future<Output = ()> + Send;

    /// Resolves when nothing that was published can come back any more. Answers how many messages were refused meanwhile.
    fn settle(&self) -> impl Future<Output = Result<usize>> + Send;

    /// What was handed over and has not arrived for certain, in order; asked once the session is over.
    fn unsettled(&self) -> VecDeque<OutboundMessage>;

    /// How many messages were refused and nobody has been answered of; asked once the session is over.
    fn refused(&self) -> usize {
        0
    }

    /// Why messages were refused, if that has not been asked since; each time that it is asked is one that is told.
    fn refusal(&self) -> Option<Error> {
        None
    }

    /// Waits for a delivery, then appends what is ready, in order, `max` at the most.
    fn receive(&self, into: &mut Vec<Delivery>, max: usize) -> impl Future<Output = Result<()>> + Send;

    /// Whether `receive` may be called at a [`DeliveryExecutor`](crate::host::DeliveryExecutor); it is called nowhere else then.
    fn can_move(&self) -> bool {
        true
    }

    /// Consumes these of the plan's queues and no others. Before a queue that no longer is among them has been given back
    /// (see `given_back`) deliveries may still come from it. That takes until another client consumes it, where the broker
    /// would delete it with its last consumer.
    fn consume(&self, routes: Routes) -> impl Future<Output = Result<()>> + Send;

    /// Resolves when a queue is not consumed here any more. What came from it and is settled as [`Settlement::Again`] from
    /// now on goes to other consumers.
    fn given_back(&self) -> impl Future<Output = Route> + Send;

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
