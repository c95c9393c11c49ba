//! As much of AMQP 0-9-1 as is needed here: frames are written and read in place.

use std::io;

pub const FRAME_MAX: usize = 131_072;
pub const CHANNEL: u16 = 1;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const END: u8 = 0xCE;
/// Type, channel and size before a payload; the end mark after it.
const HEAD: usize = 7;
const OVERHEAD: usize = HEAD + 1;

const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;

pub const CONNECTION_CLOSE: (u16, u16) = (10, 50);
pub const CHANNEL_CLOSE: (u16, u16) = (20, 40);
const PUBLISH: (u16, u16) = (60, 40);
const DELIVER: (u16, u16) = (60, 60);
const ACK: (u16, u16) = (60, 80);

/// Arguments of a method, and tables.
#[derive(Default)]
pub struct Encoder(pub Vec<u8>);

impl Encoder {
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn octet(self, value: u8) -> Self {
        self.bytes(&[value])
    }

    pub fn short(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub fn long(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// At most 255 bytes, which all names here are.
    pub fn short_text(self, text: &[u8]) -> Self {
        let text = &text[..text.len().min(255)];
        self.octet(text.len() as u8).bytes(text)
    }

    pub fn long_text(self, text: &[u8]) -> Self {
        self.long(text.len() as u32).bytes(text)
    }

    /// A table of strings.
    pub fn table<'a>(mut self, fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let at = self.0.len();
        self = self.long(0);
        for (name, value) in fields {
            self = self.short_text(name).octet(b'S').long_text(value);
        }
        let size = (self.0.len() - at - 4) as u32;
        self.0[at..at + 4].copy_from_slice(&size.to_be_bytes());
        self
    }
}

fn push_frame(out: &mut Vec<u8>, kind: u8, channel: u16, parts: &[&[u8]]) {
    let size: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(size as u32).to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.push(END);
}

/// A whole frame.
pub fn method(channel: u16, (class, method): (u16, u16), arguments: Encoder) -> Vec<u8> {
    let mut frame = Vec::new();
    push_frame(&mut frame, METHOD, channel, &[&class.to_be_bytes(), &method.to_be_bytes(), &arguments.0]);
    frame
}

/// The method frame that starts each publish to one place: the same bytes each time.
pub fn publish_to(exchange: &str, routing_key: &str) -> Vec<u8> {
    let arguments = Encoder::default().short(0).short_text(exchange.as_bytes()).short_text(routing_key.as_bytes());
    method(CHANNEL, PUBLISH, arguments.octet(0))
}

/// Properties as a content header has them: the same bytes for each message of a connection.
pub fn json_properties<'a>(headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    Encoder::default().short(CONTENT_TYPE | HEADERS).short_text(b"application/json").table(headers).0
}

pub fn push_message(out: &mut Vec<u8>, publish: &[u8], properties: &[u8], body: &[u8]) {
    const CLASS_AND_WEIGHT: &[u8] = &[0, 60, 0, 0];
    out.extend_from_slice(publish);
    push_frame(out, HEADER, CHANNEL, &[CLASS_AND_WEIGHT, &(body.len() as u64).to_be_bytes(), properties]);
    for chunk in body.chunks(FRAME_MAX - OVERHEAD) {
        push_frame(out, BODY, CHANNEL, &[chunk]);
    }
}

/// Acknowledges everything up to this one.
pub fn ack(tag: u64) -> Vec<u8> {
    method(CHANNEL, ACK, Encoder::default().bytes(&tag.to_be_bytes()).octet(1))
}

pub struct Frame<'a> {
    pub kind: u8,
    pub payload: &'a [u8],
    /// Of the whole frame.
    pub size: usize,
}

impl Frame<'_> {
    pub fn method(&self) -> Option<(u16, u16)> {
        let mut reader = Reader(self.payload);
        (self.kind == METHOD).then(|| Some((reader.short()?, reader.short()?))).flatten()
    }
}

/// None until it is complete.
pub fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let mut reader = Reader(bytes);
    let (kind, _channel, size) = (reader.octet()?, reader.short()?, reader.long()? as usize);
    let payload = reader.take(size)?;
    reader.octet()?;
    Some(Frame { kind, payload, size: size + OVERHEAD })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.first_chunk().copied()
    }

    fn octet(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn short(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn long(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn long_long(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn short_text(&mut self) -> Option<&'a [u8]> {
        let size = self.octet()?;
        self.take(usize::from(size))
    }

    fn long_text(&mut self) -> Option<&'a [u8]> {
        let size = self.long()?;
        self.take(size as usize)
    }
}

pub struct Delivery<'a> {
    pub consumer: &'a [u8],
    pub tag: u64,
    pub properties: &'a [u8],
    /// The payloads of the body frames, one behind the other but for what stands between frames.
    body: &'a [u8],
    length: usize,
}

