//! `Client`, natively.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::callbacks::{EventFunction, HeardAnswer, ListenerFunction};
use super::delivery_codec::{BatchArgs, Dictionary, outgoing_properties};
use super::environment::EnvCleanup;
use crate::broker::Settlement;
use crate::broker::topology::Routes;
use crate::config::{BrokerSettings, Guarantee};
use crate::message::{Headers, OutboundMessage, Properties, Route};
use crate::node::{runtime, settings, to_js};
use crate::worker::{Sent, Worker};

#[napi]
pub struct NativeClient {
    worker: Worker,
    owner: Arc<EnvCleanup>,
    known: Mutex<Known>,
    dictionary: Arc<Dictionary>,
    /// Messages are persistent and have ids.
    tracked: bool,
}

/// Properties by header JSON, for JSON and for octets: senders use the same headers again.
#[derive(Default)]
struct Known {
    properties: HashMap<String, [Option<Arc<Properties>>; 2]>,
    bytes: usize,
}

/// Bytes of header JSON that are remembered; then it starts anew.
const KNOWN_BYTES: usize = 1024 * 1024;

impl Known {
    fn properties(&mut self, headers: &str, octets: bool, tracked: bool) -> Result<Arc<Properties>> {
        let found = self.properties.get(headers).and_then(|known| known[usize::from(octets)].clone());
        if let Some(properties) = found {
            return Ok(properties);
        }
        let parsed = Headers::from_json(headers).map_err(to_js)?;
        let properties = Arc::new(outgoing_properties(&parsed, octets, tracked));
        if self.bytes > KNOWN_BYTES {
            *self = Known::default();
        }
        self.bytes += headers.len();
        self.properties.entry(headers.to_owned()).or_default()[usize::from(octets)] = Some(properties.clone());
        Ok(properties)
    }
}

impl NativeClient {
    fn properties(&self, headers: &Either<u32, String>, octets: bool) -> Result<Arc<Properties>> {
        match headers {
            Either::A(entry) => self.dictionary.properties(*entry, octets, self.tracked),
            Either::B(json) => {
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                known.properties(json, octets, self.tracked)
            }
        }
    }
}

#[napi(object)]
pub struct NativeClientStats {
    pub unreadable_headers: f64,
    pub published: f64,
    pub buffered: f64,
    pub lost: f64,
    pub reconnects: f64,
}

fn routes(messages: bool, statuses: bool) -> Routes {
    let all = [(Route::Receive, messages), (Route::Status, statuses)];
    all.into_iter().filter(|(_, wanted)| *wanted).map(|(route, _)| route).collect()
}

/// Connects, declares the shared queues, consumes those of `messages` and `statuses`, and resolves to the client. `deliver` is called with batches, `event` for what
/// happens to the broker's connection.
#[napi(catch_unwind, ts_return_type = "Promise<NativeClient>")]
#[allow(clippy::type_complexity)]
pub fn start_client<'env>(
    env: &'env Env,
    broker: String,
    unique: String,
    messages: bool,
    statuses: bool,
    #[napi(
        ts_arg_type = "(text: string, octets?: Buffer | null, fresh?: string[], first?: number, passing?: string[]) => boolean | null"
    )]
    deliver: Function<'env, BatchArgs, HeardAnswer>,
    #[napi(ts_arg_type = "(name: string, details: string) => void")] event: Function<
        'env,
        FnArgs<(String, String)>,
        (),
    >,
) -> Result<Object<'env>> {
    let broker: BrokerSettings = settings(&broker)?;
    let tracked = broker.delivery == Guarantee::AtLeastOnce;
    let dictionary = Arc::new(Dictionary::returning());
    let (owner, functions) = EnvCleanup::open(env)?;
    let listeners = Arc::new(ListenerFunction::new(&functions, &deliver, dictionary.clone())?);
    let event = Arc::new(EventFunction::new(&functions, &event)?);
    let (deferred, promise) = env.create_deferred()?;
    runtime()?.spawn(async move {
        let started = Worker::start(broker, &unique, routes(messages, statuses), event, listeners).await;
        if let Ok(worker) = &started {
            let worker = worker.clone();
            owner.owns(async move { worker.close(Duration::ZERO).await });
        }
        deferred.resolve(move |_| match started {
            Ok(worker) => Ok(NativeClient { worker, owner, known: Mutex::default(), dictionary, tracked }),
            Err(error) => {
                owner.closed();
                Err(to_js(error))
            }
        });
    });
    Ok(promise)
}

