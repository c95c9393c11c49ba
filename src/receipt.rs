//! Acknowledging what is handed to connections, once it is written; and telling what has been handed out before.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use crate::broker::{Acker, Settlement};
use crate::message::{Delivery, Route};

/// Goes with a message to all that it is for. When the last of them has let go of it, the delivery is done.
pub struct Receipt {
    acker: Arc<dyn Acker>,
    route: Route,
    tag: u64,
    settled: AtomicBool,
}

impl Receipt {
    fn settle(&self) {
        if !self.settled.swap(true, Ordering::Relaxed) {
            self.acker.settle(self.route, self.tag, Settlement::Done);
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.settle();
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receipt({})", self.tag)
    }
}

/// Receipts that are out, oldest first.
///
/// The broker gives no more than the prefetch until something is done, and a connection that is slow must not use that up
/// for all: the oldest beyond `limit` count as done, which with a limit of 0 is each at once. The connection still has
/// their messages.
pub struct Receipts {
    out: VecDeque<Weak<Receipt>>,
    limit: usize,
}

impl Receipts {
    pub fn new(limit: usize) -> Self {
        Receipts { out: VecDeque::new(), limit }
    }

    pub fn give(&mut self, acker: &Arc<dyn Acker>, delivery: &Delivery) -> Arc<Receipt> {
        let settled = AtomicBool::new(false);
        let receipt = Receipt { acker: acker.clone(), route: delivery.route, tag: delivery.tag, settled };
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

/// Message ids that are remembered: more than all publishers' windows and the prefetch bring again.
const REMEMBERED: usize = 16 * 1024;

/// Tells what comes a second time: a publisher that lost its connection cannot know what arrived, and a browser cannot
/// know ids.
#[derive(Default)]
pub struct Recent {
    hasher: RandomState,
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Recent {
    /// Whether the id has not been seen lately; a message without one is always new.
    pub fn is_new(&mut self, id: &str) -> bool {
        if id.is_empty() {
            return true;
        }
        let hash = self.hasher.hash_one(id);
        if !self.known.insert(hash) {
            return false;
        }
        self.order.push_back(hash);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;

    use super::*;
    use crate::message::Envelope;

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

    #[test]
    fn a_delivery_is_done_when_the_last_has_let_go_or_when_too_many_are_out() {
        let told = Arc::<Told>::default();
        let acker: Arc<dyn Acker> = told.clone();
        let mut receipts = Receipts::new(3);
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
        let _kept = Receipts::new(0).give(&acker, &delivery(1));
        assert_eq!(*told.0.lock().unwrap(), [1]);
    }

    #[test]
    fn an_id_is_new_once_and_again_when_it_is_forgotten() {
        let mut recent = Recent::default();
        assert!(recent.is_new("a") && !recent.is_new("a") && recent.is_new("") && recent.is_new(""));
        for number in 0..REMEMBERED {
            assert!(recent.is_new(&number.to_string()));
        }
        assert!(recent.is_new("a"));
        assert_eq!(recent.known.len(), recent.order.len());
    }
}
