//! Messages as values: header tables, their JSON, content types, and what a frame is made of.

mod table;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::buffer::Weight;
use crate::error::{Error, Result};

pub const JSON: &str = "application/json";
pub const OCTETS: &str = "application/octet-stream";

/// One field of a header table: the AMQP types that the oldest receivers can read.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Box<str>),
    Bytes(Bytes),
    /// Seconds since 1970.
    Timestamp(u64),
    Array(Vec<Value>),
    Table(Headers),
}

/// A header table, in the order in which it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headers(pub Vec<(Box<str>, Value)>);

/// Marks header JSON in which arrays are written `["a", ...]`, timestamps `["d", ms]` and byte arrays `["x", hex]`.
/// Plain JSON cannot tell these from text; a table without them crosses as plain JSON.
const TAGGED: char = '!';

impl Headers {
    /// Reads header JSON as JavaScript writes it.
    pub fn from_json(text: &str) -> Result<Headers> {
        let tagged = text.starts_with(TAGGED);
        let parsed: Headers = serde_json::from_str(text.trim_start_matches(TAGGED))
            .map_err(|error| Error::Invalid { detail: format!("headers cannot be read: {error}") })?;
        if tagged { parsed.untag() } else { Ok(parsed) }
    }

    /// Writes header JSON for JavaScript.
    pub fn to_json(&self) -> String {
        let tagged = self.0.iter().any(|(_, value)| value.needs_tags());
        let mut out = String::with_capacity(64 + self.0.len() * 32);
        if tagged {
            out.push(TAGGED);
        }
        self.write(&mut out, tagged);
        out
    }

    fn write(&self, out: &mut String, tagged: bool) {
        out.push('{');
        for (index, (name, value)) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            write_json_text(out, name);
            out.push(':');
            value.write(out, tagged);
        }
        out.push('}');
    }

    fn untag(self) -> Result<Headers> {
        let fields = self.0.into_iter().map(|(name, value)| Ok((name, value.untag()?)));
        Ok(Headers(fields.collect::<Result<_>>()?))
    }
}

impl Value {
    fn needs_tags(&self) -> bool {
        match self {
            Value::Bytes(_) | Value::Timestamp(_) => true,
            Value::Array(items) => items.iter().any(Value::needs_tags),
            Value::Table(table) => table.0.iter().any(|(_, value)| value.needs_tags()),
            _ => false,
        }
    }

    fn write(&self, out: &mut String, tagged: bool) {
        match self {
            Value::Null => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Int(value) => out.push_str(&value.to_string()),
            Value::Double(value) if value.is_finite() => out.push_str(&value.to_string()),
            Value::Double(_) => out.push_str("null"),
            Value::Text(text) => write_json_text(out, text),
            Value::Bytes(bytes) => {
                out.push_str("[\"x\",\"");
                for byte in bytes {
                    let hex = |digit: u8| char::from_digit(digit.into(), 16).unwrap_or('0');
                    out.push(hex(byte >> 4));
                    out.push(hex(byte & 15));
                }
                out.push_str("\"]");
            }
            Value::Timestamp(seconds) => {
                out.push_str(&format!("[\"d\",{}]", seconds.saturating_mul(1000)));
            }
            Value::Array(items) => {
                out.push('[');
                if tagged {
                    out.push_str("\"a\"");
                }
                for (index, item) in items.iter().enumerate() {
                    if tagged || index > 0 {
                        out.push(',');
                    }
                    item.write(out, tagged);
                }
                out.push(']');
            }
            Value::Table(table) => table.write(out, tagged),
        }
    }

    fn untag(self) -> Result<Value> {
        let bad = || Error::Invalid { detail: "headers cannot be read: unknown tag".into() };
        match self {
            Value::Array(mut items) => {
                let content = items.split_off(1.min(items.len()));
                let Some(Value::Text(tag)) = items.pop() else { return Err(bad()) };
                match (&*tag, content.as_slice()) {
                    ("a", _) => Ok(Value::Array(content.into_iter().map(Value::untag).collect::<Result<_>>()?)),
                    ("d", [Value::Int(ms)]) => Ok(Value::Timestamp(u64::try_from(ms / 1000).unwrap_or(0))),
                    ("x", [Value::Text(hex)]) => Ok(Value::Bytes(from_hex(hex).ok_or_else(bad)?)),
                    _ => Err(bad()),
                }
            }
            Value::Table(table) => Ok(Value::Table(table.untag()?)),
            other => Ok(other),
        }
    }
}

