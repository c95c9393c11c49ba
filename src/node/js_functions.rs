//! The JavaScript functions of one gateway or client. Tasks of the environment's event loop call them at once, every other
//! thread through a threadsafe function.
//!
//! Node frees a threadsafe function on the environment's thread once its cleanup hooks have run, and a release on another
//! thread meanwhile would use that memory. So the threadsafe function, the references to the functions and the async
//! context are all released on the environment's thread: by [`FunctionsShared::release`], which a closed gateway or client calls,
//! and the environment's cleanup hook for those that are still open.
//!
//! Each function that is called here catches what the user's code throws.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::*;
use napi::sys;
use tokio::sync::oneshot;

use super::check_status;
use super::uv::executor::EventLoop;

/// The name of the async resources, as tools such as `async_hooks` show it.
const RESOURCE_NAME: &str = "message-engin";

/// Runs on the environment's thread, in a handle scope and a callback scope of Node's. Dropped uncalled there when the
/// environment ends first.
type Job = Box<dyn FnOnce(sys::napi_env) + Send>;

/// Held by those who call the functions. When the last one goes the functions are released: until then the threadsafe
/// function keeps the process alive, as an open connection would.
pub(super) struct Functions(Arc<FunctionsShared>);

pub(super) struct FunctionsShared {
    event_loop: Option<Arc<EventLoop>>,
    /// None once it has been released.
    held: Mutex<Option<Held>>,
}

struct Held {
    env: sys::napi_env,
    /// Null once Node has said that it closes: its memory may be freed any time after that.
    threadsafe: sys::napi_threadsafe_function,
    references: Vec<sys::napi_ref>,
    /// Of calls by tasks of the event loop.
    context: Option<Arc<AsyncContext>>,
}

// SAFETY: on other threads only `threadsafe` is used, with functions that may be called anywhere. `FunctionsShared::release` takes
// everything out on the environment's thread.
#[allow(unsafe_code, reason = "Node-API values that are used on their own thread")]
unsafe impl Send for Held {}

impl Functions {
    /// Opens the way into the environment, with no functions yet. The caller sees to it that the environment's cleanup hook
    /// releases what `shared` returns.
    #[allow(unsafe_code, reason = "Node-API")]
    pub(super) fn open(env: &Env, event_loop: Option<Arc<EventLoop>>) -> Result<Arc<Self>> {
        let context = event_loop.as_ref().map(|_| AsyncContext::new(env)).transpose()?;
        let name = env.create_string(RESOURCE_NAME)?.raw();
        let (env, mut threadsafe) = (env.raw(), null_mut());
        // SAFETY: on the thread of `env`. `run_job` gets nothing but what `FunctionsShared::post` has queued.
        check_status(unsafe {
            sys::napi_create_threadsafe_function(
                env,
                null_mut(),
                null_mut(),
                name,
                0,
                1,
                null_mut(),
                None,
                null_mut(),
                Some(run_job),
                &raw mut threadsafe,
            )
        })?;
        let held = Held { env, threadsafe, references: Vec::new(), context: context.map(Arc::new) };
        Ok(Arc::new(Functions(Arc::new(FunctionsShared { event_loop, held: Mutex::new(Some(held)) }))))
    }

    pub(super) fn shared(&self) -> Arc<FunctionsShared> {
        self.0.clone()
    }
}

impl Drop for Functions {
    fn drop(&mut self) {
        let shared = self.0.clone();
        // Behind the calls that are queued. Where it cannot be queued the cleanup hook releases them, or has.
        self.0.post(Box::new(move |_| shared.release()));
    }
}

impl FunctionsShared {
    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job, behind those that were queued before. Called on any thread.
    #[allow(unsafe_code, reason = "Node-API")]
    fn post(&self, job: Job) {
        let data = Box::into_raw(Box::new(job));
        let mut held = self.lock();
        if let Some(Held { threadsafe, .. }) = &mut *held
            && !threadsafe.is_null()
        {
            let mode = sys::ThreadsafeFunctionCallMode::nonblocking;
            // SAFETY: not released, which would need the lock; and Node frees it only after the cleanup hook that does so.
            let status = unsafe { sys::napi_call_threadsafe_function(*threadsafe, data.cast(), mode) };
            if status == sys::Status::napi_ok {
                return;
            }
            if status == sys::Status::napi_closing {
                *threadsafe = null_mut();
            }
        }
        drop(held);
        // After the lock: it may hold Functions, which lock as well when they are dropped.
        // SAFETY: from Box::into_raw above, and Node has not taken it.
        drop(unsafe { Box::from_raw(data) });
    }

