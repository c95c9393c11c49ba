//! A plain TCP connection, to which others than its own task may write as well.

use std::io::Result;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::send_progress::SendQueue;

/// What a connection is carried by.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// For others than its own task, where they may write too.
    fn shared(&self) -> Option<Arc<dyn TryWrite>> {
        None
    }

    /// What the system tells about the bytes that it was given; None where it does not.
    fn send_queue(&self) -> Option<SendQueue> {
        None
    }
}

impl Stream for tokio::io::DuplexStream {}

/// Writes what a socket takes at once.
pub trait TryWrite: Send + Sync {
    /// How many bytes it took; `WouldBlock` where none.
    fn try_write(&self, bytes: &[u8]) -> Result<usize>;
}

pub struct Tcp {
    reader: OwnedReadHalf,
    writer: Arc<Writer>,
    /// Asks the system about a socket. Passed in, since it takes system calls that have no safe form here.
    ask: fn(&TcpStream) -> Option<SendQueue>,
}

struct Writer(Mutex<OwnedWriteHalf>);

impl Writer {
    fn lock(&self) -> MutexGuard<'_, OwnedWriteHalf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TryWrite for Writer {
    fn try_write(&self, bytes: &[u8]) -> Result<usize> {
        self.lock().try_write(bytes)
    }
}

impl Tcp {
    pub fn new(stream: TcpStream, ask: fn(&TcpStream) -> Option<SendQueue>) -> Tcp {
        let (reader, writer) = stream.into_split();
        Tcp { reader, writer: Arc::new(Writer(Mutex::new(writer))), ask }
    }
}

impl From<TcpStream> for Tcp {
    fn from(stream: TcpStream) -> Tcp {
        Tcp::new(stream, |_| None)
    }
}

impl Stream for Tcp {
    fn shared(&self) -> Option<Arc<dyn TryWrite>> {
        Some(self.writer.clone())
    }

    fn send_queue(&self) -> Option<SendQueue> {
        (self.ask)(self.reader.as_ref())
    }
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut *self.writer.lock()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut *self.writer.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut *self.writer.lock()).poll_shutdown(cx)
    }
}
