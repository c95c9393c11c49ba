//! Deliveries that were ready together, from the broker to whoever works on them.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::yield_now;

use super::Acker;
use crate::message::{Delivery, Route};

/// Deliveries that go together: more gain nothing.
const ENOUGH: usize = 64;
/// Bodies that go together. A larger one goes alone: whoever keeps a little of a batch may keep all of it.
const BYTES: usize = 64 * 1024;

/// Batches that are worked on before others on the same thread get their turn.
const AT_ONCE: usize = 4;

/// Batches as they come, in the sizes that whoever works on them wants.
pub struct Batches {
    receiver: mpsc::Receiver<Batch>,
    /// Has come, and did not fit.
    next: Option<Batch>,
    /// Since one was waited for.
    at_once: usize,
}

impl Batches {
    pub fn new(receiver: mpsc::Receiver<Batch>) -> Self {
        Batches { receiver, next: None, at_once: 0 }
    }

    /// Waits for a batch and joins to it what waits behind it: fewer and larger steps for whoever works on them, and none
    /// is waited for.
    pub async fn next_batch(&mut self) -> Option<Batch> {
        let ready = self.next.take().or_else(|| self.receiver.try_recv().ok());
        self.at_once = if ready.is_some() { self.at_once + 1 } else { 0 };
        if self.at_once > AT_ONCE {
            // They may come as fast as they are worked on, from another thread.
            self.at_once = 0;
            yield_now().await;
        }
        let mut batch = match ready {
            Some(batch) => batch,
            None => self.receiver.recv().await?,
        };
        self.join_waiting(&mut batch);
        Some(batch)
    }

    fn join_waiting(&mut self, batch: &mut Batch) {
        self.next = batch.split_off(BYTES);
        while !self.is_full(batch) {
            let Ok(next) = self.receiver.try_recv() else { break };
            batch.join(next);
            self.next = batch.split_off(BYTES);
        }
    }

    /// Whether nothing more goes into this one.
    fn is_full(&self, batch: &Batch) -> bool {
        self.next.is_some() || batch.deliveries.len() >= ENOUGH
    }
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

    fn join(&mut self, mut next: Batch) {
        let before = self.deliveries.len();
        self.deliveries.append(&mut next.deliveries);
        self.ackers.extend(next.ackers.into_iter().map(|(acker, end)| (acker, before + end)));
    }

    /// Takes out what does not fit into so many bytes together with what is before it.
    fn split_off(&mut self, bytes: usize) -> Option<Batch> {
        let mut total = 0_usize;
        let mut fits = |delivery: &Delivery| {
            total = total.saturating_add(delivery.body.len());
            total <= bytes
        };
        let fitting = self.deliveries.iter().take_while(|delivery| fits(delivery)).count().max(1);
        if fitting >= self.deliveries.len() {
            return None;
        }
        let deliveries = self.deliveries.split_off(fitting);
        let first = self.ackers.iter().position(|(_, end)| *end > fitting).unwrap_or(0);
        let mut ackers = self.ackers.split_off(first);
        if let Some((acker, _)) = ackers.first() {
            self.ackers.push((acker.clone(), fitting));
        }
        ackers.iter_mut().for_each(|(_, end)| *end -= fitting);
        Some(Batch { deliveries, ackers })
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::broker::Settlement;
    use crate::message::Envelope;

    /// Writes down what is acknowledged.
    struct Noting(u32, Arc<Mutex<Vec<(u32, u64)>>>);

    impl Acker for Noting {
        fn ack(&self, _: Route, tag: u64) {
            self.1.lock().unwrap().push((self.0, tag));
        }
        fn settle(&self, _: Route, _: u64, _: Settlement) {}
        fn session(&self) -> u32 {
            self.0
        }
    }

    fn delivery(session: u32, tag: u64, kib: usize) -> Delivery {
        let envelope = Envelope::new("", "", |_| ());
        let body = vec![0; kib * 1024].into();
        Delivery { route: Route::Receive, redelivered: false, repeated: false, tag, session, envelope, body }
    }

    #[tokio::test]
    async fn batches_are_joined_and_cut_and_each_part_is_acknowledged_by_its_session() {
        let acked = Arc::<Mutex<_>>::default();
        let acker = |session| Arc::new(Noting(session, acked.clone())) as Arc<dyn Acker>;
        let ackers = [acker(0), acker(1)];
        let (sender, receiver) = mpsc::channel(10);
        let mut tags = 1..;
        for (session, sizes) in
            [(0, vec![10, 10, 200, 10]), (0, vec![20, 30]), (1, vec![20, 20, 20, 20]), (1, vec![500]), (1, vec![0; 70])]
        {
            let deliveries = sizes.into_iter().zip(&mut tags).map(|(kib, tag)| delivery(session, tag, kib)).collect();
            sender.send(Batch::new(deliveries, ackers[session as usize].clone())).await.unwrap();
        }
        drop(sender);
        let mut batches = Batches::new(receiver);
        let mut seen = Vec::new();
        while let Some(batch) = batches.next_batch().await {
            let tags: Vec<u64> = batch.deliveries.iter().map(|delivery| delivery.tag).collect();
            seen.push((tags[0], tags[tags.len() - 1]));
            batch.ack();
        }
        assert_eq!(seen, [(1, 2), (3, 3), (4, 6), (7, 9), (10, 10), (11, 11), (12, 81)]);
        assert_eq!(*acked.lock().unwrap(), [(0, 2), (0, 3), (0, 6), (1, 9), (1, 10), (1, 11), (1, 81)]);
    }

    #[tokio::test]
    async fn a_batch_of_two_sessions_is_cut_where_it_is_too_large() {
        let acked = Arc::<Mutex<_>>::default();
        let mut batch =
            Batch::new((1..=3).map(|tag| delivery(0, tag, 10)).collect(), Arc::new(Noting(0, acked.clone())));
        batch.join(Batch::new((1..=4).map(|tag| delivery(1, tag, 10)).collect(), Arc::new(Noting(1, acked.clone()))));
        let rest = batch.split_off(50 * 1024).unwrap();
        assert_eq!((batch.deliveries.len(), rest.deliveries.len()), (5, 2));
        batch.ack();
        rest.ack();
        assert_eq!(*acked.lock().unwrap(), [(0, 3), (1, 2), (1, 4)]);
    }
}
