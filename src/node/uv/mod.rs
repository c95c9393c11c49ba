//! Node's event loop, through libuv: the executor of deliveries, and sockets that it reads. Nothing else knows libuv.

#[cfg(unix)]
pub mod executor;
#[cfg(not(unix))]
#[path = "executor_unsupported.rs"]
pub mod executor;
#[cfg(unix)]
pub mod ffi;
#[cfg(unix)]
pub mod socket;
