//! What the broker delivers, on its way to the connections that it is for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use std::sync::atomic::Ordering;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::delivery_guard::{DedupWindow, DeliveryGuards};
use crate::broker::{Acker, Batch, Batches, Settlement};
use crate::config::SlowConsumer;
use crate::connection::{Frame, Handle};
use crate::error::Error;
use crate::gateway::{GatewayShared, KeySource};
use crate::host::{Keys, MessageKeys};
use crate::message::Delivery;
use crate::queue::byte_queue::Refused;

/// Connections that are written to in one go.
const AT_ONCE: usize = 128;
/// What a batch may wait in all for connections whose outbox is full, before they are cut off.
const SLOW_CONSUMER_GRACE: Duration = Duration::from_millis(20);

/// Hands what the broker delivers to the connections that it is for, in order.
pub(super) async fn deliver(shared: Arc<GatewayShared>, mut batches: Batches) {
    let mut handing = Dispatcher::new(&shared);
    match &shared.keys {
        KeySource::Asked(keys) => ask_and_deliver(&mut handing, keys, batches).await,
        KeySource::Declared(template) => {
            while let Some(mut batch) = batches.next_batch().await {
                handing.begin(&mut batch);
                for delivery in &batch.deliveries {
                    let keys = template.keys(delivery);
                    handing.send(delivery, keys.iter().map(|key| &**key)).await;
                }
                handing.flush();
                if shared.at_least_once.is_none() {
                    batch.ack();
                }
            }
        }
    }
}

/// One question at a time: what comes meanwhile makes the next one larger, and a crossing costs much more than a message.
async fn ask_and_deliver(
    handing: &mut Dispatcher<'_>,
    keys: &Mutex<Option<Arc<dyn MessageKeys>>>,
    mut batches: Batches,
) {
    while let Some(mut batch) = batches.next_batch().await {
        let asked = keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(asked) = asked else { return };
        handing.begin(&mut batch);
        let (deliveries, ack) = batch.share();
        match asked.keys(deliveries.clone()).await {
            Ok(keys) => handing.dispatch(&deliveries, keys).await,
            Err(Error::Closed { .. }) => return,
            // JavaScript is there and could not answer: lost for this batch, and told there.
            Err(_) => deliveries.iter().for_each(|delivery| handing.done(delivery)),
        }
        if handing.shared.at_least_once.is_none() {
            ack(&deliveries);
        }
    }
}

/// Hands messages to connections.
struct Dispatcher<'a> {
    shared: &'a GatewayShared,
    receipts: DeliveryGuards,
    recent: DedupWindow,
    acker: Option<Arc<dyn Acker>>,
    /// Connections for which frames are queued.
    queued: Vec<Arc<Handle>>,
    /// What a batch may still wait in all for connections whose outbox is full.
    slow_consumer_grace: Duration,
}

impl<'a> Dispatcher<'a> {
    fn new(shared: &'a GatewayShared) -> Self {
        let receipts = DeliveryGuards::new(shared.at_least_once.unwrap_or(0) / 2);
        Dispatcher {
            shared,
            receipts,
            recent: DedupWindow::default(),
            acker: None,
            queued: Vec::new(),
            slow_consumer_grace: SLOW_CONSUMER_GRACE,
        }
    }

    /// With at-least-once, takes out of the batch what was handed out before.
    fn begin(&mut self, batch: &mut Batch) {
        self.slow_consumer_grace = SLOW_CONSUMER_GRACE;
        if self.shared.at_least_once.is_none() {
            return;
        }
        self.acker = batch.acker().cloned();
        let is_new = |delivery: &Delivery| {
            let is_duplicate = self.recent.is_duplicate(delivery);
            if is_duplicate {
                self.shared.counters.duplicates.fetch_add(1, Ordering::Relaxed);
                self.done(delivery);
            }
            !is_duplicate
        };
        batch.deliveries.retain(is_new);
    }

