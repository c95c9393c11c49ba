//! Declared keys: which connections a message is for, read from its headers or its JSON body without a call into
//! JavaScript and without building a tree.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::message::{Delivery, Value, is_json};

/// The parts of a key, one behind the other. A single part that is not fixed text may name several connections.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct KeyTemplate(Vec<Part>);

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    Text(String),
    /// The value of a header.
    Header(String),
    /// The value at the reference tokens of a JSON pointer (RFC 6901).
    Json(Vec<String>),
}

/// A value that can be (part of) a key.
#[derive(Clone, Debug, PartialEq)]
enum Leaf<'a> {
    /// Objects, null, false, 0 and the empty string: what JavaScript calls falsy names nobody, and an object is no name.
    Nothing,
    One(Cow<'a, str>),
    Many(Vec<Cow<'a, str>>),
}

impl KeyTemplate {
    /// The keys that a message names, each once; none when it names nobody.
    pub fn keys<'a>(&'a self, delivery: &'a Delivery) -> Named<'a> {
        match &self.0[..] {
            [part] => part.read(delivery).into(),
            parts => {
                let mut key = String::with_capacity(64);
                for part in parts {
                    match part.read(delivery) {
                        Leaf::One(text) => key.push_str(&text),
                        // A part that is missing makes no key: half a key could be somebody else's.
                        Leaf::Nothing | Leaf::Many(_) => return Named::Nobody,
                    }
                }
                Named::One(key.into())
            }
        }
    }
}

/// Whom a message names.
#[derive(Clone, Debug, PartialEq)]
pub enum Named<'a> {
    Nobody,
    One(Cow<'a, str>),
    Many(Vec<Cow<'a, str>>),
}

impl<'a> Named<'a> {
    pub fn iter(&self) -> impl Iterator<Item = &Cow<'a, str>> {
        let keys = match self {
            Named::Nobody => &[],
            Named::One(key) => std::slice::from_ref(key),
            Named::Many(keys) => keys,
        };
        keys.iter()
    }
}

impl<'a> From<Leaf<'a>> for Named<'a> {
    fn from(leaf: Leaf<'a>) -> Self {
        match leaf {
            Leaf::Nothing => Named::Nobody,
            Leaf::One(key) => Named::One(key),
            Leaf::Many(mut keys) => {
                let mut seen = HashSet::new();
                keys.retain(|key| seen.insert(key.clone()));
                Named::Many(keys)
            }
        }
    }
}

impl Part {
    fn read<'a>(&'a self, delivery: &'a Delivery) -> Leaf<'a> {
        match self {
            Part::Text(text) => Leaf::One(text.as_str().into()),
            Part::Header(name) => match delivery.text_header(name) {
                Some(text) if text.is_empty() => Leaf::Nothing,
                Some(text) => Leaf::One(text),
                None => delivery.header(name).map_or(Leaf::Nothing, leaf_of),
            },
            Part::Json(path) if is_json(delivery.content_type()) => {
                let find = |text| {
                    let mut reader = serde_json::Deserializer::from_str(text);
                    let found = At(path).deserialize(&mut reader).ok()?;
                    // What is not JSON to its end is a text, and texts have no members.
                    reader.end().ok().map(|()| found)
                };
                std::str::from_utf8(&delivery.body).ok().and_then(find).unwrap_or(Leaf::Nothing)
            }
            Part::Json(_) => Leaf::Nothing,
        }
    }
}

fn leaf_of(value: Value) -> Leaf<'static> {
    match value {
        Value::Text(text) => text_leaf(String::from(text).into()),
        Value::Int(number) => number_leaf(number as f64),
        Value::Double(number) => number_leaf(number),
        Value::Bool(true) => Leaf::One("true".into()),
        Value::Array(items) => many(items.into_iter().map(leaf_of)),
        Value::Null | Value::Bool(false) | Value::Bytes(_) | Value::Timestamp(_) | Value::Table(_) => Leaf::Nothing,
    }
}

fn text_leaf(text: Cow<'_, str>) -> Leaf<'_> {
    if text.is_empty() { Leaf::Nothing } else { Leaf::One(text) }
}

fn many<'a>(leaves: impl Iterator<Item = Leaf<'a>>) -> Leaf<'a> {
    Leaf::Many(leaves.filter_map(|leaf| if let Leaf::One(key) = leaf { Some(key) } else { None }).collect())
}

/// A number in the words of JavaScript (ECMA-262, Number::toString).
fn number_leaf(number: f64) -> Leaf<'static> {
    let size = number.abs();
    if number == 0.0 || number.is_nan() {
        Leaf::Nothing
    } else if (1e-6..1e21).contains(&size) {
        Leaf::One(number.to_string().into())
    } else if size.is_infinite() {
        Leaf::One(if number > 0.0 { "Infinity" } else { "-Infinity" }.into())
    } else {
        let text = format!("{number:e}");
        Leaf::One(if size >= 1.0 { text.replace('e', "e+") } else { text }.into())
    }
}

