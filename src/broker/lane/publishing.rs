//! The connection that publishes: all that is ready in one buffer and one write.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;

use lapin::protocol::{AMQPClass, basic, channel, confirm, connection};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use super::connect::Connection;
use super::outlet::Outlet;
use super::returning::{Known, Returning};
use super::stream::ReadEnd;
use super::window::Window;
use super::wire::{BODY, Broken, HEADER, METHOD, Publish, Reader, close_channel, method_frame, parse_method};
use crate::broker::topology::Plan;
use crate::message::{Outgoing, Route};

const CHANNEL: u16 = 1;
/// How long a message may wait for its confirm.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(30);
/// How long a broker may refuse everything before the channel is opened anew.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

pub struct Publishing {
    reader: Mutex<Reader<ReadEnd>>,
    outlet: Mutex<Outlet>,
    /// By route.
    templates: [Publish; 3],
    known: Known,
    frame_max: usize,
    pub heartbeat: Option<Duration>,
    /// The channel is in confirm mode.
    confirms: bool,
    flight: std::sync::Mutex<Flight>,
    state: watch::Sender<State>,
}

/// What the broker has been handed.
#[derive(Default)]
struct Flight {
    /// Not confirmed; always empty without confirms.
    window: Window,
    /// Not routed, not taken, or handed over on a channel that has been closed: to be published again, in order.
    back: VecDeque<Outgoing>,
    /// Since when the broker has refused (basic.nack) and taken nothing.
    refusing: Option<Instant>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    /// The broker's reason, while connection.blocked is in force.
    blocked: Option<String>,
    channel: ChannelState,
    /// close-ok has come.
    closed: bool,
    /// Messages that came back, and answers to basic.qos, so far.
    returned: u64,
    answered: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum ChannelState {
    #[default]
    Open,
    /// The broker has closed it, most often because an autoDelete exchange went with its last queue (404).
    Closed {
        code: u16,
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

impl Publishing {
    pub async fn new(mut connection: Connection, plan: &Plan) -> crate::error::Result<Publishing> {
        connection.open_channel(CHANNEL).await?;
        let confirms = plan.is_reliable();
        if confirms {
            connection.call(CHANNEL, &select_confirms()).await?;
        }
        let Connection { reader, outlet, frame_max, heartbeat, .. } = connection;
        let templates = ROUTES.map(|route| {
            // At most once, only what is declared here can be declared again when it has gone; nobody may ever come for
            // the rest.
            let mandatory = confirms || plan.targets.iter().any(|queue| queue.route == route);
            Publish::new(CHANNEL, plan.target(route), mandatory, &plan.unique)
        });
        Ok(Publishing {
            reader: Mutex::new(reader),
            outlet: Mutex::new(outlet),
            templates,
            known: Known::new(plan),
            frame_max,
            heartbeat,
            confirms,
            flight: std::sync::Mutex::default(),
            state: watch::Sender::default(),
        })
    }

    fn flight(&self) -> std::sync::MutexGuard<'_, Flight> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Headers above frame_max have no form in AMQP; the broker would end the connection for them.
    pub fn fits(&self, message: &Outgoing) -> bool {
        Publish::fits(message, self.frame_max)
    }

    /// Writes the first `count` of the batch. Whenever this ends, finished or dropped, `batch` holds what has not begun to go
    /// out.
    pub async fn publish(&self, batch: &mut VecDeque<Outgoing>, count: usize) -> Result<Published, Broken> {
        let clear = |state: &State| {
            state.channel != ChannelState::Open || (state.blocked.is_none() && !self.flight().window.is_full())
        };
        if !clear(&self.state.borrow()) {
            let _ = self.state.subscribe().wait_for(clear).await;
        }
        let mut outlet = self.outlet.lock().await;
        if self.state.borrow().channel != ChannelState::Open {
            return Ok(Published::ChannelClosed);
        }
        outlet.begin();
        for message in batch.iter().take(count) {
            self.templates[message.route as usize].write(outlet.next_message(), message, self.frame_max);
        }
        let begun = || {
            if let Some(message) = batch.pop_front()
                && self.confirms
            {
                self.flight().window.push(message);
            }
        };
        outlet.flush(begun).await?;
        Ok(Published::All)
    }

    /// What has come back, in order. Taken once nothing more of what was published can come back.
    pub async fn take_back(&self) -> Result<VecDeque<Outgoing>, Broken> {
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
    pub fn put_back(&self, messages: &mut VecDeque<Outgoing>) {
        let mut flight = self.flight();
        while let Some(message) = messages.pop_back() {
            flight.back.push_front(message);
        }
    }

    /// What has not gone out yet comes after what has come back.
    pub fn put_behind(&self, messages: &mut VecDeque<Outgoing>) {
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
        !flight.back.is_empty() || (!flight.window.is_empty() && !self.is_open())
    }

    /// Resolves when something has come back.
    pub async fn returned(&self) {
        let mut state = self.state.subscribe();
        while !self.wants_attention() && state.changed().await.is_ok() {}
    }

    /// Resolves when all that was published is confirmed, has come back, or lies on a closed channel.
    pub async fn confirmed(&self) {
        let mut state = self.state.subscribe();
        let settled = |state: &State| state.channel != ChannelState::Open || self.flight().window.is_empty();
        let _ = state.wait_for(settled).await;
    }

    /// Resolves when the oldest message has waited long for its confirm: a cluster that changes its leaders can lose what
    /// it was handed, without a word, on a connection that lives on.
    pub async fn neglected(&self) {
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
    pub fn unsettled(&self) -> VecDeque<Outgoing> {
        let mut flight = self.flight();
        let mut left: Vec<Outgoing> = std::mem::take(&mut flight.back).into();
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
        let mut outlet = self.outlet.lock().await;
        // Nothing may follow the answer to the broker's close, which waits for this outlet then.
        if !self.is_open() {
            return Ok(());
        }
        let asked = self.state.borrow().answered;
        let qos = basic::Qos { prefetch_count: 0, global: false };
        outlet.method(CHANNEL, &AMQPClass::Basic(basic::AMQPMethod::Qos(qos))).await?;
        drop(outlet);
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| state.answered > asked || state.channel != ChannelState::Open).await;
        Ok(())
    }

    /// Publishes one message as mandatory.
    pub async fn publish_if_routed(&self, message: &Outgoing) -> Result<Offered, Broken> {
        let before = self.returned_count();
        let mut frames = Vec::new();
        self.templates[message.route as usize].write_mandatory(&mut frames, message, self.frame_max);
        self.write(&frames).await?;
        self.barrier().await?;
        if !self.is_open() {
            return Ok(Offered::ChannelClosed { for_want_of_exchange: self.wants_exchange() });
        }
        // The caller still has the message.
        self.flight().back.clear();
        Ok(Offered::Routed(self.returned_count() == before))
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
        self.state.borrow().channel == ChannelState::Closed { code: 404 }
    }

    /// Opens the channel again; `listen` must be running, since it sees the answer. What was not confirmed has come back.
    pub async fn reopen(&self) -> Result<(), Broken> {
        let mut back = self.unsettled();
        self.put_back(&mut back);
        self.state.send_modify(|state| state.channel = ChannelState::Opening);
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
    pub async fn listen(&self, heard: impl Fn(), told: impl Fn(Option<&str>)) -> String {
        let mut reader = self.reader.lock().await;
        let mut returning = Returning::default();
        loop {
            let frame = match reader.take_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => match reader.fill().await {
                    Ok(()) => {
                        heard();
                        continue;
                    }
                    Err(broken) => return broken.to_string(),
                },
                Err(broken) => return broken.to_string(),
            };
            let payload = match frame {
                (METHOD, _, payload) => payload,
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
                Err(broken) => return broken.to_string(),
            };
            match class {
                AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
                    let answer = AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}));
                    let _ = self.write(&method_frame(0, &answer)).await;
                    return close.reply_text.to_string();
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
                    let code = close.reply_code;
                    self.state.send_modify(|state| state.channel = ChannelState::Closed { code });
                    let answer = AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}));
                    if let Err(broken) = self.write(&method_frame(CHANNEL, &answer)).await {
                        return broken.to_string();
                    }
                }
                AMQPClass::Basic(basic::AMQPMethod::Return(method)) => {
                    returning = Returning::of(method.exchange.as_str(), method.routing_key.as_str(), &self.known);
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
                    let Flight { window, back, refusing } = &mut *flight;
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
                    self.state.send_modify(|state| state.answered += 1);
                }
                AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) => {
                    self.state.send_modify(|state| state.channel = ChannelState::Closed { code: 200 });
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
    pub fn beat(&self, quiet: Duration) -> Result<(), Broken> {
        self.outlet.try_lock().map_or(Ok(()), |mut outlet| outlet.beat(quiet))
    }

    async fn write(&self, frames: &[u8]) -> Result<(), Broken> {
        self.outlet.lock().await.write(frames).await
    }

    /// connection.close; its answer says that the broker has taken everything before it.
    pub async fn close(&self) {
        if self.outlet.lock().await.farewell().await.is_err() {
            return;
        }
        let mut state = self.state.subscribe();
        tokio::select! {
            _ = state.wait_for(|state| state.closed) => (),
            _ = self.listen(|| (), |_| ()) => (),
        }
    }
}

fn select_confirms() -> AMQPClass {
    AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: false }))
}
