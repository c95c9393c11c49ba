//! One WebSocket connection (RFC 6455), generic over its stream.
//!
//! tungstenite reads and keeps to the protocol; data frames are encoded here once, for one connection or for many, and all
//! that waits goes out in one write. A peer is one task that polls both directions: a browser that does not read is still read from, and one whose messages
//! find no room is still written to. No timer is touched per message.

mod frame;
mod handle;
mod lean;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use crate::config::SocketSettings;
use crate::message::Content;
pub use frame::Frame;
pub use handle::{GOING_AWAY, Handle, Order, REPLACED};
use lean::Lean;

/// tungstenite's own buffer, which every connection holds; what one read brings is bounded elsewhere.
const READ_BUFFER: usize = 256;
/// Answers to pings that may wait for a browser that does not read; later ones replace each other.
const CONTROL_BUFFER: usize = 4 * 1024;
/// Messages taken from one socket before others get their turn.
const READ_BUDGET: usize = 64;
/// Bytes read and thrown away after a close, so that what was in flight does not turn our close frame into a reset.
const LINGER_BYTES: usize = 1024 * 1024;

/// Why a connection ended: what status 0 says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: u16,
    pub description: String,
}

impl Ended {
    fn new(code: u16, description: impl Into<String>) -> Ended {
        Ended { code, description: description.into() }
    }

    /// An empty reason is told in the words of the code.
    fn described(code: u16, reason: &str) -> Ended {
        Ended::new(code, if reason.is_empty() { meaning(code) } else { reason })
    }

    fn dropped() -> Ended {
        Ended::new(1006, "Connection dropped by remote peer.")
    }
}

/// The texts that WebSocket-Node gives the codes of RFC 6455, section 7.4.1.
fn meaning(code: u16) -> &'static str {
    match code {
        1000 => "Normal connection closure",
        1001 => "Remote peer is going away",
        1002 => "Protocol error",
        1003 => "Unprocessable input",
        1004 => "Reserved",
        1005 => "Reason not provided",
        1006 => "Abnormal closure, no further detail available",
        1007 => "Invalid data received",
        1008 => "Policy violation",
        1009 => "Message too big",
        1010 => "Extension requested by client is required",
        1011 => "Internal Server Error",
        1015 => "TLS Handshake Failed",
        _ => "",
    }
}

