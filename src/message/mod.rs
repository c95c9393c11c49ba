//! Messages as values: header tables, their JSON, content types, and what a frame is made of.

mod headers;
mod table;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::buffer::Weight;
pub use headers::{Headers, Value, write_json_text};

pub const JSON: &str = "application/json";
pub const OCTETS: &str = "application/octet-stream";

/// What travels beside a body: AMQP property flags and list, as a content header carries them (AMQP 0-9-1, section
/// 4.2.6.1). Encoded once and shared by all messages of a connection.
pub struct Properties(Box<[u8]>);

impl Properties {
    /// An empty content type is none.
    pub fn new(content_type: &str, headers: &Headers) -> Self {
        Self::tracked_if(false, content_type, headers)
    }

    /// `tracked`: of messages that are persistent and have an id each.
    pub fn tracked_if(tracked: bool, content_type: &str, headers: &Headers) -> Self {
        Properties(table::encode_properties(content_type, headers, tracked))
    }

    /// Tracked or not, by what a message was published with.
    pub fn of_message(encoded: &[u8]) -> Self {
        Properties(table::without_message_id(encoded))
    }

    /// The same headers beside another content type.
    pub fn with_content_type(&self, content_type: &str) -> Self {
        Properties(table::with_content_type(&self.0, content_type))
    }

    /// Complete, unless they are tracked.
    pub fn encoded(&self) -> &[u8] {
        &self.0
    }

    pub fn is_tracked(&self) -> bool {
        table::is_tracked(&self.0)
    }

    /// Appends them as a message has them. `prefix` and `id` make the message id of tracked ones.
    pub fn write(&self, out: &mut Vec<u8>, prefix: &str, id: MessageId) {
        let start = out.len();
        out.extend_from_slice(&self.0);
        if self.is_tracked() {
            table::write_message_id(out, start, &id.text(prefix), id.again);
        }
    }
}

/// Which message of its publisher it is, for messages that are tracked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageId {
    /// In the order of publishing, from 1; 0 is none yet.
    pub number: u64,
    /// It is published again and may have arrived the first time.
    pub again: bool,
}

impl MessageId {
    /// `prefix` is the publisher's own.
    pub fn text(self, prefix: &str) -> String {
        format!("{prefix}-{:x}", self.number)
    }

    /// Reads what [`MessageId::text`] has written.
    pub fn parse(text: &str, prefix: &str) -> Option<MessageId> {
        let number = text.strip_prefix(prefix)?.strip_prefix('-')?;
        Some(MessageId { number: u64::from_str_radix(number, 16).ok()?, again: false })
    }
}

/// The message id within encoded properties; empty where there is none.
pub fn message_id(encoded: &[u8]) -> &str {
    table::EncodedProperties::read(encoded).message_id().0
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
pub struct Outgoing {
    pub route: Route,
    pub properties: Arc<Properties>,
    pub body: Bytes,
    pub id: MessageId,
}

impl Outgoing {
    pub fn new(route: Route, properties: Arc<Properties>, body: Bytes) -> Self {
        Outgoing { route, properties, body, id: MessageId::default() }
    }
}

/// Bytes that a message takes in a queue beside its own, measured.
const SLOT: usize = 192;

impl Weight for Outgoing {
    fn weight(&self) -> usize {
        // The messages of a connection share its properties, which its statuses stand for here; those of a worker may have
        // properties of their own each.
        let own = if self.route == Route::Receive { 0 } else { self.properties.encoded().len() };
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

/// Where a delivery came from and what travels beside it, in the form in which the broker has it; read only as far as
/// somebody asks.
#[derive(Clone)]
pub enum Envelope {
    /// Within one process.
    Shared { exchange: Arc<str>, routing_key: Arc<str>, properties: Arc<Properties>, id: Option<Arc<str>> },
    /// From the wire: exchange and routing key as shortstr, and from `properties` on the property flags and list.
    Encoded { bytes: Bytes, properties: usize },
}

impl Delivery {
    pub fn exchange(&self) -> &str {
        match &self.envelope {
            Envelope::Shared { exchange, .. } => exchange,
            Envelope::Encoded { bytes, .. } => short_text(bytes, 0),
        }
    }

    pub fn routing_key(&self) -> &str {
        match &self.envelope {
            Envelope::Shared { routing_key, .. } => routing_key,
            Envelope::Encoded { bytes, .. } => {
                let exchange = bytes.first().copied().unwrap_or(0);
                short_text(bytes, 1 + usize::from(exchange))
            }
        }
    }

    fn properties(&self) -> table::EncodedProperties<'_> {
        table::EncodedProperties::read(match &self.envelope {
            Envelope::Shared { properties, .. } => properties.encoded(),
            Envelope::Encoded { bytes, properties } => bytes.get(*properties..).unwrap_or_default(),
        })
    }

    /// The publisher's id for it; empty where it gave none.
    pub fn message_id(&self) -> &str {
        match &self.envelope {
            Envelope::Shared { id, .. } => id.as_deref().unwrap_or(""),
            Envelope::Encoded { .. } => self.properties().message_id().0,
        }
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

    pub fn headers_json(&self) -> String {
        self.properties().headers_json()
    }

    pub fn headers(&self) -> Headers {
        self.properties().headers()
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
        let properties = Arc::new(Properties::new(content_type, &Headers::default()));
        Delivery {
            route: Route::Message,
            redelivered: false,
            repeated: false,
            tag: 1,
            session: 0,
            envelope: Envelope::Shared { exchange: "e".into(), routing_key: "k".into(), properties, id: None },
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
