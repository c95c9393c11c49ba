//! `server.start` and the Gateway object, natively.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use napi::bindgen_prelude::*;
use napi_derive::napi;
use tokio::net::TcpStream;

use super::bridge::{Bridge, Output, OutputArgs};
use super::callbacks::{EventFunction, KeyFunction};
use super::delivery_codec::{BatchArgs, Dictionary};
use super::environment::EnvCleanup;
use super::key_result::KeyAnswer;
use super::socket::{Socket, tcp_send_queue};
use crate::config::SocketSettings;
use crate::connection::Tcp;
use crate::error::Error as CoreError;
use crate::gateway::{AcceptedUpgrade, Gateway, KeySource, Stats};
use crate::message::Headers;
use crate::node::{runtime, settings, to_js};

#[napi]
pub struct NativeGateway {
    gateway: Gateway,
    dictionary: Arc<Dictionary>,
    /// None once it closes.
    output: Mutex<Option<Arc<Output>>>,
    next_bridge: AtomicU32,
    owner: Arc<EnvCleanup>,
}

/// What `gateway.stats()` shows; `lib/server.js` adds what it counts itself.
#[napi(object)]
pub struct NativeStats {
    pub connections: f64,
    pub accepted: f64,
    pub received: f64,
    pub received_bytes: f64,
    pub sent: f64,
    pub sent_bytes: f64,
    pub ignored_binary: f64,
    pub duplicates: f64,
    pub unreadable_headers: f64,
    pub unmatched: f64,
    pub overflowed: f64,
    pub published: f64,
    pub buffered: f64,
    pub lost: f64,
    pub reconnects: f64,
}

impl NativeStats {
    fn new(stats: Stats, unreadable_headers: u64) -> Self {
        NativeStats {
            connections: stats.connections as f64,
            accepted: stats.accepted as f64,
            received: stats.received as f64,
            received_bytes: stats.received_bytes as f64,
            sent: stats.sent as f64,
            sent_bytes: stats.sent_bytes as f64,
            ignored_binary: stats.ignored_binary as f64,
            duplicates: stats.duplicates as f64,
            unreadable_headers: unreadable_headers as f64,
            unmatched: stats.unmatched as f64,
            overflowed: stats.overflowed as f64,
            published: stats.published as f64,
            buffered: stats.buffered as f64,
            lost: stats.lost as f64,
            reconnects: stats.reconnects as f64,
        }
    }
}

/// Connects and resolves to the gateway. The functions are called in batches (`keys`), for what happens to the broker's
/// connection (`event`), and for sockets that stay with Node (`output`).
#[napi(catch_unwind, ts_return_type = "Promise<NativeGateway>")]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
pub fn start_gateway<'env>(
    env: &'env Env,
    broker: String,
    socket: String,
    unique: String,
    #[napi(
        ts_arg_type = "(text: string, octets?: Buffer | null, fresh?: string[], first?: number, passing?: string[]) => string | Array<string | string[] | null>"
    )]
    keys: Function<'env, BatchArgs, KeyAnswer>,
    #[napi(ts_arg_type = "(name: string, details: string) => void")] event: Function<
        'env,
        FnArgs<(String, String)>,
        (),
    >,
    #[napi(
        ts_arg_type = "(id: number, what: 'write' | 'resume' | 'measure' | 'end' | 'destroy', bytes?: Buffer) => void"
    )]
    output: Function<'env, OutputArgs, ()>,
) -> Result<Object<'env>> {
    let broker = settings(&broker)?;
    let mut socket: SocketSettings = settings(&socket)?;
    let dictionary = Arc::<Dictionary>::default();
    let (owner, functions) = EnvCleanup::open(env)?;
    let keys = match socket.message_key.take() {
        Some(template) => KeySource::Declared(template),
        None => KeySource::asked(Arc::new(KeyFunction::new(&functions, &keys, dictionary.clone())?)),
    };
    let event = Arc::new(EventFunction::new(&functions, &event)?);
    let output = Arc::new(Output::new(&functions, &output)?);
    let (deferred, promise) = env.create_deferred()?;
    runtime()?.spawn(async move {
        let started = Gateway::start(broker, socket, &unique, event, keys).await;
        if let Ok(gateway) = &started {
            let gateway = gateway.clone();
            owner.owns(async move { gateway.close(Duration::ZERO).await });
        }
        deferred.resolve(move |_| match started {
            Ok(gateway) => {
                let (output, next_bridge) = (Mutex::new(Some(output)), AtomicU32::new(1));
                Ok(NativeGateway { gateway, dictionary, output, next_bridge, owner })
            }
            Err(error) => {
                owner.closed();
                Err(to_js(error))
            }
        });
    });
    Ok(promise)
}

