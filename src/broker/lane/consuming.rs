//! The connection that consumes: deliveries taken in place from one read buffer, acknowledged in multiples.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapin::protocol::{AMQPClass, basic, channel, connection, queue};
use lapin::types::FieldTable;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Sleep, sleep};

use super::connect::Connection;
use super::declare::bind;
use super::outlet::Outlet;
use super::wire::{Broken, METHOD, Reader, ack_frame, method_frame, parse_method};
use crate::broker::Acker;
use crate::broker::topology::{Plan, Queue};
use crate::error::Result;
use crate::message::{Delivery, Route};

/// A part of the prefetch after which an acknowledgement goes out at once; before that it waits for company.
const ACK_PART: u64 = 4;
/// How long it waits. A crash within that time means redelivery of what was done already.
const ACK_DELAY: Duration = Duration::from_millis(20);

pub struct Consuming {
    reader: Mutex<Reading>,
    outlet: Mutex<Outlet>,
    acks: Arc<Acks>,
    pub heartbeat: Option<Duration>,
}

struct Reading {
    reader: Reader<OwnedReadHalf>,
    /// The last tag that came, by channel.
    came: Vec<u64>,
    /// Runs while something that came has not been acknowledged.
    delay: Option<Pin<Box<Sleep>>>,
}

/// What has been handled, by channel: written by whoever handles deliveries, read when it is time to tell the broker.
pub struct Acks {
    routes: Vec<Route>,
    handled: Vec<AtomicU64>,
    told: Vec<AtomicU64>,
    due_at: u64,
    due: Notify,
}

impl Acker for Acks {
    fn ack(&self, route: Route, tag: u64) {
        for (index, _) in self.routes.iter().enumerate().filter(|(_, of)| **of == route) {
            self.handled[index].fetch_max(tag, Ordering::Relaxed);
            if tag.saturating_sub(self.told[index].load(Ordering::Relaxed)) >= self.due_at {
                self.due.notify_one();
            }
        }
    }
}

impl Acks {
    fn frames(&self) -> Vec<u8> {
        let mut frames = Vec::new();
        for (index, handled) in self.handled.iter().enumerate() {
            let tag = handled.load(Ordering::Relaxed);
            if tag > self.told[index].swap(tag, Ordering::Relaxed) {
                frames.extend_from_slice(&ack_frame(channel_of(index), tag));
            }
        }
        frames
    }
}

/// Each queue has a channel of its own, since a tag counts for its channel.
fn channel_of(index: usize) -> u16 {
    index as u16 + 1
}

impl Consuming {
    /// Declares and binds the private queues, which belong to this connection, and starts to consume all of `plan`'s.
    /// `anchors` are exchanges that a private queue keeps alive by a binding that nobody uses.
    pub async fn new(mut connection: Connection, plan: &Plan, anchors: &[&str]) -> Result<Consuming> {
        for (index, queue) in plan.queues.iter().enumerate() {
            let id = channel_of(index);
            connection.open_channel(id).await?;
            if queue.private {
                declare_private(&mut connection, id, queue, anchors).await?;
            }
            let qos = basic::Qos { prefetch_count: plan.prefetch, global: false };
            connection.call(id, &AMQPClass::Basic(basic::AMQPMethod::Qos(qos))).await?;
        }
        // Consuming starts last: a delivery between the answers above would not be expected there.
        for (index, queue) in plan.queues.iter().enumerate() {
            let consume = basic::Consume {
                queue: queue.name.as_str().into(),
                consumer_tag: "c".into(),
                no_local: false,
                no_ack: false,
                exclusive: queue.private,
                nowait: true,
                arguments: FieldTable::default(),
            };
            let frame = method_frame(channel_of(index), &AMQPClass::Basic(basic::AMQPMethod::Consume(consume)));
            connection.write(&frame).await?;
        }
        let Connection { reader, outlet, heartbeat, .. } = connection;
        let zeros = || plan.queues.iter().map(|_| AtomicU64::new(0)).collect();
        let acks = Acks {
            routes: plan.queues.iter().map(|queue| queue.route).collect(),
            handled: zeros(),
            told: zeros(),
            due_at: (u64::from(plan.prefetch) / ACK_PART).max(1),
            due: Notify::new(),
        };
        Ok(Consuming {
            reader: Mutex::new(Reading { reader, came: vec![0; plan.queues.len()], delay: None }),
            outlet: Mutex::new(outlet),
            acks: Arc::new(acks),
            heartbeat,
        })
    }

    pub fn acker(&self) -> Arc<dyn Acker> {
        self.acks.clone()
    }

