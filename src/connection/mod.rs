//! One WebSocket connection (RFC 6455), generic over its stream.
//!
//! `inbound` says what comes, `frame` encodes what goes, once for one connection or for many, and all that waits goes out in
//! one write. A peer is one task that polls both directions: a browser that does not read is still read from, and one whose
//! messages find no room is still written to. No timer is touched per message.

mod direct_writer;
mod handle;
mod send_progress;
mod socket_buffer;
mod tcp;
mod token_bucket;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::config::{RatePolicy, SocketSettings};
use crate::message::Content;
pub use crate::websocket::close_reason::CloseStatus;
use crate::websocket::close_reason::TOO_SLOW;
pub use crate::websocket::close_reason::{CloseReason, GOING_AWAY, REPLACED, RESTARTING};
use crate::websocket::frame_decoder::{Event, FrameDecoder};
pub use crate::websocket::frame_encoder::Frame;
use direct_writer::DirectWriter;
pub use handle::Handle;
use send_progress::Progress;
pub use send_progress::SendQueue;
use socket_buffer::{Chunk, SocketBuffer};
pub use tcp::{Stream, Tcp};
use token_bucket::TokenBucket;

/// Reads, and messages, taken from one socket before others get their turn.
const READ_BUDGET: usize = 4;
const MESSAGE_BUDGET: usize = 256;
/// Bytes of answers to pings that may wait for a browser that does not read; then the latest one replaces them.
const PONG_BUFFER: usize = 4 * 1024;
/// How long the answers to earlier messages have to go out before our close frame, where the peer has broken the protocol.
///
/// RFC 6455 does not ask for it. The Autobahn suite does in its cases 3 and 4 (an echo, then the close frame), and no browser
/// breaks the protocol, so nobody waits for this. A close frame of the peer, a message that is too large or one that comes
/// too fast are answered at once: a page's `close` event and status 0 would be late by as much, and a browser drops what
/// comes after it has sent its close frame.
const VIOLATION_GRACE: Duration = Duration::from_millis(250);
/// Bytes read and thrown away after a close, so that what was in flight does not turn our close frame into a reset.
const LINGER_BYTES: usize = 1024 * 1024;
/// Keepalive that never comes.
const NEVER: Duration = Duration::from_secs(24 * 3600);
/// The messages come faster than `messageRate`.
const TOO_FAST: CloseReason = CloseReason { code: 1008, reason: "More messages than messageRate allows" };