/// Where a connection's messages go.
pub trait Sink: Send {
    /// Takes one message; called only after `poll_ready` was ready.
    fn take(&mut self, content: Content);
    /// Whether there is room for a message. Until then the socket is not read.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

pub struct Peer<S> {
    ws: WebSocketStream<Lean<S>>,
    handle: Arc<Handle>,
    settings: Arc<SocketSettings>,
    phase: Phase,
    unflushed: bool,
    /// A close frame that has still to be written.
    owed: Option<Order>,
    /// The socket is not read for want of room: silence says nothing about the browser.
    held: bool,
    heard: Instant,
    pinged: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

enum Phase {
    Open,
    /// Our close frame goes out; theirs has to come by then.
    Closing(Order, Instant),
    /// Theirs came; our answer has to be out by then.
    Answering(Ended, Instant),
    /// The peer broke the protocol: what to say in `linger`.
    Failed(CloseCode, String),
    Gone,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Peer<S> {
    /// Takes a stream on which the HTTP upgrade request has been read: writes `response`, then speaks WebSocket. `early`
    /// is what came behind the request.
    pub async fn open(
        mut stream: S,
        response: Vec<u8>,
        early: Vec<u8>,
        handle: Arc<Handle>,
        settings: Arc<SocketSettings>,
    ) -> Option<Peer<S>> {
        let patience = Duration::from_millis(settings.close_timeout);
        let answer = async {
            stream.write_all(&response).await?;
            stream.flush().await
        };
        if !matches!(timeout(patience, answer).await, Ok(Ok(()))) {
            return None;
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(CONTROL_BUFFER)
            .max_frame_size(Some(settings.max_received_frame_size))
            .max_message_size(Some(settings.max_received_message_size));
        let ws = WebSocketStream::from_partially_read(Lean::new(stream), early, Role::Server, Some(config)).await;
        let now = Instant::now();
        let first = now + Duration::from_millis(settings.keepalive_interval);
        Some(Peer {
            ws,
            handle,
            settings,
            phase: Phase::Open,
            unflushed: false,
            owed: None,
            held: false,
            heard: now,
            pinged: None,
            timer: Box::pin(sleep_until(first)),
        })
    }

    /// Carries messages both ways until the connection ends. Says why it did, and how many frames were left behind.
    pub async fn run(&mut self, sink: &mut impl Sink) -> (Ended, usize) {
        let ended = poll_fn(|cx| self.poll(cx, sink)).await;
        // Whoever still sends is told so from here on.
        self.handle.outbox.close();
        (ended, self.handle.outbox.clear())
    }

    /// Ends the connection in good order: our close frame where one is owed, FIN, and a while for the other side's FIN.
    pub async fn linger(mut self) {
        let patience = Duration::from_millis(self.settings.close_timeout);
        let _ = timeout(patience, async {
            if let Phase::Failed(code, reason) = &self.phase {
                let frame = CloseFrame { code: *code, reason: short(reason).into() };
                self.ws.send(Message::Close(Some(frame))).await.ok()?;
            } else if matches!(self.phase, Phase::Gone) {
                return None;
            }
            let stream = self.ws.get_mut();
            stream.shutdown().await.ok()?;
            let mut scratch = vec![0; 1024];
            let mut seen = 0;
            while seen < LINGER_BYTES {
                match stream.read(&mut scratch).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => seen += count,
                }
            }
            Some(())
        })
        .await;
    }

    fn poll(&mut self, cx: &mut Context<'_>, sink: &mut impl Sink) -> Poll<Ended> {
        if let Err(ended) = self.poll_read(cx, sink) {
            return Poll::Ready(ended);
        }
        if let Err(ended) = self.poll_write(cx) {
            return Poll::Ready(ended);
        }
        self.poll_timer(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, sink: &mut impl Sink) -> Result<(), Ended> {
        let mut heard = false;
        for _ in 0..READ_BUDGET {
            self.held = sink.poll_ready(cx).is_pending();
            if self.held {
                return Ok(());
            }
            let message = match self.ws.poll_next_unpin(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(Ok(message))) => message,
                Poll::Ready(Some(Err(error))) => return Err(self.fail(error)),
                Poll::Ready(None) => return Err(self.finished()),
            };
            if !heard {
                heard = true;
                self.heard = Instant::now();
                self.pinged = None;
            }
            match message {
                Message::Text(text) => sink.take(Content::Text(text.into())),
                Message::Binary(bytes) => sink.take(Content::Binary(bytes)),
                // tungstenite has queued the pong and sends it at the next read.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => (),
                Message::Close(frame) => {
                    let ended = frame.map_or_else(
                        || Ended::described(1005, ""),
                        |frame| Ended::described(frame.code.into(), &frame.reason),
                    );
                    // Their answer to our close says nothing new.
                    if matches!(self.phase, Phase::Open) {
                        self.phase = Phase::Answering(ended, self.close_deadline());
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        while matches!(self.phase, Phase::Open) {
            let outbox = &self.handle.outbox;
            match self.ws.get_mut().poll_send(cx, || outbox.try_pop().map(|frame| frame.bytes)) {
                Poll::Pending => {
                    // Whoever does not read must not keep an order to close from being carried out.
                    if let Poll::Ready(order) = self.handle.poll_order(cx) {
                        self.close(order);
                    }
                    break;
                }
                Poll::Ready(Ok(())) => (),
                Poll::Ready(Err(error)) => return Err(self.fail(error.into())),
            }
            match self.handle.outbox.poll_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(true) => (),
                Poll::Ready(false) => self.close(self.handle.order()),
            }
        }
        if let Some(order) = self.owed
            && self.ws.poll_ready_unpin(cx).is_ready()
        {
            self.owed = None;
            let frame = CloseFrame { code: order.code.into(), reason: order.reason.into() };
            self.start_send(Message::Close(Some(frame)))?;
        }
        if self.unflushed {
            match self.ws.poll_flush_unpin(cx) {
                Poll::Pending => (),
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(self.fail(error)),
            }
        }
        Ok(())
    }

    fn close(&mut self, order: Order) {
        self.phase = Phase::Closing(order, self.close_deadline());
        self.owed = Some(order);
    }

    /// From here on the timer is for the end of the connection.
    fn close_deadline(&mut self) -> Instant {
        let deadline = Instant::now() + Duration::from_millis(self.settings.close_timeout);
        self.timer.as_mut().reset(deadline);
        deadline
    }

    fn start_send(&mut self, message: Message) -> Result<(), Ended> {
        self.unflushed = true;
        match self.ws.start_send_unpin(message) {
            // A close that crosses theirs: the answer is already on its way.
            Ok(()) | Err(WsError::Protocol(ProtocolError::SendAfterClosing)) => Ok(()),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// One timer a connection, for whatever comes first; data only moves `heard`, never the timer.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let next = match &self.phase {
                Phase::Closing(_, deadline) | Phase::Answering(_, deadline) if now >= *deadline => {
                    let ended = self.finished();
                    self.phase = Phase::Gone;
                    return Poll::Ready(ended);
                }
                Phase::Closing(_, deadline) | Phase::Answering(_, deadline) => *deadline,
                _ => match self.keep_alive(cx, now) {
                    Ok(next) => next,
                    Err(ended) => return Poll::Ready(ended),
                },
            };
            self.timer.as_mut().reset(next);
        }
        Poll::Pending
    }

    /// Pings after `keepaliveInterval` of silence, gives up after `keepaliveGracePeriod` more. Returns when to look again.
    fn keep_alive(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Instant, Ended> {
        let settings = self.settings.clone();
        let interval = Duration::from_millis(settings.keepalive_interval);
        if !settings.keepalive || settings.use_native_keepalive {
            return Ok(now + Duration::from_secs(24 * 3600));
        }
        if self.held {
            self.heard = now;
            self.pinged = None;
        }
        if let Some(pinged) = self.pinged
            && settings.drop_connection_on_keepalive_timeout
        {
            let until = pinged + Duration::from_millis(settings.keepalive_grace_period);
            if now < until {
                return Ok(until.min(now + interval));
            }
            self.phase = Phase::Gone;
            return Err(Ended::new(1006, "Peer not responding."));
        }
        if now < self.heard + interval {
            return Ok(self.heard + interval);
        }
        if matches!(self.phase, Phase::Open) {
            self.start_send(Message::Ping(Bytes::new()))?;
            self.poll_write(cx)?;
        }
        self.pinged = Some(now);
        let grace = Duration::from_millis(settings.keepalive_grace_period);
        // Data in the meantime starts the interval anew, and it may be the shorter of the two.
        Ok(now + if settings.drop_connection_on_keepalive_timeout { grace.min(interval) } else { interval })
    }

    /// The close handshake is complete.
    fn finished(&mut self) -> Ended {
        match &self.phase {
            Phase::Answering(ended, _) => ended.clone(),
            Phase::Closing(order, _) => Ended::new(order.code, order.reason),
            Phase::Open | Phase::Failed(..) | Phase::Gone => Ended::dropped(),
        }
    }

    fn fail(&mut self, error: WsError) -> Ended {
        let code = match &error {
            WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) | WsError::Io(_) => None,
            WsError::ConnectionClosed | WsError::AlreadyClosed => None,
            WsError::Capacity(_) => Some(CloseCode::Size),
            WsError::Utf8(_) => Some(CloseCode::Invalid),
            _ => Some(CloseCode::Protocol),
        };
        let ended = match (&self.phase, code) {
            (Phase::Open, Some(code)) => {
                let reason = error.to_string();
                self.phase = Phase::Failed(code, reason.clone());
                return Ended::new(code.into(), reason);
            }
            _ => self.finished(),
        };
        self.phase = Phase::Gone;
        ended
    }
}

/// A close frame has room for 123 bytes of reason (RFC 6455, section 5.5).
fn short(reason: &str) -> &str {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}
