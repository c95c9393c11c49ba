//! A connection's socket for whoever has frames for it just now: they go out on that thread, and the connection's own task
//! is not woken for them.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::socket_buffer::gather;
use super::tcp::TryWrite;
use crate::queue::byte_queue::ByteQueue;
use crate::websocket::frame_encoder::Frame;

#[derive(Default)]
pub(super) struct DirectWriter {
    /// None of a socket that only the connection's own task can write to.
    pub socket: Option<Arc<dyn TryWrite>>,
    /// Nothing that the task has begun, or is about to say, has to go out first.
    pub free: bool,
    /// What the socket did not take: the task sends it before anything else.
    pub rest: Bytes,
}

impl DirectWriter {
    /// Sends what waits, in as few writes as can be. False where something is left to the task.
    pub fn send(&mut self, outbox: &ByteQueue<Frame>) -> bool {
        let Some(socket) = self.socket.as_ref().filter(|_| self.free) else { return false };
        // Whatever may be wrong with the socket, its task will meet with it too.
        let write = |bytes: &[u8]| socket.try_write(bytes).unwrap_or(0);
        let mut next = || outbox.pop_if(Frame::is_short).and_then(|mut frame| frame.next_piece());
        while let Some(mut first) = next() {
            let rest = match next() {
                None => {
                    first.advance(write(&first));
                    first
                }
                Some(second) => {
                    gather(&first, &second, &mut next, |bytes| Bytes::copy_from_slice(&bytes[write(bytes)..]))
                }
            };
            if !rest.is_empty() {
                (self.rest, self.free) = (rest, false);
                return false;
            }
        }
        outbox.is_empty()
    }
}
