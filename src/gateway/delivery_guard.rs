//! Acknowledging what is handed to connections, once it is written; and recognizing what has been handed out before.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use crate::broker::{Acker, Settlement};
use crate::message::{Delivery, MessageId, Route};

/// Goes with a message to all that it is for. When the last of them has let go of it, the delivery is done.
pub struct DeliveryGuard {
    acker: Arc<dyn Acker>,
    route: Route,
    tag: u64,
    settled: AtomicBool,
}

impl DeliveryGuard {
    fn settle(&self) {
        if !self.settled.swap(true, Ordering::Relaxed) {
            self.acker.settle(self.route, self.tag, Settlement::Done);
        }
    }
}

impl Drop for DeliveryGuard {
    fn drop(&mut self) {
        self.settle();
    }
}

impl fmt::Debug for DeliveryGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receipt({})", self.tag)
    }
}

/// Receipts that are out, oldest first.
///
/// The broker gives no more than the prefetch until something is done, and a connection that is slow must not use that up
/// for all: the oldest beyond `limit` count as done, which with a limit of 0 is each at once. The connection still has
/// their messages.
pub struct DeliveryGuards {
    out: VecDeque<Weak<DeliveryGuard>>,
    limit: usize,
}

impl DeliveryGuards {
    pub fn new(limit: usize) -> Self {
        DeliveryGuards { out: VecDeque::new(), limit }
    }

    pub fn give(&mut self, acker: &Arc<dyn Acker>, delivery: &Delivery) -> Arc<DeliveryGuard> {
        let settled = AtomicBool::new(false);
        let receipt = DeliveryGuard { acker: acker.clone(), route: delivery.route, tag: delivery.tag, settled };
        let receipt = Arc::new(receipt);
        self.out.push_back(Arc::downgrade(&receipt));
        while self.out.len() > self.limit || self.out.front().is_some_and(|oldest| oldest.strong_count() == 0) {
            if let Some(oldest) = self.out.pop_front().and_then(|oldest| oldest.upgrade()) {
                oldest.settle();
            }
        }
        receipt
    }
}

/// Messages that are remembered: more than all publishers' windows and the prefetch bring again.
const REMEMBERED: usize = 16 * 1024;
/// Headers that RabbitMQ's quorum queues add when they deliver a message again.
const ADDED_BY_QUEUES: [&[u8]; 2] = [b"x-delivery-count", b"x-acquired-count"];

/// Recognizes messages that were handed out before: a publisher that lost its connection cannot know what arrived, and a
/// browser cannot know ids.
///
/// Only a message that the broker redelivers or that its publisher has marked as published again is looked up. Other
/// programs may give one id to many messages, an order's number for example, and none of them may be taken for another.
#[derive(Default)]
pub struct DedupWindow {
    hasher: RandomState,
    /// By identity: whether the first copy was a marked one.
    known: HashMap<u64, bool>,
    order: VecDeque<u64>,
}

impl DedupWindow {
    /// Whether the message was handed out before; it is remembered now. One without an id is always new.
    pub fn is_duplicate(&mut self, delivery: &Delivery) -> bool {
        let id = delivery.message_id();
        if id.is_empty() {
            return false;
        }
        let identity = self.identity(delivery, id);
        if let Some(marked_first) = self.known.get(&identity) {
            // The broker may read the lost connection's original after the marked copy on the next connection.
            return delivery.redelivered || delivery.repeated || *marked_first;
        }
        self.known.insert(identity, delivery.repeated);
        self.order.push_back(identity);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        false
    }

