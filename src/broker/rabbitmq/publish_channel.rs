//! The connection that publishes: all that is ready in one buffer and one write.
//!
//! What the broker closes, by its reply code, and what is done:
//!
//! | closed | code | RabbitMQ's reason | what is done |
//! |---|---|---|---|
//! | publishing channel | 404 | the exchange has gone | it is declared and the channel opened again |
//! | | 406, 311 | one message: larger than `max_message_size`, a property that is not allowed | that one is lost, the channel is opened again |
//! | | 403, 405, 504, 541, others | permissions, the channel itself | the session ends |
//! | consuming channel | any (403, 404, 406 `consumer_timeout`) | it consumes no more | the session ends |
//! | consumer (basic.cancel) | | its queue was deleted, or the queue's node is gone | the session ends |
//! | connection | any (320, 501 to 506, 530, 541) | an operator, an error | the session ends |
//!
//! A session that ends says why (`reconnecting`), and another one is made from the start; what waits is kept. At least once,
//! what was not confirmed goes out again. At most once, what the closed channel may have taken along is counted as lost.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lapin::protocol::{AMQPClass, basic, channel, confirm, connection, tx};
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{Instant, sleep};

use super::confirm_window::ConfirmWindow;
use super::frame_reader::{
    BODY, Broken, FrameReader, HEADER, METHOD, PublishTemplate, close_channel, method_frame, parse_method,
};
use super::frame_writer::FrameWriter;
use super::login::AmqpConnection;
use super::returned_message::{ReturnedMessage, RouteTable};
use super::stream::ReadEnd;
use crate::broker::topology::Topology;
use crate::error::Error;
use crate::message::{Headers, JSON, OutboundMessage, Properties, Route};

const CHANNEL: u16 = 1;
/// For the question whether the login may publish.
const CHECK_CHANNEL: u16 = 2;
/// At most once: how long after a message the broker is asked whether it has looked at it.
const SURVEY_DELAY: Duration = Duration::from_millis(20);
/// How long a message may wait for its confirm.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(30);
/// How long a broker may refuse everything before the channel is opened anew.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

pub struct PublishChannel {
    reader: Mutex<FrameReader<ReadEnd>>,
    writer: Mutex<FrameWriter>,
    /// By route.
    templates: [PublishTemplate; 3],
    known: RouteTable,
    pub frame_max: usize,
    pub heartbeat: Option<Duration>,
    /// The channel is in confirm mode.
    confirms: bool,
    flight: std::sync::Mutex<InFlight>,
    /// Something has been published.
    wrote: Notify,
    state: watch::Sender<PublishState>,
}

/// What the broker has been handed.
#[derive(Default)]
struct InFlight {
    /// Not confirmed; always empty without confirms.
    window: ConfirmWindow,
    /// Not routed, not taken, or handed over on a channel that has been closed: to be published again, in order.
    back: VecDeque<OutboundMessage>,
    /// Since when the broker has refused (basic.nack) and taken nothing.
    refusing: Option<Instant>,
    /// Without confirms.
    survey: Survey,
}

/// What has become of messages that are not confirmed: basic.qos is answered when the broker has looked at all before it.
#[derive(Default)]
struct Survey {
    /// Messages that have gone out.
    written: u64,
    /// Of them, those that went out before each question that is not answered yet.
    asked: VecDeque<u64>,
    /// Questions so far.
    questions: u64,
    /// Of them, those that the broker has looked at.
    seen: u64,
    /// Messages that had come back when the last question was answered.
    returned: u64,
    /// The broker has had a queue for a message.
    routed: bool,
}

impl Survey {
    /// The number of a question that is about to go out.
    fn ask(&mut self) -> u64 {
        self.asked.push_back(self.written);
        self.questions += 1;
        self.questions
    }

    fn answer(&mut self, returned: u64) {
        if let Some(written) = self.asked.pop_front() {
            self.routed |= written - self.seen > returned - self.returned;
            (self.seen, self.returned) = (written, returned);
        }
    }

