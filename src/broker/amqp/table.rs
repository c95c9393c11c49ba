//! AMQP field tables and properties to our values and back.

use std::sync::Arc;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, ByteArray, FieldArray, FieldTable, ShortString};

use crate::message::{Delivery, Headers, Properties, Route, Value};

/// Only field types that the oldest receivers can read (S I l d t V A F T x): node-amqp ends its connection on any other.
pub(super) fn properties(properties: &Properties) -> BasicProperties {
    let mut encoded = BasicProperties::default().with_headers(table(&properties.headers));
    if let Ok(content_type) = ShortString::try_new(&*properties.content_type)
        && !properties.content_type.is_empty()
    {
        encoded = encoded.with_content_type(content_type);
    }
    encoded
}

/// A name of more than 255 bytes has no form in AMQP (4.2.5.5); such a header stays behind.
fn table(headers: &Headers) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in &headers.0 {
        if let Ok(name) = ShortString::try_new(&**name) {
            table.insert(name, amqp_value(value));
        }
    }
    table
}

fn amqp_value(value: &Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::Int(value) => i32::try_from(*value).map_or(AMQPValue::LongLongInt(*value), AMQPValue::LongInt),
        Value::Double(value) => AMQPValue::Double(*value),
        Value::Text(text) => AMQPValue::LongString(text.as_bytes().to_vec().into()),
        Value::Bytes(bytes) => AMQPValue::ByteArray(ByteArray::from(&bytes[..])),
        Value::Timestamp(seconds) => AMQPValue::Timestamp(*seconds),
        Value::Array(items) => {
            AMQPValue::FieldArray(FieldArray::from(items.iter().map(amqp_value).collect::<Vec<_>>()))
        }
        Value::Table(headers) => AMQPValue::FieldTable(table(headers)),
    }
}

fn headers(table: &FieldTable) -> Headers {
    Headers(table.inner().iter().map(|(name, value)| (name.as_str().into(), our_value(value))).collect())
}

fn our_value(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => Value::Bool(*value),
        AMQPValue::ShortShortInt(value) => Value::Int((*value).into()),
        AMQPValue::ShortShortUInt(value) => Value::Int((*value).into()),
        AMQPValue::ShortInt(value) => Value::Int((*value).into()),
        AMQPValue::ShortUInt(value) => Value::Int((*value).into()),
        AMQPValue::LongInt(value) => Value::Int((*value).into()),
        AMQPValue::LongUInt(value) => Value::Int((*value).into()),
        AMQPValue::LongLongInt(value) => Value::Int(*value),
        AMQPValue::Float(value) => Value::Double((*value).into()),
        AMQPValue::Double(value) => Value::Double(*value),
        AMQPValue::DecimalValue(value) => {
            // The value is signed on the wire; the type behind it is not.
            Value::Double(f64::from(value.value.cast_signed()) / 10f64.powi(value.scale.into()))
        }
        AMQPValue::ShortString(text) => Value::Text(text.as_str().into()),
        AMQPValue::LongString(text) => Value::Text(String::from_utf8_lossy(text.as_bytes()).into()),
        AMQPValue::FieldArray(items) => Value::Array(items.as_slice().iter().map(our_value).collect()),
        AMQPValue::Timestamp(seconds) => Value::Timestamp(*seconds),
        AMQPValue::FieldTable(table) => Value::Table(headers(table)),
        AMQPValue::ByteArray(bytes) => Value::Bytes(bytes.as_slice().to_vec().into()),
        AMQPValue::Void => Value::Null,
    }
}

pub(super) fn delivery(route: Route, delivery: lapin::message::Delivery) -> Delivery {
    let content_type = delivery.properties.content_type().as_ref().map_or("", ShortString::as_str);
    let headers = delivery.properties.headers().as_ref().map(headers).unwrap_or_default();
    Delivery {
        route,
        exchange: delivery.exchange.as_str().into(),
        routing_key: delivery.routing_key.as_str().into(),
        redelivered: delivery.redelivered,
        tag: delivery.delivery_tag,
        properties: Arc::new(Properties::new(content_type, headers)),
        body: delivery.data.into(),
    }
}
