//! A socket that is read on Node's event loop: libuv says when something has come, and who reads is called there and then.

use std::ffi::c_int;
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use super::executor::{EventLoop, RawLoop};
use super::ffi::{Kind, LibUv, READABLE, UvHandle, UvOwner, check};
use crate::host::ExecutorWriter;

/// The reading end, for tasks of the event loop; others may finish what they have left.
pub(crate) struct UvSocketReader {
    watch: Arc<Watch>,
}

struct Watch {
    socket: TcpStream,
    event_loop: Arc<EventLoop>,
    state: Mutex<WatchState>,
}

struct WatchState {
    /// There may be something to read.
    ready: bool,
    reader: Option<Waker>,
    watching: Watching,
}

enum Watching {
    NotYet,
    /// libuv has a handle for it.
    Open(Open),
    Closed,
}

struct Open {
    handle: *mut UvHandle,
    started: bool,
}

// SAFETY: the pointer is used on the event loop's own thread alone.
#[allow(unsafe_code, reason = "a pointer that is used on one thread alone")]
unsafe impl Send for Open {}

impl UvSocketReader {
    pub(crate) fn new(socket: TcpStream, event_loop: Arc<EventLoop>) -> Self {
        let state = WatchState { ready: true, reader: None, watching: Watching::NotYet };
        UvSocketReader { watch: Arc::new(Watch { socket, event_loop, state: Mutex::new(state) }) }
    }
}

impl AsyncRead for UvSocketReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let watch = &self.watch;
        let mut state = watch.lock();
        while state.ready {
            let room = buffer.remaining();
            match receive(&watch.socket, buffer) {
                Ok(count) => {
                    // Less than there was room for is all that there is; libuv calls again for more.
                    state.ready = count == room;
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => state.ready = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if !state.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            state.reader = Some(cx.waker().clone());
        }
        match watch.start(&mut state) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Drop for UvSocketReader {
    fn drop(&mut self) {
        let watch = self.watch.clone();
        if watch.event_loop.raw().is_some() {
            watch.end();
        } else {
            let event_loop = watch.event_loop.clone();
            event_loop.spawn(Box::pin(async move { watch.end() }));
        }
    }
}

/// One recv(2) into what is free of `buffer`.
#[allow(unsafe_code, reason = "the buffer need not be filled with zeros first")]
fn receive(socket: &TcpStream, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    // SAFETY: only written to, by recv.
    let room = unsafe { buffer.unfilled_mut() };
    // SAFETY: `room` is writable for as many bytes as it is told.
    let count = unsafe { libc::recv(socket.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: recv has written so many.
    unsafe { buffer.assume_init(count) };
    buffer.advance(count);
    Ok(count)
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, WatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has libuv watch the socket. Whoever reads on another thread has it started there.
    fn start(self: &Arc<Self>, state: &mut WatchState) -> io::Result<()> {
        if self.event_loop.raw().is_some() {
            return self.start_here(state);
        }
        if let Watching::Closed = state.watching {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let watch = self.clone();
        self.event_loop.spawn(Box::pin(async move {
            let mut state = watch.lock();
            let started = watch.start_here(&mut state);
            drop(state);
            if started.is_err() {
                watch.end();
                watch.rouse();
            }
        }));
        Ok(())
    }

    #[allow(unsafe_code, reason = "libuv")]
    fn start_here(self: &Arc<Self>, state: &mut WatchState) -> io::Result<()> {
        if let Watching::NotYet = state.watching {
            state.watching = Watching::Open(self.open()?);
        }
        match &mut state.watching {
            Watching::Open(open) if !open.started => {
                // SAFETY: on the event loop's thread, with a handle that is not closed.
                check(unsafe { (self.event_loop.libuv().poll_start)(open.handle, READABLE, on_poll) })?;
                open.started = true;
                Ok(())
            }
            Watching::Open(_) => Ok(()),
            Watching::NotYet | Watching::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    #[allow(unsafe_code, reason = "libuv")]
    fn open(self: &Arc<Self>) -> io::Result<Open> {
        let elsewhere = || io::Error::other("a socket is read on another thread than its own");
        let RawLoop { env, uv, .. } = self.event_loop.raw().ok_or_else(elsewhere)?;
        let (libuv, fd) = (self.event_loop.libuv(), self.socket.as_raw_fd());
        // SAFETY: as below.
        let start = |handle| unsafe { (libuv.poll_init)(uv, handle, fd) };
        // SAFETY: on the event loop's thread; `end` closes it.
        let handle = unsafe { libuv.open(env, self.clone(), start) }?;
        Ok(Open { handle, started: false })
    }

    /// Something has come, or will never come again.
    fn rouse(&self) {
        let mut state = self.lock();
        state.ready = true;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// libuv watches no more; whoever reads learns why.
    fn stopped(&self) {
        if let Watching::Open(open) = &mut self.lock().watching {
            open.started = false;
        }
    }

    /// What nobody reads for now must not be told again and again.
    #[allow(unsafe_code, reason = "libuv")]
    fn rest(&self) {
        let mut state = self.lock();
        let ready = state.ready;
        if let Watching::Open(open) = &mut state.watching
            && open.started
            && ready
        {
            // SAFETY: on the event loop's thread, with a handle that is not closed.
            unsafe { (self.event_loop.libuv().poll_stop)(open.handle) };
            open.started = false;
        }
    }
}

impl UvOwner for Watch {
    const KIND: Kind = Kind::Poll;

    /// Lets go of libuv's handle. Called on the event loop's thread.
    #[allow(unsafe_code, reason = "libuv")]
    fn end(&self) {
        let before = std::mem::replace(&mut self.lock().watching, Watching::Closed);
        if let Watching::Open(open) = before {
            // SAFETY: on the event loop's thread, and once.
            unsafe { self.event_loop.libuv().close::<Watch>(open.handle) };
        }
    }
}

/// The socket can be read, or its end has come.
#[allow(unsafe_code, reason = "called by libuv")]
unsafe extern "C" fn on_poll(handle: *mut UvHandle, status: c_int, _: c_int) {
    let Some(libuv) = LibUv::find() else { return };
    // SAFETY: called by libuv, with the handle of a Watch.
    let watch = unsafe { libuv.owner::<Watch>(handle) };
    if status < 0 {
        watch.stopped();
    }
    watch.event_loop.turn(|| watch.rouse());
    watch.rest();
}

/// The writing end. The runtime looks at nothing else of the socket, so that what comes wakes nobody there.
pub(crate) struct UvSocketWriter(AsyncFd<TcpStream>);

impl UvSocketWriter {
    /// Within the runtime.
    #[allow(unsafe_code, reason = "tokio trusts its caller with the descriptor")]
    pub(crate) fn new(socket: TcpStream) -> io::Result<Self> {
        // SAFETY: a TcpStream has one descriptor all its life, and the AsyncFd owns it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::WRITABLE) }?;
        Ok(UvSocketWriter(socket))
    }
}

impl ExecutorWriter for UvSocketWriter {
    fn has_unread(&self) -> bool {
        self.0.get_ref().peek(&mut [0]).is_ok_and(|count| count > 0)
    }
}

impl Drop for UvSocketWriter {
    fn drop(&mut self) {
        // The reading end has a descriptor of its own, and may have to wait for its thread.
        let _ = self.0.get_ref().shutdown(Shutdown::Both);
    }
}

impl AsyncWrite for UvSocketWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(written) = ready.try_io(|socket| socket.get_ref().write(bytes)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.get_ref().shutdown(Shutdown::Write))
    }
}
