//! Tasks that wait for something, woken in the order in which they came.

use std::collections::{BTreeMap, HashMap};
use std::task::Waker;

/// Each task waits once, however often it is polled.
#[derive(Default)]
pub struct WakerQueue {
    /// By what its waker points at.
    turns: HashMap<usize, u64>,
    wakers: BTreeMap<u64, Waker>,
    last: u64,
}

impl WakerQueue {
    pub fn is_empty(&self) -> bool {
        self.wakers.is_empty()
    }

    pub fn add(&mut self, waker: &Waker) {
        let WakerQueue { turns, wakers, last } = self;
        turns.entry(task_of(waker)).or_insert_with(|| {
            *last += 1;
            wakers.insert(*last, waker.clone());
            *last
        });
    }

    /// It waits no more: what is left of its task need not be kept for it.
    pub fn remove(&mut self, waker: &Waker) {
        if let Some(turn) = self.turns.remove(&task_of(waker)) {
            self.wakers.remove(&turn);
        }
    }

    /// All of them, to be woken where no lock is held.
    pub fn take(&mut self) -> Vec<Waker> {
        self.turns = HashMap::new();
        std::mem::take(&mut self.wakers).into_values().collect()
    }
}

fn task_of(waker: &Waker) -> usize {
    waker.data().addr()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::task::Wake;

    use super::*;

    struct Named(u32, Arc<Mutex<Vec<u32>>>);

    impl Wake for Named {
        fn wake(self: Arc<Self>) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    #[test]
    fn each_is_woken_once_in_turn_and_who_has_left_is_let_go() {
        let woken = Arc::<Mutex<Vec<u32>>>::default();
        let tasks: Vec<_> = (0..5).map(|name| Arc::new(Named(name, woken.clone()))).collect();
        let wakers: Vec<Waker> = tasks.iter().map(|task| task.clone().into()).collect();
        let mut waiters = WakerQueue::default();
        for waker in wakers.iter().rev().chain(&wakers) {
            waiters.add(waker);
        }
        waiters.remove(&wakers[2]);
        drop(wakers);
        assert_eq!(Arc::strong_count(&tasks[2]), 1);
        waiters.take().into_iter().for_each(Waker::wake);
        assert_eq!(*woken.lock().unwrap(), [4, 3, 1, 0]);
        assert!(waiters.is_empty() && waiters.take().is_empty());
    }
}
