//! What is open in a JavaScript environment. The end of a worker thread leaves the process running, and with it this image
//! and its runtime, so whatever the environment owns is released by its cleanup hook, on its own thread.

use std::cell::RefCell;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::*;
use napi::sys;

use super::js_functions::{Functions, FunctionsShared};
use super::uv::executor::EventLoop;
use crate::node::{check_status, runtime};

thread_local! {
    /// Those of this thread: each time that the addon is loaded makes one.
    static ENVIRONMENTS: RefCell<Vec<Rc<Environment>>> = const { RefCell::new(Vec::new()) };
}

struct Environment {
    /// The address of its napi_env.
    address: usize,
    event_loop: Option<Arc<EventLoop>>,
    open: RefCell<Vec<Arc<EnvCleanup>>>,
}

impl Environment {
    #[allow(unsafe_code, reason = "Node-API")]
    fn of(env: &Env) -> Result<Rc<Self>> {
        let address = env.raw().addr();
        if let Some(known) = Self::find(address) {
            return Ok(known);
        }
        let event_loop = EventLoop::of(env)?;
        // Node runs cleanup hooks last added first: this one before those of the environment itself and of its event loop.
        // SAFETY: on the thread of `env`. Added once, since from now on it is known.
        check_status(unsafe { sys::napi_add_env_cleanup_hook(env.raw(), Some(on_cleanup), env.raw().cast()) })?;
        let environment = Rc::new(Environment { address, event_loop, open: RefCell::default() });
        ENVIRONMENTS.with_borrow_mut(|all| all.push(environment.clone()));
        Ok(environment)
    }

    fn find(address: usize) -> Option<Rc<Self>> {
        ENVIRONMENTS.with_borrow(|all| all.iter().find(|one| one.address == address).cloned())
    }

    fn end(&self) {
        for owner in self.open.take() {
            owner.functions.release();
            let core = std::mem::replace(&mut *owner.core(), Core::EnvironmentGone);
            if let Core::Open(end) = core {
                end();
            }
        }
    }
}

/// The environment ends.
#[allow(unsafe_code, reason = "called by Node")]
unsafe extern "C" fn on_cleanup(env: *mut c_void) {
    let ended = ENVIRONMENTS.with_borrow_mut(|all| {
        let index = all.iter().position(|one| one.address == env.addr())?;
        Some(all.swap_remove(index))
    });
    if let Some(environment) = ended {
        // Nothing of ours may unwind into Node.
        let _ = catch_unwind(AssertUnwindSafe(|| environment.end()));
    }
}

/// What one gateway or client has of its environment, and the end of the gateway or client when the environment ends first.
pub(super) struct EnvCleanup {
    /// Of the Environment that it belongs to.
    address: usize,
    functions: Arc<FunctionsShared>,
    core: Mutex<Core>,
}

enum Core {
    Starting,
    /// Called when the environment ends first, on its thread.
    Open(Box<dyn FnOnce() + Send>),
    Closed,
    EnvironmentGone,
}

impl EnvCleanup {
    pub(super) fn open(env: &Env) -> Result<(Arc<EnvCleanup>, Arc<Functions>)> {
        let environment = Environment::of(env)?;
        let functions = Functions::open(env, environment.event_loop.clone())?;
        let owner = Arc::new(EnvCleanup {
            address: environment.address,
            functions: functions.shared(),
            core: Mutex::new(Core::Starting),
        });
        environment.open.borrow_mut().push(owner.clone());
        Ok((owner, functions))
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `end` run on the runtime when the environment ends before it is closed. Opening takes time: the environment may
    /// have ended meanwhile.
    pub(super) fn owns(&self, end: impl Future<Output = ()> + Send + 'static) {
        let end: Box<dyn FnOnce() + Send> = Box::new(move || {
            if let Ok(runtime) = runtime() {
                runtime.spawn(end);
            }
        });
        let mut core = self.core();
        match *core {
            Core::EnvironmentGone => {
                drop(core);
                end();
            }
            _ => *core = Core::Open(end),
        }
    }

    /// Resolves when JavaScript has been told all that it was to be told.
    pub(super) async fn flushed(&self) {
        self.functions.flushed().await;
    }

    /// The gateway or client is closed, or has not come to be. Called on the environment's thread.
    pub(super) fn closed(&self) {
        self.functions.release();
        *self.core() = Core::Closed;
        if let Some(environment) = Environment::find(self.address) {
            environment.open.borrow_mut().retain(|open| !std::ptr::eq(&**open, self));
        }
    }
}
