//! Header JSON from JavaScript, onto the wire and back.

use message_engin::message::{Headers, Properties, Value};
use serde::de::IgnoredAny;

use crate::delivered;
use crate::table::same_table;

/// Levels of tables and arrays that `lib/native/message-codec.js` lets through; the wire's reader stops at 64.
const MAX_DEPTH: usize = 33;

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(headers) = Headers::from_json(&text) else { return };
    let json = headers.to_json();
    if let Err(error) = serde_json::from_str::<IgnoredAny>(json.trim_start_matches('!')) {
        panic!("{error}: {json}");
    }
    // A number may come back as another kind of number, and only as that.
    let again = Headers::from_json(&json).expect("what we wrote ourselves");
    assert_eq!(again.to_json(), json);
    assert!(same_numbers(&headers, &again), "{again:?} is not {headers:?}");

    if !carried(&headers, 0) {
        return;
    }
    let delivery = delivered(Properties::new("application/json", &headers), "");
    assert!(same_table(&delivery.headers(), &headers), "{:?} is not {headers:?}", delivery.headers());
    assert_eq!(delivery.headers_json(), (json, true));
}

fn same_numbers(one: &Headers, other: &Headers) -> bool {
    fn same(one: &Value, other: &Value) -> bool {
        match (one, other) {
            (Value::Double(one), Value::Int(other)) => *one == *other as f64,
            (Value::Array(one), Value::Array(other)) => one.iter().zip(other).all(|(one, other)| same(one, other)),
            (Value::Table(one), Value::Table(other)) => same_numbers(one, other),
            _ => one == other,
        }
    }
    one.0.iter().zip(&other.0).all(|(one, other)| one.0 == other.0 && same(&one.1, &other.1))
}

/// Whether all of it has a form in AMQP.
fn carried(headers: &Headers, depth: usize) -> bool {
    fn fits(value: &Value, depth: usize) -> bool {
        match value {
            Value::Array(items) => depth <= MAX_DEPTH && items.iter().all(|item| fits(item, depth + 1)),
            Value::Table(table) => carried(table, depth),
            _ => true,
        }
    }
    depth <= MAX_DEPTH && headers.0.iter().all(|(name, item)| name.len() <= 255 && fits(item, depth + 1))
}
