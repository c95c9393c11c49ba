//! A stream that holds memory only while there is something in it: most connections are silent most of the time.
//!
//! Reads go through one large buffer that all connections of a thread share, so that a message costs one read whatever its
//! size; only what a read brought and nobody has taken yet is kept. Writes go straight to the socket; only what the socket
//! did not take is kept.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one read may bring, and what several small frames are gathered to for one write.
const SHARED: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SHARED].into());
    static GATHER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SHARED));
}

pub struct Lean<S> {
    stream: S,
    unread: Bytes,
    unsent: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lean<S> {
    pub fn new(stream: S) -> Self {
        Lean { stream, unread: Bytes::new(), unsent: Bytes::new() }
    }

    /// Writes all that `next` gives, as many pieces in one write as fit together. Ready when `next` has no more and all of
    /// it is with the socket and flushed; the socket's backpressure otherwise.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, mut next: impl FnMut() -> Option<Bytes>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_unsent(cx))?;
            let Some(first) = next() else { return Pin::new(&mut self.stream).poll_flush(cx) };
            let Some(second) = next() else {
                ready!(self.poll_write_out(cx, first))?;
                return Pin::new(&mut self.stream).poll_flush(cx);
            };
            let more = GATHER.with_borrow_mut(|gather| {
                gather.clear();
                gather.extend_from_slice(&first);
                gather.extend_from_slice(&second);
                let mut more = false;
                while let Some(piece) = if gather.len() < SHARED / 2 {
                    next()
                } else {
                    more = true;
                    None
                } {
                    gather.extend_from_slice(&piece);
                }
                let written = match Pin::new(&mut self.stream).poll_write(cx, gather) {
                    Poll::Ready(Ok(0)) if !gather.is_empty() => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(written)) => written,
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => 0,
                };
                self.unsent = Bytes::copy_from_slice(&gather[written..]);
                if gather.capacity() > 2 * SHARED {
                    *gather = Vec::with_capacity(SHARED);
                }
                Ok(more)
            })?;
            if !more && self.unsent.is_empty() {
                return Pin::new(&mut self.stream).poll_flush(cx);
            }
        }
    }

    /// Writes one piece; what the socket does not take at once is kept.
    fn poll_write_out(&mut self, cx: &mut Context<'_>, piece: Bytes) -> Poll<io::Result<()>> {
        self.unsent = piece;
        self.poll_unsent(cx)
    }

    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.unsent.advance(written),
            }
        }
        // An empty piece would still hold the memory that it was a piece of.
        self.unsent = Bytes::new();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lean<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.unread.is_empty() {
            let count = this.unread.len().min(into.remaining());
            into.put_slice(&this.unread.split_to(count));
            if this.unread.is_empty() {
                this.unread = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            let (now, later) = read.filled().split_at(read.filled().len().min(into.remaining()));
            into.put_slice(now);
            if !later.is_empty() {
                this.unread = Bytes::copy_from_slice(later);
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lean<S> {
    /// Takes all of `bytes` or nothing, so that what comes from elsewhere never gets in between.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent(cx))?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        if written == 0 {
            return Poll::Ready(Ok(0));
        }
        self.unsent = Bytes::copy_from_slice(&bytes[written..]);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unsent(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unsent(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_is_sent_comes_out_whole_and_in_order_through_a_narrow_pipe() {
        for sizes in [vec![1], vec![0, 5, 0], vec![10; 1000], vec![200_000, 3, 70_000, 1, 1], vec![40_000; 9]] {
            let (ours, mut theirs) = duplex(1000);
            let piece = |(index, size): (usize, &usize)| Bytes::from(vec![index as u8; *size]);
            let mut pieces: VecDeque<Bytes> = sizes.iter().enumerate().map(piece).collect();
            let expected: Vec<u8> = pieces.iter().flatten().copied().collect();
            let sending = tokio::spawn(async move {
                let mut lean = Lean::new(ours);
                poll_fn(|cx| lean.poll_send(cx, || pieces.pop_front())).await.unwrap();
            });
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).await.unwrap();
            sending.await.unwrap();
            assert!(got == expected, "{sizes:?}");
        }
    }

    #[tokio::test]
    async fn small_reads_get_everything_that_a_large_one_brought() {
        use tokio::io::AsyncWriteExt;
        let (ours, mut theirs) = duplex(100_000);
        let bytes: Vec<u8> = (0..50_000_u32).map(|number| number as u8).collect();
        theirs.write_all(&bytes).await.unwrap();
        drop(theirs);
        let mut lean = Lean::new(ours);
        let mut got = Vec::new();
        let mut part = [0; 77];
        loop {
            match lean.read(&mut part).await.unwrap() {
                0 => break,
                count => got.extend_from_slice(&part[..count]),
            }
        }
        assert!(got == bytes);
        assert!(lean.unread.is_empty());
    }
}