/// Where a connection's messages go.
pub trait Sink: Send {
    /// Takes one message; called only after `poll_ready` was ready.
    fn take(&mut self, content: Content);
    /// Whether there is room for a message. Until then the socket is not read.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

pub struct Connection<S> {
    stream: SocketBuffer<S>,
    inbound: FrameDecoder,
    /// Control frames to go out before any data.
    control: Vec<u8>,
    /// The message whose fragments go out.
    outgoing: Option<Frame>,
    handle: Arc<Handle>,
    settings: Arc<SocketSettings>,
    phase: Phase,
    /// The socket is not read for want of room: silence says nothing about the browser.
    held: bool,
    /// Where `messageRate` is set.
    allowance: Option<Box<TokenBucket>>,
    /// When `messageRate` lets the socket be read again.
    resume: Option<Instant>,
    /// Bytes read since we said that it ends.
    late: usize,
    heard: Instant,
    /// The last message.
    taken: Option<Instant>,
    pinged: Option<Instant>,
    /// What the peer had left to take when keepalive looked last.
    progress: Progress,
    timer: Pin<Box<Sleep>>,
}

enum Phase {
    Open,
    /// We close it: what waits still goes out, until then, and our close frame after.
    Leaving(CloseReason, Instant),
    /// The peer has broken the protocol: answers to its earlier messages go out until then, and our close frame after.
    Parting(Box<PendingClose>, Instant),
    /// Our close frame goes out; theirs has to come by then.
    Closing(CloseReason, Instant),
    /// The close handshake is complete, but for what `linger` still sends.
    Over,
    /// There is nobody to say anything to.
    Gone,
}

/// The end that the other side brought about.
struct PendingClose {
    ended: CloseStatus,
    /// Our close frame.
    answer: Vec<u8>,
    /// Whether the peer has broken the protocol.
    violation: bool,
}

impl PendingClose {
    /// A close frame is answered with the same code and reason.
    fn answer(frame: Option<(u16, String)>) -> PendingClose {
        let mut answer = Vec::new();
        match &frame {
            Some((code, reason)) => crate::websocket::frame_encoder::write_close(&mut answer, *code, reason),
            None => {
                crate::websocket::frame_encoder::write_control(&mut answer, crate::websocket::frame_encoder::CLOSE, b"")
            }
        }
        PendingClose { ended: CloseStatus::closed(frame.as_ref()), answer, violation: false }
    }
}

impl From<CloseReason> for PendingClose {
    fn from(order: CloseReason) -> PendingClose {
        let mut answer = Vec::new();
        crate::websocket::frame_encoder::write_order(&mut answer, order);
        PendingClose { ended: order.into(), answer, violation: matches!(order.code, 1002 | 1007) }
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        // However it ends, nobody holds its socket any more.
        *self.handle.aside() = DirectWriter::default();
    }
}

impl<S: Stream> Connection<S> {
    /// Takes a stream on which the HTTP upgrade request has been read: writes `response`, then speaks WebSocket. `head`
    /// is what came behind the request.
    pub async fn open(
        mut stream: S,
        response: Vec<u8>,
        head: Vec<u8>,
        handle: Arc<Handle>,
        settings: Arc<SocketSettings>,
    ) -> Option<Connection<S>> {
        let patience = Duration::from_millis(settings.close_timeout);
        let answer = async {
            stream.write_all(&response).await?;
            stream.flush().await
        };
        if !matches!(timeout(patience, answer).await, Ok(Ok(()))) {
            return None;
        }
        let now = Instant::now();
        let first = now + Duration::from_millis(settings.keepalive_interval);
        handle.aside().socket = stream.shared();
        Some(Connection {
            stream: SocketBuffer::new(stream, head),
            inbound: FrameDecoder::new(settings.max_received_frame_size, settings.max_received_message_size),
            control: Vec::new(),
            outgoing: None,
            handle,
            allowance: settings.message_rate.as_ref().map(|rate| Box::new(TokenBucket::new(rate, now))),
            settings,
            phase: Phase::Open,
            held: false,
            resume: None,
            late: 0,
            heard: now,
            taken: None,
            pinged: None,
            progress: Progress::default(),
            timer: Box::pin(sleep_until(first)),
        })
    }

    /// Carries messages both ways until the connection ends. Says why it did, and how many frames were left behind.
    pub async fn run(&mut self, sink: &mut impl Sink) -> (CloseStatus, usize) {
        let ended = poll_fn(|cx| self.poll(cx, sink)).await;
        // The rest of a frame that another thread began has to go out before our close frame.
        let rest = std::mem::take(&mut *self.handle.aside()).rest;
        if !rest.is_empty() {
            self.stream.put_unsent(rest);
        }
        // Whoever still sends is told so from here on.
        self.handle.outbox.close();
        (ended, self.handle.outbox.clear())
    }

    /// Ends the connection in good order: what is still to be said, FIN, and a while for the other side's FIN.
    pub async fn linger(mut self) {
        if matches!(self.phase, Phase::Gone) {
            return;
        }
        let patience = Duration::from_millis(self.settings.close_timeout);
        let Connection { stream, control, .. } = &mut self;
        let mut last = (!control.is_empty()).then(|| std::mem::take(control).into());
        let _ = timeout(patience, async {
            poll_fn(|cx| stream.poll_send(cx, || last.take())).await.ok()?;
            poll_fn(|cx| stream.poll_shutdown(cx)).await.ok()?;
            let mut seen = 0;
            while seen < LINGER_BYTES {
                let mut chunk = poll_fn(|cx| stream.poll_chunk(cx)).await.ok()??;
                seen += chunk.bytes().len();
                chunk.keep(0);
                stream.put_back(chunk);
            }
            Some(())
        })
        .await;
    }

