//! The connection that consumes: deliveries taken in place from one read buffer, acknowledged in multiples.

use std::future::poll_fn;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use lapin::protocol::{AMQPClass, basic, channel, connection, queue};
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::{Sleep, sleep};

use super::ack_tracker::AckTracker;
use super::declare::{Standing, bind, type_argument};
use super::frame_reader::{Broken, FrameReader, METHOD, method_frame, parse_method};
use super::frame_writer::FrameWriter;
use super::login::AmqpConnection;
use super::stream::ReadEnd;
use crate::broker::topology::{ExchangeKind, Queue, Routes, Topology};
use crate::broker::{Acker, Settlement, next_session};
use crate::error::Result;
use crate::host::DeliveryExecutor;
use crate::message::{Delivery, Route};

/// A part of the prefetch after which an acknowledgement goes out at once; before that it waits for company.
const ACK_PART: u64 = 4;
/// How long it waits. A crash within that time means redelivery of what was done already.
const ACK_DELAY: Duration = Duration::from_millis(20);

/// Bytes of bodies after which a batch is large enough.
const MAX_BYTES: usize = 1024 * 1024;
const CONSUMER_TAG: &str = "c";
/// How often it is asked whether another client consumes a queue that is to be given back, at the most.
const LEAVE_INTERVAL: Duration = Duration::from_secs(1);

pub struct ConsumeChannel {
    reader: Mutex<Reading>,
    writer: Mutex<FrameWriter>,
    acks: Arc<Acks>,
    /// Queues of this process that go with it, when it ends in good order.
    own_queues: Vec<String>,
    queues: Vec<Queued>,
    /// A queue is to be given back.
    leaving: Notify,
    give_back: mpsc::UnboundedSender<Route>,
    given_back: Mutex<mpsc::UnboundedReceiver<Route>>,
    /// Publishers mark what may have come before.
    detect_duplicates: bool,
    /// Deliveries are received at the place.
    pub moved: bool,
    pub heartbeat: Option<Duration>,
}

/// A queue of the plan, with frames for its channel.
struct Queued {
    route: Route,
    state: std::sync::Mutex<Consumer>,
    /// exchange.declare, where it stands as declared, and queue.bind.
    bind: Vec<u8>,
    name: String,
    /// basic.consume, after declarations where the queue may have gone.
    start: Vec<u8>,
    /// The broker deletes it with its last consumer.
    ends_with_consumers: bool,
    /// queue.declare, passive: its answer says how many consumers there are.
    count: Vec<u8>,
}

/// What this session does with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consumer {
    None,
    On,
    /// To be cancelled when it is not the last one, since the broker would delete the queue with all that waits in it.
    Leaving,
}

impl Queued {
    fn state(&self) -> std::sync::MutexGuard<'_, Consumer> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Reading {
    reader: FrameReader<ReadEnd>,
    /// Runs while something has not been told and waits for company.
    delay: Option<Pin<Box<Sleep>>>,
}

/// What has become of deliveries, by channel: said by whoever handles them, read when it is time to tell the broker.
pub struct Acks {
    session: u32,
    channels: Vec<(Route, std::sync::Mutex<AckTracker>)>,
    due_at: u64,
    /// The reader looks by itself before long, and need not be woken for what is settled until then.
    awake: AtomicBool,
    /// It is to be told at once.
    enough: AtomicBool,
    reader: AtomicWaker,
}

impl Acker for Acks {
    fn ack(&self, route: Route, tag: u64) {
        self.with(route, |settling| settling.ack(tag));
    }

    fn settle(&self, route: Route, tag: u64, settlement: Settlement) {
        self.with(route, |settling| settling.settle(tag, settlement));
    }

    fn session(&self) -> u32 {
        self.session
    }
}

impl Acks {
    fn with(&self, route: Route, change: impl FnOnce(&mut AckTracker)) {
        let Some((_, settling)) = self.channels.iter().find(|(of, _)| *of == route) else { return };
        let mut settling = settling.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut settling);
        let pending = settling.pending();
        drop(settling);
        let enough = pending >= self.due_at && !self.enough.swap(true, Ordering::Relaxed);
        // Whoever finds it awake has settled before it looks, since both take the lock above.
        if enough || (pending > 0 && !self.awake.swap(true, Ordering::Relaxed)) {
            self.reader.wake();
        }
    }

    /// Resolves when it is time to look at what has been settled, now or after a while.
    fn poll_due(&self, cx: &mut Context<'_>, delayed: bool) -> Poll<()> {
        self.reader.register(cx.waker());
        let due = self.enough.load(Ordering::Relaxed) || (!delayed && self.awake.load(Ordering::Relaxed));
        if due { Poll::Ready(()) } else { Poll::Pending }
    }

    fn frames(&self) -> Vec<u8> {
        self.awake.store(false, Ordering::Relaxed);
        self.enough.store(false, Ordering::Relaxed);
        let mut frames = Vec::new();
        for (index, (_, settling)) in self.channels.iter().enumerate() {
            settling.lock().unwrap_or_else(PoisonError::into_inner).write(channel_of(index), &mut frames);
        }
        frames
    }
}

