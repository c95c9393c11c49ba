//! Messages as values: header tables, their JSON, content types, and what a frame is made of.

pub mod key_template;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

pub use crate::amqp::header_interner::HeaderInterner;
pub use crate::amqp::headers::{Headers, Value, write_hex, write_json_text};
pub use crate::amqp::properties::{MessageId, Properties};
use crate::queue::byte_queue::Weight;

pub const JSON: &str = "application/json";
pub const OCTETS: &str = "application/octet-stream";

/// The message id within encoded properties; empty where there is none.
pub fn message_id(encoded: &[u8]) -> &str {
    crate::amqp::table::EncodedProperties::read(encoded).message_id().0
}

/// What node-amqp calls a JSON body: receivers parse it.
pub fn is_json(content_type: &str) -> bool {
    matches!(content_type, JSON | "text/json")
}

/// Which of the three exchanges a message is for or came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Browser to worker.
    Receive,
    /// Connection status to worker.
    Status,
    /// Worker to browser.
    Message,
}

/// A message on its way to the broker.
#[derive(Clone)]
pub struct OutboundMessage {
    pub route: Route,
    pub properties: Arc<Properties>,
    pub body: Bytes,
    pub id: MessageId,
}

impl OutboundMessage {
    pub fn new(route: Route, properties: Arc<Properties>, body: Bytes) -> Self {
        OutboundMessage { route, properties, body, id: MessageId::default() }
    }
}

/// Bytes that a message takes in a queue beside its own, measured.
const SLOT: usize = 192;

impl Weight for OutboundMessage {
    fn weight(&self) -> usize {
        // The messages of a connection share its properties, which its statuses stand for here; those of a worker may have
        // properties of their own each.
        let own = if self.route == Route::Receive { 0 } else { self.properties.size() };
        self.body.len() + own + SLOT
    }
}

/// A message that the broker gave us.
#[derive(Clone)]
pub struct Delivery {
    pub route: Route,
    /// The broker has delivered it before.
    pub redelivered: bool,
    /// Its publisher says that it may have come before.
    pub repeated: bool,
    /// The channel's delivery tag, for the acknowledgement.
    pub tag: u64,
    /// The session that the tag counts in.
    pub session: u32,
    pub envelope: Envelope,
    pub body: Bytes,
}

/// Where a delivery came from and what travels beside it, in the form in which RabbitMQ has it; read only as far as somebody
/// asks.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Exchange and routing key as shortstr, and from `properties` on the property flags and list.
    pub bytes: Bytes,
    pub properties: usize,
}

impl Envelope {
    /// `write` appends the properties.
    pub fn new(exchange: &str, routing_key: &str, write: impl FnOnce(&mut Vec<u8>)) -> Envelope {
        let mut bytes = Vec::with_capacity(256);
        for name in [exchange, routing_key] {
            crate::amqp::table::write_short(&mut bytes, &name.as_bytes()[..name.len().min(255)]);
        }
        let properties = bytes.len();
        write(&mut bytes);
        Envelope { bytes: bytes.into_boxed_slice().into(), properties }
    }
}

impl Delivery {
    pub fn exchange(&self) -> &str {
        short_text(&self.envelope.bytes, 0)
    }

    pub fn routing_key(&self) -> &str {
        let bytes = &self.envelope.bytes;
        let exchange = bytes.first().copied().unwrap_or(0);
        short_text(bytes, 1 + usize::from(exchange))
    }

