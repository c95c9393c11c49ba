//! Messages that come back because there is no queue for them (basic.return).

use std::sync::Arc;

use super::frame_reader::HEADER;
use super::publish_channel::ROUTES;
use crate::broker::topology::Plan;
use crate::message::{MessageId, Outgoing, Properties, Route, message_id};

/// How what is published here can be known again.
pub struct Known {
    /// Exchange and routing key, by route.
    targets: [(String, String); 3],
    /// What message ids begin with.
    prefix: String,
}

impl Known {
    pub fn new(plan: &Plan) -> Self {
        let owned = |(exchange, key): (&str, &str)| (exchange.to_owned(), key.to_owned());
        Known { targets: ROUTES.map(|route| owned(plan.target(route))), prefix: plan.unique.clone() }
    }
}

/// A message that is coming back, frame by frame (basic.return and its content).
#[derive(Default)]
pub struct Returning {
    route: Option<Route>,
    properties: Option<(Arc<Properties>, MessageId)>,
    size: usize,
    body: Vec<u8>,
}

impl Returning {
    pub fn of(exchange: &str, key: &str, known: &Known) -> Self {
        let ours = |route: &Route| {
            let (name, routing_key) = &known.targets[*route as usize];
            name == exchange && routing_key == key
        };
        Returning { route: ROUTES.into_iter().find(ours), ..Returning::default() }
    }

    /// Takes a frame of the content; gives the message when that was the last one.
    pub fn content(&mut self, kind: u8, payload: &[u8], known: &Known) -> Option<Outgoing> {
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
        let Returning { route, properties, body, .. } = std::mem::take(self);
        let (properties, id) = properties?;
        Some(Outgoing { route: route?, properties, body: body.into(), id })
    }
}