impl Delivery<'_> {
    /// The body in its one frame, or collected into `scratch` when it has several.
    pub fn body<'s>(&'s self, scratch: &'s mut Vec<u8>) -> &'s [u8] {
        if let Some(whole) = self.body.get(HEAD..HEAD + self.length)
            && self.body.len() <= self.length + OVERHEAD
        {
            return whole;
        }
        scratch.clear();
        let mut rest = self.body;
        while let Some(frame) = frame(rest) {
            scratch.extend_from_slice(frame.payload);
            rest = &rest[frame.size..];
        }
        scratch
    }
}

pub enum Step<'a> {
    /// A delivery, and how many bytes it takes.
    Delivery(Delivery<'a>, usize),
    /// So many bytes of something that needs no answer.
    Skip(usize),
    /// More bytes are needed.
    Incomplete,
}

/// What stands at the beginning of what the broker sent.
pub fn step(bytes: &[u8]) -> io::Result<Step<'_>> {
    let Some(first) = frame(bytes) else { return Ok(Step::Incomplete) };
    match first.method() {
        Some(DELIVER) => Ok(delivery(bytes, &first).map_or(Step::Incomplete, |(one, size)| Step::Delivery(one, size))),
        Some(CONNECTION_CLOSE | CHANNEL_CLOSE) => Err(closing(&first)),
        _ => Ok(Step::Skip(first.size)),
    }
}

fn delivery<'a>(bytes: &'a [u8], first: &Frame<'a>) -> Option<(Delivery<'a>, usize)> {
    let mut reader = Reader(&first.payload[4..]);
    let (consumer, tag) = (reader.short_text()?, reader.long_long()?);
    let mut size = first.size;
    let header = frame(&bytes[size..])?;
    size += header.size;
    let mut reader = Reader(&header.payload[4..]);
    let length = usize::try_from(reader.long_long()?).unwrap_or(usize::MAX);
    let start = size;
    let mut missing = length;
    while missing > 0 {
        let part = frame(&bytes[size..])?;
        size += part.size;
        missing = missing.saturating_sub(part.payload.len());
    }
    Some((Delivery { consumer, tag, properties: reader.0, body: &bytes[start..size], length }, size))
}

/// What the broker says when it closes a channel or the connection.
pub fn closing(frame: &Frame<'_>) -> io::Error {
    let mut reader = Reader(&frame.payload[4..]);
    let code = reader.short().unwrap_or(0);
    let text = reader.short_text().unwrap_or_default();
    io::Error::other(format!("the broker closed: {code} {}", String::from_utf8_lossy(text)))
}

/// The value of a string among the headers, found without building a table.
pub fn find_header<'a>(properties: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let mut reader = Reader(properties);
    let flags = reader.short()?;
    for flag in [CONTENT_TYPE, CONTENT_ENCODING] {
        if flags & flag != 0 {
            reader.short_text()?;
        }
    }
    if flags & HEADERS == 0 {
        return None;
    }
    let mut fields = Reader(reader.long_text()?);
    loop {
        let name = fields.short_text()?;
        let kind = fields.octet()?;
        if name == wanted && kind == b'S' {
            return fields.long_text();
        }
        match kind {
            b'S' | b'x' | b'A' | b'F' => drop(fields.long_text()?),
            b't' | b'b' | b'B' => drop(fields.take(1)?),
            b's' | b'u' => drop(fields.take(2)?),
            b'I' | b'i' | b'f' => drop(fields.take(4)?),
            b'D' => drop(fields.take(5)?),
            b'l' | b'L' | b'd' | b'T' => drop(fields.take(8)?),
            b'V' => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(body: &[u8]) -> Vec<u8> {
        let arguments = Encoder::default().short_text(b"tag").bytes(&7_u64.to_be_bytes());
        let deliver = method(CHANNEL, DELIVER, arguments.octet(0).short_text(b"x").short_text(b"q"));
        let fields: [(&[u8], &[u8]); 2] = [(b"host", b"here"), (b"k", b"c1")];
        let mut bytes = Vec::new();
        push_message(&mut bytes, &deliver, &json_properties(fields), body);
        bytes
    }

    #[test]
    fn a_delivery_is_read_once_it_is_complete() {
        for length in [0, 1, 200, FRAME_MAX - OVERHEAD, FRAME_MAX, 3 * FRAME_MAX] {
            let body: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let bytes = delivered(&body);
            assert!(matches!(step(&bytes[..bytes.len() - 1]), Ok(Step::Incomplete)));
            let Ok(Step::Delivery(delivery, size)) = step(&bytes) else { panic!("not a delivery") };
            assert_eq!((size, delivery.tag, delivery.consumer), (bytes.len(), 7, &b"tag"[..]));
            assert_eq!(delivery.body(&mut Vec::new()), body);
            assert_eq!(find_header(delivery.properties, b"k"), Some(&b"c1"[..]));
            assert_eq!(find_header(delivery.properties, b"none"), None);
        }
    }
}