fn from_hex(text: &str) -> Option<Bytes> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Appends `text` as a JSON string.
pub fn write_json_text(out: &mut String, text: &str) {
    out.push('"');
    let mut start = 0;
    for (index, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[start..index]);
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => out.push_str(&format!("\\u{byte:04x}")),
        }
        start = index + 1;
    }
    out.push_str(&text[start..]);
    out.push('"');
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct ValueVisitor;
        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_unit<E>(self) -> std::result::Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
                Ok(Value::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
                Ok(Value::Int(value))
            }
            fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
                Ok(i64::try_from(value).map_or(Value::Double(value as f64), Value::Int))
            }
            fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
                Ok(Value::Double(value))
            }
            fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
                Ok(Value::Text(value.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Value::Array(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Value, A::Error> {
                read_table(map).map(Value::Table)
            }
        }
        deserializer.deserialize_any(ValueVisitor)
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct TableVisitor;
        impl<'de> Visitor<'de> for TableVisitor {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Headers, A::Error> {
                read_table(map)
            }
        }
        deserializer.deserialize_map(TableVisitor)
    }
}

fn read_table<'de, A: MapAccess<'de>>(mut map: A) -> std::result::Result<Headers, A::Error> {
    let mut fields = Vec::with_capacity(map.size_hint().unwrap_or(8));
    while let Some((name, value)) = map.next_entry::<Box<str>, Value>()? {
        fields.push((name, value));
    }
    Ok(Headers(fields))
}

/// What travels beside a body: AMQP property flags and list, as a content header carries them (AMQP 0-9-1, section
/// 4.2.6.1). Encoded once and shared by all messages of a connection.
pub struct Properties(Box<[u8]>);

impl Properties {
    /// An empty content type is none.
    pub fn new(content_type: &str, headers: &Headers) -> Self {
        Properties(table::encode_properties(content_type, headers))
    }

    /// The same headers beside another content type.
    pub fn with_content_type(&self, content_type: &str) -> Self {
        Properties(table::with_content_type(&self.0, content_type))
    }

    pub fn encoded(&self) -> &[u8] {
        &self.0
    }
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
}

impl Weight for Outgoing {
    fn weight(&self) -> usize {
        // The properties are mostly shared; what a queue slot takes counts for the many small ones.
        self.body.len() + 64
    }
}

/// A message that the broker gave us.
#[derive(Clone)]
pub struct Delivery {
    pub route: Route,
    pub redelivered: bool,
    /// The channel's delivery tag, for the acknowledgement.
    pub tag: u64,
    pub envelope: Envelope,
    pub body: Bytes,
}

/// Where a delivery came from and what travels beside it, in the form in which the broker has it; read only as far as
/// somebody asks.
#[derive(Clone)]
pub enum Envelope {
    /// Within one process.
    Shared { exchange: Arc<str>, routing_key: Arc<str>, properties: Arc<Properties> },
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

    /// Empty where the sender gave none.
    pub fn content_type(&self) -> &str {
        self.properties().content_type
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

    #[test]
    fn header_json_comes_back_as_it_went() {
        let text =
            r#"{"a":"x","n":-5,"big":9007199254740993,"f":1.5,"t":true,"z":null,"l":[1,"b"],"o":{"k":"v \" é"}}"#;
        assert_eq!(Headers::from_json(text).unwrap().to_json(), text);
    }

    #[test]
    fn dates_and_buffers_cross_tagged_and_nothing_else_can_pass_for_them() {
        let text = r#"!{"at":["d",1700000000000],"raw":["x","00ff10"],"l":["a","d",5]}"#;
        let headers = Headers::from_json(text).unwrap();
        assert_eq!(headers.0[0].1, Value::Timestamp(1_700_000_000));
        assert_eq!(headers.0[1].1, Value::Bytes(Bytes::from_static(&[0, 255, 16])));
        assert_eq!(headers.0[2].1, Value::Array(vec![Value::Text("d".into()), Value::Int(5)]));
        assert_eq!(headers.to_json(), text);
        assert_eq!(Headers::from_json(r#"{"l":["d",5]}"#).unwrap().to_json(), r#"{"l":["d",5]}"#);
    }

    #[test]
    fn bad_header_json_is_an_error() {
        for text in ["", "[]", "{", "!{\"a\":[]}", "!{\"a\":[\"q\"]}", "!{\"a\":[\"x\",\"0g\"]}"] {
            assert!(Headers::from_json(text).is_err(), "{text}");
        }
    }

    #[test]
    fn json_text_escapes_what_json_must() {
        let mut out = String::new();
        write_json_text(&mut out, "a\"b\\c\n\u{1}é😀");
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), "a\"b\\c\n\u{1}é😀");
    }

    fn delivery(content_type: &str, body: &'static [u8]) -> Delivery {
        let properties = Arc::new(Properties::new(content_type, &Headers::default()));
        Delivery {
            route: Route::Message,
            redelivered: false,
            tag: 1,
            envelope: Envelope::Shared { exchange: "e".into(), routing_key: "k".into(), properties },
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