    /// How many messages the broker may not have looked at. The channel is closed, so it never will.
    fn give_up(&mut self) -> u64 {
        self.asked.clear();
        let unseen = self.written - self.seen;
        self.seen = self.written;
        unseen
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct PublishState {
    /// The broker's reason, while connection.blocked is in force.
    blocked: Option<String>,
    channel: ChannelState,
    /// close-ok has come.
    closed: bool,
    /// Messages that came back, and answers to basic.qos, so far.
    returned: u64,
    answered: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum ChannelState {
    #[default]
    Open,
    /// The broker has closed it, most often because an autoDelete exchange went with its last queue (404).
    Closed {
        code: u16,
        text: String,
    },
    Opening,
}

/// What `publish` needs next.
pub enum Published {
    All,
    /// The channel must be opened again, after the exchanges have been declared.
    ChannelClosed,
}

/// What became of one message that was published as mandatory.
pub enum Offered {
    Routed(bool),
    ChannelClosed { for_want_of_exchange: bool },
}

pub const ROUTES: [Route; 3] = [Route::Receive, Route::Status, Route::Message];

impl PublishChannel {
    pub async fn new(mut connection: AmqpConnection, plan: &Topology) -> crate::error::Result<PublishChannel> {
        let blocked = check_permissions(&mut connection, plan).await?;
        connection.open_channel(CHANNEL).await?;
        let confirms = plan.is_at_least_once();
        if confirms {
            connection.call(CHANNEL, &select_confirms()).await?;
        }
        let AmqpConnection { reader, writer, frame_max, heartbeat, .. } = connection;
        // All of it is mandatory: a message for which there is no queue comes back, and is not lost without a word.
        let templates = ROUTES.map(|route| PublishTemplate::new(CHANNEL, plan.target(route), true, &plan.unique));
        Ok(PublishChannel {
            reader: Mutex::new(reader),
            writer: Mutex::new(writer),
            templates,
            known: RouteTable::new(plan),
            frame_max,
            heartbeat,
            confirms,
            flight: std::sync::Mutex::default(),
            wrote: Notify::new(),
            state: watch::Sender::new(PublishState { blocked, ..PublishState::default() }),
        })
    }

    fn flight(&self) -> std::sync::MutexGuard<'_, InFlight> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the first `count` of the batch. Whenever this ends, finished or dropped, `batch` holds what has not begun to go
    /// out.
    pub async fn publish(&self, batch: &mut VecDeque<OutboundMessage>, count: usize) -> Result<Published, Broken> {
        let clear = |state: &PublishState| {
            state.channel != ChannelState::Open || (state.blocked.is_none() && !self.flight().window.is_full())
        };
        if !clear(&self.state.borrow()) {
            let _ = self.state.subscribe().wait_for(clear).await;
        }
        let mut writer = self.writer.lock().await;
        if self.state.borrow().channel != ChannelState::Open {
            return Ok(Published::ChannelClosed);
        }
        writer.begin();
        for message in batch.iter().take(count) {
            self.templates[message.route as usize].write(writer.next_message(), message, self.frame_max);
        }
        let waiting = batch.len();
        let begun = || {
            if let Some(message) = batch.pop_front()
                && self.confirms
            {
                self.flight().window.push(message);
            }
        };
        writer.flush(begun).await?;
        if !self.confirms {
            // Still under the outlet's lock, so that a question counts exactly what went out before it.
            self.flight().survey.written += (waiting - batch.len()) as u64;
            self.wrote.notify_one();
        }
        Ok(Published::All)
    }

    /// What has come back, in order. Taken once nothing more of what was published can come back.
    pub async fn take_back(&self) -> Result<VecDeque<OutboundMessage>, Broken> {
        if self.confirms {
            self.confirmed().await;
        } else {
            self.barrier().await?;
        }
        let mut back = std::mem::take(&mut self.flight().back);
        back.make_contiguous().sort_by_key(|message| message.id.number);
        Ok(back)
    }

    /// Gives back what could not be published after all.
    pub fn put_back(&self, messages: &mut VecDeque<OutboundMessage>) {
        let mut flight = self.flight();
        while let Some(message) = messages.pop_back() {
            flight.back.push_front(message);
        }
    }

    /// What has not gone out yet comes after what has come back.
    pub fn put_behind(&self, messages: &mut VecDeque<OutboundMessage>) {
        let mut back = self.unsettled();
        back.append(messages);
        self.put_back(&mut back);
    }

    pub fn is_open(&self) -> bool {
        self.state.borrow().channel == ChannelState::Open
    }

    /// Lets go of what is not confirmed; answers how much that was.
    pub fn drop_unconfirmed(&self) -> usize {
        self.flight().window.take().count()
    }

    /// Something has come back, or lies on a closed channel.
    pub fn wants_attention(&self) -> bool {
        let flight = self.flight();
        // At most once, what was lost with the channel is counted without waiting for the next message.
        !flight.back.is_empty() || ((!flight.window.is_empty() || !self.confirms) && !self.is_open())
    }

    /// At most once: how many messages may have been lost with a channel that is closed.
    pub fn lost_with_channel(&self) -> usize {
        if self.is_open() { 0 } else { usize::try_from(self.flight().survey.give_up()).unwrap_or(usize::MAX) }
    }

    /// Whether there has been a queue for a message since this was asked last.
    pub fn was_routed(&self) -> bool {
        std::mem::take(&mut self.flight().survey.routed)
    }

    /// At most once: asks, now and then while messages go out, whether the broker has looked at them. What a closed channel
    /// takes along is counted by that.
    pub async fn survey(&self) -> Broken {
        loop {
            self.wrote.notified().await;
            sleep(SURVEY_DELAY).await;
            if let Err(broken) = self.barrier().await {
                return broken;
            }
        }
    }

    /// Resolves when something has come back.
    pub async fn returned(&self) {
        let mut state = self.state.subscribe();
        while !self.wants_attention() && state.changed().await.is_ok() {}
    }

    /// Resolves when all that was published is confirmed, has come back, or lies on a closed channel.
    pub async fn confirmed(&self) {
        let mut state = self.state.subscribe();
        let settled = |state: &PublishState| state.channel != ChannelState::Open || self.flight().window.is_empty();
        let _ = state.wait_for(settled).await;
    }

    /// Resolves when the oldest message has waited long for its confirm: a cluster that changes its leaders can lose what
    /// it was handed, without a word, on a connection that lives on.
    pub async fn confirm_timeout(&self) {
        let mut before = None;
        loop {
            sleep(CONFIRM_PATIENCE / 2).await;
            let oldest = self.flight().window.oldest();
            // Twice the same one, so it waits for half of the time at least. A broker that is blocked reads nothing.
            if oldest.is_some() && oldest == before && self.state.borrow().blocked.is_none() {
                return;
            }
            before = oldest;
        }
    }

    /// What has not arrived for certain, in order.
    pub fn unsettled(&self) -> VecDeque<OutboundMessage> {
        let mut flight = self.flight();
        let mut left: Vec<OutboundMessage> = std::mem::take(&mut flight.back).into();
        left.extend(flight.window.take().map(|mut message| {
            message.id.again = true;
            message
        }));
        // What came back may lie between what is not confirmed, and what came back and is not confirmed is here twice.
        // Without confirms there are no numbers, and the order is that of coming back.
        left.sort_by_key(|message| message.id.number);
        left.dedup_by(|one, other| one.id.number != 0 && one.id.number == other.id.number);
        left.into()
    }

    /// Resolves when everything that was published before has been looked at by the broker, or lies on a closed channel.
    pub async fn barrier(&self) -> Result<(), Broken> {
        let mut writer = self.writer.lock().await;
        // Nothing may follow the answer to the broker's close, which waits for this outlet then.
        if !self.is_open() {
            return Ok(());
        }
        let question = self.flight().survey.ask();
        let qos = basic::Qos { prefetch_count: 0, global: false };
        writer.method(CHANNEL, &AMQPClass::Basic(basic::AMQPMethod::Qos(qos))).await?;
        drop(writer);
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| state.answered >= question || state.channel != ChannelState::Open).await;
        Ok(())
    }

    /// Publishes one message as mandatory.
    pub async fn publish_if_routed(&self, message: &OutboundMessage) -> Result<Offered, Broken> {
        let before = self.returned_count();
        let mut frames = Vec::new();
        self.templates[message.route as usize].write(&mut frames, message, self.frame_max);
        self.write(&frames).await?;
        self.barrier().await?;
        if !self.is_open() {
            return Ok(Offered::ChannelClosed { for_want_of_exchange: self.wants_exchange() });
        }
        let routed = self.returned_count() == before;
        let mut flight = self.flight();
        // The caller still has the message.
        flight.back.clear();
        flight.survey.routed |= routed;
        Ok(Offered::Routed(routed))
    }

    /// Whether the broker has refused everything for a while.
    pub fn is_refused(&self) -> bool {
        self.flight().refusing.is_some_and(|since| since.elapsed() >= REFUSAL_PATIENCE)
    }

    /// How many messages have come back for want of a queue.
    pub fn returned_count(&self) -> u64 {
        self.state.borrow().returned
    }

    /// Closes the channel and opens it again, with nothing on it. What a channel remembers of a quorum queue's leader can
    /// be wrong for ever when the leader's node dies in the wrong moment.
    pub async fn renew(&self) -> Result<(), Broken> {
        self.flight().refusing = None;
        self.state.send_modify(|state| state.channel = ChannelState::Opening);
        self.write(&method_frame(CHANNEL, &close_channel())).await?;
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| state.channel != ChannelState::Opening).await;
        self.reopen().await
    }

    /// Whether the channel was closed for an exchange that has gone, and not for something that a message said.
    pub fn wants_exchange(&self) -> bool {
        matches!(self.state.borrow().channel, ChannelState::Closed { code: 404, .. })
    }

    /// What the broker has closed the channel with.
    pub fn closed_with(&self) -> Option<Broken> {
        match &self.state.borrow().channel {
            ChannelState::Closed { code, text } => Some(Broken::Closed { code: *code, text: text.clone() }),
            _ => None,
        }
    }

    /// Opens the channel again; `listen` must be running, since it sees the answer. What was not confirmed has come back.
    pub async fn reopen(&self) -> Result<(), Broken> {
        let mut back = self.unsettled();
        self.put_back(&mut back);
        let questions = self.flight().survey.questions;
        self.flight().survey.give_up();
        self.state.send_modify(|state| {
            state.channel = ChannelState::Opening;
            // Those that were asked on the closed channel are never answered.
            state.answered = questions;
        });
        let open = AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}));
        let mut frames = method_frame(CHANNEL, &open);
        if self.confirms {
            frames.extend_from_slice(&method_frame(CHANNEL, &select_confirms()));
        }
        self.write(&frames).await?;
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| state.channel != ChannelState::Opening).await;
        Ok(())
    }

    /// Reads what the broker says on this connection until it ends; returns why.
    pub async fn listen(&self, heard: impl Fn(), told: impl Fn(Option<&str>)) -> Broken {
        let mut reader = self.reader.lock().await;
        let blocked = self.state.borrow().blocked.clone();
        if let Some(reason) = blocked {
            told(Some(&reason));
        }
        let mut returning = ReturnedMessage::default();
        loop {
            let frame = match reader.take_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => match reader.fill().await {
                    Ok(()) => {
                        heard();
                        continue;
                    }
                    Err(broken) => return broken,
                },
                Err(broken) => return broken,
            };
            let (id, payload) = match frame {
                (METHOD, id, payload) => (id, payload),
                (HEADER | BODY, _, payload) => {
                    if let Some(message) = returning.content(frame.0, &payload, &self.known) {
                        self.flight().back.push_back(message);
                        self.state.send_modify(|state| state.returned += 1);
                    }
                    continue;
                }
                _ => continue,
            };
            let class = match parse_method(&payload) {
                Ok(class) => class,
                Err(broken) => return broken,
            };
            match class {
                AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
                    let answer = AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}));
                    let _ = self.write(&method_frame(0, &answer)).await;
                    return Broken::Closed { code: close.reply_code, text: close.reply_text.to_string() };
                }
                AMQPClass::Connection(connection::AMQPMethod::CloseOk(_)) => {
                    self.state.send_modify(|state| state.closed = true);
                }
                AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)) => {
                    told(Some(blocked.reason.as_str()));
                    self.state.send_modify(|state| state.blocked = Some(blocked.reason.to_string()));
                }
                AMQPClass::Connection(connection::AMQPMethod::Unblocked(_)) => {
                    told(None);
                    self.state.send_modify(|state| state.blocked = None);
                }
                AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
                    let (code, text) = (close.reply_code, close.reply_text.to_string());
                    let closed = ChannelState::Closed { code, text: text.clone() };
                    self.state.send_modify(|state| state.channel = closed);
                    let answer = AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}));
                    if let Err(broken) = self.write(&method_frame(id, &answer)).await {
                        return broken;
                    }
                    if !is_mendable(code) {
                        return Broken::Closed { code, text };
                    }
                }
                AMQPClass::Basic(basic::AMQPMethod::Return(method)) => {
                    returning = ReturnedMessage::of(method.exchange.as_str(), method.routing_key.as_str(), &self.known);
                }
                AMQPClass::Basic(basic::AMQPMethod::Ack(ack)) => {
                    let mut flight = self.flight();
                    flight.window.settle(ack.delivery_tag, ack.multiple, drop);
                    flight.refusing = None;
                    drop(flight);
                    self.tell();
                }
                AMQPClass::Basic(basic::AMQPMethod::Nack(nack)) => {
                    let mut flight = self.flight();
                    let InFlight { window, back, refusing, .. } = &mut *flight;
                    refusing.get_or_insert_with(Instant::now);
                    window.settle(nack.delivery_tag, nack.multiple, |mut message| {
                        // What came behind it may have been taken.
                        message.id.again = true;
                        back.push_back(message);
                    });
                    drop(flight);
                    self.tell();
                }
                AMQPClass::Basic(basic::AMQPMethod::QosOk(_)) => {
                    let returned = self.returned_count();
                    self.flight().survey.answer(returned);
                    self.state.send_modify(|state| state.answered += 1);
                }
                AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) if id == CHANNEL => {
                    self.state.send_modify(|state| {
                        state.channel = ChannelState::Closed { code: 200, text: String::new() };
                    });
                }
                AMQPClass::Channel(channel::AMQPMethod::OpenOk(_)) => {
                    self.state.send_modify(|state| state.channel = ChannelState::Open);
                }
                _ => (),
            }
        }
    }

    /// What is in flight has changed: whoever waits for that looks again.
    fn tell(&self) {
        self.state.send_modify(|_| ());
    }

    /// A writer that is busy needs no heartbeat.
    pub fn send_heartbeat(&self, quiet: Duration) -> Result<(), Broken> {
        self.writer.try_lock().map_or(Ok(()), |mut writer| writer.send_heartbeat(quiet))
    }

    async fn write(&self, frames: &[u8]) -> Result<(), Broken> {
        self.writer.lock().await.write(frames).await
    }

    /// connection.close; its answer says that the broker has taken everything before it.
    pub async fn close(&self) {
        if self.writer.lock().await.send_close().await.is_err() {
            return;
        }
        let mut state = self.state.subscribe();
        tokio::select! {
            _ = state.wait_for(|state| state.closed) => (),
            _ = self.listen(|| (), |_| ()) => (),
        }
    }
}

