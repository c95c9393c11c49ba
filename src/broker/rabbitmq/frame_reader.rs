//! AMQP 0-9-1 frames (section 4.2.3): what is per message by hand, everything else through lapin's protocol types.

use bytes::{Buf, Bytes, BytesMut};
use lapin::protocol::{AMQPClass, channel, gen_class, parse_class};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::broker::FRAME_EXTRA;
use crate::message::{Delivery, Envelope, OutboundMessage, Route};

pub const METHOD: u8 = 1;
pub const HEADER: u8 = 2;
pub const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// Class and method of basic.deliver, as its payload begins.
pub const BASIC_DELIVER: [u8; 4] = [0, 60, 0, 60];
const END: u8 = 0xce;
/// Type, channel and size.
const FRAME_HEAD: usize = 7;
/// Bytes of a content header that is read. The broker does not hold one to frame_max: its publisher may have agreed on larger
/// frames, and quorum queues add a header to what they deliver again.
const HEADER_MAX: usize = 16 * 1024 * 1024;

/// Room that is kept for reading; one read brings no more than that.
const READ_ROOM: usize = 64 * 1024;

/// Why a connection's bytes cannot be read on.
#[derive(Debug)]
pub enum Broken {
    Io(std::io::Error),
    /// Not AMQP, or more than was agreed.
    Malformed(&'static str),
    /// The broker has closed the connection, or a channel without which there is nothing to be done.
    Closed {
        code: u16,
        text: String,
    },
    /// What is found on this side, such as heartbeats that do not come.
    Unusable(String),
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Broken::Io(error)
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Io(error) => error.fmt(f),
            Broken::Malformed(what) => write!(f, "the broker sent {what}"),
            Broken::Closed { text, .. } => f.write_str(text),
            Broken::Unusable(what) => f.write_str(what),
        }
    }
}

/// One frame in the read buffer: where it lies, not what it says.
#[derive(Clone, Copy, Debug)]
pub struct FrameSpan {
    pub kind: u8,
    pub channel: u16,
    /// The payload's place.
    start: usize,
    end: usize,
}

impl FrameSpan {
    /// The first octet behind the frame.
    fn next(&self) -> usize {
        self.end + 1
    }
}

/// The reading end of a connection: bytes as they came, from which frames are taken in place.
pub struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    frame_max: usize,
    /// Bytes that must be there before it is worth looking again: a large message comes in many reads.
    wanted: usize,
}

impl<R> FrameReader<R> {
    /// The stream, and what is read from another in its place goes on where this stops.
    pub fn into_parts(self) -> (R, FrameReader<()>) {
        let FrameReader { stream, buffer, frame_max, wanted } = self;
        (stream, FrameReader { stream: (), buffer, frame_max, wanted })
    }

    pub fn with_stream<S>(self, stream: S) -> FrameReader<S> {
        let FrameReader { buffer, frame_max, wanted, .. } = self;
        FrameReader { stream, buffer, frame_max, wanted }
    }
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(stream: R, frame_max: usize) -> Self {
        FrameReader { stream, buffer: BytesMut::new(), frame_max, wanted: 0 }
    }

    pub fn set_frame_max(&mut self, bytes: usize) {
        self.frame_max = bytes;
    }

    /// Reads more. Safe to be dropped at any time: what has been read is in the buffer.
    pub async fn fill(&mut self) -> Result<(), Broken> {
        let missing = self.wanted.saturating_sub(self.buffer.len());
        self.buffer.reserve(missing.clamp(READ_ROOM / 4, READ_ROOM));
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        Ok(())
    }

    /// The frame at `start`, if it is complete.
    fn frame(&self, start: usize) -> Result<Option<FrameSpan>, Broken> {
        let Some(mut head) = self.buffer.get(start..start + FRAME_HEAD) else { return Ok(None) };
        let (kind, channel, size) = (head.get_u8(), head.get_u16(), head.get_u32() as usize);
        let limit = if kind == HEADER { HEADER_MAX } else { self.frame_max };
        if size > limit - FRAME_EXTRA.min(limit) {
            return Err(Broken::Malformed("a frame above frame_max, or something that is not AMQP 0-9-1"));
        }
        let payload = start + FRAME_HEAD;
        match self.buffer.get(payload + size) {
            None => Ok(None),
            Some(&END) => Ok(Some(FrameSpan { kind, channel, start: payload, end: payload + size })),
            Some(_) => Err(Broken::Malformed("a frame without its end octet")),
        }
    }

