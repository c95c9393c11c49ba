//! The connection that publishes: all that is ready in one buffer and one write.

use std::collections::VecDeque;
use std::time::Duration;

use lapin::protocol::{AMQPClass, basic, channel, connection};
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{Mutex, watch};

use super::connect::Connection;
use super::outlet::Outlet;
use super::wire::{Broken, METHOD, Publish, Reader, method_frame, parse_method};
use crate::broker::topology::Plan;
use crate::message::{Outgoing, Route};

const CHANNEL: u16 = 1;

pub struct Publishing {
    reader: Mutex<Reader<OwnedReadHalf>>,
    outlet: Mutex<Outlet>,
    /// By route.
    templates: [Publish; 3],
    frame_max: usize,
    pub heartbeat: Option<Duration>,
    state: watch::Sender<State>,
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
    /// All but those whose headers have no form in AMQP.
    All { unfit: usize },
    /// The channel must be opened again, after the exchanges have been declared.
    ChannelClosed,
}

/// What became of one message that was published as mandatory.
pub enum Offered {
    Routed(bool),
    /// Its headers have no form in AMQP.
    Unfit,
    ChannelClosed {
        for_want_of_exchange: bool,
    },
}

impl Publishing {
    pub async fn new(mut connection: Connection, plan: &Plan) -> crate::error::Result<Publishing> {
        connection.open_channel(CHANNEL).await?;
        let Connection { reader, outlet, frame_max, heartbeat, .. } = connection;
        let templates = [Route::Receive, Route::Status, Route::Message].map(|route| {
            let (exchange, key) = plan.target(route);
            Publish::new(CHANNEL, exchange, key)
        });
        Ok(Publishing {
            reader: Mutex::new(reader),
            outlet: Mutex::new(outlet),
            templates,
            frame_max,
            heartbeat,
            state: watch::Sender::default(),
        })
    }

    /// Writes the batch. Whenever this ends, finished or dropped, `batch` holds what has not begun to go out.
    pub async fn publish(&self, batch: &mut VecDeque<Outgoing>) -> Result<Published, Broken> {
        if self.state.borrow().blocked.is_some() {
            let mut state = self.state.subscribe();
            let _ = state.wait_for(|state| state.blocked.is_none()).await;
        }
        let mut outlet = self.outlet.lock().await;
        if self.state.borrow().channel != ChannelState::Open {
            return Ok(Published::ChannelClosed);
        }
        // Headers above frame_max have no form in AMQP; the broker would end the connection for them.
        let before = batch.len();
        batch.retain(|message| Publish::fits(message, self.frame_max));
        let unfit = before - batch.len();
        outlet.begin();
        for message in batch.iter() {
            self.templates[message.route as usize].write(outlet.next_message(), message, CHANNEL, self.frame_max);
        }
        outlet.flush(|| drop(batch.pop_front())).await?;
        Ok(Published::All { unfit })
    }

    /// Publishes one message as mandatory. The answer to a method that follows it tells that nothing comes back any more.
    pub async fn publish_if_routed(&self, message: &Outgoing) -> Result<Offered, Broken> {
        if !Publish::fits(message, self.frame_max) {
            return Ok(Offered::Unfit);
        }
        let (before, asked) = {
            let state = self.state.borrow();
            (state.returned, state.answered)
        };
        let mut frames = Vec::new();
        self.templates[message.route as usize].write_mandatory(&mut frames, message, CHANNEL, self.frame_max);
        let qos = basic::Qos { prefetch_count: 0, global: false };
        frames.extend_from_slice(&method_frame(CHANNEL, &AMQPClass::Basic(basic::AMQPMethod::Qos(qos))));
        self.write(&frames).await?;
        let mut state = self.state.subscribe();
        let answer = state.wait_for(|state| state.answered > asked || state.channel != ChannelState::Open).await;
        Ok(match answer.map(|state| (state.channel, state.returned)) {
            Ok((ChannelState::Open, returned)) => Offered::Routed(returned == before),
            Ok((ChannelState::Closed { code }, _)) => Offered::ChannelClosed { for_want_of_exchange: code == 404 },
            _ => Offered::ChannelClosed { for_want_of_exchange: false },
        })
    }

    /// Opens the channel again; `listen` must be running, since it sees the answer.
    pub async fn reopen(&self) -> Result<(), Broken> {
        self.state.send_modify(|state| state.channel = ChannelState::Opening);
        self.write(&method_frame(CHANNEL, &AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})))).await?;
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| state.channel != ChannelState::Opening).await;
        Ok(())
    }

    /// Reads what the broker says on this connection until it ends; returns why.
    pub async fn listen(&self, heard: impl Fn()) -> String {
        let mut reader = self.reader.lock().await;
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
            let (METHOD, _, payload) = frame else { continue };
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
                    self.state.send_modify(|state| state.blocked = Some(blocked.reason.to_string()));
                }
                AMQPClass::Connection(connection::AMQPMethod::Unblocked(_)) => {
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
                AMQPClass::Basic(basic::AMQPMethod::Return(_)) => {
                    self.state.send_modify(|state| state.returned += 1);
                }
                AMQPClass::Basic(basic::AMQPMethod::QosOk(_)) => {
                    self.state.send_modify(|state| state.answered += 1);
                }
                AMQPClass::Channel(channel::AMQPMethod::OpenOk(_)) => {
                    self.state.send_modify(|state| state.channel = ChannelState::Open);
                }
                _ => (),
            }
        }
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
            _ = self.listen(|| ()) => (),
        }
    }
}