    /// Resolves when the calls that are queued now have been made, or never will be.
    pub(super) async fn flushed(&self) {
        let (done, flushed) = oneshot::channel::<()>();
        self.post(Box::new(move |_| drop(done)));
        let _ = flushed.await;
    }

    /// Releases all of it; later calls fail. On the environment's thread, in its cleanup hook at the latest.
    #[allow(unsafe_code, reason = "Node-API")]
    pub(super) fn release(&self) {
        let held = self.lock().take();
        let Some(Held { env, threadsafe, references, context }) = held else { return };
        // SAFETY: on the thread of `env`, which is alive; each of them is released once, since it has been taken.
        unsafe {
            for reference in references {
                sys::napi_delete_reference(env, reference);
            }
            if !threadsafe.is_null() {
                sys::napi_release_threadsafe_function(threadsafe, sys::ThreadsafeFunctionReleaseMode::release);
            }
        }
        drop(context);
    }

    /// Calls a function on the thread of `env`, in the caller's scopes. What it throws stays pending.
    #[allow(unsafe_code, reason = "Node-API")]
    fn call(&self, env: sys::napi_env, index: usize, args: impl JsValuesTupleIntoVec) -> Result<sys::napi_value> {
        let reference = self.lock().as_ref().map(|held| held.references[index]);
        let Some(reference) = reference else { return Err(Error::from_status(Status::Closing)) };
        let (mut function, mut this, mut answer) = (null_mut(), null_mut(), null_mut());
        // SAFETY: on the environment's own thread, where alone references are released, and in scopes where all these
        // values are alive.
        unsafe {
            check_status(sys::napi_get_reference_value(env, reference, &raw mut function))?;
            check_status(sys::napi_get_undefined(env, &raw mut this))?;
            let args = args.into_vec(env)?;
            check_status(sys::napi_call_function(env, this, function, args.len(), args.as_ptr(), &raw mut answer))?;
        }
        Ok(answer)
    }
}

/// A function of JavaScript.
pub(super) struct JsFunction<Args, Return> {
    functions: Arc<Functions>,
    index: usize,
    types: PhantomData<fn(Args) -> Return>,
}

impl<Args: JsValuesTupleIntoVec + 'static, Return: FromNapiValue + 'static> JsFunction<Args, Return> {
    #[allow(unsafe_code, reason = "Node-API")]
    pub(super) fn new(functions: &Arc<Functions>, function: &Function<'_, Args, Return>) -> Result<Self> {
        let mut held = functions.0.lock();
        let Some(held) = &mut *held else { return Err(Error::from_status(Status::Closing)) };
        let mut reference = null_mut();
        // SAFETY: on the environment's thread, from which `function` is.
        check_status(unsafe { sys::napi_create_reference(held.env, function.raw(), 1, &raw mut reference) })?;
        held.references.push(reference);
        let index = held.references.len() - 1;
        Ok(JsFunction { functions: functions.clone(), index, types: PhantomData })
    }

    pub(super) fn event_loop(&self) -> Option<&Arc<EventLoop>> {
        self.functions.0.event_loop.as_ref()
    }

    /// Calls it at once, for a task of the event loop; None elsewhere.
    pub(super) fn call_here(&self, args: impl FnOnce() -> Args) -> Option<Result<Return>> {
        let event_loop = self.event_loop()?;
        event_loop.is_here().then(|| self.call_in_scopes(args))
    }

    #[allow(unsafe_code, reason = "Node-API")]
    fn call_in_scopes(&self, args: impl FnOnce() -> Args) -> Result<Return> {
        let held = self.functions.0.lock().as_ref().map(|held| (held.env, held.context.clone()));
        // The context is kept until the scope is closed: the function may run the event loop, and the gateway end there.
        let Some((env, Some(context))) = held else { return Err(Error::from_status(Status::Closing)) };
        let (mut handles, mut callback) = (null_mut(), null_mut());
        // SAFETY: on the environment's own thread; what is opened is closed, the other way round. Whatever is made in the
        // scope of handles stays in it, but for what `Return` has copied out.
        unsafe {
            check_status(sys::napi_open_handle_scope(env, &raw mut handles))?;
            let answer = Env::from_raw(env).get_global().and_then(|resource| {
                check_status(sys::napi_open_callback_scope(env, resource.raw(), context.raw, &raw mut callback))?;
                self.answer(env, args())
            });
            if !callback.is_null() {
                // Runs what the function has queued (process.nextTick, microtasks). What that throws is Node's matter.
                sys::napi_close_callback_scope(env, callback);
            }
            sys::napi_close_handle_scope(env, handles);
            answer
        }
    }