/// Each queue has a channel of its own, since a tag counts for its channel.
fn channel_of(index: usize) -> u16 {
    index as u16 + 1
}

impl ConsumeChannel {
    /// Declares and binds the private queues, which belong to this connection, and starts to consume all of `plan`'s.
    pub async fn new(
        mut connection: AmqpConnection,
        plan: &Topology,
        standing: &Standing,
        executor: Option<&dyn DeliveryExecutor>,
    ) -> Result<ConsumeChannel> {
        for (index, queue) in plan.queues.iter().enumerate() {
            let id = channel_of(index);
            connection.open_channel(id).await?;
            if queue.private {
                declare_private(&mut connection, id, queue, plan, &standing.exchanges).await?;
            }
            let qos = basic::Qos { prefetch_count: plan.prefetch, global: false };
            connection.call(id, &AMQPClass::Basic(basic::AMQPMethod::Qos(qos))).await?;
        }
        // Consuming starts last: a delivery between the answers above would not be expected there.
        let queues: Vec<Queued> =
            plan.queues.iter().enumerate().map(|(index, queue)| queued(index, queue, plan, standing)).collect();
        let mut started = 0;
        for queue in queues.iter().filter(|queue| *queue.state() == Consumer::On) {
            connection.write(&queue.start).await?;
            started += 1;
        }
        // Otherwise others would be given what is published from now on, and a refusal would be known only later.
        connection.consume_ok(started).await?;
        let (connection, moved) = match executor {
            Some(executor) => connection.read_at(executor)?,
            None => (connection, false),
        };
        let AmqpConnection { reader, writer, heartbeat, .. } = connection;
        let acks = Acks {
            session: next_session(),
            channels: plan.queues.iter().map(|queue| (queue.route, std::sync::Mutex::default())).collect(),
            due_at: (u64::from(plan.prefetch) / ACK_PART).max(1),
            awake: AtomicBool::new(false),
            enough: AtomicBool::new(false),
            reader: AtomicWaker::new(),
        };
        let (give_back, given_back) = mpsc::unbounded_channel();
        let outlives = |queue: &&Queue| queue.private && plan.is_at_least_once();
        Ok(ConsumeChannel {
            reader: Mutex::new(Reading { reader, delay: None }),
            writer: Mutex::new(writer),
            acks: Arc::new(acks),
            own_queues: plan.queues.iter().filter(outlives).map(|queue| queue.name.clone()).collect(),
            queues,
            leaving: Notify::new(),
            give_back,
            given_back: Mutex::new(given_back),
            detect_duplicates: plan.is_at_least_once(),
            moved,
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
    ) -> std::result::Result<(), Broken> {
        let mut reading = self.reader.lock().await;
        let Reading { reader, delay } = &mut *reading;
        loop {
            if self.acks.enough.load(Ordering::Relaxed) {
                self.tell().await?;
                *delay = None;
            }
            self.take(reader, into, max).await?;
            if !into.is_empty() {
                // They are settled before long: one look for all that come meanwhile, and no wake for each.
                self.acks.awake.store(true, Ordering::Relaxed);
                delay.get_or_insert_with(|| Box::pin(sleep(ACK_DELAY)));
                return Ok(());
            }
            let delayed = delay.is_some();
            let pause = async {
                match delay {
                    Some(delay) => delay.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                read = reader.fill() => {
                    read?;
                    heard();
                }
                () = poll_fn(|cx| self.acks.poll_due(cx, delayed)) => {
                    delay.get_or_insert_with(|| Box::pin(sleep(ACK_DELAY)));
                }
                () = pause => {
                    self.tell().await?;
                    *delay = None;
                }
            }
        }
    }

    async fn take(
        &self,
        reader: &mut FrameReader<ReadEnd>,
        into: &mut Vec<Delivery>,
        max: usize,
    ) -> std::result::Result<(), Broken> {
        let channels = &self.acks.channels;
        let route = |channel: u16| channels.get(usize::from(channel).wrapping_sub(1)).map(|(route, _)| *route);
        let mut bytes = 0;
        while into.len() < max && bytes < MAX_BYTES {
            match reader.is_delivery()? {
                None => break,
                Some(true) => {
                    let Some(mut delivery) = reader.take_delivery(self.acks.session, route)? else { break };
                    delivery.repeated = self.detect_duplicates && delivery.is_marked();
                    bytes += delivery.body.len();
                    into.push(delivery);
                }
                Some(false) => {
                    if let Some((METHOD, channel, payload)) = reader.take_frame()? {
                        self.control(channel, parse_method(&payload)?).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Everything that ends consuming ends the session: it is made anew from the start.
    async fn control(&self, channel: u16, class: AMQPClass) -> std::result::Result<(), Broken> {
        match class {
            AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
                let answer = AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}));
                let _ = self.writer.lock().await.method(0, &answer).await;
                Err(Broken::Closed { code: close.reply_code, text: close.reply_text.to_string() })
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
                Err(Broken::Closed { code: close.reply_code, text: close.reply_text.to_string() })
            }
            AMQPClass::Basic(basic::AMQPMethod::Cancel(_)) => {
                let queue =
                    self.queues.get(usize::from(channel).wrapping_sub(1)).map_or("", |queue| queue.name.as_str());
                Err(Broken::Unusable(format!(
                    "the broker cancelled the consumer of queue '{queue}', as it does when the queue is deleted"
                )))
            }
            AMQPClass::Queue(queue::AMQPMethod::DeclareOk(declared)) if declared.consumer_count > 1 => {
                self.cancel_leaving(channel).await
            }
            _ => Ok(()),
        }
    }

    /// Tells the broker what has been handled.
    async fn tell(&self) -> std::result::Result<(), Broken> {
        let mut writer = self.writer.lock().await;
        let frames = self.acks.frames();
        if frames.is_empty() { Ok(()) } else { writer.write(&frames).await }
    }

    /// A writer that is busy needs no heartbeat.
    pub fn send_heartbeat(&self, quiet: Duration) -> std::result::Result<(), Broken> {
        self.writer.try_lock().map_or(Ok(()), |mut writer| writer.send_heartbeat(quiet))
    }

    /// Whether somebody waits for the broker right now; otherwise its silence says nothing.
    pub fn is_listening(&self) -> bool {
        // Where it is read, there may be no time for it.
        let has_unread = || self.writer.try_lock().is_ok_and(|writer| writer.has_unread());
        self.reader.try_lock().is_err() && !has_unread()
    }

    /// Declares and binds what is consumed once more. An exchange that is not as we declare it is not declared: without it
    /// the binding ends the channel, and with it the session.
    pub async fn bind_again(&self) -> std::result::Result<(), Broken> {
        let consumed = self.queues.iter().filter(|queue| *queue.state() != Consumer::None);
        let frames: Vec<u8> = consumed.flat_map(|queue| queue.bind.iter().copied()).collect();
        if frames.is_empty() { Ok(()) } else { self.writer.lock().await.write(&frames).await }
    }

    /// Consumes these queues and no others. One that ends with its last consumer is left to [`leave`](Self::leave).
    pub async fn consume(&self, routes: Routes) -> std::result::Result<(), Broken> {
        let mut writer = self.writer.lock().await;
        let (mut frames, mut given_back) = (Vec::new(), Vec::new());
        for (index, queue) in self.queues.iter().enumerate() {
            let mut state = queue.state();
            match (*state, routes.contains(queue.route)) {
                (Consumer::None, true) => {
                    frames.extend_from_slice(&queue.start);
                    *state = Consumer::On;
                }
                (Consumer::Leaving, true) => *state = Consumer::On,
                (Consumer::On, false) if queue.ends_with_consumers => {
                    *state = Consumer::Leaving;
                    self.leaving.notify_one();
                }
                (Consumer::On, false) => {
                    frames.extend(cancel(index));
                    given_back.push(queue.route);
                    *state = Consumer::None;
                }
                _ => (),
            }
        }
        if !frames.is_empty() {
            writer.write(&frames).await?;
        }
        // What is said to go back now goes out behind the cancel, and cannot come here again.
        for route in given_back {
            let _ = self.give_back.send(route);
        }
        Ok(())
    }

    pub async fn given_back(&self) -> Route {
        match self.given_back.lock().await.recv().await {
            Some(route) => route,
            None => std::future::pending().await,
        }
    }

    /// Asks, as long as a queue is to be left, how many consumers it has; the reader sees the answer. At random times, since
    /// two clients that leave at the same moment would each take the other for the one that stays.
    pub async fn leave(&self) -> Broken {
        loop {
            let leaving = || self.queues.iter().filter(|queue| *queue.state() == Consumer::Leaving);
            if leaving().next().is_none() {
                self.leaving.notified().await;
            }
            sleep(LEAVE_INTERVAL.mul_f64(random_part())).await;
            let frames: Vec<u8> = leaving().flat_map(|queue| queue.count.iter().copied()).collect();
            if !frames.is_empty()
                && let Err(broken) = self.writer.lock().await.write(&frames).await
            {
                return broken;
            }
        }
    }

    /// There is another consumer.
    async fn cancel_leaving(&self, channel: u16) -> std::result::Result<(), Broken> {
        let index = usize::from(channel).wrapping_sub(1);
        let Some(queue) = self.queues.get(index) else { return Ok(()) };
        let mut writer = self.writer.lock().await;
        {
            let mut state = queue.state();
            if *state != Consumer::Leaving {
                return Ok(());
            }
            *state = Consumer::None;
        }
        writer.write(&cancel(index)).await?;
        let _ = self.give_back.send(queue.route);
        Ok(())
    }

    /// Ends the consumers; what is on its way still comes.
    pub async fn stop(&self) -> std::result::Result<(), Broken> {
        let mut writer = self.writer.lock().await;
        let mut frames = Vec::new();
        for (index, queue) in self.queues.iter().enumerate() {
            if std::mem::replace(&mut *queue.state(), Consumer::None) != Consumer::None {
                frames.extend(cancel(index));
            }
        }
        if frames.is_empty() { Ok(()) } else { writer.write(&frames).await }
    }

    /// Acknowledges what has been handled and says goodbye; deliveries that are on their way go back to their queue.
    pub async fn close(&self) {
        let _ = self.tell().await;
        for name in &self.own_queues {
            let delete = queue::Delete { queue: name.as_str().into(), if_unused: false, if_empty: false, nowait: true };
            let delete = AMQPClass::Queue(queue::AMQPMethod::Delete(delete));
            let _ = self.writer.lock().await.method(channel_of(0), &delete).await;
        }
        if self.writer.lock().await.send_close().await.is_err() {
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

fn queued(index: usize, queue: &Queue, plan: &Topology, standing: &Standing) -> Queued {
    let channel = channel_of(index);
    let methods = standing.exchange_and_binding(plan, queue);
    let bind = methods.iter().flat_map(|method| method_frame(channel, method)).collect();
    let ends_with_consumers = !queue.private && plan.queue_ends_with_its_consumers();
    let mut methods = if ends_with_consumers { standing.declare_again(plan, queue) } else { Vec::new() };
    methods.push(AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
        queue: queue.name.as_str().into(),
        consumer_tag: CONSUMER_TAG.into(),
        no_local: false,
        no_ack: false,
        // A queue that outlives its connection may still have that one's consumer.
        exclusive: queue.private && !plan.is_at_least_once(),
        nowait: false,
        arguments: FieldTable::default(),
    })));
    let count = queue::Declare {
        queue: queue.name.as_str().into(),
        passive: true,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: FieldTable::default(),
    };
    let state = if plan.consumed.contains(queue.route) { Consumer::On } else { Consumer::None };
    Queued {
        route: queue.route,
        name: queue.name.clone(),
        state: std::sync::Mutex::new(state),
        bind,
        start: methods.iter().flat_map(|method| method_frame(channel, method)).collect(),
        ends_with_consumers,
        count: method_frame(channel, &AMQPClass::Queue(queue::AMQPMethod::Declare(count))),
    }
}

/// basic.cancel
fn cancel(index: usize) -> Vec<u8> {
    let cancel = basic::Cancel { consumer_tag: CONSUMER_TAG.into(), nowait: true };
    method_frame(channel_of(index), &AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)))
}

/// From 0 to 1.
fn random_part() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

async fn declare_private(
    connection: &mut AmqpConnection,
    id: u16,
    queue: &Queue,
    plan: &Topology,
    as_declared: &[String],
) -> Result<()> {
    let at_least_once = plan.is_at_least_once();
    let mut arguments = FieldTable::default();
    if at_least_once {
        type_argument(&mut arguments, plan);
        let expires = i64::try_from(plan.queue_expires).unwrap_or(i64::MAX);
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(expires));
        // A connection that hangs keeps its consumer until the broker gives it up, and would be given every other message.
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    let declare = queue::Declare {
        queue: queue.name.as_str().into(),
        passive: false,
        durable: at_least_once,
        exclusive: !at_least_once,
        auto_delete: !at_least_once,
        nowait: false,
        arguments,
    };
    connection.call(id, &AMQPClass::Queue(queue::AMQPMethod::Declare(declare))).await?;
    let own = (queue.exchange.as_str(), queue.binding_key.as_str());
    // An autoDelete exchange goes with its last binding, and would take the gateway's publishing channel along whenever
    // the last client leaves. A binding with a key that nobody uses holds it.
    let keepalive_bindings = plan.exchanges.iter().filter(|exchange| {
        exchange.kind == ExchangeKind::Direct && exchange.name != queue.exchange && as_declared.contains(&exchange.name)
    });
    let held = keepalive_bindings.map(|exchange| (exchange.name.as_str(), queue.name.as_str()));
    for (exchange, key) in std::iter::once(own).chain(held) {
        bind(connection, id, queue, exchange, key).await?;
    }
    Ok(())
}
