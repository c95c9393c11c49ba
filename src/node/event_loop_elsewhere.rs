//! Where libuv does not watch sockets by their descriptors, everything crosses.

use std::convert::Infallible;
use std::sync::Arc;

use napi::bindgen_prelude::*;

use crate::hooks::Place;

pub(super) struct EventLoop(Infallible);

impl EventLoop {
    pub(super) fn of(_: &Env) -> Result<Option<Arc<EventLoop>>> {
        Ok(None)
    }

    pub(super) fn is_here(&self) -> bool {
        match self.0 {}
    }
}

pub(super) fn place(event_loop: &Arc<EventLoop>) -> Arc<dyn Place> {
    match event_loop.0 {}
}
