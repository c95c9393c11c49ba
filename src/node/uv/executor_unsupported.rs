//! Where libuv does not watch sockets by their descriptors, everything crosses.

use std::convert::Infallible;
use std::sync::Arc;

use napi::bindgen_prelude::*;

use crate::host::DeliveryExecutor;

pub(crate) struct EventLoop(Infallible);

impl EventLoop {
    pub(crate) fn of(_: &Env) -> Result<Option<Arc<EventLoop>>> {
        Ok(None)
    }

    pub(crate) fn is_here(&self) -> bool {
        match self.0 {}
    }
}

pub(crate) fn executor(event_loop: &Arc<EventLoop>) -> Arc<dyn DeliveryExecutor> {
    match event_loop.0 {}
}
