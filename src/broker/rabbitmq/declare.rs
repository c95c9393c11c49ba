//! Declares exchanges, shared queues and their bindings, with the ways round what a broker refuses.
//!
//! - Something exists with other properties (406): it is used as it is, or with at-least-once, which stands on durable
//!   queues, an error that says what to do.
//! - The broker refuses transient shared queues (541, RabbitMQ 4.3, or 4.x by its setting): they are declared durable and
//!   autoDelete instead.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use lapin::protocol::{AMQPClass, exchange, queue};
use lapin::types::{AMQPValue, FieldTable};

use tokio::time::{Instant, timeout_at};

use super::login::{AmqpConnection, Endpoint, unreachable};
use super::tls::Tls;
use crate::broker::topology::{Exchange, ExchangeKind, Queue, Topology};
use crate::config::{BrokerSettings, Host, QueueType};
use crate::error::{Error, Result};
use crate::message::Route;

/// For declarations alone: a refusal closes its channel, and it is opened again.
const CHANNEL: u16 = 100;

/// The addresses of a host.
pub type Resolve = Arc<dyn Fn(Host) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// The operating system's resolver.
pub fn resolve(host: Host) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> {
    Box::pin(async move { Ok(tokio::net::lookup_host((host.host, host.port)).await?.collect()) })
}

/// What is not per message: hosts, and the topology that is shared.
pub(super) struct Control {
    pub settings: BrokerSettings,
    /// None: plain TCP.
    pub tls: Option<Tls>,
    /// The broker refuses transient shared queues: remembered, since each refusal costs a connection.
    pub durable_queues: AtomicBool,
    /// The host to begin with: the first one, unless the last attempt came to nothing on a host that had answered.
    pub first: AtomicUsize,
    pub resolve: Resolve,
}

/// A connection on which the shared topology has been declared.
pub(super) struct Declared {
    pub connection: AmqpConnection,
    pub endpoint: Endpoint,
    pub standing: Standing,
}

/// What stands as it was declared, by name; the others were there with other properties.
#[derive(Default)]
pub(super) struct Standing {
    pub exchanges: Vec<String>,
    pub queues: Vec<String>,
    /// The shared queues were declared durable.
    pub durable: bool,
}

impl Standing {
    /// Declares a shared queue, its exchange and its binding once more, with no answer: what was autoDelete may have gone.
    /// What stood with other properties is not declared, which would end the channel.
    pub fn declare_again(&self, plan: &Topology, queue: &Queue) -> Vec<AMQPClass> {
        let mut methods = self.exchange_and_binding(plan, queue);
        if self.queues.contains(&queue.name) {
            let declare = queue::Declare { nowait: true, ..shared_queue_declare(plan, queue, self.durable) };
            // Before its binding.
            methods.insert(methods.len() - 1, AMQPClass::Queue(queue::AMQPMethod::Declare(declare)));
        }
        methods
    }

    /// The same without the queue.
    pub fn exchange_and_binding(&self, plan: &Topology, queue: &Queue) -> Vec<AMQPClass> {
        let declared =
            |exchange: &&Exchange| exchange.name == queue.exchange && self.exchanges.contains(&exchange.name);
        let exchange = plan.exchanges.iter().find(declared).map(|exchange| {
            let declare = exchange::Declare { nowait: true, ..exchange_declare(plan, exchange) };
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare))
        });
        let binding = binding(queue, &queue.exchange, &queue.binding_key, true);
        exchange.into_iter().chain([binding]).collect()
    }
}

impl Control {
    /// Connects, and declares all of `plan` but the private queues.
    pub async fn declare(&self, plan: &Topology) -> Result<Declared> {
        let durable = self.durable_queues.load(Ordering::Relaxed);
        let (connection, endpoint) = self.open().await?;
        match declare_on(connection, plan, durable).await {
            Err(Error::Refused { code: "INTERNAL_ERROR", .. }) if !durable && !plan.is_at_least_once() => {
                // The same address again: those before it in the list have cost their time already.
                let connection = self.connect(&endpoint).await?;
                let (connection, standing) = declare_on(connection, plan, true).await?;
                self.durable_queues.store(true, Ordering::Relaxed);
                Ok(Declared { connection, endpoint, standing })
            }
            result => result.map(|(connection, standing)| Declared { connection, endpoint, standing }),
        }
    }

    pub async fn connect(&self, endpoint: &Endpoint) -> Result<AmqpConnection> {
        AmqpConnection::open(&self.settings, self.tls.as_ref(), endpoint).await
    }