#[napi]
impl NativeClient {
    /// Sends messages, JSON text or octets, each with its headers as JSON, or as the entry of headers that came. Returns the bytes that wait for the broker now;
    /// negative when the sender should hold on until `drain`: -1 - n, where n were taken.
    #[napi(catch_unwind)]
    pub fn send(&self, bodies: Vec<Either<String, Buffer>>, headers: Vec<Either<u32, String>>) -> Result<f64> {
        let _guard = runtime()?.enter();
        // All of it is understood before any of it is sent.
        let understand = |(body, headers): (Either<String, Buffer>, Either<u32, String>)| {
            let octets = matches!(body, Either::B(_));
            let properties = self.properties(&headers, octets)?;
            let body = match body {
                Either::A(text) => text.into(),
                Either::B(octets) => bytes::Bytes::copy_from_slice(&octets),
            };
            Ok(OutboundMessage::new(Route::Message, properties, body))
        };
        let messages = bodies.into_iter().zip(headers).map(understand).collect::<Result<Vec<_>>>()?;
        Ok(match self.worker.send_all(messages) {
            (_, Sent::Taken) => self.worker.buffered() as f64,
            (taken, _) => -1.0 - taken as f64,
        })
    }

    /// Bytes that the content header of a message may have, as agreed with the broker last.
    #[napi(catch_unwind)]
    pub fn header_limit(&self) -> f64 {
        self.worker.header_limit() as f64
    }

    /// Bytes of the content header of a message with these headers, given as `send` has them.
    #[napi(catch_unwind)]
    pub fn header_size(&self, headers: Either<u32, String>, octets: bool) -> Result<f64> {
        Ok(self.properties(&headers, octets)?.header_size() as f64)
    }

    /// What became of deliveries: five numbers each, namely session, status (1) or message (0), the tag in two halves,
    /// and 0 for done, 1 for again, 2 for out of the queue.
    #[napi(catch_unwind)]
    pub fn settle(&self, numbers: Vec<u32>) {
        for one in numbers.chunks_exact(5) {
            let route = if one[1] == 1 { Route::Status } else { Route::Receive };
            let tag = u64::from(one[2]) | u64::from(one[3]) << 32;
            let settlement = match one[4] {
                0 => Settlement::Done,
                1 => Settlement::Again,
                _ => Settlement::Drop,
            };
            self.worker.settle(one[0], route, tag, settlement);
        }
    }

    /// Consumes messages, statuses, both or neither. The event `givenBack` tells when a queue is not consumed any more.
    #[napi(catch_unwind)]
    pub fn consume(&self, messages: bool, statuses: bool) {
        self.worker.consume(routes(messages, statuses));
    }

    /// Nothing more goes to the listeners.
    #[napi(catch_unwind)]
    pub fn stop_receiving(&self) {
        self.worker.stop_receiving();
    }

    #[napi(catch_unwind)]
    pub fn stats(&self) -> NativeClientStats {
        use std::sync::atomic::Ordering::Relaxed;
        let counters = self.worker.counters();
        NativeClientStats {
            unreadable_headers: self.dictionary.unreadable() as f64,
            published: counters.published() as f64,
            buffered: self.worker.buffered() as f64,
            lost: counters.lost.load(Relaxed) as f64,
            reconnects: counters.reconnects.load(Relaxed) as f64,
        }
    }

    /// Resolves when what waits has been published (for at most `patience` ms) and the connection has ended.
    #[napi(catch_unwind, ts_return_type = "Promise<void>")]
    pub fn close<'env>(&self, env: &'env Env, patience: u32) -> Result<Object<'env>> {
        let worker = self.worker.clone();
        let (deferred, promise) = env.create_deferred()?;
        let owner = self.owner.clone();
        runtime()?.spawn(async move {
            worker.close(Duration::from_millis(patience.into())).await;
            owner.flushed().await;
            deferred.resolve(move |_| {
                owner.closed();
                Ok(())
            });
        });
        Ok(promise)
    }
}
