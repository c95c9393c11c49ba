//! AMQP 0-9-1 field tables and content properties as bytes: written once for a connection, read only as far as somebody
//! asks.
//!
//! Written are only the field types that the oldest receivers can read (`S I l d t V A F T x`): node-amqp ends its
//! connection on any other. Read is every type of RabbitMQ's list. Nothing here trusts a length.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use super::headers::MAX_NAME;
use crate::message::{Headers, Value, write_json_text};

/// Bits of the property flags (AMQP 0-9-1, section 4.2.6.1), in the order of the fields of class basic.
const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;
const MESSAGE_ID: u16 = 1 << 7;
const TIMESTAMP: u16 = 1 << 6;
const TYPE: u16 = 1 << 5;
/// What comes behind headers in properties that are made here.
const TRACKED: u16 = DELIVERY_MODE | MESSAGE_ID;
const PERSISTENT: u8 = 2;
/// The message type (shortstr) of what is published again and may have arrived the first time.
const AGAIN: &[u8] = b"redelivered";

/// Tables within tables beyond this depth are not read: a sender must not choose how deep our stack gets.
const MAX_DEPTH: usize = 64;

/// Property flags and property list of a content header. `tracked` properties are persistent, and a message id follows them:
/// [`write_message_id`].
pub(crate) fn encode_properties(content_type: &str, headers: &Headers, tracked: bool) -> Box<[u8]> {
    encode(content_type, headers.0.len() * 48, tracked, |out| write_table(out, headers))
}

/// The same headers beside another content type.
pub(crate) fn with_content_type(encoded: &[u8], content_type: &str) -> Box<[u8]> {
    let table = EncodedProperties::read(encoded).table;
    encode(content_type, table.len(), is_tracked(encoded), |out| write_long(out, table))
}

pub(crate) fn is_tracked(encoded: &[u8]) -> bool {
    let flags = encoded.first_chunk().map_or(0, |flags| u16::from_be_bytes(*flags));
    flags & TRACKED == TRACKED
}

/// Completes tracked properties, which `out` ends with and which begin at `start`.
pub(crate) fn write_message_id(out: &mut Vec<u8>, start: usize, id: &str, again: bool) {
    write_short(out, &id.as_bytes()[..id.len().min(255)]);
    if again {
        write_short(out, AGAIN);
        if let Some(low) = out.get_mut(start + 1) {
            *low |= TYPE as u8;
        }
    }
}

/// The part of tracked properties that is the same for all messages of a connection.
pub(crate) fn without_message_id(encoded: &[u8]) -> Box<[u8]> {
    let read = EncodedProperties::read(encoded);
    encode(read.content_type, read.table.len(), is_tracked(encoded), |out| write_long(out, read.table))
}

/// Where each field of the header table lies, up to the first that cannot be read.
pub(crate) fn fields(encoded: &[u8]) -> Vec<Range<usize>> {
    let read = EncodedProperties::read(encoded);
    // The table ends where the rest begins.
    let end = encoded.len() - read.rest.len();
    let mut reader = FieldReader(read.table);
    let place = |reader: &FieldReader<'_>| end - reader.0.len();
    let mut fields = Vec::new();
    loop {
        let start = place(&reader);
        if reader.short().is_none() || reader.skip_value().is_none() {
            return fields;
        }
        fields.push(start..place(&reader));
    }
}

fn encode(content_type: &str, room: usize, tracked: bool, table: impl FnOnce(&mut Vec<u8>)) -> Box<[u8]> {
    let mut out = Vec::with_capacity(64 + room);
    let named = !content_type.is_empty() && content_type.len() <= MAX_NAME;
    let flags = HEADERS | if named { CONTENT_TYPE } else { 0 } | if tracked { TRACKED } else { 0 };
    out.extend_from_slice(&flags.to_be_bytes());
    if named {
        write_short(&mut out, content_type.as_bytes());
    }
    table(&mut out);
    if tracked {
        out.push(PERSISTENT);
    }
    out.into()
}

pub(crate) fn write_short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(bytes.len() as u8);
    out.extend_from_slice(bytes);
}