/// What lies at these reference tokens below the value that is being read.
#[derive(Clone, Copy)]
struct At<'p>(&'p [String]);

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Leaf<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Leaf<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl At<'_> {
    /// A scalar is what was looked for only where the path ends.
    fn scalar<'a>(self, leaf: impl FnOnce() -> Leaf<'a>) -> Leaf<'a> {
        if self.0.is_empty() { leaf() } else { Leaf::Nothing }
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = Leaf<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Leaf<'de>, E> {
        Ok(Leaf::Nothing)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Leaf<'de>, E> {
        Ok(self.scalar(|| if value { Leaf::One("true".into()) } else { Leaf::Nothing }))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Leaf<'de>, E> {
        Ok(self.scalar(|| number_leaf(value as f64)))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Leaf<'de>, E> {
        Ok(self.scalar(|| number_leaf(value as f64)))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Leaf<'de>, E> {
        Ok(self.scalar(|| number_leaf(value)))
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Leaf<'de>, E> {
        Ok(self.scalar(|| text_leaf(text.into())))
    }
    fn visit_str<E>(self, text: &str) -> Result<Leaf<'de>, E> {
        Ok(self.scalar(|| text_leaf(text.to_owned().into())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Leaf<'de>, A::Error> {
        let Some((token, rest)) = self.0.split_first() else {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element_seed(At(&[]))? {
                items.push(item);
            }
            return Ok(many(items.into_iter()));
        };
        let mut found = Leaf::Nothing;
        let mut index = 0_usize;
        loop {
            // RFC 6901 has no leading zeros in an index.
            if *token == index.to_string() {
                match seq.next_element_seed(At(rest))? {
                    Some(leaf) => found = leaf,
                    None => return Ok(found),
                }
            } else if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            }
            index += 1;
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Leaf<'de>, A::Error> {
        let mut found = Leaf::Nothing;
        let wanted = self.0.split_first();
        while let Some(is_wanted) = map.next_key_seed(IsNamed(wanted.map(|(token, _)| token.as_str())))? {
            match wanted {
                // The last of several members with one name counts, as in JSON.parse.
                Some((_, rest)) if is_wanted => found = map.next_value_seed(At(rest))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// Whether a member has this name.
struct IsNamed<'n>(Option<&'n str>);

impl<'de> DeserializeSeed<'de> for IsNamed<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsNamed<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }
    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(self.0 == Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Envelope, Headers, Properties, Route};

    fn keys(template: &str, headers: &str, content_type: &str, body: &str) -> Vec<String> {
        let template: KeyTemplate = serde_json::from_str(template).unwrap();
        let properties = Properties::new(content_type, &Headers::from_json(headers).unwrap());
        let delivery = Delivery {
            route: Route::Message,
            redelivered: false,
            repeated: false,
            tag: 1,
            session: 0,
            envelope: Envelope::new("", "", |out| out.extend_from_slice(&properties.encoded())),
            body: bytes::Bytes::from(body.to_owned()),
        };
        template.keys(&delivery).iter().map(|key| key.to_string()).collect()
    }

    #[test]
    fn headers_name_connections() {
        let by = |headers| keys(r#"[{"header":"k"}]"#, headers, "application/json", "");
        assert_eq!(by(r#"{"a":"x","k":"me"}"#), ["me"]);
        assert_eq!(by(r#"{"k":5}"#), ["5"]);
        assert_eq!(by(r#"{"k":1.5}"#), ["1.5"]);
        assert_eq!(by(r#"{"k":["a",7,"a",null]}"#), ["a", "7"]);
        for nothing in [r#"{}"#, r#"{"k":""}"#, r#"{"k":0}"#, r#"{"k":null}"#, r#"{"k":false}"#, r#"{"k":{"k":1}}"#] {
            assert_eq!(by(nothing), [""; 0], "{nothing}");
        }
    }

    #[test]
    fn pointers_name_connections() {
        let by = |body| keys(r#"[{"json":["to","id"]}]"#, "{}", "application/json", body);
        assert_eq!(by(r#" {"x":[{"to":{"id":"no"}}],"to":{"no":1,"id":"me"},"y":2} "#), ["me"]);
        assert_eq!(by(r#"{"to":{"id":"first"},"to":{"id":"last"}}"#), ["last"]);
        assert_eq!(by(r#"{"to":{"id":["a","b","a"]}}"#), ["a", "b"]);
        assert_eq!(by(r#"{"to":{"id":"\u00e9\n"}}"#), ["é\n"]);
        assert_eq!(by(r#"{"t\u006f":{"id":12345678901234567890}}"#), ["12345678901234567000"]);
        assert_eq!(by(r#"{"to":{"id":1e21}}"#), ["1e+21"]);
        assert_eq!(by(r#"{"to":{"id":1.5e-7}}"#), ["1.5e-7"]);
        for nothing in [
            "",
            "to",
            r#""to""#,
            r#"{"to":{"id":{}}}"#,
            r#"{"to":7}"#,
            r#"{"to":{"id":"me"}} x"#,
            r#"{"to":{"id":"me"}"#,
        ] {
            assert_eq!(by(nothing), [""; 0], "{nothing}");
        }
        assert_eq!(keys(r#"[{"json":["1","k"]}]"#, "{}", "text/json", r#"[{"k":"a"},{"k":"b"}]"#), ["b"]);
        assert_eq!(keys(r#"[{"json":["to"]}]"#, "{}", "text/plain", r#"{"to":"me"}"#), [""; 0]);
        assert_eq!(keys(r#"[{"json":[]}]"#, "{}", "application/json", r#""me""#), ["me"]);
    }

    #[test]
    fn templates_join_their_parts_or_make_no_key() {
        let by = |headers, body| {
            keys(r#"[{"header":"dn"},{"text":":"},{"json":["appid"]}]"#, headers, "application/json", body)
        };
        assert_eq!(by(r#"{"dn":"d"}"#, r#"{"appid":"a"}"#), ["d:a"]);
        assert_eq!(by(r#"{"dn":"d"}"#, r#"{"appid":7}"#), ["d:7"]);
        assert_eq!(by(r#"{"dn":"d"}"#, "{}"), [""; 0]);
        assert_eq!(by("{}", r#"{"appid":"a"}"#), [""; 0]);
    }
}
