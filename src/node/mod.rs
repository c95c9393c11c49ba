//! The Node-API surface: convert, delegate, convert. The only room that knows napi, and the only one with unsafe code.
//!
//! Nothing here decides anything. Settings arrive as JSON that `lib/options.js` has checked and filled in; errors leave as
//! `CODE|address|sentence`, which `lib/errors.js` makes into Error objects.

#![cfg_attr(test, allow(dead_code, reason = "napi registers nothing in test builds, so nothing is called"))]

mod bridge;
mod callback;
mod client;
mod gateway;
mod owner;
mod socket;

use std::sync::OnceLock;

use napi::bindgen_prelude::*;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Handle};

/// One runtime a process, for all environments (worker threads share this image). It is never shut down: the environments
/// close what they opened.
pub(crate) fn runtime() -> Result<&'static Handle> {
    static RUNTIME: OnceLock<std::io::Result<Handle>> = OnceLock::new();
    let built = RUNTIME.get_or_init(start_runtime);
    built.as_ref().map_err(|error| Error::from_reason(format!("EAGAIN||cannot start threads: {error}")))
}

/// A scheduler of one thread costs less than one of many with one thread: nobody steals, and everything is near.
fn start_runtime() -> std::io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let forever = move || runtime.block_on(std::future::pending::<()>());
    std::thread::Builder::new().name("message-engin".into()).spawn(forever)?;
    Ok(handle)
}

/// An error of the core as JavaScript gets it.
pub(crate) fn to_js(error: crate::error::Error) -> Error {
    Error::from_reason(format!("{}|{}|{error}", error.code(), error.address()))
}

pub(crate) fn settings<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| Error::from_reason(format!("ERR_INVALID_OPTION||settings: {error}")))
}
