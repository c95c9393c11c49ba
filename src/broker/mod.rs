//! The seam: what a broker does for a gateway or a client, whoever the broker is.
//!
//! A [`Broker`] connects, with the topology declared and the consumers up, and gives a [`Session`]. A session lives until
//! its connection is lost and is never mended: the [`line`] throws it away and connects again.

pub mod lane;
pub mod line;
pub mod memory;
pub mod topology;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

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
    /// Publishes in order and resolves when the broker has been handed all of it. After an error `batch` holds what was
    /// certainly not handed over.
    fn publish(&self, batch: &mut VecDeque<Outgoing>) -> impl Future<Output = Result<()>> + Send;

    /// Publishes the one message in `batch` if the broker has a queue for it; otherwise leaves it there and answers false.
    fn publish_if_routed(&self, batch: &mut VecDeque<Outgoing>) -> impl Future<Output = Result<bool>> + Send;

    /// Waits for a delivery, then appends what is ready, in order, `max` at the most.
    fn receive(&self, into: &mut Vec<Delivery>, max: usize) -> impl Future<Output = Result<()>> + Send;

    /// What acknowledges this session's deliveries.
    fn acker(&self) -> Arc<dyn Acker>;

    /// Resolves when the connection is gone, with the reason.
    fn lost(&self) -> impl Future<Output = Error> + Send;

    /// Ends the session; what was published before has reached the broker when it resolves.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// Acknowledges deliveries. A session that is gone takes its unacknowledged deliveries with it, so there is no error here.
pub trait Acker: Send + Sync {
    /// Every delivery that came through `route` up to and including `tag`.
    fn ack(&self, route: Route, tag: u64);
}

/// Deliveries that were ready together.
pub struct Batch {
    pub deliveries: Arc<[Delivery]>,
    acker: Arc<dyn Acker>,
}

impl Batch {
    pub fn new(deliveries: Vec<Delivery>, acker: Arc<dyn Acker>) -> Self {
        Batch { deliveries: deliveries.into(), acker }
    }

    /// Acknowledges all of it: once a route, since tags count for each channel.
    pub fn ack(self) {
        for route in [Route::Receive, Route::Status, Route::Message] {
            if let Some(last) = self.deliveries.iter().rev().find(|delivery| delivery.route == route) {
                self.acker.ack(route, last.tag);
            }
        }
    }
}