    /// Declares what is published to, over a connection of its own to that address: what was autoDelete may have gone.
    pub async fn declare_again(&self, plan: &Topology, endpoint: &Endpoint) -> Result<()> {
        let limit = self.settings.connection_timeout;
        let declaring = async {
            let mut connection = self.connect(endpoint).await?;
            connection.open_channel(CHANNEL).await?;
            exchanges(&mut connection, plan).await?;
            for queue in &plan.publish_queues {
                shared_queue(&mut connection, plan, queue, self.durable_queues.load(Ordering::Relaxed)).await?;
            }
            connection.close().await;
            Ok(())
        };
        // No heartbeat tells that this connection is dead.
        match tokio::time::timeout(Duration::from_millis(limit), declaring).await {
            Ok(result) => result,
            Err(_) => Err(self.timed_out(limit)),
        }
    }

    /// The first address that answers and lets us in. Of those that do not, a refusal says more than silence.
    ///
    /// The connection timeout is shared: each host gets an equal part of what is left, and so does each address of its
    /// name, so that one that accepts and stays silent leaves time for those after it.
    async fn open(&self) -> Result<(AmqpConnection, Endpoint)> {
        let settings = &self.settings;
        let count = settings.hosts.len();
        let deadline = Instant::now() + Duration::from_millis(settings.connection_timeout);
        let begin = self.first.load(Ordering::Relaxed);
        let mut error = Error::Closed { what: "list of hosts" };
        let mut fail = |failure| {
            if !matches!(error, Error::Refused { .. }) {
                error = failure;
            }
        };
        for turn in 0..count {
            let index = (begin + turn) % count;
            let Host { host, .. } = &settings.hosts[index];
            let deadline = part(deadline, count - turn);
            let addresses = match timeout_at(deadline, (self.resolve)(settings.hosts[index].clone())).await {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(failure)) => {
                    fail(unreachable(&failure, settings.address.clone()));
                    continue;
                }
                Err(_) => {
                    fail(self.timed_out(settings.connection_timeout));
                    continue;
                }
            };
            let attempts = addresses.len();
            for (number, address) in addresses.into_iter().enumerate() {
                let endpoint = Endpoint { host: host.clone(), address };
                match timeout_at(part(deadline, attempts - number), self.connect(&endpoint)).await {
                    Ok(Ok(connection)) => {
                        // Until all that follows has gone well, which may never be said: the next attempt is for the next
                        // host.
                        self.first.store(index + 1, Ordering::Relaxed);
                        return Ok((connection, endpoint));
                    }
                    // Who may not log in to one may not to another.
                    Ok(Err(refusal @ Error::Refused { code: "ACCESS_REFUSED", .. })) => return Err(refusal),
                    Ok(Err(failure)) => fail(failure),
                    Err(_) => fail(self.timed_out(settings.connection_timeout)),
                }
            }
        }
        Err(error)
    }

    fn timed_out(&self, after_ms: u64) -> Error {
        Error::TimedOut { address: self.settings.address.clone(), after_ms }
    }
}

/// When the first of so many attempts has had its part of the time until the deadline.
fn part(deadline: Instant, attempts: usize) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / u32::try_from(attempts).unwrap_or(u32::MAX).max(1)
}

/// Declares what is shared on a connection, and gives it back with what stands as declared.
async fn declare_on(
    mut connection: AmqpConnection,
    plan: &Topology,
    durable: bool,
) -> Result<(AmqpConnection, Standing)> {
    connection.open_channel(CHANNEL).await?;
    let exchanges = exchanges(&mut connection, plan).await?;
    let mut standing = Standing { exchanges, queues: Vec::new(), durable };
    if let Some(name) = &plan.dead_letter_exchange {
        dead_letter_exchange(&mut connection, name).await?;
    }
    for queue in plan.queues.iter().filter(|queue| !queue.private).chain(&plan.publish_queues) {
        if shared_queue(&mut connection, plan, queue, durable).await? {
            standing.queues.push(queue.name.clone());
        }
    }
    connection.close_channel(CHANNEL).await?;
    Ok((connection, standing))
}

/// Whether it stands as declared; what exists otherwise is left as it is, and the channel is opened again. `option` names
/// it for at-least-once, which needs it as it is declared.
///
/// The broker answers 406 for other reasons too (a limit on queues, a type that is not allowed). A passive declaration tells
/// them apart, whatever the broker's text says: what does not exist cannot have other properties.
async fn stands(connection: &mut AmqpConnection, plan: &Topology, declare: Declare, option: &str) -> Result<bool> {
    let (code, address, detail) = match connection.call(CHANNEL, &declare.class(false)).await {
        Ok(_) => return Ok(true),
        Err(Error::Refused { code: code @ "PRECONDITION_FAILED", address, detail }) => (code, address, detail),
        Err(error) => return Err(error),
    };
    connection.open_channel(CHANNEL).await?;
    let exists = connection.call(CHANNEL, &declare.class(true)).await.is_ok();
    if exists && !plan.is_at_least_once() {
        return Ok(false);
    }
    let advice = if exists {
        format!(
            ". mqConf.delivery 'at-least-once' needs it as it declares it: delete the one that is there when nobody uses it \
             any more, or give mqConf.{option} another name, here and in every gateway and client"
        )
    } else {
        String::new()
    };
    Err(Error::Refused { code, address, detail: detail + &advice })
}

