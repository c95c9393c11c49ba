//! What the rest of the gateway holds of a connection: its outbox, its socket for a moment, and the order to close it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::direct_writer::DirectWriter;
use crate::config::SocketSettings;
use crate::queue::byte_queue::{ByteQueue, Refused, Weight};
use crate::websocket::close_reason::{CloseReason, GOING_AWAY, TOO_SLOW};
use crate::websocket::frame_encoder::Frame;

/// How long, and up to how many times `maxBackpressure`, a burst may wait for a connection.
const BURST_TIME: Duration = Duration::from_millis(500);
const BURST_SIZE: usize = 4;

/// What the rest of the gateway holds of a connection.
pub struct Handle {
    pub(super) outbox: ByteQueue<Frame>,
    aside: Mutex<DirectWriter>,
    /// Bytes that may wait for longer than a moment.
    limit: usize,
    /// Since when more has waited.
    above: Mutex<Option<Instant>>,
    order: Mutex<Option<CloseReason>>,
    /// Wakes the connection's task for an order while it waits for the socket and not for frames.
    ordered: AtomicWaker,
}

impl Handle {
    pub fn new(settings: &SocketSettings) -> Arc<Handle> {
        let limit = settings.max_backpressure;
        Arc::new(Handle {
            outbox: ByteQueue::new(limit),
            aside: Mutex::default(),
            limit,
            above: Mutex::new(None),
            order: Mutex::new(None),
            ordered: AtomicWaker::new(),
        })
    }

    /// Queues a frame, for `flush` to send; one that finds no room comes back. Answers whether it is the only one that
    /// waits.
    ///
    /// A burst is no slowness: more than the limit may wait for a moment, and up to a multiple of it. Whoever stays above
    /// the limit for longer is too slow.
    pub fn queue(&self, frame: Frame) -> Result<bool, Refused<Frame>> {
        let mut above = self.above.lock().unwrap_or_else(PoisonError::into_inner);
        if self.outbox.weight() < self.limit {
            *above = None;
        } else if above.get_or_insert_with(Instant::now).elapsed() > BURST_TIME {
            return Err(Refused::Full(frame));
        }
        self.outbox.push_quietly(frame, self.most())
    }

    /// Queues a frame and sends it.
    pub fn send(&self, frame: Frame) -> Result<(), Refused<Frame>> {
        self.queue(frame)?;
        self.flush();
        Ok(())
    }

    /// Sends what is queued: at once, on the thread that calls, where nothing else of this connection is on its way.
    pub fn flush(&self) {
        let sent = match self.aside.try_lock() {
            Ok(mut aside) => aside.send(&self.outbox),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().send(&self.outbox),
            Err(TryLockError::WouldBlock) => false,
        };
        if !sent {
            self.outbox.wake();
        }
    }

    /// While this is held only the connection's own task writes to the socket.
    pub(super) fn aside(&self) -> MutexGuard<'_, DirectWriter> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when there is room for this frame, at the latest when nothing else waits, or the connection ends.
    pub async fn room_for(&self, frame: &Frame) {
        let above = *self.above.lock().unwrap_or_else(PoisonError::into_inner);
        if above.is_some_and(|since| since.elapsed() > BURST_TIME) {
            self.outbox.room().await;
        }
        self.outbox.room_for(frame.weight(), self.most()).await;
    }

    /// Queues a frame as soon as there is room for it, however long that takes. False where the connection has ended.
    pub async fn send_in_turn(&self, mut frame: Frame) -> bool {
        loop {
            self.outbox.room_for(frame.weight(), self.limit).await;
            match self.outbox.try_push(frame) {
                Ok(_) => return true,
                Err(Refused::Full(back)) => frame = back,
                Err(Refused::Closed(_)) => return false,
            }
        }
    }

    /// Bytes that a burst may grow to.
    fn most(&self) -> usize {
        self.limit.saturating_mul(BURST_SIZE)
    }

    /// Closes for being too slow; returns how many frames will not be sent.
    pub fn cut_off(&self) -> usize {
        self.close(TOO_SLOW);
        self.outbox.clear()
    }

    /// Sends what waits, then a close frame. The first order counts.
    pub fn close(&self, order: CloseReason) {
        self.order.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(order);
        self.outbox.close();
        self.ordered.wake();
    }

    pub(super) fn poll_order(&self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.ordered.register(cx.waker());
        self.order.lock().unwrap_or_else(PoisonError::into_inner).map_or(Poll::Pending, Poll::Ready)
    }

    pub(super) fn order(&self) -> CloseReason {
        self.order.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(GOING_AWAY)
    }
}