    fn poll(&mut self, cx: &mut Context<'_>, sink: &mut impl Sink) -> Poll<CloseStatus> {
        match self.poll_read(cx, sink).and_then(|()| self.poll_write(cx)) {
            Ok(()) => self.poll_timer(cx),
            Err(ended) => Poll::Ready(ended),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, sink: &mut impl Sink) -> Result<(), CloseStatus> {
        let mut budget = MESSAGE_BUDGET;
        for _ in 0..READ_BUDGET {
            if budget == 0 {
                break;
            }
            if !matches!(self.phase, Phase::Open | Phase::Leaving(..) | Phase::Closing(..)) || self.poll_held(cx, sink)
            {
                return Ok(());
            }
            let mut chunk = match self.stream.poll_chunk(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(Some(chunk))) => chunk,
                Poll::Ready(Ok(None) | Err(_)) => return Err(self.lost()),
            };
            self.heard = Instant::now();
            self.pinged = None;
            if matches!(self.phase, Phase::Closing(..)) {
                self.late += chunk.bytes().len();
            }
            let farewell = self.read(cx, sink, &mut chunk, &mut budget);
            self.stream.put_back(chunk);
            match farewell {
                None => (),
                Some(farewell) if matches!(self.phase, Phase::Open | Phase::Leaving(..)) => self.part(farewell)?,
                // Their answer to our close, or nonsense in its place, says nothing new.
                Some(_) => return Err(self.over()),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Takes what is in `chunk` as far as there is room for it, up to the end of the connection.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut impl Sink,
        chunk: &mut Chunk,
        budget: &mut usize,
    ) -> Option<PendingClose> {
        let mut input = chunk.bytes();
        let farewell = loop {
            match self.inbound.next(&mut input) {
                Ok(None) => break None,
                Ok(Some(Event::Message(content))) => {
                    self.taken = Some(self.heard);
                    if !self.allow(&content) {
                        break Some(TOO_FAST.into());
                    }
                    sink.take(content);
                    *budget = budget.saturating_sub(1);
                    if *budget == 0 || self.poll_held(cx, sink) {
                        break None;
                    }
                }
                Ok(Some(Event::Ping(payload))) => self.pong(&payload),
                Ok(Some(Event::Pong)) => (),
                Ok(Some(Event::Close(frame))) => break Some(PendingClose::answer(frame)),
                Err(order) => break Some(order.into()),
            }
        };
        let rest = if farewell.is_some() { 0 } else { input.len() };
        chunk.keep(rest);
        farewell
    }

    /// Whether the socket must not be read for the moment.
    fn poll_held(&mut self, cx: &mut Context<'_>, sink: &mut impl Sink) -> bool {
        self.held = sink.poll_ready(cx).is_pending() || self.too_fast();
        self.held
    }

    fn too_fast(&mut self) -> bool {
        let (Some(allowance), Some(rate)) = (&mut self.allowance, &self.settings.message_rate) else { return false };
        if rate.policy != RatePolicy::Slow {
            return false;
        }
        match self.phase {
            Phase::Open | Phase::Leaving(..) => (),
            // The answer to our close stands behind what was held back, and may be read for that; but no more than that.
            Phase::Closing(..) => return self.late > LINGER_BYTES,
            _ => return false,
        }
        let now = Instant::now();
        self.resume = allowance.wait(rate, now).map(|wait| now + wait);
        if let Some(resume) = self.resume
            && resume < self.timer.deadline()
        {
            self.timer.as_mut().reset(resume);
        }
        self.resume.is_some()
    }

    /// Counts a message. False where it is one too many.
    fn allow(&mut self, content: &Content) -> bool {
        let (Some(allowance), Some(rate)) = (&mut self.allowance, &self.settings.message_rate) else { return true };
        if rate.policy == RatePolicy::Close && allowance.wait(rate, self.heard).is_some() {
            return false;
        }
        let (Content::Text(bytes) | Content::Binary(bytes)) = content;
        allowance.take(bytes.len());
        true
    }

    fn pong(&mut self, payload: &[u8]) {
        // Nothing goes out behind our close frame.
        if matches!(self.phase, Phase::Open | Phase::Leaving(..)) {
            if self.control.len() + payload.len() > PONG_BUFFER {
                self.control.clear();
            }
            crate::websocket::frame_encoder::write_control(
                &mut self.control,
                crate::websocket::frame_encoder::PONG,
                payload,
            );
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), CloseStatus> {
        let handle = self.handle.clone();
        let mut aside = handle.aside();
        aside.free = false;
        if !aside.rest.is_empty() {
            self.stream.put_unsent(std::mem::take(&mut aside.rest));
        }
        self.poll_write_all(cx)?;
        let begun = self.stream.has_unsent() || self.outgoing.is_some() || !self.control.is_empty();
        aside.free = matches!(self.phase, Phase::Open) && !begun;
        Ok(())
    }

    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Result<(), CloseStatus> {
        loop {
            let Connection { stream, control, outgoing, handle, .. } = self;
            let outbox = &handle.outbox;
            let open = matches!(self.phase, Phase::Open | Phase::Leaving(..) | Phase::Parting(..));
            let sent = stream.poll_send(cx, || {
                if !control.is_empty() {
                    return Some(std::mem::take(control).into());
                }
                if !open {
                    return None;
                }
                let piece = outgoing.as_mut().and_then(Frame::next_piece);
                piece.or_else(|| {
                    *outgoing = outbox.try_pop();
                    outgoing.as_mut().and_then(Frame::next_piece)
                })
            });
            match sent {
                Poll::Ready(Ok(())) => (),
                Poll::Ready(Err(_)) => return Err(self.lost()),
                Poll::Pending => {
                    // Whoever does not read must not keep an order to close from being carried out.
                    if open
                        && !matches!(self.phase, Phase::Leaving(..))
                        && let Poll::Ready(order) = self.handle.poll_order(cx)
                    {
                        self.leave(cx, order)?;
                    }
                    return Ok(());
                }
            }
            if !open {
                return Ok(());
            }
            match self.handle.outbox.poll_ready(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(true) => (),
                Poll::Ready(false) => self.obey(cx, self.handle.order())?,
            }
        }
    }

    /// The socket is full when the order comes: what waits goes out first, where it may.
    fn leave(&mut self, cx: &mut Context<'_>, order: CloseReason) -> Result<(), CloseStatus> {
        if order == TOO_SLOW || !matches!(self.phase, Phase::Open) {
            return self.obey(cx, order);
        }
        cx.waker().wake_by_ref();
        self.phase = Phase::Leaving(order, self.deadline());
        Ok(())
    }

    /// Nothing more goes out but a close frame.
    fn obey(&mut self, cx: &mut Context<'_>, order: CloseReason) -> Result<(), CloseStatus> {
        if let Phase::Parting(..) = self.phase {
            return Err(self.over());
        }
        // The peer's answer is read although `messageRate` may have held the socket back.
        cx.waker().wake_by_ref();
        crate::websocket::frame_encoder::write_order(&mut self.control, order);
        self.phase = Phase::Closing(order, self.deadline());
        Ok(())
    }

    /// The other side has ended it: nothing more is read. The connection ends at once, and `linger` sends our close frame,
    /// so that its status waits for no socket that is full.
    fn part(&mut self, farewell: PendingClose) -> Result<(), CloseStatus> {
        let until = match self.taken {
            Some(taken) if farewell.violation => taken + VIOLATION_GRACE,
            _ => self.heard,
        };
        self.phase = Phase::Parting(Box::new(farewell), until);
        if until <= self.heard {
            return Err(self.over());
        }
        self.timer.as_mut().reset(until);
        Ok(())
    }

    /// From here on the timer is for the end of the connection.
    fn deadline(&mut self) -> Instant {
        let deadline = Instant::now() + Duration::from_millis(self.settings.close_timeout);
        self.timer.as_mut().reset(deadline);
        deadline
    }

    /// One timer a connection, for whatever comes first; data only moves `heard`, never the timer.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<CloseStatus> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let next = match &self.phase {
                Phase::Closing(_, deadline) if now >= *deadline => return Poll::Ready(self.lost()),
                Phase::Closing(_, deadline) => *deadline,
                Phase::Parting(_, until) | Phase::Leaving(_, until) if now < *until => *until,
                Phase::Parting(..) | Phase::Leaving(..) => {
                    match self.obey(cx, self.handle.order()).and_then(|()| self.poll_write(cx)) {
                        Ok(()) => continue,
                        Err(ended) => return Poll::Ready(ended),
                    }
                }
                _ => match self.look(cx, now) {
                    Ok(next) => next,
                    Err(ended) => return Poll::Ready(ended),
                },
            };
            self.timer.as_mut().reset(next);
        }
        Poll::Pending
    }