/// A declaration, which is said passively to ask whether the thing exists.
enum Declare {
    Exchange(exchange::Declare),
    Queue(queue::Declare),
}

impl Declare {
    fn class(&self, passive: bool) -> AMQPClass {
        match self {
            Declare::Exchange(declare) => {
                AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare { passive, ..declare.clone() }))
            }
            Declare::Queue(declare) => {
                AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare { passive, ..declare.clone() }))
            }
        }
    }
}

pub(super) fn exchange_declare(plan: &Topology, exchange: &Exchange) -> exchange::Declare {
    let at_least_once = plan.is_at_least_once();
    exchange::Declare {
        exchange: exchange.name.as_str().into(),
        kind: match exchange.kind {
            ExchangeKind::Direct => "direct".into(),
            ExchangeKind::Fanout => "fanout".into(),
        },
        passive: false,
        durable: at_least_once,
        auto_delete: !at_least_once,
        internal: false,
        nowait: false,
        arguments: FieldTable::default(),
    }
}

async fn exchanges(connection: &mut AmqpConnection, plan: &Topology) -> Result<Vec<String>> {
    let mut as_declared = Vec::new();
    for exchange in &plan.exchanges {
        let declare = exchange_declare(plan, exchange);
        let option = match exchange.route {
            Route::Receive => "receiveExchange",
            Route::Status => "statusExchange",
            Route::Message => "messageExchange",
        };
        if stands(connection, plan, Declare::Exchange(declare), option).await? {
            as_declared.push(exchange.name.clone());
        }
    }
    Ok(as_declared)
}

/// It is the user's: kind and properties are theirs to choose.
async fn dead_letter_exchange(connection: &mut AmqpConnection, name: &str) -> Result<()> {
    let declare = exchange::Declare {
        exchange: name.into(),
        kind: "direct".into(),
        passive: true,
        durable: false,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: FieldTable::default(),
    };
    let declare = AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare));
    match connection.call(CHANNEL, &declare).await {
        Err(Error::Refused { code: code @ "NOT_FOUND", address, detail }) => {
            let detail = format!("{detail}. mqConf.deadLetterExchange must exist, with a queue bound to it");
            Err(Error::Refused { code, address, detail })
        }
        result => result.map(|_| ()),
    }
}

/// Declares and binds it; answers whether it stands as declared.
async fn shared_queue(connection: &mut AmqpConnection, plan: &Topology, queue: &Queue, durable: bool) -> Result<bool> {
    let option = if queue.route == Route::Status { "statusQueue" } else { "receiveQueue" };
    let stands = stands(connection, plan, Declare::Queue(shared_queue_declare(plan, queue, durable)), option).await?;
    bind(connection, CHANNEL, queue, &queue.exchange, &queue.binding_key).await?;
    Ok(stands)
}

fn shared_queue_declare(plan: &Topology, queue: &Queue, durable: bool) -> queue::Declare {
    let at_least_once = plan.is_at_least_once();
    let mut arguments = FieldTable::default();
    if at_least_once {
        type_argument(&mut arguments, plan);
        if let Some(name) = &plan.dead_letter_exchange {
            arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(name.as_str().into()));
        }
    }
    queue::Declare {
        queue: queue.name.as_str().into(),
        passive: false,
        durable: durable || at_least_once,
        exclusive: false,
        auto_delete: plan.queue_ends_with_its_consumers(),
        nowait: false,
        arguments,
    }
}

/// Classic is what a broker makes of a queue that says nothing, unless its virtual host says otherwise.
pub(super) fn type_argument(arguments: &mut FieldTable, plan: &Topology) {
    if plan.queue_type == QueueType::Quorum {
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    }
}

pub(super) async fn bind(
    connection: &mut AmqpConnection,
    channel: u16,
    queue: &Queue,
    to: &str,
    key: &str,
) -> Result<()> {
    connection.call(channel, &binding(queue, to, key, false)).await.map(|_| ())
}

/// queue.bind; with `nowait` there is no answer.
pub(super) fn binding(queue: &Queue, to: &str, key: &str, nowait: bool) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
        queue: queue.name.as_str().into(),
        exchange: to.into(),
        routing_key: key.into(),
        nowait,
        arguments: FieldTable::default(),
    }))
}
