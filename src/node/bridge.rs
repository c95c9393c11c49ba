//! A stream whose bytes come and go through a socket that stays with Node: TLS, pipes, Windows.
//!
//! Backpressure goes both ways: JavaScript pauses its socket when `input` says that enough waits here, and this side stops
//! writing when JavaScript has enough unwritten.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use napi::bindgen_prelude::*;
use napi_derive::napi;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::js_functions::JsFunction;
use super::socket::send_queue;
use crate::connection::{SendQueue, Stream};

/// Bytes that may wait in either direction.
const WINDOW: usize = 64 * 1024;

/// Connection id, what to do, and the bytes to write.
pub(super) type OutputArgs = FnArgs<(u32, String, Option<Buffer>)>;
pub(super) type Output = JsFunction<OutputArgs, ()>;

/// One end of the bridge, for JavaScript.
#[napi]
pub struct Bridge {
    shared: Arc<BridgeShared>,
}

struct BridgeShared {
    id: u32,
    state: Mutex<BridgeState>,
}

#[derive(Default)]
struct BridgeState {
    /// Let go of with the stream: JavaScript's end of the bridge lives until it is collected, and this function keeps the
    /// process alive.
    output: Option<Arc<Output>>,
    inbound: VecDeque<Bytes>,
    inbound_bytes: usize,
    /// JavaScript has paused its socket and waits for `resume`.
    paused: bool,
    /// Nothing more comes: the other side's FIN, or the end of the socket.
    ended: bool,
    /// The socket is gone.
    closed: bool,
    outbound: Vec<u8>,
    /// Handed to JavaScript, not yet written.
    in_flight: usize,
    /// What the kernel said last; None of a socket that it says nothing about.
    send_queue: Option<SendQueue>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl BridgeShared {
    fn lock(&self) -> MutexGuard<'_, BridgeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &BridgeState, what: &str, bytes: Option<Vec<u8>>) {
        if let Some(output) = &state.output {
            let (id, what) = (self.id, what.to_owned());
            output.tell(move || FnArgs::from((id, what, bytes.map(Into::into))));
        }
    }

    /// Hands all that is to be written to JavaScript, in one call.
    fn pass_on(&self, state: &mut BridgeState) {
        if !state.outbound.is_empty() && !state.closed {
            let bytes = std::mem::take(&mut state.outbound);
            state.in_flight += bytes.len();
            self.tell(state, "write", Some(bytes));
        }
    }
}

#[napi]
impl Bridge {
    #[napi(getter)]
    pub fn id(&self) -> u32 {
        self.shared.id
    }

    /// Bytes from the socket. False: pause it until `resume` is asked for.
    #[napi(catch_unwind)]
    pub fn input(&self, bytes: Buffer) -> bool {
        let mut state = self.shared.lock();
        state.inbound_bytes += bytes.len();
        state.inbound.push_back(Bytes::copy_from_slice(&bytes));
        state.paused = state.inbound_bytes >= WINDOW;
        let (go_on, reader) = (!state.paused, state.reader.take());
        drop(state);
        wake(reader);
        go_on
    }

    /// The socket has written so many bytes of what it was given.
    #[napi(catch_unwind)]
    pub fn written(&self, bytes: u32) {
        let mut state = self.shared.lock();
        state.in_flight = state.in_flight.saturating_sub(bytes as usize);
        let writer = state.writer.take();
        drop(state);
        wake(writer);
    }

    /// Looks at the kernel's queue of the socket's descriptor, for the next time that keepalive asks.
    #[napi(catch_unwind)]
    pub fn measure(&self, fd: i32) {
        self.shared.lock().send_queue = send_queue(fd);
    }

    /// The other side has sent its last byte.
    #[napi(catch_unwind)]
    pub fn end(&self) {
        let mut state = self.shared.lock();
        state.ended = true;
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// The socket is gone.
    #[napi(catch_unwind)]
    pub fn closed(&self) {
        let mut state = self.shared.lock();
        state.ended = true;
        state.closed = true;
        let wakers = [state.reader.take(), state.writer.take()];
        drop(state);
        wakers.into_iter().for_each(wake);
    }
}

impl Bridge {
    pub(super) fn new(id: u32, output: Arc<Output>) -> (Bridge, BridgeStream) {
        let state = BridgeState { output: Some(output), ..BridgeState::default() };
        let shared = Arc::new(BridgeShared { id, state: Mutex::new(state) });
        (Bridge { shared: shared.clone() }, BridgeStream { shared })
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The other end, for a peer.
pub(super) struct BridgeStream {
    shared: Arc<BridgeShared>,
}

impl Stream for BridgeStream {
    /// The descriptor is Node's, so only JavaScript can say whether it is still open: it is asked for the next look, and
    /// this answers with what the last one brought.
    fn send_queue(&self) -> Option<SendQueue> {
        let state = self.shared.lock();
        self.shared.tell(&state, "measure", None);
        state.send_queue
    }
}

impl AsyncRead for BridgeStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        let mut read = false;
        while into.remaining() > 0 {
            let Some(chunk) = state.inbound.front_mut() else { break };
            let count = chunk.len().min(into.remaining());
            into.put_slice(&chunk[..count]);
            chunk.advance(count);
            if chunk.is_empty() {
                state.inbound.pop_front();
            }
            state.inbound_bytes -= count;
            read |= count > 0;
        }
        if state.paused && state.inbound_bytes < WINDOW / 2 {
            state.paused = false;
            self.shared.tell(&state, "resume", None);
        }
        if read || state.ended {
            return Poll::Ready(Ok(()));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for BridgeStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        if state.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW.saturating_sub(state.outbound.len() + state.in_flight);
        if room == 0 {
            self.shared.pass_on(&mut state);
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = bytes.len().min(room);
        state.outbound.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        if state.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.shared.pass_on(&mut state);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        self.shared.pass_on(&mut state);
        self.shared.tell(&state, "end", None);
        Poll::Ready(Ok(()))
    }
}

impl Drop for BridgeStream {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        self.shared.tell(&state, "destroy", None);
        state.output = None;
    }
}