    /// Our publishers' ids are unique. For any other id the content counts too: of several messages with one id, the broker
    /// can redeliver one that was not handed out yet.
    fn identity(&self, delivery: &Delivery, id: &str) -> u64 {
        if MessageId::is_generated(id) {
            return self.hasher.hash_one(id);
        }
        // The broker may write the table anew when it adds to it, in any order.
        let headers = delivery
            .header_fields()
            .filter(|(name, _)| !ADDED_BY_QUEUES.contains(name))
            .fold(0_u64, |sum, field| sum.wrapping_add(self.hasher.hash_one(field)));
        self.hasher.hash_one((id, headers, &delivery.body))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;

    use super::*;
    use crate::message::{Envelope, Headers, Properties};

    #[derive(Default)]
    struct Told(Mutex<Vec<u64>>);

    impl Acker for Told {
        fn ack(&self, _route: Route, _tag: u64) {}
        fn settle(&self, _route: Route, tag: u64, _settlement: Settlement) {
            self.0.lock().unwrap().push(tag);
        }
        fn session(&self) -> u32 {
            0
        }
    }

    fn delivery(tag: u64) -> Delivery {
        let envelope = Envelope::new("", "", |_| ());
        Delivery {
            route: Route::Message,
            redelivered: false,
            repeated: false,
            tag,
            session: 0,
            envelope,
            body: Bytes::new(),
        }
    }

    /// A message that another program published, with this id, headers and body.
    fn foreign(id: &str, headers: &str, body: &'static str) -> Delivery {
        let properties = Properties::tracked_if(true, "", &Headers::from_json(headers).unwrap());
        let prefix = id.strip_suffix("-7").unwrap();
        let id = MessageId { number: 7, again: false };
        let envelope = Envelope::new("", "", |out| properties.write(out, prefix, id));
        Delivery { envelope, body: Bytes::from_static(body.as_bytes()), ..delivery(1) }
    }

    fn redelivered(delivery: &Delivery) -> Delivery {
        Delivery { redelivered: true, ..delivery.clone() }
    }

    fn marked(delivery: &Delivery) -> Delivery {
        Delivery { repeated: true, ..delivery.clone() }
    }

    #[test]
    fn a_delivery_is_done_when_the_last_has_let_go_or_when_too_many_are_out() {
        let told = Arc::<Told>::default();
        let acker: Arc<dyn Acker> = told.clone();
        let mut receipts = DeliveryGuards::new(3);
        let first = receipts.give(&acker, &delivery(1));
        let shared = first.clone();
        drop(first);
        let kept: Vec<_> = (2..=5).map(|tag| receipts.give(&acker, &delivery(tag))).collect();
        assert_eq!(*told.0.lock().unwrap(), [1, 2]);
        drop((shared, kept));
        assert_eq!(*told.0.lock().unwrap(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn where_none_may_be_out_a_delivery_is_done_at_once() {
        let told = Arc::<Told>::default();
        let acker: Arc<dyn Acker> = told.clone();
        let _kept = DeliveryGuards::new(0).give(&acker, &delivery(1));
        assert_eq!(*told.0.lock().unwrap(), [1]);
    }

    #[test]
    fn only_what_is_redelivered_or_marked_is_a_duplicate() {
        for id in ["order-7", "0123456789abcdef01234567-7"] {
            let mut recent = DedupWindow::default();
            let message = foreign(id, "{}", "1");
            assert!(!recent.is_duplicate(&redelivered(&message)), "the first copy");
            assert!(!recent.is_duplicate(&message), "the same id, published as another message");
            assert!(recent.is_duplicate(&redelivered(&message)));
            assert!(recent.is_duplicate(&marked(&message)));
        }
    }

    #[test]
    fn an_original_behind_its_marked_copy_is_a_duplicate() {
        let mut recent = DedupWindow::default();
        let message = foreign("0123456789abcdef01234567-7", "{}", "1");
        assert!(!recent.is_duplicate(&marked(&message)) && recent.is_duplicate(&message));
    }

    #[test]
    fn a_redelivered_message_with_the_id_of_another_is_new() {
        let mut recent = DedupWindow::default();
        let first = foreign("order-7", r#"{"to":"a","n":1}"#, "1");
        assert!(!recent.is_duplicate(&first));
        for other in [foreign("order-7", r#"{"to":"a","n":1}"#, "2"), foreign("order-7", r#"{"to":"b","n":1}"#, "1")] {
            assert!(!recent.is_duplicate(&redelivered(&other)) && recent.is_duplicate(&redelivered(&other)));
        }
        let from_a_quorum_queue = foreign("order-7", r#"{"n":1,"x-delivery-count":1,"to":"a"}"#, "1");
        assert!(recent.is_duplicate(&redelivered(&from_a_quorum_queue)));
    }

    #[test]
    fn a_message_without_an_id_is_never_a_duplicate() {
        let mut recent = DedupWindow::default();
        assert!((0..2).all(|_| !recent.is_duplicate(&redelivered(&delivery(1)))));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut recent = DedupWindow::default();
        let numbered = |number: usize| foreign(&format!("{number}-7"), "{}", "");
        for number in 0..=REMEMBERED {
            assert!(!recent.is_duplicate(&numbered(number)));
        }
        assert!(!recent.is_duplicate(&redelivered(&numbered(0))));
        assert!(recent.is_duplicate(&redelivered(&numbered(2))));
        assert_eq!(recent.known.len(), recent.order.len());
    }
}
