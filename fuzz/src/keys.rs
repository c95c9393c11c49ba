//! Declared keys over any message: what is read without a tree is what a tree says.

use message_engin::message::key_template::KeyTemplate;
use message_engin::message::{Delivery, Headers, JSON, Properties, Value};
use serde_json::{Value as Json, json};

use crate::{Input, delivered};

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let content_type = input.choose([JSON, "text/json", "text/plain", ""]);
    let kind = input.byte();
    let path: Vec<String> = (0..input.byte() % 5).map(|_| input.text()).collect();
    // Deeper than the wire's reader goes, a header is not there.
    let headers = Some(input.text()).filter(|text| text.matches(['[', '{']).count() < 60).unwrap_or_default();
    let body = input.0.to_vec();

    let headers = Headers::from_json(&headers).unwrap_or_default();
    let delivery = delivered(Properties::new(content_type, &headers), body.clone());
    let is_json = matches!(content_type, JSON | "text/json");

    let pointed = named(&json!([{ "json": path }]), &delivery);
    if !is_json {
        assert!(pointed.is_empty());
    } else if let Ok(tree) = serde_json::from_slice::<Json>(&body) {
        let pointer: String =
            path.iter().map(|token| format!("/{}", token.replace('~', "~0").replace('/', "~1"))).collect();
        let expected = tree.pointer(&pointer).map(json_keys).unwrap_or_default();
        assert_same(&pointed, &expected);
    } else if std::str::from_utf8(&body).is_err() {
        assert!(pointed.is_empty());
    }

    let name = path.first().map_or("k", String::as_str);
    let by_header = named(&json!([{ "header": name }]), &delivery);
    // AMQP has no table with one name twice; where there is one, the first counts.
    let header = headers.0.iter().find(|(found, _)| found.len() <= 255 && **found == *name);
    assert_same(&by_header, &header.map(|(_, value)| header_keys(value)).unwrap_or_default());

    // Parts joined: all of them, or no key.
    let joined = named(&json!([{ "header": name }, { "text": ":" }, { "json": path }]), &delivery);
    if let ([header], [pointed], [joined]) = (&by_header[..], &pointed[..], &joined[..]) {
        assert_eq!(format!("{header}:{pointed}"), *joined);
    }
    if by_header.is_empty() || pointed.is_empty() {
        assert!(joined.is_empty(), "half a key: {joined:?}");
    }

    // Any template that can be read at all can be asked.
    if kind & 1 != 0
        && let Ok(template) = serde_json::from_slice::<KeyTemplate>(&body)
    {
        assert!(template.keys(&delivery).iter().count() <= body.len() + 1);
    }
}

fn named(template: &Json, delivery: &Delivery) -> Vec<String> {
    let template: KeyTemplate = serde_json::from_value(template.clone()).expect("a template");
    let keys: Vec<String> = template.keys(delivery).iter().map(|key| key.to_string()).collect();
    let mut seen = std::collections::HashSet::new();
    assert!(keys.iter().all(|key| seen.insert(key)), "a key twice: {keys:?}");
    assert!(keys.iter().all(|key| !key.is_empty()), "an empty key: {keys:?}");
    keys
}

/// Key texts, or numbers whose text is JavaScript's business.
#[derive(Debug)]
enum Key {
    Text(String),
    Number(f64),
}

fn json_keys(value: &Json) -> Vec<Key> {
    match value {
        Json::Array(items) => items.iter().filter(|item| !item.is_array()).flat_map(json_keys).collect(),
        Json::String(text) => text_key(text),
        Json::Number(number) => number_key(number.as_f64().unwrap_or(0.0)),
        Json::Bool(true) => vec![Key::Text("true".into())],
        Json::Bool(false) | Json::Null | Json::Object(_) => Vec::new(),
    }
}

fn header_keys(value: &Value) -> Vec<Key> {
    match value {
        Value::Array(items) => {
            items.iter().filter(|item| !matches!(item, Value::Array(_))).flat_map(header_keys).collect()
        }
        Value::Text(text) => text_key(text),
        Value::Int(number) => number_key(*number as f64),
        Value::Double(number) => number_key(*number),
        Value::Bool(true) => vec![Key::Text("true".into())],
        _ => Vec::new(),
    }
}

fn text_key(text: &str) -> Vec<Key> {
    if text.is_empty() { Vec::new() } else { vec![Key::Text(text.to_owned())] }
}

fn number_key(number: f64) -> Vec<Key> {
    if number == 0.0 { Vec::new() } else { vec![Key::Number(number)] }
}

/// The same keys in the same order, each once.
fn assert_same(keys: &[String], expected: &[Key]) {
    let mut left = keys.iter();
    let mut seen: Vec<&String> = Vec::new();
    for key in expected {
        let matches = |text: &String| match key {
            Key::Text(expected) => text == expected,
            Key::Number(number) => is_number(text, *number),
        };
        if seen.iter().any(|text| matches(text)) {
            continue;
        }
        let next = left.next();
        assert!(next.is_some_and(matches), "{next:?} is not {key:?}; keys {keys:?}");
        seen.extend(next);
    }
    assert_eq!(left.next(), None, "more than {expected:?}");
}

/// ECMA-262, Number::toString: plain digits from 1e-6 up to 1e21, an exponent with its sign outside.
fn is_number(text: &str, number: f64) -> bool {
    let plain = (1e-6..1e21).contains(&number.abs());
    let exponent = text.contains("e+") || text.contains("e-");
    let shortest = text.chars().filter(char::is_ascii_digit).count() <= 17 + if plain { 21 } else { 3 };
    text.parse() == Ok(number) && plain != exponent && !text.ends_with(".0") && shortest
}