fn arrival(key: String, key_json: String, headers: String, response: Buffer, head: Vec<u8>) -> Result<AcceptedUpgrade> {
    Ok(AcceptedUpgrade {
        key: key.into(),
        key_json: key_json.into(),
        headers: Headers::from_json(&headers).map_err(to_js)?,
        response: response.to_vec(),
        head,
    })
}

#[napi]
impl NativeGateway {
    /// Takes a reserved socket in under `key`; `key_json` is the value that keyFn returned, `headers` the request's as
    /// JSON, `response` the whole 101.
    #[napi(catch_unwind)]
    pub fn accept(
        &self,
        socket: &mut Socket,
        key: String,
        key_json: String,
        headers: String,
        response: Buffer,
    ) -> Result<()> {
        // First: a socket that has been taken can only be closed.
        let mut arrival = arrival(key, key_json, headers, response, Vec::new())?;
        let Some((stream, head)) = socket.take() else { return Ok(()) };
        arrival.head = head;
        let _guard = runtime()?.enter();
        let stream = TcpStream::from_std(stream).map_err(|error| Error::from_reason(format!("EIO||{error}")))?;
        self.gateway.accept(Tcp::new(stream, tcp_send_queue), arrival);
        Ok(())
    }

    /// The same for a socket that stays with Node: its bytes go through the bridge. `output` is called with its id.
    #[napi(catch_unwind)]
    pub fn accept_bridged(
        &self,
        key: String,
        key_json: String,
        headers: String,
        response: Buffer,
        head: Buffer,
    ) -> Result<Bridge> {
        let arrival = arrival(key, key_json, headers, response, head.to_vec())?;
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let output = output.ok_or_else(|| to_js(CoreError::Closed { what: "gateway" }))?;
        // Never reused while the gateway lives: an id that comes back mixes connections up.
        let id = self.next_bridge.fetch_add(1, Ordering::Relaxed);
        let (bridge, stream) = Bridge::new(id, output);
        let _guard = runtime()?.enter();
        self.gateway.accept(stream, arrival);
        Ok(bridge)
    }

    /// Bytes that the content header of a message may have, as agreed with the broker last.
    #[napi(catch_unwind)]
    pub fn header_limit(&self) -> f64 {
        self.gateway.header_limit() as f64
    }

    /// Bytes of the content header of a connection's messages, with its headers as `accept` gets them.
    #[napi(catch_unwind)]
    pub fn header_size(&self, headers: String) -> Result<f64> {
        let headers = Headers::from_json(&headers).map_err(to_js)?;
        Ok(self.gateway.header_size(&headers) as f64)
    }

    /// Connections that hold a socket, from `accept` until the last byte is out.
    #[napi(catch_unwind)]
    pub fn running(&self) -> f64 {
        self.gateway.running() as f64
    }

    #[napi(catch_unwind)]
    pub fn stats(&self) -> NativeStats {
        NativeStats::new(self.gateway.stats(), self.dictionary.unreadable())
    }

    /// Resolves when every browser has its close frame, spread over `drain` ms, every status is out and the broker's connection has ended.
    #[napi(catch_unwind, ts_return_type = "Promise<void>")]
    pub fn close<'env>(&self, env: &'env Env, drain: u32) -> Result<Object<'env>> {
        let gateway = self.gateway.clone();
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (deferred, promise) = env.create_deferred()?;
        let owner = self.owner.clone();
        runtime()?.spawn(async move {
            gateway.close(Duration::from_millis(drain.into())).await;
            drop(output);
            owner.flushed().await;
            deferred.resolve(move |_| {
                owner.closed();
                Ok(())
            });
        });
        Ok(promise)
    }
}
