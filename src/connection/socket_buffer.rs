//! A stream that holds memory only while there is something in it: most connections are silent most of the time.
//!
//! Reads go through one large buffer that all connections of a thread share, so that a message costs one read whatever its
//! size; only what a read brought and nobody has taken yet is kept. Writes go straight to the socket; only what the socket
//! did not take is kept.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one read may bring, and what several small frames are gathered to for one write.
const SHARED: usize = 64 * 1024;

thread_local! {
    /// Empty while somebody has it.
    static SCRATCH: Cell<Vec<u8>> = Cell::new(vec![0; SHARED]);
    static GATHER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SHARED));
}

pub struct SocketBuffer<S> {
    stream: S,
    unread: Chunk,
    unsent: Bytes,
    /// Bytes that the stream has accepted, from the connection's own task.
    written: u64,
}

/// What has come, to be worked on in place; goes back with `put_back`.
#[derive(Default)]
pub struct Chunk {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Chunk {
    fn new(buffer: Vec<u8>) -> Chunk {
        Chunk { start: 0, end: buffer.len(), buffer }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    /// All but the last `rest` bytes have been taken.
    pub fn keep(&mut self, rest: usize) {
        self.start = self.end - rest.min(self.end - self.start);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> SocketBuffer<S> {
    /// `unread` has come before.
    pub fn new(stream: S, unread: Vec<u8>) -> Self {
        SocketBuffer { stream, unread: Chunk::new(unread), unsent: Bytes::new(), written: 0 }
    }

    /// What is there to be read; None at its end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        if self.unread.start < self.unread.end {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.unread))));
        }
        let mut buffer = SCRATCH.take();
        if buffer.is_empty() {
            buffer = vec![0; SHARED];
        }
        let mut into = ReadBuf::new(&mut buffer);
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut into);
        let end = into.filled().len();
        if end == 0 {
            SCRATCH.set(buffer);
            return read.map_ok(|()| None);
        }
        Poll::Ready(Ok(Some(Chunk { buffer, start: 0, end })))
    }

    /// What has not been taken of a chunk comes again.
    pub fn put_back(&mut self, mut chunk: Chunk) {
        let rest = chunk.start < chunk.end;
        if chunk.buffer.len() == SHARED {
            self.unread = if rest { Chunk::new(chunk.bytes().to_vec()) } else { Chunk::default() };
            SCRATCH.set(chunk.buffer);
        } else if rest {
            self.unread = chunk;
        }
    }

    /// What the socket did not take goes out before anything else.
    pub fn put_unsent(&mut self, bytes: Bytes) {
        debug_assert!(self.unsent.is_empty());
        self.unsent = bytes;
    }

    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }

    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unsent(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Writes all that `next` gives, as many pieces in one write as fit together. Ready when `next` has no more and all of
    /// it is with the socket and flushed; the socket's backpressure otherwise.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, mut next: impl FnMut() -> Option<Bytes>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_unsent(cx))?;
            let Some(first) = next() else { return Pin::new(&mut self.stream).poll_flush(cx) };
            if first.len() >= SHARED / 2 {
                // Worth a write of its own, without a copy.
                ready!(self.poll_write_out(cx, first))?;
                continue;
            }
            let Some(second) = next() else {
                ready!(self.poll_write_out(cx, first))?;
                return Pin::new(&mut self.stream).poll_flush(cx);
            };
            let mut more = true;
            let next = || {
                let piece = next();
                more = piece.is_some();
                piece
            };
            let SocketBuffer { stream, written: total, .. } = self;
            self.unsent = gather(&first, &second, next, |bytes| {
                let written = match Pin::new(stream).poll_write(cx, bytes) {
                    Poll::Ready(Ok(0)) if !bytes.is_empty() => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(written)) => written,
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => 0,
                };
                *total += written as u64;
                Ok(Bytes::copy_from_slice(&bytes[written..]))
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
                written => {
                    self.unsent.advance(written);
                    self.written += written as u64;
                }
            }
        }
        // An empty piece would still hold the memory that it was a piece of.
        self.unsent = Bytes::new();
        Poll::Ready(Ok(()))
    }
}

/// Puts two pieces and what follows them behind each other, as far as they are worth one write.
pub fn gather<T>(
    first: &[u8],
    second: &[u8],
    mut next: impl FnMut() -> Option<Bytes>,
    write: impl FnOnce(&[u8]) -> T,
) -> T {
    GATHER.with_borrow_mut(|gather| {
        gather.clear();
        gather.extend_from_slice(first);
        gather.extend_from_slice(second);
        while gather.len() < SHARED / 2
            && let Some(piece) = next()
        {
            gather.extend_from_slice(&piece);
        }
        let answer = write(gather);
        if gather.capacity() > 2 * SHARED {
            *gather = Vec::with_capacity(SHARED);
        }
        answer
    })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_is_sent_comes_out_whole_and_in_order_through_a_narrow_pipe() {
        for sizes in [vec![1], vec![0, 5, 0], vec![10; 1000], vec![200_000, 3, 70_000, 1, 1], vec![40_000; 9]] {
            let (ours, mut theirs) = duplex(1000);
            let piece = |(index, size): (usize, &usize)| Bytes::from(vec![index as u8; *size]);
            let mut pieces: VecDeque<Bytes> = sizes.iter().enumerate().map(piece).collect();
            let expected: Vec<u8> = pieces.iter().flatten().copied().collect();
            let sending = tokio::spawn(async move {
                let mut lean = SocketBuffer::new(ours, Vec::new());
                poll_fn(|cx| lean.poll_send(cx, || pieces.pop_front())).await.unwrap();
            });
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).await.unwrap();
            sending.await.unwrap();
            assert!(got == expected, "{sizes:?}");
        }
    }

    #[tokio::test]
    async fn what_is_not_taken_comes_again() {
        let (ours, mut theirs) = duplex(100_000);
        let bytes: Vec<u8> = (0..80_000_u32).map(|number| number as u8).collect();
        theirs.write_all(&bytes[10_000..]).await.unwrap();
        drop(theirs);
        let mut lean = SocketBuffer::new(ours, bytes[..10_000].to_vec());
        let mut got = Vec::new();
        while let Some(mut chunk) = poll_fn(|cx| lean.poll_chunk(cx)).await.unwrap() {
            let now = chunk.bytes().len().min(777);
            got.extend_from_slice(&chunk.bytes()[..now]);
            let rest = chunk.bytes().len() - now;
            chunk.keep(rest);
            lean.put_back(chunk);
        }
        assert!(got == bytes);
        assert_eq!(lean.unread.buffer.capacity(), 0);
    }
}