    /// On the environment's thread, in the caller's scopes.
    #[allow(unsafe_code, reason = "Node-API")]
    fn answer(&self, env: sys::napi_env, args: Args) -> Result<Return> {
        answer(&self.functions.0, env, self.index, args)
    }

    /// Queues a call, whose arguments are made on the environment's thread. `then` gets the answer there; it is dropped
    /// uncalled where the environment has ended.
    pub(super) fn call_later(
        &self,
        args: impl FnOnce() -> Args + Send + 'static,
        then: impl FnOnce(Result<Return>) + Send + 'static,
    ) {
        let (shared, index) = (self.functions.0.clone(), self.index);
        self.functions.0.post(Box::new(move |env| then(answer(&shared, env, index, args()))));
    }
}

impl<Args: JsValuesTupleIntoVec + 'static> JsFunction<Args, ()> {
    /// Queues a call that has no answer. What it throws is an uncaught exception.
    #[allow(unsafe_code, reason = "Node-API")]
    pub(super) fn tell(&self, args: impl FnOnce() -> Args + Send + 'static) {
        let (shared, index) = (self.functions.0.clone(), self.index);
        self.functions.0.post(Box::new(move |env| {
            if shared.call(env, index, args()).is_err_and(|error| error.status == Status::PendingException) {
                // SAFETY: on the environment's thread, with the exception that it has just handed out.
                unsafe { sys::napi_fatal_exception(env, take_exception(env)) };
            }
        }));
    }
}

/// Calls a function and reads its answer.
#[allow(unsafe_code, reason = "Node-API")]
fn answer<Args: JsValuesTupleIntoVec, Return: FromNapiValue>(
    shared: &FunctionsShared,
    env: sys::napi_env,
    index: usize,
    args: Args,
) -> Result<Return> {
    match shared.call(env, index, args) {
        // SAFETY: on the environment's thread, in the caller's scopes.
        Ok(value) => unsafe { Return::from_napi_value(env, value) },
        Err(error) => {
            if error.status == Status::PendingException {
                take_exception(env);
            }
            Err(error)
        }
    }
}

#[allow(unsafe_code, reason = "Node-API")]
fn take_exception(env: sys::napi_env) -> sys::napi_value {
    let mut exception = null_mut();
    // SAFETY: on the environment's thread.
    unsafe { sys::napi_get_and_clear_last_exception(env, &raw mut exception) };
    exception
}

/// Runs a job, or drops it when there is no environment to run it in any more.
#[allow(unsafe_code, reason = "called by Node")]
unsafe extern "C" fn run_job(env: sys::napi_env, _: sys::napi_value, _: *mut c_void, data: *mut c_void) {
    // SAFETY: queued by `FunctionsShared::post`, and given back once.
    let job = unsafe { Box::from_raw(data.cast::<Job>()) };
    // Nothing of ours may unwind into Node.
    let _ = catch_unwind(AssertUnwindSafe(|| if env.is_null() { drop(job) } else { job(env) }));
}

/// What calls by tasks of the event loop are made in.
struct AsyncContext {
    env: sys::napi_env,
    raw: sys::napi_async_context,
}

// SAFETY: used and dropped on the environment's thread alone: `FunctionsShared::release` and calls by tasks of the event loop.
#[allow(unsafe_code, reason = "a pointer that is used on one thread alone")]
unsafe impl Send for AsyncContext {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "a pointer that is used on one thread alone")]
unsafe impl Sync for AsyncContext {}

impl AsyncContext {
    #[allow(unsafe_code, reason = "Node-API")]
    fn new(env: &Env) -> Result<Self> {
        let name = env.create_string(RESOURCE_NAME)?.raw();
        let (env, mut raw) = (env.raw(), null_mut());
        // SAFETY: on the thread of `env`.
        check_status(unsafe { sys::napi_async_init(env, null_mut(), name, &raw mut raw) })?;
        Ok(AsyncContext { env, raw })
    }
}

impl Drop for AsyncContext {
    #[allow(unsafe_code, reason = "Node-API")]
    fn drop(&mut self) {
        // SAFETY: on the thread of `env`, which is alive.
        unsafe { sys::napi_async_destroy(self.env, self.raw) };
    }
}
