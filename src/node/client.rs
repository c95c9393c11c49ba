//! `Client`, natively.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::callback::{EventFunction, ListenerFunction};
use super::owner::{Owned, Owner};
use super::{runtime, settings, to_js};
use crate::message::{Headers, JSON, OCTETS, Outgoing, Properties, Route};
use crate::worker::{Sent, Worker};

#[napi]
pub struct NativeClient {
    worker: Worker,
    owner: Arc<Owner<Worker>>,
    /// The properties of the last message: most senders use the same headers again.
    last: Mutex<Option<(String, &'static str, Arc<Properties>)>>,
}

#[napi(object)]
pub struct NativeClientStats {
    pub published: f64,
    pub buffered: f64,
    pub lost: f64,
    pub reconnects: f64,
}

/// Connects, declares the shared queues and resolves to the client. `deliver` is called with batches, `event` for what
/// happens to the broker's connection.
#[napi(catch_unwind, ts_return_type = "Promise<NativeClient>")]
#[allow(clippy::type_complexity)]
pub fn start_client<'env>(
    env: &'env Env,
    broker: String,
    #[napi(
        ts_arg_type = "(bodies: Buffer, ends: number[], headers: string[], types: string[], keys: string[], exchanges: string[], tags: number[], flags: number[]) => void"
    )]
    deliver: Function<
        'env,
        FnArgs<(Buffer, Vec<u32>, Vec<String>, Vec<String>, Vec<String>, Vec<String>, Vec<f64>, Vec<u32>)>,
        Unknown<'static>,
    >,
    #[napi(ts_arg_type = "(name: string, details: string) => void")] event: Function<
        'env,
        FnArgs<(String, String)>,
        Unknown<'static>,
    >,
) -> Result<Object<'env>> {
    let broker = settings(&broker)?;
    let listeners = Arc::new(ListenerFunction::new(&deliver)?);
    let event = Arc::new(EventFunction::new(&event)?);
    let owner = Owner::of(env)?;
    let (deferred, promise) = env.create_deferred()?;
    runtime()?.spawn(async move {
        match Worker::start(broker, event, listeners).await {
            Ok(worker) => {
                owner.owns(worker.clone());
                deferred.resolve(move |_| Ok(NativeClient { worker, owner, last: Mutex::new(None) }));
            }
            Err(error) => deferred.reject(to_js(error)),
        }
    });
    Ok(promise)
}

impl Owned for Worker {
    async fn end(self) {
        self.close(Duration::ZERO).await;
    }
}

#[napi]
impl NativeClient {
    /// Sends JSON text, or octets, with headers as JSON. 0 taken, 1 taken but hold on until `drain`, 2 dropped at the hard
    /// limit, 3 closed.
    #[napi(catch_unwind)]
    pub fn send(&self, body: Either<String, Buffer>, headers: String) -> Result<u32> {
        let (content_type, body) = match body {
            Either::A(text) => (JSON, text.into()),
            Either::B(octets) => (OCTETS, bytes::Bytes::copy_from_slice(&octets)),
        };
        let properties = self.properties(content_type, headers)?;
        let _guard = runtime()?.enter();
        Ok(match self.worker.send(Outgoing { route: Route::Message, properties, body }) {
            Sent::Taken => 0,
            Sent::HoldOn => 1,
            Sent::Dropped => 2,
            Sent::Closed => 3,
        })
    }

    fn properties(&self, content_type: &'static str, headers: String) -> Result<Arc<Properties>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((text, of, properties)) = &*last
            && *of == content_type
            && *text == headers
        {
            return Ok(properties.clone());
        }
        let parsed = Headers::from_json(&headers).map_err(to_js)?;
        let properties = Arc::new(Properties::new(content_type, parsed));
        *last = Some((headers, content_type, properties.clone()));
        Ok(properties)
    }

    #[napi(catch_unwind)]
    pub fn stats(&self) -> NativeClientStats {
        use std::sync::atomic::Ordering::Relaxed;
        let counters = self.worker.counters();
        NativeClientStats {
            published: counters.published.load(Relaxed) as f64,
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
            owner.release();
            deferred.resolve(|_| Ok(()));
        });
        Ok(promise)
    }
}
