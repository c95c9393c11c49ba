//! Calls into JavaScript. Each function that is called here catches what the user's code throws, so that nothing thrown
//! ever reaches this side.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use napi::bindgen_prelude::*;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use tokio::sync::oneshot;

use super::crossing::{BatchArgs, Dictionary};
use crate::error::Error as CoreError;
use crate::hooks::{Heard, Keys, LineEvents, Listeners, MessageKeys};
use crate::message::{Delivery, write_json_text};

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

/// For each message a key, several, or none.
type KeyAnswer = Vec<Option<Either<String, Vec<String>>>>;

pub(super) struct KeyFunction(Callback<Arc<[Delivery]>, BatchArgs, KeyAnswer>);

impl KeyFunction {
    pub(super) fn new(function: &Function<BatchArgs, KeyAnswer>) -> Result<Self> {
        let dictionary = Dictionary::default();
        let function = function.build_threadsafe_function().build_callback(move |context| {
            let batch: Arc<[Delivery]> = context.value;
            Ok(dictionary.encode(&batch))
        })?;
        Ok(KeyFunction(function))
    }
}

impl MessageKeys for KeyFunction {
    fn keys(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, std::result::Result<Vec<Keys>, CoreError>> {
        let answer = ask(&self.0, batch);
        Box::pin(async move {
            let keys = answer.await?.into_iter().map(|key| match key {
                None => Keys::None,
                Some(Either::A(key)) => Keys::One(key.into()),
                Some(Either::B(keys)) => Keys::Many(keys.into_iter().map(Into::into).collect()),
            });
            Ok(keys.collect())
        })
    }
}

/// Whether the listeners are done with all of the batch; none when it was not looked at, since the client closes.
pub(super) type HeardAnswer = Option<bool>;

pub(super) struct ListenerFunction(Callback<Arc<[Delivery]>, BatchArgs, HeardAnswer>);

impl ListenerFunction {
    pub(super) fn new(function: &Function<BatchArgs, HeardAnswer>, dictionary: Arc<Dictionary>) -> Result<Self> {
        let function = function.build_threadsafe_function().build_callback(move |context| {
            let batch: Arc<[Delivery]> = context.value;
            Ok(dictionary.encode(&batch))
        })?;
        Ok(ListenerFunction(function))
    }
}

impl Listeners for ListenerFunction {
    fn deliver(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, std::result::Result<Heard, CoreError>> {
        let answer = ask(&self.0, batch);
        Box::pin(async move {
            match answer.await? {
                Some(true) => Ok(Heard::All),
                Some(false) => Ok(Heard::EachForItself),
                None => Err(CoreError::Closed { what: "client" }),
            }
        })
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

    fn drain(&self) {
        self.tell("drain", "{}".into());
    }
}
