//! The functions of JavaScript as the core knows them.

use std::sync::Arc;

use futures_util::TryFutureExt;
use futures_util::future::{BoxFuture, ready};
use napi::bindgen_prelude::*;
use tokio::sync::oneshot;

use super::delivery_codec::{BatchArgs, Dictionary};
use super::js_functions::{Functions, JsFunction};
use super::key_result::KeyAnswer;
use super::uv::executor::executor;
use crate::error::Error as CoreError;
use crate::host::{ConnectionEvents, DeliveryExecutor, Keys, ListenerOutcome, Listeners, MessageKeys};
use crate::message::{Delivery, OCTETS, OutboundMessage, Route, write_hex, write_json_text};

const GONE: CoreError = CoreError::Closed { what: "JavaScript environment" };

/// A function that gets batches.
struct BatchFunction<Answer> {
    function: JsFunction<BatchArgs, Answer>,
    dictionary: Arc<Dictionary>,
}

impl<Answer: FromNapiValue + Send + 'static> BatchFunction<Answer> {
    fn new(
        functions: &Arc<Functions>,
        function: &Function<BatchArgs, Answer>,
        dictionary: Arc<Dictionary>,
    ) -> Result<Self> {
        Ok(BatchFunction { function: JsFunction::new(functions, function)?, dictionary })
    }

    /// Calls now, so that calls happen in the order of the batches, and gives the answer later.
    fn ask(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, std::result::Result<Answer, CoreError>> {
        let invalid = |error: Error| CoreError::Invalid { detail: error.to_string() };
        if let Some(answer) = self.function.call_here(|| self.dictionary.encode(&batch)) {
            return Box::pin(ready(answer.map_err(invalid)));
        }
        let dictionary = self.dictionary.clone();
        let (answer, answered) = oneshot::channel();
        self.function.call_later(
            move || dictionary.encode(&batch),
            move |result| {
                let _ = answer.send(result.map_err(invalid));
            },
        );
        Box::pin(async move { answered.await.unwrap_or(Err(GONE)) })
    }

    fn executor(&self) -> Option<Arc<dyn DeliveryExecutor>> {
        self.function.event_loop().map(executor)
    }
}

pub(super) struct KeyFunction(BatchFunction<KeyAnswer>);

impl KeyFunction {
    pub(super) fn new(
        functions: &Arc<Functions>,
        function: &Function<BatchArgs, KeyAnswer>,
        dictionary: Arc<Dictionary>,
    ) -> Result<Self> {
        Ok(KeyFunction(BatchFunction::new(functions, function, dictionary)?))
    }
}

impl MessageKeys for KeyFunction {
    fn keys(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, std::result::Result<Vec<Keys>, CoreError>> {
        Box::pin(self.0.ask(batch).map_ok(|KeyAnswer(keys)| keys))
    }

    fn executor(&self) -> Option<Arc<dyn DeliveryExecutor>> {
        self.0.executor()
    }
}

/// Whether the listeners are done with all of the batch; none when it was not looked at, since the client closes.
pub(super) type HeardAnswer = Option<bool>;

pub(super) struct ListenerFunction(BatchFunction<HeardAnswer>);

impl ListenerFunction {
    pub(super) fn new(
        functions: &Arc<Functions>,
        function: &Function<BatchArgs, HeardAnswer>,
        dictionary: Arc<Dictionary>,
    ) -> Result<Self> {
        Ok(ListenerFunction(BatchFunction::new(functions, function, dictionary)?))
    }
}

impl Listeners for ListenerFunction {
    fn deliver(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, std::result::Result<ListenerOutcome, CoreError>> {
        let answer = self.0.ask(batch);
        Box::pin(async move {
            match answer.await? {
                Some(true) => Ok(ListenerOutcome::All),
                Some(false) => Ok(ListenerOutcome::EachForItself),
                None => Err(CoreError::Closed { what: "client" }),
            }
        })
    }

    fn executor(&self) -> Option<Arc<dyn DeliveryExecutor>> {
        self.0.executor()
    }
}

/// The name of an event, and its details as JSON.
type EventArgs = FnArgs<(String, String)>;

pub(super) struct EventFunction(JsFunction<EventArgs, ()>);

impl EventFunction {
    pub(super) fn new(functions: &Arc<Functions>, function: &Function<EventArgs, ()>) -> Result<Self> {
        Ok(EventFunction(JsFunction::new(functions, function)?))
    }

    fn tell(&self, name: &str, details: String) {
        let name = name.to_owned();
        self.0.tell(move || FnArgs::from((name, details)));
    }
}

fn error_json(error: &CoreError) -> String {
    let mut out = String::new();
    write_json_text(&mut out, &format!("{}|{}|{error}", error.code(), error.address()));
    out
}

impl ConnectionEvents for EventFunction {
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

    fn undeliverable(&self, message: &OutboundMessage, error: &CoreError) {
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
