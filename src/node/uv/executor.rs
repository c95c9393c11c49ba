//! Node's event loop as a place to work: tasks that run between its callbacks, on JavaScript's own thread.
//!
//! Deliveries for a function are read, asked about and handed out there. A thread that does the first and the last would
//! wake this one for each, and be woken by it: most of what a message costs when it comes alone.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use napi::bindgen_prelude::*;
use napi::sys;

use super::ffi::{Kind, LibUv, UvHandle, UvOwner};
use super::socket::{UvSocketReader, UvSocketWriter};
use crate::host::{DeliveryExecutor, ExecutorReader, ExecutorWriter};
use crate::node::runtime;

/// How often tasks that wake each other go round before other callbacks get their turn.
const ROUNDS: usize = 2;

pub(crate) struct EventLoop {
    tasks: Mutex<FuturesUnordered<BoxFuture<'static, ()>>>,
    /// Spawned and not begun. None once the environment is gone.
    fresh: Mutex<Option<Vec<BoxFuture<'static, ()>>>>,
    bell: Arc<LoopWaker>,
    waker: Waker,
    thread: ThreadId,
    libuv: &'static LibUv,
    raw: RawLoop,
}

/// What only this environment's own thread may use.
#[derive(Clone, Copy)]
pub(crate) struct RawLoop {
    pub env: sys::napi_env,
    pub uv: *mut sys::uv_loop_s,
}

// SAFETY: the pointers are passed around and used on their own thread alone.
#[allow(unsafe_code, reason = "pointers that are used on one thread alone")]
unsafe impl Send for RawLoop {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "pointers that are used on one thread alone")]
unsafe impl Sync for RawLoop {}

thread_local! {
    /// Whose tasks run now.
    static TURN: Cell<*const EventLoop> = const { Cell::new(std::ptr::null()) };
}

/// Calls for a turn: at most one call is on its way, and none while a turn is on.
struct LoopWaker {
    state: AtomicU8,
    libuv: &'static LibUv,
    /// None once the environment is gone.
    handle: Mutex<Option<AsyncHandle>>,
}

struct AsyncHandle(*mut UvHandle);

// SAFETY: all that is done with it on other threads is uv_async_send, which may be called anywhere.
#[allow(unsafe_code, reason = "a handle that may be used anywhere")]
unsafe impl Send for AsyncHandle {}

const QUIET: u8 = 0;
const CALLED: u8 = 1;
const TURNING: u8 = 2;
/// Rung while a turn is on: it goes round once more.
const AGAIN: u8 = 3;

impl LoopWaker {
    fn handle(&self) -> MutexGuard<'_, Option<AsyncHandle>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[allow(unsafe_code, reason = "libuv")]
    fn call(&self) {
        if let Some(AsyncHandle(handle)) = &*self.handle() {
            // SAFETY: it is closed only after it has been taken from here.
            unsafe { (self.libuv.async_send)(*handle) };
        }
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Wake for LoopWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        loop {
            match self.state.load(Ordering::Acquire) {
                QUIET if self.change(QUIET, CALLED) => return self.call(),
                TURNING if self.change(TURNING, AGAIN) => return,
                CALLED | AGAIN => return,
                _ => (),
            }
        }
    }
}

impl EventLoop {
    /// A new one for an environment; None where Node's event loop is not to be had.
    pub(crate) fn of(env: &Env) -> Result<Option<Arc<EventLoop>>> {
        let (Some(libuv), Some(raw)) = (LibUv::find(), RawLoop::of(env)?) else { return Ok(None) };
        let bell = Arc::new(LoopWaker { state: AtomicU8::new(QUIET), libuv, handle: Mutex::default() });
        let own = Arc::new(EventLoop {
            tasks: Mutex::default(),
            fresh: Mutex::new(Some(Vec::new())),
            waker: bell.clone().into(),
            bell,
            thread: std::thread::current().id(),
            libuv,
            raw,
        });
        own.open().map_err(|error| Error::from_reason(format!("EIO||{error}")))?;
        Ok(Some(own))
    }

    #[allow(unsafe_code, reason = "libuv")]
    fn open(self: &Arc<Self>) -> std::io::Result<()> {
        let RawLoop { env, uv, .. } = self.raw;
        // SAFETY: as below.
        let start = |handle| unsafe { (self.libuv.async_init)(uv, handle, on_async) };
        // SAFETY: on the loop's own thread; `end` closes it.
        let handle = unsafe { self.libuv.open(env, self.clone(), start) }?;
        *self.bell.handle() = Some(AsyncHandle(handle));
        Ok(())
    }

