//! Names and declarations: which exchanges, queues and bindings there are, and with which properties.
//!
//! The names and properties are those of the original package, so that its gateways and clients meet ours on one broker.

use crate::config::BrokerSettings;
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    Direct,
    Fanout,
}

/// An exchange: not durable, deleted with its last binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    pub route: Route,
    pub name: String,
    pub kind: ExchangeKind,
}

/// A queue that is consumed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// What comes out of it.
    pub route: Route,
    pub name: String,
    /// The exchange that it is bound to, and the key.
    pub exchange: String,
    pub binding_key: String,
    /// Private to this process, which may share no queue: exclusive. Otherwise all clients compete for it.
    pub private: bool,
}

/// All that one gateway or client declares and consumes.
#[derive(Clone, Debug)]
pub struct Plan {
    pub role: Role,
    pub exchanges: Vec<Exchange>,
    pub queues: Vec<Queue>,
    /// Deliveries that may be unacknowledged on one channel.
    pub prefetch: u16,
    /// Routing keys for publishing: a fanout ignores its key, and the original gives it the receive queue's.
    receive_key: String,
    status_key: String,
}

impl Plan {
    /// `unique` makes the private queue's name: random, and the same for every connection of this process.
    pub fn new(settings: &BrokerSettings, role: Role, unique: &str) -> Plan {
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
        let queues = match role {
            Role::Gateway => vec![Queue {
                route: Route::Message,
                name: format!("{}-{unique}", settings.message_queue),
                exchange: settings.message_exchange.clone(),
                binding_key: settings.message_queue.clone(),
                private: true,
            }],
            Role::Worker => vec![
                shared(Route::Receive, &settings.receive_queue, &settings.receive_exchange),
                shared(Route::Status, &settings.status_queue, &settings.status_exchange),
            ],
        };
        Plan {
            role,
            exchanges,
            queues,
            prefetch: settings.prefetch,
            receive_key: settings.receive_queue.clone(),
            status_key: settings.status_queue.clone(),
        }
    }

    /// Exchange name and routing key of what is published on `route`.
    pub fn target(&self, route: Route) -> (&str, &str) {
        let exchange = self.exchanges.iter().find(|exchange| exchange.route == route);
        let key = if route == Route::Status { &self.status_key } else { &self.receive_key };
        (exchange.map_or("", |exchange| exchange.name.as_str()), key)
    }
}