/// Whether a channel that was closed with this code can be opened again and used: it was closed for an exchange that has
/// gone, which can be declared, or for something that one message said.
fn is_mendable(code: u16) -> bool {
    const CONTENT_TOO_LARGE: u16 = 311;
    const NOT_FOUND: u16 = 404;
    const PRECONDITION_FAILED: u16 = 406;
    matches!(code, CONTENT_TOO_LARGE | NOT_FOUND | PRECONDITION_FAILED)
}

/// Asks whether the login may publish to each exchange that this side publishes to, so that a start fails early: a broker
/// looks at that permission only when a message comes.
///
/// An empty message is published to each in a transaction that is rolled back. RabbitMQ checks the permission when the
/// message comes, with the exchange and the routing key that are used later, and gives messages to queues only at a commit:
/// no peer of any version gets anything, and nothing is declared. Other questions do not fit. Declarations and bindings need
/// other permissions, and a routing key that nobody uses reaches everybody through a fanout.
///
/// Answers why the broker does not take messages at present (connection.blocked): it reads nothing more from this connection
/// then, and what it thinks of the login shows when it goes on.
async fn check_permissions(connection: &mut AmqpConnection, plan: &Topology) -> crate::error::Result<Option<String>> {
    let transaction = |method| method_frame(CHECK_CHANNEL, &AMQPClass::Tx(method));
    connection.open_channel(CHECK_CHANNEL).await?;
    connection.call(CHECK_CHANNEL, &AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {}))).await?;
    let properties = Arc::new(Properties::new(JSON, &Headers::default()));
    let mut frames = Vec::new();
    for route in plan.role.publishes() {
        let message = OutboundMessage::new(*route, properties.clone(), Bytes::new());
        PublishTemplate::new(CHECK_CHANNEL, plan.target(*route), false, "").write(
            &mut frames,
            &message,
            connection.frame_max,
        );
    }
    frames.extend(transaction(tx::AMQPMethod::Rollback(tx::Rollback {})));
    connection.write(&frames).await?;
    let blocked = connection.answer_unless_blocked(CHECK_CHANNEL).await.map_err(|error| match error {
        Error::Refused { code: code @ "ACCESS_REFUSED", address, detail } => {
            let detail = format!("{detail} (asked whether this login may publish there)");
            Error::Refused { code, address, detail }
        }
        error => error,
    })?;
    if blocked.is_none() {
        connection.close_channel(CHECK_CHANNEL).await?;
    }
    Ok(blocked)
}

fn select_confirms() -> AMQPClass {
    AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: false }))
}