fn write_long(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Writes what `content` writes, behind its length.
fn write_sized(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    content(out);
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Longer names have no form in AMQP; [`Headers::from_json`] has refused them.
fn write_table(out: &mut Vec<u8>, headers: &Headers) {
    write_sized(out, |out| {
        for (name, value) in headers.0.iter().filter(|(name, _)| name.len() <= MAX_NAME) {
            write_short(out, name.as_bytes());
            write_value(out, value);
        }
    });
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(b'V'),
        Value::Bool(value) => out.extend_from_slice(&[b't', u8::from(*value)]),
        Value::Int(value) => match i32::try_from(*value) {
            Ok(value) => {
                out.push(b'I');
                out.extend_from_slice(&value.to_be_bytes());
            }
            Err(_) => {
                out.push(b'l');
                out.extend_from_slice(&value.to_be_bytes());
            }
        },
        Value::Double(value) => {
            out.push(b'd');
            out.extend_from_slice(&value.to_be_bytes());
        }
        Value::Text(text) => {
            out.push(b'S');
            write_long(out, text.as_bytes());
        }
        Value::Bytes(bytes) => {
            out.push(b'x');
            write_long(out, bytes);
        }
        Value::Timestamp(seconds) => {
            out.push(b'T');
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        Value::Array(items) => {
            out.push(b'A');
            write_sized(out, |out| items.iter().for_each(|item| write_value(out, item)));
        }
        Value::Table(table) => {
            out.push(b'F');
            write_table(out, table);
        }
    }
}

/// Content type and header table within a property list, as they lie there.
#[derive(Clone, Copy, Debug, Default)]
pub struct EncodedProperties<'a> {
    pub content_type: &'a str,
    /// The entries of the table, without its length.
    table: &'a [u8],
    flags: u16,
    /// What follows the table.
    rest: &'a [u8],
}

impl<'a> EncodedProperties<'a> {
    /// Reads property flags and list. What is cut off or malformed counts as not there.
    pub fn read(bytes: &'a [u8]) -> Self {
        Self::try_read(bytes).unwrap_or_default()
    }

    fn try_read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = FieldReader(bytes);
        let flags = reader.u16()?;
        let content_type = if flags & CONTENT_TYPE != 0 { reader.short()? } else { b"" };
        if flags & CONTENT_ENCODING != 0 {
            reader.short()?;
        }
        let table = if flags & HEADERS != 0 { reader.long()? } else { b"" };
        let content_type = std::str::from_utf8(content_type).unwrap_or("");
        Some(EncodedProperties { content_type, table, flags, rest: reader.0 })
    }

    /// The message id, empty where there is none, and whether its publisher says that it may have come before.
    pub fn message_id(&self) -> (&'a str, bool) {
        self.try_message_id().unwrap_or_default()
    }

    fn try_message_id(&self) -> Option<(&'a str, bool)> {
        if self.flags & MESSAGE_ID == 0 {
            return None;
        }
        let mut reader = FieldReader(self.rest);
        for octet in [DELIVERY_MODE, PRIORITY] {
            if self.flags & octet != 0 {
                reader.u8()?;
            }
        }
        for text in [CORRELATION_ID, REPLY_TO, EXPIRATION] {
            if self.flags & text != 0 {
                reader.short()?;
            }
        }
        let id = std::str::from_utf8(reader.short()?).ok()?;
        if self.flags & TIMESTAMP != 0 {
            reader.take(8)?;
        }
        let again = self.flags & TYPE != 0 && reader.short() == Some(AGAIN);
        Some((id, again))
    }

    /// The entries of the header table as they lie there.
    pub fn table(&self) -> &'a [u8] {
        self.table
    }

    /// Name and encoded value of each entry, up to the first that cannot be read.
    pub fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut reader = FieldReader(self.table);
        std::iter::from_fn(move || {
            let name = reader.short()?;
            let value = reader.0;
            reader.skip_value()?;
            Some((name, &value[..value.len() - reader.0.len()]))
        })
    }

    /// One header, found without building a table.
    pub fn header(&self, wanted: &str) -> Option<Value> {
        let mut reader = FieldReader(self.table);
        while let Some(name) = reader.short() {
            if name == wanted.as_bytes() {
                return reader.value(0);
            }
            reader.skip_value()?;
        }
        None
    }

    /// The text of a header that is text, which is what keys are; `None` for every other kind.
    pub fn text_header(&self, wanted: &str) -> Option<Cow<'a, str>> {
        let mut reader = FieldReader(self.table);
        while let Some(name) = reader.short() {
            if name == wanted.as_bytes() {
                return if reader.u8()? == b'S' { Some(String::from_utf8_lossy(reader.long()?)) } else { None };
            }
            reader.skip_value()?;
        }
        None
    }

    /// The headers, and whether these are all: one that is nested too deeply is left out, and so is one of an unknown type
    /// with those behind it, since its length is unknown.
    pub fn headers(&self) -> (Headers, bool) {
        let mut reader = FieldReader(self.table);
        let (mut headers, mut complete) = (Headers::default(), true);
        while !reader.0.is_empty() {
            let Some(name) = reader.short() else { return (headers, false) };
            let value = FieldReader(reader.0).value(0);
            if reader.skip_value().is_none() {
                return (headers, false);
            }
            match value {
                Some(value) => headers.0.push((String::from_utf8_lossy(name).into(), value)),
                None => complete = false,
            }
        }
        (headers, complete)
    }

    /// Header JSON for JavaScript, written straight from the bytes where nothing needs a tag; and whether these are all.
    pub fn headers_json(&self) -> (String, bool) {
        let mut out = String::with_capacity(self.table.len() + 64);
        if FieldReader(self.table).plain_json(&mut out).is_some() {
            return (out, true);
        }
        let (headers, complete) = self.headers();
        (headers.to_json(), complete)
    }
}

