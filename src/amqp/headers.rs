//! Header tables as values, and their JSON.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result};

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

/// Marks header JSON in which arrays are written `["a", ...]`, timestamps `["d", ms]`, byte arrays `["x", hex]`, and the
/// numbers that JSON has no form for `["f", text]`. A table without them crosses as plain JSON.
const TAGGED: char = '!';
/// Seconds since 1970 beyond which JavaScript has no Date; a later timestamp becomes the number of its seconds.
const MAX_DATE: u64 = 8_640_000_000_000;
/// Bytes of a field's name: a shortstr (AMQP 0-9-1, section 4.2.5.3).
pub const MAX_NAME: usize = 255;

impl Headers {
    /// Reads header JSON as JavaScript writes it.
    pub fn from_json(text: &str) -> Result<Headers> {
        let tagged = text.starts_with(TAGGED);
        let parsed: Headers = serde_json::from_str(text.trim_start_matches(TAGGED))
            .map_err(|error| Error::Invalid { detail: format!("headers cannot be read: {error}") })?;
        let headers = if tagged { parsed.untag()? } else { parsed };
        headers.check_names()?;
        Ok(headers)
    }

    fn check_names(&self) -> Result<()> {
        for (name, value) in &self.0 {
            if name.len() > MAX_NAME {
                let detail = format!("headers cannot be sent: a name has {} bytes, at most {MAX_NAME} fit", name.len());
                return Err(Error::Invalid { detail });
            }
            value.check_names()?;
        }
        Ok(())
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
            Value::Bytes(_) => true,
            Value::Timestamp(seconds) => *seconds <= MAX_DATE,
            Value::Double(value) => !value.is_finite(),
            Value::Array(items) => items.iter().any(Value::needs_tags),
            Value::Table(table) => table.0.iter().any(|(_, value)| value.needs_tags()),
            _ => false,
        }
    }

    fn check_names(&self) -> Result<()> {
        match self {
            Value::Array(items) => items.iter().try_for_each(Value::check_names),
            Value::Table(table) => table.check_names(),
            _ => Ok(()),
        }
    }

    fn write(&self, out: &mut String, tagged: bool) {
        match self {
            Value::Null => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Int(value) => out.push_str(&value.to_string()),
            Value::Double(value) if value.is_finite() => out.push_str(&value.to_string()),
            Value::Double(value) if value.is_nan() => out.push_str("[\"f\",\"NaN\"]"),
            Value::Double(value) => {
                out.push_str(if *value > 0.0 { "[\"f\",\"Infinity\"]" } else { "[\"f\",\"-Infinity\"]" });
            }
            Value::Text(text) => write_json_text(out, text),
            Value::Bytes(bytes) => {
                out.push_str("[\"x\",\"");
                write_hex(out, bytes);
                out.push_str("\"]");
            }
            Value::Timestamp(seconds) if *seconds > MAX_DATE => out.push_str(&seconds.to_string()),
            Value::Timestamp(seconds) => {
                out.push_str(&format!("[\"d\",{}]", seconds * 1000));
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
                    ("d", [Value::Int(ms)]) => match u64::try_from(ms / 1000) {
                        Ok(seconds) if *ms >= 0 && seconds <= MAX_DATE => Ok(Value::Timestamp(seconds)),
                        _ => Err(bad()),
                    },
                    ("f", [Value::Text(text)]) => match &**text {
                        "NaN" => Ok(Value::Double(f64::NAN)),
                        "Infinity" => Ok(Value::Double(f64::INFINITY)),
                        "-Infinity" => Ok(Value::Double(f64::NEG_INFINITY)),
                        "-0" => Ok(Value::Double(-0.0)),
                        _ => Err(bad()),
                    },
                    ("x", [Value::Text(hex)]) => Ok(Value::Bytes(from_hex(hex).ok_or_else(bad)?)),
                    _ => Err(bad()),
                }
            }
            Value::Table(table) => Ok(Value::Table(table.untag()?)),
            other => Ok(other),
        }
    }
}

/// Appends two lower-case digits a byte.
pub fn write_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let hex = |digit: u8| char::from_digit(digit.into(), 16).unwrap_or('0');
        out.push(hex(byte >> 4));
        out.push(hex(byte & 15));
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
    fn a_number_stays_the_number_that_it_is() {
        // The last one is within an i64 but beyond what a double can tell apart.
        for number in
            ["0.1", "2.638344616030823e-256", "1.8446744073372083e25", "-7.555786372591432e22", "9007199254740993"]
        {
            let headers = Headers::from_json(&format!(r#"{{"n":{number}}}"#)).unwrap();
            match headers.0[0].1 {
                Value::Double(read) => assert_eq!(Ok(read), number.parse(), "{number}"),
                ref other => assert_eq!(other, &Value::Int(number.parse().unwrap())),
            }
            let again = Headers::from_json(&headers.to_json()).unwrap();
            assert_eq!(again, headers, "{number}");
        }
    }

    #[test]
    fn bad_header_json_is_an_error() {
        for text in [
            "",
            "[]",
            "{",
            "!{\"a\":[]}",
            "!{\"a\":[\"q\"]}",
            "!{\"a\":[\"x\",\"0g\"]}",
            "!{\"a\":[\"d\",-1]}",
            "!{\"a\":[\"f\",\"1\"]}",
        ] {
            assert!(Headers::from_json(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_that_amqp_cannot_carry_is_an_error_at_each_level() {
        for (bytes, is_ok) in [(255, true), (256, false)] {
            let name = "n".repeat(bytes);
            for text in [format!(r#"{{"{name}":1}}"#), format!(r#"{{"a":[{{"b":{{"{name}":1}}}}]}}"#)] {
                assert_eq!(Headers::from_json(&text).is_ok(), is_ok, "{bytes}");
            }
        }
    }

    #[test]
    fn what_json_or_a_date_cannot_say_keeps_its_value() {
        let text = r#"!{"a":["f","NaN"],"b":["f","Infinity"],"c":["a",["f","-Infinity"]]}"#;
        assert_eq!(Headers::from_json(text).unwrap().to_json(), text);
        let late =
            Headers(vec![("t".into(), Value::Timestamp(MAX_DATE + 1)), ("u".into(), Value::Timestamp(u64::MAX))]);
        assert_eq!(late.to_json(), r#"{"t":8640000000001,"u":18446744073709551615}"#);
        let zero = Headers::from_json(r#"!{"z":["f","-0"]}"#).unwrap();
        assert_eq!(zero.to_json(), r#"{"z":-0}"#);
    }

    #[test]
    fn json_text_escapes_what_json_must() {
        let mut out = String::new();
        write_json_text(&mut out, "a\"b\\c\n\u{1}é😀");
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), "a\"b\\c\n\u{1}é😀");
    }
}
