//! The two ends of a connection's stream, which is TCP as it is or with TLS.

use std::io::Result;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::client::TlsStream;

use crate::host::{DeliveryExecutor, ExecutorReader, ExecutorWriter};

pub enum ReadEnd {
    Plain(OwnedReadHalf),
    Tls(ReadHalf<TlsStream<TcpStream>>),
    Moved(ExecutorReader),
}

pub enum WriteEnd {
    Plain(OwnedWriteHalf),
    Tls(WriteHalf<TlsStream<TcpStream>>),
    Moved(Box<dyn ExecutorWriter>),
}

impl WriteEnd {
    /// Whether something has come that nobody has read yet, where the other end is read at a place of its own.
    pub fn has_unread(&self) -> bool {
        match self {
            WriteEnd::Moved(writer) => writer.has_unread(),
            _ => false,
        }
    }
}

pub fn plain(stream: TcpStream) -> (ReadEnd, WriteEnd) {
    let (reader, writer) = stream.into_split();
    (ReadEnd::Plain(reader), WriteEnd::Plain(writer))
}

/// A plain stream that `executor` reads from; any other stays as it is.
pub fn read_at(executor: &dyn DeliveryExecutor, ends: (ReadEnd, WriteEnd)) -> Result<(ReadEnd, WriteEnd)> {
    let (reader, writer) = match ends {
        (ReadEnd::Plain(reader), WriteEnd::Plain(writer)) => (reader, writer),
        others => return Ok(others),
    };
    let stream = reader.reunite(writer).map_err(std::io::Error::other)?;
    let (reader, writer) = executor.take(stream.into_std()?)?;
    Ok((ReadEnd::Moved(reader), WriteEnd::Moved(writer)))
}

pub fn secure(stream: TlsStream<TcpStream>) -> (ReadEnd, WriteEnd) {
    let (reader, writer) = split(stream);
    (ReadEnd::Tls(reader), WriteEnd::Tls(writer))
}

impl AsyncRead for ReadEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            ReadEnd::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            ReadEnd::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            ReadEnd::Moved(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for WriteEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        match self.get_mut() {
            WriteEnd::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            WriteEnd::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            WriteEnd::Moved(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            WriteEnd::Plain(stream) => Pin::new(stream).poll_flush(cx),
            WriteEnd::Tls(stream) => Pin::new(stream).poll_flush(cx),
            WriteEnd::Moved(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            WriteEnd::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            WriteEnd::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            WriteEnd::Moved(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