    fn properties(&self) -> crate::amqp::table::EncodedProperties<'_> {
        let Envelope { bytes, properties } = &self.envelope;
        crate::amqp::table::EncodedProperties::read(bytes.get(*properties..).unwrap_or_default())
    }

    /// The publisher's id for it; empty where it gave none.
    pub fn message_id(&self) -> &str {
        self.properties().message_id().0
    }

    /// Whether the properties say that it was published before.
    pub fn is_marked(&self) -> bool {
        self.properties().message_id().1
    }

    /// Empty where the sender gave none.
    pub fn content_type(&self) -> &str {
        self.properties().content_type
    }

    /// The entries of the header table, encoded: equal bytes are equal headers.
    pub fn header_table(&self) -> &[u8] {
        self.properties().table()
    }

    /// Name and encoded value of each header, up to the first that cannot be read.
    pub fn header_fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.properties().fields()
    }

    /// And whether these are all: a header that cannot be read is left out.
    pub fn headers_json(&self) -> (String, bool) {
        self.properties().headers_json()
    }

    /// Those that can be read.
    pub fn headers(&self) -> Headers {
        self.properties().headers().0
    }

    pub fn header(&self, name: &str) -> Option<Value> {
        self.properties().header(name)
    }

    /// A header that is text, found without building anything.
    pub fn text_header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.properties().text_header(name)
    }

    /// What the worker sent, as a frame's content: a JSON string is the string itself, octets are binary, and whatever
    /// is not UTF-8 is binary too, since a text frame could not carry it (RFC 6455, section 8.1).
    pub fn content(&self) -> Content {
        let content_type = self.content_type();
        if content_type == OCTETS {
            return Content::Binary(self.body.clone());
        }
        if is_json(content_type)
            && first_byte(&self.body) == Some(b'"')
            && let Ok(text) = serde_json::from_slice::<String>(&self.body)
        {
            return Content::Text(text.into());
        }
        Content::Text(self.body.clone())
    }
}

/// The shortstr at `start`; what is not there or not UTF-8 is empty.
fn short_text(bytes: &[u8], start: usize) -> &str {
    let length = bytes.get(start).copied().unwrap_or(0);
    let text = bytes.get(start + 1..start + 1 + usize::from(length)).unwrap_or_default();
    std::str::from_utf8(text).unwrap_or("")
}

fn first_byte(body: &[u8]) -> Option<u8> {
    body.iter().copied().find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
}

/// What a frame to a browser carries. `Text` has still to be checked for UTF-8 where the frame is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Text(Bytes),
    Binary(Bytes),
}

/// The body of a status message: status 1 without `reason`, status 0 with it. `key` is JSON already: the value that
/// keyFn returned, not its text.
pub fn status_body(key: &str, reason: Option<(u16, &str)>) -> Bytes {
    let mut out = String::with_capacity(key.len() + 64);
    match reason {
        None => out.push_str("{\"status\":1,\"key\":"),
        Some(_) => out.push_str("{\"status\":0,\"key\":"),
    }
    out.push_str(key);
    if let Some((code, description)) = reason {
        out.push_str(&format!(",\"reasonCode\":{code},\"description\":"));
        write_json_text(&mut out, description);
    }
    out.push('}');
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(content_type: &str, body: &'static [u8]) -> Delivery {
        let properties = Properties::new(content_type, &Headers::default());
        Delivery {
            route: Route::Message,
            redelivered: false,
            repeated: false,
            tag: 1,
            session: 0,
            envelope: Envelope::new("e", "k", |out| out.extend_from_slice(&properties.encoded())),
            body: Bytes::from_static(body),
        }
    }

    #[test]
    fn a_json_string_is_unwrapped_and_everything_else_goes_as_it_is() {
        let text = |body: &'static str| Content::Text(Bytes::from_static(body.as_bytes()));
        assert_eq!(delivery(JSON, br#""a\nb""#).content(), text("a\nb"));
        assert_eq!(delivery(JSON, br#" {"a":"b"}"#).content(), text(r#" {"a":"b"}"#));
        assert_eq!(delivery(JSON, br#""broken"#).content(), text(r#""broken"#));
        assert_eq!(delivery(JSON, b"").content(), text(""));
        assert_eq!(delivery("text/plain", br#""a""#).content(), text(r#""a""#));
        assert_eq!(delivery(OCTETS, b"\x00a").content(), Content::Binary(Bytes::from_static(b"\x00a")));
    }

    #[test]
    fn a_status_carries_the_key_as_it_is() {
        assert_eq!(status_body("5", None), r#"{"status":1,"key":5}"#);
        assert_eq!(
            status_body("\"k\"", Some((1006, "it's \"gone\""))),
            r#"{"status":0,"key":"k","reasonCode":1006,"description":"it's \"gone\""}"#
        );
    }
}
