//! Calls into JavaScript. Each function that is called here catches what the user's code throws, so that nothing thrown
//! ever reaches this side.

use std::sync::Arc;

use futures_util::TryFutureExt;
use futures_util::future::{BoxFuture, ready};
use napi::bindgen_prelude::*;
use napi::sys;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use tokio::sync::oneshot;

use super::answer::KeyAnswer;
use super::check_status;
use super::crossing::{BatchArgs, Dictionary};
use super::event_loop::{EventLoop, place};
use crate::error::Error as CoreError;
use crate::hooks::{Heard, Keys, LineEvents, Listeners, MessageKeys, Place};
use crate::message::{Delivery, OCTETS, Outgoing, Route, write_hex, write_json_text};

/// A strong function: it keeps the process alive until it is dropped, as an open connection would.
type Callback<T, Args, Return> = ThreadsafeFunction<T, Return, Args, Status, false, false, 0>;

const GONE: CoreError = CoreError::Closed { what: "JavaScript environment" };

/// Calls now, so that calls happen in the order of the batches, and gives the answer later.
fn ask<Args, Return>(
    function: &Callback<Arc<[Delivery]>, Args, Return>,
    batch: Arc<[Delivery]>,
) -> BoxFuture<'static, std::result::Result<Return, CoreError>>
where
    Args: JsValuesTupleIntoVec + 'static,
    Return: FromNapiValue + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    let status = function.call_with_return_value(batch, ThreadsafeFunctionCallMode::NonBlocking, move |result, _| {
        let _ = answer.send(result.map_err(|error| CoreError::Invalid { detail: error.to_string() }));
        Ok(())
    });
    Box::pin(async move {
        if status != Status::Ok {
            return Err(GONE);
        }
        answered.await.unwrap_or(Err(GONE))
    })
}

/// A function that tasks on its own event loop call at once.
struct Here<Args: JsValuesTupleIntoVec, Return> {
    event_loop: Arc<EventLoop>,
    env: Env,
    function: FunctionRef<Args, Return>,
}

// SAFETY: called on its own thread alone, which `is_here` asks for; a FunctionRef may be dropped anywhere.
#[allow(unsafe_code, reason = "Node-API values that are used on their own thread alone")]
unsafe impl<Args: JsValuesTupleIntoVec, Return> Send for Here<Args, Return> {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "Node-API values that are used on their own thread alone")]
unsafe impl<Args: JsValuesTupleIntoVec, Return> Sync for Here<Args, Return> {}

impl<Args: JsValuesTupleIntoVec, Return: FromNapiValue> Here<Args, Return> {
    fn new(env: &Env, function: &Function<Args, Return>) -> Result<Option<Self>> {
        let Some(event_loop) = EventLoop::of(env)? else { return Ok(None) };
        let function = function.create_ref()?;
        Ok(Some(Here { event_loop, env: *env, function }))
    }

    /// None where this is called by somebody else.
    fn call(&self, args: impl FnOnce() -> Args) -> Option<std::result::Result<Return, CoreError>> {
        let invalid = |error: Error| CoreError::Invalid { detail: error.to_string() };
        self.event_loop.is_here().then(|| self.call_in_scopes(args).map_err(invalid))
    }

    #[allow(unsafe_code, reason = "Node-API")]
    fn call_in_scopes(&self, args: impl FnOnce() -> Args) -> Result<Return> {
        let env = self.env.raw();
        let (mut handles, mut callback) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: on the environment's own thread, with a context that lives as long as that; what is opened is closed, the
        // other way round. Whatever is made in the scope of handles stays in it, but for what `Return` has copied out.
        unsafe {
            check_status(sys::napi_open_handle_scope(env, &raw mut handles))?;
            let answer = self.env.get_global().and_then(|resource| {
                let (resource, context) = (resource.raw(), self.event_loop.context());
                check_status(sys::napi_open_callback_scope(env, resource, context, &raw mut callback))?;
                self.call_function(args)
            });
            if !callback.is_null() {
                // Runs what the function has queued (process.nextTick, microtasks). What that throws is Node's matter.
                sys::napi_close_callback_scope(env, callback);
            }
            sys::napi_close_handle_scope(env, handles);
            answer
        }
    }

    #[allow(unsafe_code, reason = "Node-API")]
    fn call_function(&self, args: impl FnOnce() -> Args) -> Result<Return> {
        let env = self.env.raw();
        let function = self.function.borrow_back(&self.env)?;
        let args = args().into_vec(env)?;
        let (mut this, mut answer) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: on the environment's own thread, in the caller's scopes, where all these values are alive.
        unsafe {
            check_status(sys::napi_get_undefined(env, &raw mut this))?;
            let (count, args) = (args.len(), args.as_ptr());
            let status = sys::napi_call_function(env, this, function.raw(), count, args, &raw mut answer);
            if status == sys::Status::napi_pending_exception {
                let mut exception = std::ptr::null_mut();
                sys::napi_get_and_clear_last_exception(env, &raw mut exception);
            }
            check_status(status)?;
            Return::from_napi_value(env, answer)
        }
    }
}

/// A function that gets batches.
struct BatchFunction<Answer: FromNapiValue + 'static> {
    here: Option<Here<BatchArgs, Answer>>,
    /// For those elsewhere. It keeps the process alive all the same.
    elsewhere: Callback<Arc<[Delivery]>, BatchArgs, Answer>,
    dictionary: Arc<Dictionary>,
}