    /// Waits for a delivery and takes what is ready. `heard` is called for whatever the broker sends.
    pub async fn receive(
        &self,
        into: &mut Vec<Delivery>,
        max: usize,
        heard: impl Fn(),
    ) -> std::result::Result<(), String> {
        let mut reading = self.reader.lock().await;
        let Reading { reader, came, delay } = &mut *reading;
        loop {
            self.take(reader, came, into, max).await?;
            if !into.is_empty() {
                delay.get_or_insert_with(|| Box::pin(sleep(ACK_DELAY)));
                return Ok(());
            }
            let pause = async {
                match delay {
                    Some(delay) => delay.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                read = reader.fill() => {
                    read.map_err(|broken| broken.to_string())?;
                    heard();
                }
                () = self.acks.due.notified() => self.tell().await.map_err(|broken| broken.to_string())?,
                () = pause => {
                    self.tell().await.map_err(|broken| broken.to_string())?;
                    let told = |(index, came): (usize, &u64)| self.acks.told[index].load(Ordering::Relaxed) >= *came;
                    *delay = if came.iter().enumerate().all(told) { None } else { Some(Box::pin(sleep(ACK_DELAY))) };
                }
            }
        }
    }

    async fn take(
        &self,
        reader: &mut Reader<OwnedReadHalf>,
        came: &mut [u64],
        into: &mut Vec<Delivery>,
        max: usize,
    ) -> std::result::Result<(), String> {
        let route = |channel: u16| self.acks.routes.get(usize::from(channel).wrapping_sub(1)).copied();
        while into.len() < max {
            match reader.is_delivery().map_err(|broken| broken.to_string())? {
                None => break,
                Some(true) => match reader.take_delivery(route).map_err(|broken| broken.to_string())? {
                    None => break,
                    Some(delivery) => {
                        if let Some(index) = self.acks.routes.iter().position(|of| *of == delivery.route) {
                            came[index] = delivery.tag;
                        }
                        into.push(delivery);
                    }
                },
                Some(false) => {
                    if let Some((METHOD, _, payload)) = reader.take_frame().map_err(|broken| broken.to_string())? {
                        let class = parse_method(&payload).map_err(|broken| broken.to_string())?;
                        self.control(class).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Everything that ends consuming ends the session: it is made anew from the start.
    async fn control(&self, class: AMQPClass) -> std::result::Result<(), String> {
        match class {
            AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
                let answer = AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}));
                let _ = self.outlet.lock().await.method(0, &answer).await;
                Err(close.reply_text.to_string())
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(close)) => Err(close.reply_text.to_string()),
            AMQPClass::Basic(basic::AMQPMethod::Cancel(_)) => Err("the broker cancelled the consumer".into()),
            _ => Ok(()),
        }
    }

    /// Tells the broker what has been handled.
    async fn tell(&self) -> std::result::Result<(), Broken> {
        let mut outlet = self.outlet.lock().await;
        let frames = self.acks.frames();
        if frames.is_empty() { Ok(()) } else { outlet.write(&frames).await }
    }

    /// A writer that is busy needs no heartbeat.
    pub fn beat(&self, quiet: Duration) -> std::result::Result<(), Broken> {
        self.outlet.try_lock().map_or(Ok(()), |mut outlet| outlet.beat(quiet))
    }

    /// Whether somebody waits for the broker right now; otherwise its silence says nothing.
    pub fn is_listening(&self) -> bool {
        self.reader.try_lock().is_err()
    }

    /// Acknowledges what has been handled and says goodbye; deliveries that are on their way go back to their queue.
    pub async fn close(&self) {
        let _ = self.tell().await;
        if self.outlet.lock().await.farewell().await.is_err() {
            return;
        }
        let mut reading = self.reader.lock().await;
        loop {
            match reading.reader.take_frame() {
                Ok(Some((METHOD, 0, payload))) => {
                    let class = parse_method(&payload);
                    if matches!(class, Ok(AMQPClass::Connection(connection::AMQPMethod::CloseOk(_)))) {
                        return;
                    }
                }
                Ok(Some(_)) => (),
                Ok(None) => {
                    if reading.reader.fill().await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}

async fn declare_private(connection: &mut Connection, id: u16, queue: &Queue, anchors: &[&str]) -> Result<()> {
    let declare = queue::Declare {
        queue: queue.name.as_str().into(),
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: true,
        nowait: false,
        arguments: FieldTable::default(),
    };
    connection.call(id, &AMQPClass::Queue(queue::AMQPMethod::Declare(declare))).await?;
    let own = (queue.exchange.as_str(), queue.binding_key.as_str());
    // An autoDelete exchange goes with its last binding, and would take the gateway's publishing channel along whenever
    // the last client leaves. A binding with a key that nobody uses holds it.
    let held = anchors.iter().filter(|name| **name != queue.exchange).map(|name| (*name, queue.name.as_str()));
    for (exchange, key) in std::iter::once(own).chain(held) {
        bind(connection, id, queue, exchange, key).await?;
    }
    Ok(())
}
