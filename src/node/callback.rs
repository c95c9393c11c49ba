//! Calls into JavaScript. Each function that is called here catches what the user's code throws, so that nothing thrown
//! ever reaches this side.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use napi::bindgen_prelude::*;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use tokio::sync::oneshot;

use crate::error::Error as CoreError;
use crate::hooks::{Keys, LineEvents, Listeners, MessageKeys};
use crate::message::{Delivery, OCTETS, Route, write_json_text};

/// A strong function: it keeps the process alive until it is dropped, as an open connection would.
type Callback<T, Args, Return> = ThreadsafeFunction<T, Return, Args, Status, false, false, 0>;

const GONE: CoreError = CoreError::Closed { what: "JavaScript environment" };

/// A body as JavaScript works on it: text where it is text.
type Body = Either<String, Buffer>;

fn body(delivery: &Delivery) -> Body {
    if delivery.content_type() == OCTETS {
        return Either::B(delivery.body.to_vec().into());
    }
    match std::str::from_utf8(&delivery.body) {
        Ok(text) => Either::A(text.to_owned()),
        Err(_) => Either::B(delivery.body.to_vec().into()),
    }
}

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

/// Bodies, headers as JSON, content types.
type KeyArgs = FnArgs<(Vec<Body>, Vec<String>, Vec<String>)>;
/// For each message a key, several, or none.
type KeyAnswer = Vec<Option<Either<String, Vec<String>>>>;

pub(super) struct KeyFunction(Callback<Arc<[Delivery]>, KeyArgs, KeyAnswer>);

impl KeyFunction {
    pub(super) fn new(function: &Function<KeyArgs, KeyAnswer>) -> Result<Self> {
        let function = function.build_threadsafe_function().build_callback(|context| {
            let batch: Arc<[Delivery]> = context.value;
            let bodies = batch.iter().map(body).collect();
            let headers = batch.iter().map(|delivery| delivery.headers_json()).collect();
            let types = batch.iter().map(|delivery| delivery.content_type().to_owned()).collect();
            Ok(FnArgs::from((bodies, headers, types)))
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

/// Bodies one behind the other, where each ends, headers as JSON, content types, routing keys, exchanges, delivery tags,
/// and flags: 1 redelivered, 2 a status.
type DeliverArgs = FnArgs<(Buffer, Vec<u32>, Vec<String>, Vec<String>, Vec<String>, Vec<String>, Vec<f64>, Vec<u32>)>;

pub(super) struct ListenerFunction(Callback<Arc<[Delivery]>, DeliverArgs, bool>);

impl ListenerFunction {
    pub(super) fn new(function: &Function<DeliverArgs, bool>) -> Result<Self> {
        let function = function.build_threadsafe_function().build_callback(|context| {
            let batch: Arc<[Delivery]> = context.value;
            let mut bodies = Vec::with_capacity(batch.iter().map(|delivery| delivery.body.len()).sum());
            let mut ends = Vec::with_capacity(batch.len());
            for delivery in batch.iter() {
                bodies.extend_from_slice(&delivery.body);
                ends.push(u32::try_from(bodies.len()).unwrap_or(u32::MAX));
            }
            let each = |text: fn(&Delivery) -> String| batch.iter().map(text).collect::<Vec<_>>();
            Ok(FnArgs::from((
                bodies.into(),
                ends,
                each(|delivery| delivery.headers_json()),
                each(|delivery| delivery.content_type().to_owned()),
                each(|delivery| delivery.routing_key().to_owned()),
                each(|delivery| delivery.exchange().to_owned()),
                batch.iter().map(|delivery| delivery.tag as f64).collect(),
                batch.iter().map(flags).collect(),
            )))
        })?;
        Ok(ListenerFunction(function))
    }
}

fn flags(delivery: &Delivery) -> u32 {
    u32::from(delivery.redelivered) | if delivery.route == Route::Status { 2 } else { 0 }
}

impl Listeners for ListenerFunction {
    fn deliver(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, std::result::Result<(), CoreError>> {
        let answer = ask(&self.0, batch);
        // False: the client closes and has not looked at it, so it goes back to its queue.
        Box::pin(async move { if answer.await? { Ok(()) } else { Err(CoreError::Closed { what: "client" }) } })
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

    fn failed(&self, error: &CoreError) {
        self.tell("failed", format!("{{\"error\":{}}}", error_json(error)));
    }

    fn drain(&self) {
        self.tell("drain", "{}".into());
    }
}