/// A cursor over bytes from outside.
struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn long(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_be_bytes(self.array()?);
        self.take(length as usize)
    }

    /// The bytes of a value behind its type.
    fn skip_value(&mut self) -> Option<()> {
        let fixed = match self.u8()? {
            b't' | b'b' | b'B' => 1,
            b's' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'l' | b'L' | b'd' | b'T' => 8,
            b'V' => 0,
            b'S' | b'x' | b'A' | b'F' => return self.long().map(|_| ()),
            _ => return None,
        };
        self.take(fixed).map(|_| ())
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        Some(match self.u8()? {
            b't' => Value::Bool(self.u8()? != 0),
            b'b' => Value::Int(self.u8()?.cast_signed().into()),
            b'B' => Value::Int(self.u8()?.into()),
            // RabbitMQ reads `s` as a 16-bit integer, as AMQP 0-9-1's errata do.
            b's' => Value::Int(self.u16()?.cast_signed().into()),
            b'u' => Value::Int(self.u16()?.into()),
            b'I' => Value::Int(i32::from_be_bytes(self.array()?).into()),
            b'i' => Value::Int(u32::from_be_bytes(self.array()?).into()),
            b'l' | b'L' => Value::Int(i64::from_be_bytes(self.array()?)),
            b'f' => Value::Double(f32::from_be_bytes(self.array()?).into()),
            b'd' => Value::Double(f64::from_be_bytes(self.array()?)),
            b'D' => {
                let scale = self.u8()?;
                let value = i32::from_be_bytes(self.array()?);
                Value::Double(f64::from(value) / 10f64.powi(scale.into()))
            }
            b'T' => Value::Timestamp(u64::from_be_bytes(self.array()?)),
            b'V' => Value::Null,
            b'S' => Value::Text(String::from_utf8_lossy(self.long()?).into()),
            b'x' => Value::Bytes(Bytes::copy_from_slice(self.long()?)),
            b'A' => {
                let mut items = FieldReader(self.long()?);
                let mut array = Vec::new();
                while !items.0.is_empty() {
                    array.push(items.value(depth + 1)?);
                }
                Value::Array(array)
            }
            b'F' => Value::Table(FieldReader(self.long()?).entries(depth + 1)?),
            _ => return None,
        })
    }

    fn entries(&mut self, depth: usize) -> Option<Headers> {
        let mut entries = Vec::new();
        while !self.0.is_empty() {
            let name = String::from_utf8_lossy(self.short()?).into();
            entries.push((name, self.value(depth)?));
        }
        Some(Headers(entries))
    }

    /// A flat table of texts, integers, booleans and nulls as JSON: what request headers are. Anything else takes the
    /// longer way.
    fn plain_json(&mut self, out: &mut String) -> Option<()> {
        out.push('{');
        while !self.0.is_empty() {
            if out.len() > 1 {
                out.push(',');
            }
            write_json_text(out, std::str::from_utf8(self.short()?).ok()?);
            out.push(':');
            match self.u8()? {
                b'S' => write_json_text(out, std::str::from_utf8(self.long()?).ok()?),
                b'I' => out.push_str(&i32::from_be_bytes(self.array()?).to_string()),
                b't' => out.push_str(if self.u8()? != 0 { "true" } else { "false" }),
                b'V' => out.push_str("null"),
                _ => return None,
            }
        }
        out.push('}');
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(json: &str) -> String {
        let headers = Headers::from_json(json).unwrap();
        let encoded = encode_properties("application/json", &headers, false);
        let read = EncodedProperties::read(&encoded);
        assert_eq!((read.content_type, read.headers()), ("application/json", (headers.clone(), true)));
        let other = with_content_type(&encoded, "");
        assert_eq!(other, encode_properties("", &headers, false));
        read.headers_json().0
    }

    #[test]
    fn tables_come_back_as_they_went() {
        for json in [
            r#"{}"#,
            r#"{"a":"x","n":-5,"t":true,"z":null,"e":"\u0001\"\\é"}"#,
            r#"{"big":9007199254740993,"f":1.5,"l":[1,"b",[null]],"o":{"k":{"d":false}}}"#,
            r#"!{"at":["d",1700000000000],"raw":["x","00ff"],"l":["a",1]}"#,
            r#"!{"i":["f","-Infinity"],"l":["a",["f","Infinity"]]}"#,
        ] {
            assert_eq!(round(json), json);
        }
    }

    #[test]
    fn one_header_is_found_among_all_types() {
        let json = r#"!{"a":["x","00"],"b":["d",1000],"c":["a","y"],"d":{"k":"no"},"e":1.5,"f":null,"g":true,"k":"yes","n":7}"#;
        let encoded = encode_properties("", &Headers::from_json(json).unwrap(), false);
        let read = EncodedProperties::read(&encoded);
        assert_eq!(read.text_header("k").as_deref(), Some("yes"));
        assert_eq!(read.header("n"), Some(Value::Int(7)));
        assert_eq!(read.text_header("n"), None);
        assert_eq!(read.header("nobody"), None);
    }

    #[test]
    fn tracked_properties_carry_an_id_and_whether_they_go_out_again() {
        let headers = Headers::from_json(r#"{"k":"v"}"#).unwrap();
        let shared = encode_properties("application/json", &headers, true);
        assert!(is_tracked(&shared) && is_tracked(&with_content_type(&shared, "")));
        for again in [false, true] {
            let mut whole = b"before".to_vec();
            whole.extend_from_slice(&shared);
            write_message_id(&mut whole, 6, "a-1", again);
            let read = EncodedProperties::read(&whole[6..]);
            assert_eq!((read.message_id(), read.headers().0), (("a-1", again), headers.clone()));
            assert_eq!(without_message_id(&whole[6..]), shared);
        }
        let untracked = encode_properties("application/json", &headers, false);
        assert_eq!(EncodedProperties::read(&untracked).message_id(), ("", false));
    }

    #[test]
    fn headers_that_cannot_be_read_leave_the_others_there() {
        let field = |name: u8, kind: u8, value: &[u8]| [&[1, name, kind][..], value].concat();
        let nested = |levels: usize, kind: u8| {
            let mut value = vec![b'V'];
            for _ in 0..levels {
                let mut outer = vec![kind];
                let name: &[u8] = if kind == b'F' { &[1, b'k'] } else { &[] };
                write_long(&mut outer, &[name, &value[..]].concat());
                value = outer;
            }
            value
        };
        let with = |kind: u8, value: &[u8]| {
            let table = [field(b'a', b't', &[1]), field(b'b', kind, value), field(b'c', b'V', &[])].concat();
            let encoded = encode("", 0, false, |out| write_long(out, &table));
            EncodedProperties::read(&encoded).headers_json()
        };
        for kind in [b'F', b'A'] {
            let (readable, deep) = (nested(MAX_DEPTH, kind), nested(MAX_DEPTH + 1, kind));
            assert!(with(kind, &readable[1..]).1);
            assert_eq!(with(kind, &deep[1..]), (r#"{"a":true,"c":null}"#.into(), false));
        }
        assert_eq!(with(b'?', &[0]), (r#"{"a":true}"#.into(), false));
    }

    #[test]
    fn whatever_is_cut_off_or_made_up_is_no_more_than_missing() {
        let json = r#"!{"a":["x","00"],"b":["d",1000],"c":["a","y",{"q":1}],"d":{"k":"no"},"e":1.5}"#;
        let encoded = encode_properties("text/plain", &Headers::from_json(json).unwrap(), false);
        for end in 0..encoded.len() {
            let read = EncodedProperties::read(&encoded[..end]);
            let _ = (read.headers_json(), read.header("e"), read.text_header("e"));
        }
        for index in 0..encoded.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff, b'F', b'A'] {
                let mut broken = encoded.to_vec();
                broken[index] = value;
                let read = EncodedProperties::read(&broken);
                let _ = (read.headers_json(), read.header("e"), read.headers());
            }
        }
        let mut deep = vec![0x20, 0];
        let mut table = vec![1, b'k', b'V'];
        for _ in 0..10_000 {
            let mut outer = vec![1, b'k', b'F'];
            outer.extend_from_slice(&(table.len() as u32).to_be_bytes());
            outer.extend_from_slice(&table);
            table = outer;
        }
        deep.extend_from_slice(&(table.len() as u32).to_be_bytes());
        deep.extend_from_slice(&table);
        assert_eq!(EncodedProperties::read(&deep).headers_json(), ("{}".into(), false));
    }
}
