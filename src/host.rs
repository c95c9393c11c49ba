//! The questions that JavaScript answers, and what it is told.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::Error;
use crate::message::{Delivery, OutboundMessage, Route};

/// The thread that answers: deliveries that are worked on there cross into no other.
pub trait DeliveryExecutor: Send + Sync {
    /// Runs a task there, or drops it when there is nobody any more.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// The two ends of a connected socket: tasks at the place are to read, and whoever wants to may write.
    fn take(&self, socket: std::net::TcpStream) -> std::io::Result<(ExecutorReader, Box<dyn ExecutorWriter>)>;
}

/// Runs a task at the place, where there is one, and otherwise on the runtime.
pub fn spawn_on(executor: Option<Arc<dyn DeliveryExecutor>>, task: impl Future<Output = ()> + Send + 'static) {
    match executor {
        Some(executor) => executor.spawn(Box::pin(task)),
        None => drop(tokio::spawn(task)),
    }
}

pub type ExecutorReader = Box<dyn AsyncRead + Send + Unpin>;

pub trait ExecutorWriter: AsyncWrite + Send + Unpin {
    /// Whether something has come that the reader has had no time for.
    fn has_unread(&self) -> bool;
}

/// The connections that one message from the back office is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Nobody: no key was named, or the function threw (and JavaScript has reported that).
    None,
    One(Box<str>),
    Many(Vec<Box<str>>),
}

/// `messageKeyFn`, asked for a batch at a time.
pub trait MessageKeys: Send + Sync {
    /// One answer for each delivery, in their order. An `Err` says that nobody answers any more (JavaScript is gone).
    fn keys(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, Result<Vec<Keys>, Error>>;

    /// Where asking costs least.
    fn executor(&self) -> Option<Arc<dyn DeliveryExecutor>> {
        None
    }
}

/// The listeners of a client.
pub trait Listeners: Send + Sync {
    /// Resolves when the listeners have returned; `Err` when they did not get it: JavaScript is gone, or closing.
    fn deliver(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, Result<ListenerOutcome, Error>>;

    /// Where telling them costs least.
    fn executor(&self) -> Option<Arc<dyn DeliveryExecutor>> {
        None
    }
}

/// What listeners have made of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerOutcome {
    /// They are done with all of it.
    All,
    /// They say of each delivery what became of it, now or later.
    EachForItself,
}

/// What happens to the connection to the broker.
pub trait ConnectionEvents: Send + Sync {
    /// The connection was lost, or could not be made again: the next attempt comes after `delay_ms`.
    fn reconnecting(&self, attempt: u32, delay_ms: u64, error: &Error);
    /// Connected, declared and consuming again.
    fn ready(&self);
    /// The broker takes no messages for now, with its reason; and goes on (`None`).
    fn blocked(&self, reason: Option<&str>);
    /// It was lost and is not made again (`reconnect: false`).
    fn failed(&self, error: &Error);
    /// Messages that had been handed to the broker were not taken, or may not have been, and are not sent again.
    fn lost(&self, _count: usize, _error: &Error) {}
    /// A message that was taken and can never be published, with the reason. It is counted as lost.
    fn undeliverable(&self, message: &OutboundMessage, error: &Error);
    /// There is room again for a producer that was told to hold on.
    fn drain(&self);
    /// The queue behind `route` is not consumed any more ([`crate::worker::Worker::consume`]).
    fn given_back(&self, _route: Route) {}
}