    pub(crate) fn libuv(&self) -> &'static LibUv {
        self.libuv
    }

    /// For those who are on its thread.
    pub(crate) fn raw(&self) -> Option<RawLoop> {
        (std::thread::current().id() == self.thread).then_some(self.raw)
    }

    /// Whether this is called by one of its tasks.
    pub(crate) fn is_here(&self) -> bool {
        std::ptr::eq(TURN.get(), self)
    }

    /// Runs a task; drops it once the environment is gone.
    pub(crate) fn spawn(&self, task: BoxFuture<'static, ()>) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tasks) = &mut *fresh else { return };
        tasks.push(task);
        drop(fresh);
        self.bell.clone().wake();
    }

    /// Runs what is ready, `first` before everything else. Called on this thread, from its event loop.
    pub(crate) fn turn(&self, first: impl FnOnce()) {
        // Somebody's function runs the event loop while it is asked: what is ready has to wait for its answer.
        let Ok(mut tasks) = self.tasks.try_lock() else { return first() };
        self.bell.state.store(TURNING, Ordering::Release);
        first();
        let before = TURN.replace(self);
        // Nothing of ours may unwind into libuv.
        if catch_unwind(AssertUnwindSafe(|| self.run(&mut tasks))).is_err() {
            self.call_again();
        }
        TURN.set(before);
    }

    fn run(&self, tasks: &mut FuturesUnordered<BoxFuture<'static, ()>>) {
        let _guard = runtime().map(|runtime| runtime.enter());
        let mut cx = Context::from_waker(&self.waker);
        for _ in 0..ROUNDS {
            let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(std::mem::take);
            tasks.extend(fresh.into_iter().flatten());
            while let Poll::Ready(Some(())) = Pin::new(&mut *tasks).poll_next(&mut cx) {}
            if self.bell.change(TURNING, QUIET) {
                return;
            }
            self.bell.state.store(TURNING, Ordering::Release);
        }
        self.call_again();
    }

    fn call_again(&self) {
        self.bell.state.store(CALLED, Ordering::Release);
        self.bell.call();
    }
}

impl UvOwner for EventLoop {
    const KIND: Kind = Kind::Async;

    /// With the environment ends whatever would run here.
    #[allow(unsafe_code, reason = "libuv")]
    fn end(&self) {
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(fresh);
        if let Ok(mut tasks) = self.tasks.try_lock() {
            drop(std::mem::take(&mut *tasks));
        }
        let handle = self.bell.handle().take();
        if let Some(AsyncHandle(handle)) = handle {
            // SAFETY: on the loop's own thread, and nobody else has it any more.
            unsafe { self.libuv.close::<EventLoop>(handle) };
        }
    }
}

/// Somebody has called for a turn.
#[allow(unsafe_code, reason = "called by libuv")]
unsafe extern "C" fn on_async(handle: *mut UvHandle) {
    let Some(libuv) = LibUv::find() else { return };
    // SAFETY: called by libuv, with the handle of an EventLoop.
    let own = unsafe { libuv.owner::<EventLoop>(handle) };
    own.turn(|| ());
}

impl RawLoop {
    /// None of a runtime that is not Node: what else it has of libuv is not to be relied on.
    #[allow(unsafe_code, reason = "Node-API")]
    fn of(env: &Env) -> Result<Option<RawLoop>> {
        if env.get_global()?.has_named_property("Bun")? {
            return Ok(None);
        }
        let (env, mut uv) = (env.raw(), std::ptr::null_mut());
        // SAFETY: on the thread of `env`, with room for the answer.
        let status = unsafe { sys::napi_get_uv_event_loop(env, &raw mut uv) };
        Ok((status == sys::Status::napi_ok && !uv.is_null()).then_some(RawLoop { env, uv }))
    }
}

/// The event loop as the core knows it.
pub(crate) fn executor(event_loop: &Arc<EventLoop>) -> Arc<dyn DeliveryExecutor> {
    Arc::new(OwnPlace(event_loop.clone()))
}

struct OwnPlace(Arc<EventLoop>);

impl DeliveryExecutor for OwnPlace {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task);
    }

    fn take(&self, socket: std::net::TcpStream) -> std::io::Result<(ExecutorReader, Box<dyn ExecutorWriter>)> {
        let reader = UvSocketReader::new(socket.try_clone()?, self.0.clone());
        Ok((Box::new(reader), Box::new(UvSocketWriter::new(socket)?)))
    }
}
