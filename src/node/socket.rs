//! A plain TCP socket taken over from Node: a duplicate of its descriptor, and the bytes that Node had read already.

use std::time::Duration;

use napi::bindgen_prelude::*;
use napi_derive::napi;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::runtime;

/// How long a refused client has to take its answer and close.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

/// Holds a client's connection while keyFn runs. Dropped unanswered, it closes.
#[napi]
pub struct Socket {
    stream: Option<std::net::TcpStream>,
    early: Vec<u8>,
}

#[napi]
impl Socket {
    /// Duplicates the descriptor (F_DUPFD_CLOEXEC) and keeps `early`, which came behind the upgrade request. After this
    /// Node's own socket is destroyed.
    #[napi(factory, catch_unwind)]
    pub fn reserve(fd: i32, early: Buffer) -> Result<Self> {
        let stream =
            duplicate(fd).map_err(|error| Error::from_reason(format!("EBADF||cannot take over a socket: {error}")))?;
        Ok(Socket { stream: Some(stream), early: early.to_vec() })
    }

    /// Whether the client has gone in the meantime. Data that waits before its end counts as being here.
    #[napi(catch_unwind)]
    pub fn is_gone(&self) -> bool {
        let Some(stream) = &self.stream else { return true };
        match stream.peek(&mut [0]) {
            Ok(count) => count == 0 && self.early.is_empty(),
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    /// Closes without a word.
    #[napi(catch_unwind)]
    pub fn destroy(&mut self) {
        self.stream = None;
    }

    /// Writes a whole HTTP response and closes, in good order, so that the answer is not lost to a reset.
    #[napi(catch_unwind)]
    pub fn reject(&mut self, response: Buffer) -> Result<()> {
        let Some(stream) = self.stream.take() else { return Ok(()) };
        let response = response.to_vec();
        runtime()?.spawn(async move {
            let _ = tokio::time::timeout(REFUSAL_PATIENCE, refuse(stream, response)).await;
        });
        Ok(())
    }
}

async fn refuse(stream: std::net::TcpStream, response: Vec<u8>) -> std::io::Result<()> {
    let mut stream = TcpStream::from_std(stream)?;
    stream.write_all(&response).await?;
    stream.shutdown().await?;
    let mut scratch = [0; 1024];
    while stream.read(&mut scratch).await? > 0 {}
    Ok(())
}

impl Socket {
    pub(super) fn take(&mut self) -> Option<(std::net::TcpStream, Vec<u8>)> {
        Some((self.stream.take()?, std::mem::take(&mut self.early)))
    }
}

#[cfg(unix)]
#[allow(unsafe_code, reason = "borrowing the descriptor that Node owns")]
fn duplicate(fd: i32) -> std::io::Result<std::net::TcpStream> {
    use std::os::fd::BorrowedFd;
    if fd < 0 {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: Node calls this synchronously from its 'upgrade' event, with the descriptor of a socket that it has not
    // destroyed; it stays open until after the call, and only its duplicate is kept.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let stream = std::net::TcpStream::from(borrowed.try_clone_to_owned()?);
    stream.set_nonblocking(true)?;
    Ok(stream)
}

#[cfg(not(unix))]
fn duplicate(_fd: i32) -> std::io::Result<std::net::TcpStream> {
    Err(std::io::ErrorKind::Unsupported.into())
}
