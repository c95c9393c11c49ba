//! A value that tasks wait for. tokio's watch wakes its waiters in a random order; here the first comes first.

use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

#[derive(Default)]
pub struct Told<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T> Told<T> {
    pub fn new(value: T) -> Told<T> {
        Told { value: Mutex::new(value), changed: Notify::new() }
    }

    pub fn look(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap()
    }

    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let answer = change(&mut self.look());
        self.changed.notify_waiters();
        answer
    }

    pub async fn wait_for(&self, holds: impl Fn(&T) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if holds(&self.look()) {
                return;
            }
            changed.await;
        }
    }
}