    /// What has been read and not taken.
    pub fn unread(&self) -> &[u8] {
        &self.buffer
    }

    /// Takes the first frame's payload out of the buffer; for control traffic.
    pub fn take_frame(&mut self) -> Result<Option<(u8, u16, Bytes)>, Broken> {
        let Some(frame) = self.frame(0)? else { return Ok(None) };
        let mut bytes = self.buffer.split_to(frame.next());
        bytes.advance(frame.start);
        bytes.truncate(frame.end - frame.start);
        Ok(Some((frame.kind, frame.channel, bytes.freeze())))
    }

    /// Kind and payload of the frame at an offset of the buffer, which moves behind it; None while the frame is not complete.
    /// The buffer stays as it is.
    pub fn peek_frame(&self, at: &mut usize) -> Result<Option<(u8, &[u8])>, Broken> {
        let Some(frame) = self.frame(*at)? else { return Ok(None) };
        *at = frame.next();
        Ok(Some((frame.kind, self.buffer.get(frame.start..frame.end).unwrap_or_default())))
    }

    /// Whether the first frame is a basic.deliver; None while it is not complete.
    pub fn is_delivery(&self) -> Result<Option<bool>, Broken> {
        let Some(frame) = self.frame(0)? else { return Ok(None) };
        let method = self.buffer.get(frame.start..frame.start + 4);
        Ok(Some(frame.kind == METHOD && method == Some(&BASIC_DELIVER)))
    }

    /// The delivery that the buffer begins with, once all its frames are there. `route` names the consumer by its channel.
    pub fn take_delivery(
        &mut self,
        session: u32,
        route: impl Fn(u16) -> Option<Route>,
    ) -> Result<Option<Delivery>, Broken> {
        if self.buffer.len() < self.wanted {
            return Ok(None);
        }
        let Some(method) = self.frame(0)? else { return Ok(None) };
        let Some(header) = self.frame(method.next())? else { return Ok(None) };
        let malformed = || Broken::Malformed("a delivery that cannot be read");
        let content = self.buffer.get(header.start..header.end).unwrap_or_default();
        if header.kind != HEADER || content.len() < 14 {
            return Err(malformed());
        }
        let size = usize::try_from((&content[4..12]).get_u64()).map_err(|_| malformed())?;
        let mut end = header.next();
        let mut first = None;
        let mut left = size;
        while left > 0 {
            let Some(body) = self.frame(end)? else {
                self.wanted = end.saturating_add(left).saturating_add(FRAME_EXTRA);
                return Ok(None);
            };
            let length = body.end - body.start;
            if body.kind != BODY || length > left || length == 0 {
                return Err(malformed());
            }
            left -= length;
            end = body.next();
            first.get_or_insert(body);
        }
        self.wanted = 0;

        let bytes = self.buffer.split_to(end).freeze();
        let body = match first {
            None => Bytes::new(),
            Some(body) if body.end - body.start == size => bytes.slice(body.start..body.end),
            Some(body) => join_bodies(&bytes[body.start - FRAME_HEAD..], size),
        };
        // Class, method, consumer tag; then the delivery tag, the redelivered bit, exchange and routing key. The consumer
        // tag's length must not lead out of the frame.
        let arguments = &bytes[method.start..method.end];
        let tag_at = 5 + usize::from(*arguments.get(4).ok_or_else(malformed)?);
        let Some(mut fixed) = arguments.get(tag_at..tag_at + 9) else { return Err(malformed()) };
        let (tag, redelivered) = (fixed.get_u64(), fixed.get_u8() & 1 != 0);
        let names = method.start + tag_at + 9;
        let envelope = bytes.slice(names..header.end);
        let properties = header.start + 12 - names;
        let route = route(method.channel).ok_or_else(malformed)?;
        let envelope = Envelope { bytes: envelope, properties };
        Ok(Some(Delivery { route, redelivered, repeated: false, tag, session, envelope, body }))
    }
}

