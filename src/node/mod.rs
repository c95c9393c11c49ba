//! The Node-API surface: convert, delegate, convert. The only room that knows napi, and the only one with unsafe code.
//!
//! Nothing here decides anything. Settings arrive as JSON that `lib/options/broker.js` and `lib/options/gateway.js` have checked and
//! filled in; errors leave as `CODE|address|sentence`, which `lib/errors.js` makes into Error objects.

#![cfg_attr(test, allow(dead_code, reason = "napi registers nothing in test builds, so nothing is called"))]

mod bridge;
mod callbacks;
mod client;
mod delivery_codec;
mod environment;
mod gateway;
mod js_functions;
mod key_result;
mod pfx;
mod socket;
mod uv;

use std::sync::OnceLock;

use napi::bindgen_prelude::*;
use napi_derive::napi;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Handle};

/// One runtime a process, for all environments (worker threads share this image). It is never shut down: the environments
/// close what they opened.
static RUNTIME: OnceLock<std::io::Result<Running>> = OnceLock::new();

struct Running {
    handle: Handle,
    threads: u32,
}

pub(crate) fn runtime() -> Result<&'static Handle> {
    let running = RUNTIME.get_or_init(|| start_runtime(1));
    let failed = |error: &std::io::Error| Error::from_reason(format!("EAGAIN||cannot start threads: {error}"));
    running.as_ref().map(|running| &running.handle).map_err(failed)
}

/// Starts the runtime with so many threads unless it runs already; returns how many it has.
#[napi(catch_unwind)]
pub fn use_threads(threads: u32) -> Result<u32> {
    RUNTIME.get_or_init(|| start_runtime(threads));
    runtime()?;
    Ok(RUNTIME.get().and_then(|running| running.as_ref().ok()).map_or(0, |running| running.threads))
}

fn start_runtime(threads: u32) -> std::io::Result<Running> {
    // Its threads run the code of this image for as long as the process lives; Node would unload it with the last environment.
    retain_current_module_for_unload_safety();
    // A scheduler of one thread costs less than one of many that has one: nobody steals, and everything is near.
    let mut builder = if threads > 1 { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    if threads > 1 {
        builder.worker_threads(threads as usize).thread_name("message-engin");
    }
    let runtime = builder.enable_all().build()?;
    let handle = runtime.handle().clone();
    let forever = move || runtime.block_on(std::future::pending::<()>());
    std::thread::Builder::new().name("message-engin".into()).spawn(forever)?;
    Ok(Running { handle, threads })
}

/// An error of the core as JavaScript gets it.
pub(crate) fn to_js(error: crate::error::Error) -> Error {
    Error::from_reason(format!("{}|{}|{error}", error.code(), error.address()))
}

pub(crate) fn settings<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| Error::from_reason(format!("ERR_INVALID_OPTION||settings: {error}")))
}

pub(crate) fn check_status(status: sys::napi_status) -> Result<()> {
    if status == sys::Status::napi_ok {
        return Ok(());
    }
    Err(Error::from_status(Status::from(status)))
}
