//! Properties and header tables from the wire.

use message_engin::message::{Delivery, HeaderInterner, Headers, MessageId, Properties, Value};
use serde::de::IgnoredAny;

use crate::{Input, delivered, encoded};

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    // Where the envelope says that the properties begin.
    let properties = input.choose([2, 0, 1, 40, usize::MAX]);
    let bytes = input.0.to_vec();
    let delivery = encoded(bytes.clone(), properties, "");
    let _ = (delivery.exchange(), delivery.routing_key(), delivery.message_id(), delivery.is_marked());
    check(&delivery);

    // The bytes as a table alone, behind the flags that say so: no length has to be guessed.
    let mut alone = vec![0, 0, 0x20, 0];
    alone.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    alone.extend_from_slice(&bytes);
    check(&encoded(alone, 2, ""));
}

fn check(delivery: &Delivery) {
    let (json, complete) = delivery.headers_json();
    let headers = delivery.headers();
    if let Err(error) = serde_json::from_str::<IgnoredAny>(json.trim_start_matches('!')) {
        panic!("{error}: {json}");
    }
    // Straight from the bytes or by way of values, it is the same.
    assert_eq!(json, headers.to_json());

    let mut seen: Vec<&str> = Vec::new();
    // A name that is not UTF-8 is replaced, and cannot be asked for.
    // Of two fields with one name, the first may be one that cannot be read.
    for (name, value) in headers.0.iter().filter(|(name, _)| complete && !name.contains('\u{fffd}')) {
        let first = !seen.contains(&&**name);
        seen.push(name);
        if !first || seen.len() > 50 {
            continue;
        }
        let found = delivery.header(name);
        assert!(found.as_ref().is_some_and(|found| same(found, value)), "{name}: {found:?} is not {value:?}");
        let text = if let Value::Text(text) = value { Some(&**text) } else { None };
        assert_eq!(delivery.text_header(name).as_deref(), text, "{name}");
    }

    // What we write of it reads the same, under this and under another content type.
    let written = Properties::new(delivery.content_type(), &headers);
    let other = written.with_content_type("other");
    check_sharing(&written, &other);
    let (written, other) = (delivered(written, ""), delivered(other, ""));
    assert_eq!(written.content_type(), delivery.content_type());
    assert_eq!(other.content_type(), "other");
    check_tracked(delivery, &headers);
    if names_fit(&headers) {
        for again in [written.headers(), other.headers()] {
            assert!(same_table(&again, &headers), "{again:?} is not {headers:?}");
        }
    }
}

/// What is kept once for all who have it goes out as it would for one alone.
fn check_sharing(written: &Properties, other: &Properties) {
    let fields = HeaderInterner::default();
    for properties in [written, other, written] {
        let shared = properties.with_content_type("any").sharing(&fields);
        let alone = properties.with_content_type("any");
        assert!(shared.encoded() == alone.encoded() && shared.size() == alone.size());
    }
}

/// Properties with a message id read the same, and the id with them.
fn check_tracked(delivery: &Delivery, headers: &Headers) {
    let prefix = delivery.content_type().get(..20).unwrap_or("p");
    let number = headers.0.len() as u64 * 0x1_0000_0001;
    for again in [false, true] {
        let id = MessageId { number, again };
        let properties = Properties::tracked_if(true, delivery.content_type(), headers);
        let mut written = vec![0, 0];
        properties.write(&mut written, prefix, id);
        assert!(Properties::of_message(&written[2..]).encoded() == properties.encoded());
        let read = encoded(written, 2, "");
        assert_eq!((read.message_id(), read.is_marked()), (&*id.text(prefix), again));
        assert_eq!(MessageId::parse(read.message_id(), prefix), Some(MessageId { number, again: false }));
        assert_eq!(read.content_type(), delivery.content_type());
        assert!(!names_fit(headers) || same_table(&read.headers(), headers));
    }
}

/// A replaced character is longer than what it replaces, and a name of more than 255 bytes stays behind.
fn names_fit(headers: &Headers) -> bool {
    fn fits(value: &Value) -> bool {
        match value {
            Value::Array(items) => items.iter().all(fits),
            Value::Table(table) => names_fit(table),
            _ => true,
        }
    }
    headers.0.iter().all(|(name, value)| name.len() <= 255 && fits(value))
}

/// Equal, and not a number is itself.
pub fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Double(one), Value::Double(other)) => one.to_bits() == other.to_bits(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Table(one), Value::Table(other)) => same_table(one, other),
        _ => one == other,
    }
}

pub fn same_table(one: &Headers, other: &Headers) -> bool {
    let mut fields = one.0.iter().zip(&other.0);
    one.0.len() == other.0.len() && fields.all(|(one, other)| one.0 == other.0 && same(&one.1, &other.1))
}
