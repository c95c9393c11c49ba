//! What becomes of a worker's message on its way into a frame, and what status says.

use message_engin::connection::Frame;
use message_engin::message::{Content, Headers, JSON, OCTETS, Properties, status_body};
use serde_json::Value as Json;

use crate::{Input, delivered};

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let any = input.byte() & 1 != 0;
    let content_type =
        if any { input.text() } else { input.choose([JSON, OCTETS, "text/json", "text/plain", ""]).into() };
    // A type that AMQP cannot carry stays behind.
    let content_type = if content_type.len() > 255 { String::new() } else { content_type };
    let body = input.0;

    let delivery = delivered(Properties::new(&content_type, &Headers::default()), body.to_vec());
    assert_eq!(delivery.content_type(), content_type);
    let content = delivery.content();
    let string = serde_json::from_slice::<Json>(body);
    match &content {
        Content::Binary(bytes) => assert!(content_type == OCTETS && bytes == body),
        Content::Text(bytes) => {
            assert_ne!(content_type, OCTETS);
            match string {
                Ok(Json::String(text)) if matches!(&*content_type, JSON | "text/json") => assert_eq!(bytes, &text),
                _ => assert_eq!(bytes, body),
            }
        }
    }
    let threshold = 1 + usize::from(body.first().copied().unwrap_or(0));
    let frame = Frame::new(&content, threshold);
    let (Content::Text(bytes) | Content::Binary(bytes)) = &content;
    assert_eq!(frame.payload_bytes(), bytes.len());

    // A key is what keyFn returned, as JSON; a reason is whatever the browser sent.
    let text = String::from_utf8_lossy(body);
    let key = serde_json::from_str::<Json>(&text).unwrap_or_else(|_| Json::String(text.to_string()));
    let key_json = key.to_string();
    let opened: Json = serde_json::from_slice(&status_body(&key_json, None)).expect("status 1 is JSON");
    assert_eq!(opened, serde_json::json!({ "status": 1, "key": key }));
    let code = u16::from(body.first().copied().unwrap_or(0)) * 257;
    let closed: Json = serde_json::from_slice(&status_body(&key_json, Some((code, &text)))).expect("status 0 is JSON");
    let expected = serde_json::json!({ "status": 0, "key": key, "reasonCode": code, "description": text });
    assert_eq!(closed, expected);
}