impl<Answer: FromNapiValue + Send + 'static> BatchFunction<Answer> {
    fn new(env: &Env, function: &Function<BatchArgs, Answer>, dictionary: Arc<Dictionary>) -> Result<Self> {
        let crossing = dictionary.clone();
        let elsewhere = function.build_threadsafe_function().build_callback(move |context| {
            let batch: Arc<[Delivery]> = context.value;
            Ok(crossing.encode(&batch))
        })?;
        Ok(BatchFunction { here: Here::new(env, function)?, elsewhere, dictionary })
    }

    fn ask(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, std::result::Result<Answer, CoreError>> {
        let here = self.here.as_ref().and_then(|here| here.call(|| self.dictionary.encode(&batch)));
        match here {
            Some(answer) => Box::pin(ready(answer)),
            None => ask(&self.elsewhere, batch),
        }
    }

    fn place(&self) -> Option<Arc<dyn Place>> {
        self.here.as_ref().map(|here| place(&here.event_loop))
    }
}

pub(super) struct KeyFunction(BatchFunction<KeyAnswer>);

impl KeyFunction {
    pub(super) fn new(
        env: &Env,
        function: &Function<BatchArgs, KeyAnswer>,
        dictionary: Arc<Dictionary>,
    ) -> Result<Self> {
        Ok(KeyFunction(BatchFunction::new(env, function, dictionary)?))
    }
}

impl MessageKeys for KeyFunction {
    fn keys(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, std::result::Result<Vec<Keys>, CoreError>> {
        Box::pin(self.0.ask(batch).map_ok(|KeyAnswer(keys)| keys))
    }

    fn place(&self) -> Option<Arc<dyn Place>> {
        self.0.place()
    }
}

/// Whether the listeners are done with all of the batch; none when it was not looked at, since the client closes.
pub(super) type HeardAnswer = Option<bool>;

pub(super) struct ListenerFunction(BatchFunction<HeardAnswer>);

impl ListenerFunction {
    pub(super) fn new(
        env: &Env,
        function: &Function<BatchArgs, HeardAnswer>,
        dictionary: Arc<Dictionary>,
    ) -> Result<Self> {
        Ok(ListenerFunction(BatchFunction::new(env, function, dictionary)?))
    }
}

impl Listeners for ListenerFunction {
    fn deliver(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, std::result::Result<Heard, CoreError>> {
        let answer = self.0.ask(batch);
        Box::pin(async move {
            match answer.await? {
                Some(true) => Ok(Heard::All),
                Some(false) => Ok(Heard::EachForItself),
                None => Err(CoreError::Closed { what: "client" }),
            }
        })
    }

    fn place(&self) -> Option<Arc<dyn Place>> {
        self.0.place()
    }
}

/// The name of an event, and its details as JSON.
type EventArgs = FnArgs<(String, String)>;

pub(super) struct EventFunction(Callback<EventArgs, EventArgs, Unknown<'static>>);

impl EventFunction {
    pub(super) fn new(function: &Function<EventArgs, Unknown<'static>>) -> Result<Self> {
        Ok(EventFunction(function.build_threadsafe_function().build()?))
    }

    fn tell(&self, name: &str, details: String) {
        let args = FnArgs::from((name.to_owned(), details));
        self.0.call(args, ThreadsafeFunctionCallMode::NonBlocking);
    }
}

fn error_json(error: &CoreError) -> String {
    let mut out = String::new();
    write_json_text(&mut out, &format!("{}|{}|{error}", error.code(), error.address()));
    out
}

impl LineEvents for EventFunction {
    fn reconnecting(&self, attempt: u32, delay_ms: u64, error: &CoreError) {
        let error = error_json(error);
        self.tell("reconnecting", format!("{{\"attempt\":{attempt},\"delay\":{delay_ms},\"error\":{error}}}"));
    }

    fn ready(&self) {
        self.tell("ready", "{}".into());
    }

    fn blocked(&self, reason: Option<&str>) {
        match reason {
            Some(reason) => {
                let mut text = String::new();
                write_json_text(&mut text, reason);
                self.tell("blocked", format!("{{\"reason\":{text}}}"));
            }
            None => self.tell("unblocked", "{}".into()),
        }
    }

    fn failed(&self, error: &CoreError) {
        self.tell("failed", format!("{{\"error\":{}}}", error_json(error)));
    }

    fn lost(&self, count: usize, error: &CoreError) {
        self.tell("lost", format!("{{\"count\":{count},\"error\":{}}}", error_json(error)));
    }

    fn undeliverable(&self, message: &Outgoing, error: &CoreError) {
        let (content_type, headers) = message.properties.decoded();
        let mut details = format!("{{\"error\":{},\"contentType\":", error_json(error));
        write_json_text(&mut details, &content_type);
        details.push_str(",\"headers\":");
        write_json_text(&mut details, &headers);
        match std::str::from_utf8(&message.body) {
            Ok(text) if content_type != OCTETS => {
                details.push_str(",\"text\":");
                write_json_text(&mut details, text);
            }
            _ => {
                details.push_str(",\"octets\":\"");
                write_hex(&mut details, &message.body);
                details.push('"');
            }
        }
        details.push('}');
        self.tell("undeliverable", details);
    }

    fn drain(&self) {
        self.tell("drain", "{}".into());
    }

    fn given_back(&self, route: Route) {
        self.tell("givenBack", format!("{{\"isStatus\":{}}}", route == Route::Status));
    }
}