    /// The timer of an open connection; returns when to look again.
    fn look(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Instant, CloseStatus> {
        let next = self.keep_alive(cx, now)?;
        match self.resume {
            Some(resume) if now < resume => Ok(next.min(resume)),
            Some(_) => {
                self.resume = None;
                cx.waker().wake_by_ref();
                Ok(next)
            }
            None => Ok(next),
        }
    }

    /// Pings after `keepaliveInterval` of silence, gives up after `keepaliveGracePeriod` more. What the peer takes counts as
    /// much as what it sends: a ping behind a large message on a slow line cannot be answered before that has arrived.
    fn keep_alive(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Instant, CloseStatus> {
        let settings = self.settings.clone();
        let interval = Duration::from_millis(settings.keepalive_interval);
        if !settings.keepalive || settings.use_native_keepalive {
            return Ok(now + NEVER);
        }
        let grace = Duration::from_millis(settings.keepalive_grace_period);
        let taking = self.progress.advance(Progress::of(&self.stream));
        if self.held || taking {
            self.heard = now;
            self.pinged = None;
        }
        // Progress is noticed this much late at most, and a peer that is gone is dropped as much later.
        let soon = now + interval.min(grace) / 4;
        if let Some(pinged) = self.pinged
            && settings.drop_connection_on_keepalive_timeout
        {
            let until = pinged + grace;
            if now < until {
                return Ok(until.min(soon));
            }
            self.phase = Phase::Gone;
            return Err(CloseStatus::silent());
        }
        let due = self.heard + interval;
        if now < due {
            return Ok(if self.progress.is_waiting() { due.min(soon) } else { due });
        }
        crate::websocket::frame_encoder::write_control(&mut self.control, crate::websocket::frame_encoder::PING, b"");
        self.poll_write(cx)?;
        self.pinged = Some(now);
        Ok(if settings.drop_connection_on_keepalive_timeout { soon } else { now + interval })
    }

    /// The close handshake is complete.
    fn over(&mut self) -> CloseStatus {
        self.end(Phase::Over)
    }

    /// The other side is gone, or does not do its part of the close handshake.
    fn lost(&mut self) -> CloseStatus {
        self.end(Phase::Gone)
    }

    fn end(&mut self, phase: Phase) -> CloseStatus {
        match std::mem::replace(&mut self.phase, phase) {
            Phase::Parting(farewell, _) => {
                self.control.extend_from_slice(&farewell.answer);
                farewell.ended
            }
            Phase::Leaving(order, _) | Phase::Closing(order, _) => order.into(),
            Phase::Open | Phase::Over | Phase::Gone => CloseStatus::dropped(),
        }
    }
}
