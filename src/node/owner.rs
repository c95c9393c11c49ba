//! Ends what an environment has opened when the environment itself ends: a terminated worker thread leaves the process, and
//! with it this image, running, and its sockets would be served on.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::*;

use super::runtime;

/// Something open that belongs to an environment.
pub(super) trait Owned: Clone + Send + 'static {
    fn end(self) -> impl Future<Output = ()> + Send;
}

pub(super) struct Owner<T>(Mutex<Slot<T>>);

enum Slot<T> {
    Empty,
    Open(T),
    EnvironmentGone,
}

impl<T: Owned> Owner<T> {
    pub(super) fn of(env: &Env) -> Result<Arc<Self>> {
        let owner = Arc::new(Owner(Mutex::new(Slot::Empty)));
        env.add_env_cleanup_hook(owner.clone(), |owner| {
            if let Slot::Open(owned) = std::mem::replace(&mut *owner.lock(), Slot::EnvironmentGone) {
                end_later(owned);
            }
        })?;
        Ok(owner)
    }

    fn lock(&self) -> MutexGuard<'_, Slot<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opening takes time: the environment may have gone meanwhile.
    pub(super) fn owns(&self, owned: T) {
        let mut slot = self.lock();
        match *slot {
            Slot::EnvironmentGone => end_later(owned),
            _ => *slot = Slot::Open(owned),
        }
    }

    /// It has been closed in the ordinary way.
    pub(super) fn release(&self) {
        let mut slot = self.lock();
        if matches!(*slot, Slot::Open(_)) {
            *slot = Slot::Empty;
        }
    }
}

fn end_later<T: Owned>(owned: T) {
    if let Ok(runtime) = runtime() {
        runtime.spawn(owned.end());
    }
}
