//! Whether a peer takes the bytes that are sent to it, for keepalive.
//!
//! A write that succeeds proves nothing: the kernel's send buffer takes it, and a gateway that sends a little now and then
//! would keep a dead peer for as long as that has room (megabytes). Two things do prove it, and only the peer's own
//! acknowledgements bring them about:
//! - The socket was full and then took more. Every system shows that much, and sockets that stay with Node do too. It is
//!   coarse: Linux wakes a writer when a third of the buffer is free, and tells nothing of the buffer's own content, which a
//!   slow line needs longer for than `keepaliveGracePeriod`.
//! - The kernel's queue was long and some of it has been acknowledged since, which Linux tells (TCP_INFO).
//!
//! Acknowledgements of a short queue do not count: the peer's kernel, or a proxy, sends them for a process that hangs or a
//! browser that is gone, and small messages would keep it for ever.

use super::socket_buffer::SocketBuffer;
use super::tcp::Stream;

/// A queue of less than this is on its way in any case, and arrives within the grace period on any usable line.
const LONG_QUEUE: usize = 64 * 1024;

/// The kernel's side of a connection's writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendQueue {
    /// Bytes that the peer has acknowledged since the connection began.
    pub acknowledged: u64,
    /// Bytes that it has not.
    pub pending: usize,
}

/// How far the peer had come with what was sent to it at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    written: u64,
    acknowledged: u64,
    /// The stream had not taken all that there was.
    blocked: bool,
    /// The kernel had much that was not acknowledged.
    queued: bool,
}

impl Progress {
    pub fn of<S: Stream>(stream: &SocketBuffer<S>) -> Progress {
        let queue = stream.stream().send_queue().unwrap_or_default();
        Progress {
            written: stream.written(),
            acknowledged: queue.acknowledged,
            blocked: stream.has_unsent(),
            queued: queue.pending >= LONG_QUEUE,
        }
    }

    /// Whether bytes that waited at the moment of `self` have been taken until `now`, which takes its place.
    pub fn advance(&mut self, now: Progress) -> bool {
        let then = std::mem::replace(self, now);
        (then.blocked && now.written > then.written) || (then.queued && now.acknowledged > then.acknowledged)
    }

    pub fn is_waiting(&self) -> bool {
        self.blocked || self.queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_waited_before_is_a_sign_of_life() {
        let blocked = |written, blocked| Progress { written, blocked, ..Progress::default() };
        let queued = |acknowledged, queued| Progress { acknowledged, queued, ..Progress::default() };
        for (then, now, expected) in [
            (blocked(5, true), blocked(6, true), true),
            (blocked(5, true), blocked(6, false), true),
            (blocked(5, true), blocked(5, true), false),
            // A socket with room takes what a dead peer is sent.
            (blocked(5, false), blocked(6, true), false),
            (queued(5, true), queued(6, false), true),
            (queued(5, true), queued(5, true), false),
            // A few bytes are acknowledged by a kernel whose process hangs.
            (queued(5, false), queued(6, true), false),
        ] {
            let mut progress = then;
            assert_eq!(progress.advance(now), expected, "{then:?} {now:?}");
            assert_eq!(progress.is_waiting(), now.blocked || now.queued);
        }
    }
}