    /// With at-least-once: nothing is left to be done for it.
    fn done(&self, delivery: &Delivery) {
        self.acker.iter().for_each(|acker| acker.settle_own(delivery, Settlement::Done));
    }

    async fn dispatch(&mut self, deliveries: &[Delivery], keys: Vec<Keys>) {
        for (delivery, keys) in deliveries.iter().zip(keys) {
            match keys {
                Keys::None => self.send(delivery, std::iter::empty()).await,
                Keys::One(key) => self.send(delivery, std::iter::once(&*key)).await,
                Keys::Many(keys) => self.send(delivery, keys.iter().map(|key| &**key)).await,
            }
        }
        self.flush();
    }

    /// Sends what has been queued, all of a connection's in one write. This may be a thread that has other things to do:
    /// of a message to very many the runtime's do their part.
    fn flush(&mut self) {
        let mut others = self.queued.split_off(self.queued.len().min(AT_ONCE));
        self.queued.drain(..).for_each(|peer| peer.flush());
        if !others.is_empty() {
            tokio::spawn(async move {
                while !others.is_empty() {
                    others.drain(..others.len().min(AT_ONCE)).for_each(|peer| peer.flush());
                    yield_now().await;
                }
            });
        }
    }

    /// Hands one message to the connections of its keys.
    ///
    /// A connection whose outbox is full may only be waiting for its turn: it gets a moment, out of the time that the batch
    /// may cost all the others, and is cut off when that does not help.
    async fn send<'k>(&mut self, delivery: &Delivery, keys: impl Iterator<Item = &'k str>) {
        let shared = self.shared;
        let counters = &shared.counters;
        // One that stays here is done when this is over.
        let acker = self.acker.as_ref().filter(|acker| acker.gave(delivery));
        let receipt = acker.map(|acker| self.receipts.give(acker, delivery));
        let is_only = keys.size_hint() == (1, Some(1));
        let mut common = None;
        let mut full: Vec<(Arc<Handle>, Frame)> = Vec::new();
        let found = shared.hub.with(keys, |peer| {
            // Made for the first connection that is here and shared by all; a gateway that has none of them makes none.
            let make = || Frame::new(&delivery.content(), shared.socket.fragment()).with_receipt(receipt.clone());
            let frame = if is_only { make() } else { common.get_or_insert_with(make).clone() };
            let bytes = frame.payload_bytes();
            match peer.queue(frame) {
                Ok(first) => {
                    counters.count_sent(bytes);
                    if first {
                        self.queued.push(peer.clone());
                    }
                }
                Err(Refused::Full(frame)) => full.push((peer.clone(), frame)),
                Err(Refused::Closed(_)) => {
                    counters.overflowed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        if found == 0 {
            counters.unmatched.fetch_add(1, Ordering::Relaxed);
        }
        if !full.is_empty() {
            self.flush();
        }
        for (peer, frame) in full {
            let sent = match shared.socket.slow_consumer {
                SlowConsumer::Close => {
                    self.wait_for_room(&peer, &frame).await;
                    match peer.send(frame.clone()) {
                        Ok(()) => true,
                        Err(Refused::Full(_)) => {
                            counters.count_unsent(peer.cut_off());
                            false
                        }
                        // It is closing already, and gets what waits for it.
                        Err(Refused::Closed(_)) => false,
                    }
                }
                // What was queued before has gone out meanwhile.
                SlowConsumer::Drop => peer.send(frame.clone()).is_ok(),
                SlowConsumer::Wait => peer.send_in_turn(frame.clone()).await,
            };
            if sent {
                counters.count_sent(frame.payload_bytes());
            } else {
                counters.overflowed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    async fn wait_for_room(&mut self, peer: &Handle, frame: &Frame) {
        let began = Instant::now();
        let _ = timeout(self.slow_consumer_grace, peer.room_for(frame)).await;
        self.slow_consumer_grace = self.slow_consumer_grace.saturating_sub(began.elapsed());
    }
}
