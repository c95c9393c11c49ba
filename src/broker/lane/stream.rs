//! The two ends of a connection's stream, which is TCP as it is or with TLS.

use std::io::Result;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::client::TlsStream;

pub enum ReadEnd {
    Plain(OwnedReadHalf),
    Tls(ReadHalf<TlsStream<TcpStream>>),
}

pub enum WriteEnd {
    Plain(OwnedWriteHalf),
    Tls(WriteHalf<TlsStream<TcpStream>>),
}

pub fn plain(stream: TcpStream) -> (ReadEnd, WriteEnd) {
    let (reader, writer) = stream.into_split();
    (ReadEnd::Plain(reader), WriteEnd::Plain(writer))
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
        }
    }
}

impl AsyncWrite for WriteEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        match self.get_mut() {
            WriteEnd::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            WriteEnd::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            WriteEnd::Plain(stream) => Pin::new(stream).poll_flush(cx),
            WriteEnd::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            WriteEnd::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            WriteEnd::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
