//! Messages that come back because there is no queue for them (basic.return).

use std::sync::Arc;

use super::frame_reader::HEADER;
use super::publish_channel::ROUTES;
use crate::broker::topology::Topology;
use crate::message::{MessageId, OutboundMessage, Properties, Route, message_id};

/// How what is published here can be known again.
pub struct RouteTable {
    /// Exchange and routing key, by route.
    publish_queues: [(String, String); 3],
    /// What message ids begin with.
    prefix: String,
}

impl RouteTable {
    pub fn new(plan: &Topology) -> Self {
        let owned = |(exchange, key): (&str, &str)| (exchange.to_owned(), key.to_owned());
        RouteTable { publish_queues: ROUTES.map(|route| owned(plan.target(route))), prefix: plan.unique.clone() }
    }
}

/// A message that is coming back, frame by frame (basic.return and its content).
#[derive(Default)]
pub struct ReturnedMessage {
    route: Option<Route>,
    properties: Option<(Arc<Properties>, MessageId)>,
    size: usize,
    body: Vec<u8>,
}

impl ReturnedMessage {
    pub fn of(exchange: &str, key: &str, known: &RouteTable) -> Self {
        let ours = |route: &Route| {
            let (name, routing_key) = &known.publish_queues[*route as usize];
            name == exchange && routing_key == key
        };
        ReturnedMessage { route: ROUTES.into_iter().find(ours), ..ReturnedMessage::default() }
    }

    /// Takes a frame of the content; gives the message when that was the last one.
    pub fn content(&mut self, kind: u8, payload: &[u8], known: &RouteTable) -> Option<OutboundMessage> {
        if kind == HEADER {
            let (fixed, properties) = payload.split_at_checked(12)?;
            self.size = usize::try_from(u64::from_be_bytes(fixed[4..].try_into().ok()?)).ok()?;
            let id = message_id(properties);
            let id = MessageId::parse(id, &known.prefix).unwrap_or_default();
            // What came behind it may have had a queue.
            let id = MessageId { again: id.number > 0, ..id };
            self.properties = Some((Arc::new(Properties::of_message(properties)), id));
        } else {
            self.body.extend_from_slice(payload);
        }
        if self.body.len() < self.size {
            return None;
        }
        let ReturnedMessage { route, properties, body, .. } = std::mem::take(self);
        let (properties, id) = properties?;
        Some(OutboundMessage { route: route?, properties, body: body.into(), id })
    }
}
