//! Names and declarations: which exchanges, queues and bindings there are, and with which properties.
//!
//! The names are those of the original package, and with at-most-once the properties too, so that its gateways and clients
//! meet ours on one broker.

use crate::config::{BrokerSettings, Guarantee, QueueType};
use crate::message::Route;

/// Which side of the broker this process is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Gateway,
    Worker,
}

impl Role {
    pub fn noun(self) -> &'static str {
        match self {
            Role::Gateway => "gateway",
            Role::Worker => "client",
        }
    }

    pub fn publishes(self) -> &'static [Route] {
        match self {
            Role::Gateway => &[Route::Receive, Route::Status],
            Role::Worker => &[Route::Message],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    Direct,
    Fanout,
}

/// A set of routes: which of a plan's queues are consumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routes(u8);

impl Routes {
    pub const NONE: Routes = Routes(0);

    pub fn contains(self, route: Route) -> bool {
        self.0 & (1 << route as u8) != 0
    }
}

impl FromIterator<Route> for Routes {
    fn from_iter<I: IntoIterator<Item = Route>>(routes: I) -> Self {
        Routes(routes.into_iter().fold(0, |set, route| set | (1 << route as u8)))
    }
}

/// An exchange: not durable and deleted with its last binding, or durable and kept ([`Topology::is_at_least_once`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    pub route: Route,
    pub name: String,
    pub kind: ExchangeKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// What comes out of it.
    pub route: Route,
    pub name: String,
    /// The exchange that it is bound to, and the key.
    pub exchange: String,
    pub binding_key: String,
    /// This gateway's own. Otherwise all clients compete for it.
    pub private: bool,
}

/// All that one gateway or client declares, and what it consumes of that.
#[derive(Clone, Debug)]
pub struct Topology {
    pub role: Role,
    pub exchanges: Vec<Exchange>,
    /// Declared here, and consumed as far as `consumed` says.
    pub queues: Vec<Queue>,
    /// What a new session consumes from the start.
    pub consumed: Routes,
    /// Declared here for others to consume, so that what is published has somewhere to wait.
    pub publish_queues: Vec<Queue>,
    /// Deliveries that may be unacknowledged on one channel.
    pub prefetch: u16,
    pub guarantee: Guarantee,
    pub queue_type: QueueType,
    pub dead_letter_exchange: Option<String>,
    /// ms
    pub queue_expires: u64,
    /// Of this process: names its queue, and begins its message ids.
    pub unique: String,
    /// Routing keys for publishing: a fanout ignores its key, and the original gives it the receive queue's.
    receive_key: String,
    status_key: String,
}

impl Topology {
    /// `unique` is random, and the same for every connection of this process.
    pub fn new(settings: &BrokerSettings, role: Role, unique: &str) -> Topology {
        let exchange = |route, name: &String, kind| Exchange { route, name: name.clone(), kind };
        let exchanges = vec![
            exchange(Route::Receive, &settings.receive_exchange, ExchangeKind::Direct),
            exchange(Route::Status, &settings.status_exchange, ExchangeKind::Direct),
            exchange(Route::Message, &settings.message_exchange, ExchangeKind::Fanout),
        ];
        let shared = |route, name: &String, exchange: &String| Queue {
            route,
            name: name.clone(),
            exchange: exchange.clone(),
            binding_key: name.clone(),
            private: false,
        };
        let own = Queue {
            route: Route::Message,
            name: format!("{}-{unique}", settings.message_queue),
            exchange: settings.message_exchange.clone(),
            binding_key: settings.message_queue.clone(),
            private: true,
        };
        let common = vec![
            shared(Route::Receive, &settings.receive_queue, &settings.receive_exchange),
            shared(Route::Status, &settings.status_queue, &settings.status_exchange),
        ];
        let (queues, publish_queues) = match role {
            Role::Gateway => (vec![own], common),
            Role::Worker => (common, Vec::new()),
        };
        Topology {
            role,
            exchanges,
            consumed: queues.iter().map(|queue| queue.route).collect(),
            queues,
            publish_queues,
            guarantee: settings.delivery,
            queue_type: settings.queue_type,
            dead_letter_exchange: settings.dead_letter_exchange.clone(),
            queue_expires: settings.queue_expires,
            unique: unique.to_owned(),
            prefetch: settings.prefetch,
            receive_key: settings.receive_queue.clone(),
            status_key: settings.status_queue.clone(),
        }
    }

    pub fn with_consumed(self, consumed: Routes) -> Topology {
        Topology { consumed, ..self }
    }

    /// At least once: durable, confirmed, acknowledged one by one.
    pub fn is_at_least_once(&self) -> bool {
        self.guarantee == Guarantee::AtLeastOnce
    }

    /// Whether the broker deletes a queue, with all that waits in it, when its last consumer goes (autoDelete).
    pub fn queue_ends_with_its_consumers(&self) -> bool {
        !self.is_at_least_once()
    }

    /// Exchange name and routing key of what is published on `route`.
    pub fn target(&self, route: Route) -> (&str, &str) {
        let exchange = self.exchanges.iter().find(|exchange| exchange.route == route);
        let key = if route == Route::Status { &self.status_key } else { &self.receive_key };
        (exchange.map_or("", |exchange| exchange.name.as_str()), key)
    }
}