/// A body of several frames, which lie one behind the other and have been checked.
fn join_bodies(mut frames: &[u8], size: usize) -> Bytes {
    let mut body = BytesMut::with_capacity(size);
    while body.len() < size && frames.len() > FRAME_EXTRA {
        let length = (&frames[3..7]).get_u32() as usize;
        body.extend_from_slice(&frames[FRAME_HEAD..FRAME_HEAD + length]);
        frames.advance(length + FRAME_EXTRA);
    }
    body.freeze()
}

/// A method from the broker, through lapin's protocol types.
pub fn parse_method(payload: &[u8]) -> Result<AMQPClass, Broken> {
    match parse_class(payload) {
        Ok((_, class)) => Ok(class),
        Err(_) => Err(Broken::Malformed("a method that cannot be read")),
    }
}

/// channel.close without a complaint.
pub fn close_channel() -> AMQPClass {
    let close = channel::Close { reply_code: 200, reply_text: "OK".into(), class_id: 0, method_id: 0 };
    AMQPClass::Channel(channel::AMQPMethod::Close(close))
}

/// A whole method frame.
pub fn method_frame(channel: u16, class: &AMQPClass) -> Vec<u8> {
    let mut frame = vec![METHOD];
    frame.extend_from_slice(&channel.to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    // Writing to memory cannot fail; an empty payload would be answered by the broker with FRAME_ERROR.
    let payload = gen_class(class)(Vec::<u8>::new().into()).map(|context| context.write).unwrap_or_default();
    frame.extend_from_slice(&payload);
    let size = payload.len() as u32;
    frame[3..7].copy_from_slice(&size.to_be_bytes());
    frame.push(END);
    frame
}

pub const HEARTBEAT_FRAME: [u8; 8] = [HEARTBEAT, 0, 0, 0, 0, 0, 0, END];

/// basic.ack of a delivery, or of all up to it.
pub fn ack_frame(channel: u16, tag: u64, multiple: bool) -> [u8; 21] {
    settling_frame(channel, 80, tag, multiple.into())
}

/// basic.nack of a delivery: back to its queue, or out of it.
pub fn nack_frame(channel: u16, tag: u64, requeue: bool) -> [u8; 21] {
    settling_frame(channel, 120, tag, if requeue { 2 } else { 0 })
}

fn settling_frame(channel: u16, method: u8, tag: u64, bits: u8) -> [u8; 21] {
    let mut frame = [0; 21];
    frame[0] = METHOD;
    frame[1..3].copy_from_slice(&channel.to_be_bytes());
    frame[6] = 13;
    frame[7..11].copy_from_slice(&[0, 60, 0, method]);
    frame[11..19].copy_from_slice(&tag.to_be_bytes());
    frame[19] = bits;
    frame[20] = END;
    frame
}

/// basic.publish to one exchange with one routing key: the method frame, made once, and the start of the content header.
pub struct PublishTemplate {
    frames: Box<[u8]>,
    channel: u16,
    /// Begins the ids of messages that have one.
    prefix: Box<str>,
}

impl PublishTemplate {
    /// A `mandatory` message comes back when there is no queue for it (basic.return).
    pub fn new(channel: u16, (exchange, routing_key): (&str, &str), mandatory: bool, prefix: &str) -> Self {
        let mut frames = vec![METHOD];
        frames.extend_from_slice(&channel.to_be_bytes());
        let size = 9 + exchange.len() + routing_key.len();
        frames.extend_from_slice(&(size as u32).to_be_bytes());
        frames.extend_from_slice(&[0, 60, 0, 40, 0, 0]);
        for name in [exchange, routing_key] {
            frames.push(name.len() as u8);
            frames.extend_from_slice(name.as_bytes());
        }
        frames.extend_from_slice(&[u8::from(mandatory), END, HEADER]);
        frames.extend_from_slice(&channel.to_be_bytes());
        debug_assert_eq!(frames[frames.len() - 4], END);
        PublishTemplate { frames: frames.into(), channel, prefix: prefix.into() }
    }

    /// Appends all the frames of a message.
    pub fn write(&self, out: &mut Vec<u8>, message: &OutboundMessage, frame_max: usize) {
        let properties = &message.properties;
        let body = &message.body;
        out.reserve(self.frames.len() + properties.size() + body.len() + 96);
        out.extend_from_slice(&self.frames);
        let size_at = out.len();
        out.extend_from_slice(&[0, 0, 0, 0, 0, 60, 0, 0]);
        out.extend_from_slice(&(body.len() as u64).to_be_bytes());
        properties.write(out, &self.prefix, message.id);
        let size = (out.len() - size_at - 4) as u32;
        out[size_at..size_at + 4].copy_from_slice(&size.to_be_bytes());
        out.push(END);
        for part in body.chunks(frame_max - FRAME_EXTRA) {
            out.push(BODY);
            out.extend_from_slice(&self.channel.to_be_bytes());
            out.extend_from_slice(&(part.len() as u32).to_be_bytes());
            out.extend_from_slice(part);
            out.push(END);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = (payload.len() as u32).to_be_bytes();
        [&[kind, 0, 1], &size[..], payload, &[END]].concat()
    }

    /// What a broker sends for a body of two bytes, with this basic.deliver.
    async fn read(deliver: &[u8]) -> Result<Option<Delivery>, Broken> {
        let header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0];
        let stream = [frame(METHOD, deliver), frame(HEADER, &header), frame(BODY, b"ab")].concat();
        let mut reader = FrameReader::new(&stream[..], 131_072);
        reader.fill().await?;
        assert_eq!(reader.is_delivery()?, Some(true));
        reader.take_delivery(0, |_| Some(Route::Message))
    }

    #[tokio::test]
    async fn a_consumer_tag_that_leads_out_of_its_frame_is_a_broken_delivery() {
        let good = [&[0, 60, 0, 60, 1, b'c'], &7_u64.to_be_bytes()[..], &[1, 1, b'e', 1, b'k']].concat();
        let delivery = read(&good).await.unwrap().unwrap();
        assert_eq!((delivery.tag, delivery.redelivered, delivery.exchange()), (7, true, "e"));
        assert_eq!((delivery.routing_key(), &delivery.body[..]), ("k", &b"ab"[..]));
        for length in 0..=255 {
            let mut longer = good.clone();
            longer[4] = length;
            let read = read(&longer).await;
            let inside = usize::from(length) + 5 + 9 <= good.len();
            assert_eq!(read.is_ok(), inside, "{length}");
        }
        for end in 4..good.len() {
            assert_eq!(read(&good[..end]).await.is_ok(), end >= 15, "{end}");
        }
    }

    #[tokio::test]
    async fn a_content_header_may_be_larger_than_the_frames_that_were_agreed_on() {
        const FRAME_MAX: usize = 4096;
        let deliver = [&[0, 60, 0, 60, 1, b'c'], &7_u64.to_be_bytes()[..], &[0, 1, b'e', 1, b'k']].concat();
        // Flags that announce a content type, one byte long, and as many bytes behind it as it takes.
        let header = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x80, 0, 1, b't'][..], &[0; 2 * FRAME_MAX]].concat();
        let body = vec![b'b'; FRAME_MAX];
        let stream = [frame(METHOD, &deliver), frame(HEADER, &header), frame(BODY, b"ab"), frame(BODY, &body)].concat();
        let mut reader = FrameReader::new(&stream[..], FRAME_MAX);
        let delivery = loop {
            match reader.take_delivery(0, |_| Some(Route::Message)).unwrap() {
                Some(delivery) => break delivery,
                None => reader.fill().await.unwrap(),
            }
        };
        assert_eq!((delivery.content_type(), &delivery.body[..]), ("t", &b"ab"[..]));
        assert!(matches!(reader.take_frame(), Err(Broken::Malformed(_))), "a body is held to frame_max");
    }
}
