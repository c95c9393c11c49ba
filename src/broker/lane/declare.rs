//! Declares exchanges, shared queues and their bindings, with the ways round what a broker refuses.
//!
//! - Something exists with other properties (406): it is used as it is, or with at-least-once, which stands on durable
//!   queues, an error that says what to do.
//! - The broker refuses transient shared queues (541, RabbitMQ 4.3, or 4.x by its setting): they are declared durable and
//!   autoDelete instead.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lapin::protocol::{AMQPClass, exchange, queue};
use lapin::types::{AMQPValue, FieldTable};

use super::connect::Connection;
use super::tls::Tls;
use crate::broker::topology::{Exchange, ExchangeKind, Plan, Queue};
use crate::config::{BrokerSettings, Host, QueueType};
use crate::error::{Error, Result};
use crate::message::Route;

/// For declarations alone: a refusal closes its channel, and it is opened again.
const CHANNEL: u16 = 100;

/// What is not per message: hosts, and the topology that is shared.
pub(super) struct Control {
    pub settings: BrokerSettings,
    /// None: plain TCP.
    pub tls: Option<Tls>,
    /// The broker refuses transient shared queues: remembered, since each refusal costs a connection.
    pub durable_queues: AtomicBool,
    /// The host to begin with: the first one, unless the last attempt came to nothing on a host that had answered.
    pub first: AtomicUsize,
}

/// A connection on which the shared topology has been declared.
pub(super) struct Declared {
    pub connection: Connection,
    pub host: Host,
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
    pub fn declare_again(&self, plan: &Plan, queue: &Queue) -> Vec<AMQPClass> {
        let exchange = plan.exchanges.iter().find(|exchange| exchange.name == queue.exchange);
        let exchange = exchange.filter(|exchange| self.exchanges.contains(&exchange.name));
        let mut methods = Vec::new();
        methods.extend(exchange.map(|exchange| exchange_method(plan, exchange, true)));
        if self.queues.contains(&queue.name) {
            methods.push(shared_queue_method(plan, queue, self.durable, true));
        }
        methods.push(binding(queue, &queue.exchange, &queue.binding_key, true));
        methods
    }
}

impl Control {
    /// Connects, and declares all of `plan` but the private queues.
    pub async fn declare(&self, plan: &Plan) -> Result<Declared> {
        let durable = self.durable_queues.load(Ordering::Relaxed);
        let (connection, host) = self.open().await?;
        match declare_on(connection, plan, durable).await {
            Err(Error::Refused { code: "INTERNAL_ERROR", .. }) if !durable && !plan.is_reliable() => {
                // The same host again: those before it in the list have cost their time already.
                let connection = self.connect(&host).await?;
                let (connection, standing) = declare_on(connection, plan, true).await?;
                self.durable_queues.store(true, Ordering::Relaxed);
                Ok(Declared { connection, host, standing })
            }
            result => result.map(|(connection, standing)| Declared { connection, host, standing }),
        }
    }

    pub async fn connect(&self, host: &Host) -> Result<Connection> {
        Connection::open(&self.settings, self.tls.as_ref(), host).await
    }

    /// Declares what is published to, over a connection of its own to that host: what was autoDelete may have gone.
    pub async fn declare_again(&self, plan: &Plan, host: &Host) -> Result<()> {
        let limit = self.settings.connection_timeout;
        let declaring = async {
            let mut connection = self.connect(host).await?;
            connection.open_channel(CHANNEL).await?;
            exchanges(&mut connection, plan).await?;
            for queue in &plan.targets {
                shared_queue(&mut connection, plan, queue, self.durable_queues.load(Ordering::Relaxed)).await?;
            }
            connection.close().await;
            Ok(())
        };
        // No heartbeat tells that this connection is dead.
        match tokio::time::timeout(Duration::from_millis(limit), declaring).await {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut { address: self.settings.address.clone(), after_ms: limit }),
        }
    }

    /// The first host that answers and lets us in. Of those that do not, a refusal says more than silence.
    async fn open(&self) -> Result<(Connection, Host)> {
        let settings = &self.settings;
        let count = settings.hosts.len();
        let share = Duration::from_millis(settings.connection_timeout) / u32::try_from(count).unwrap_or(1).max(1);
        let begin = self.first.load(Ordering::Relaxed);
        let mut error = Error::Closed { what: "list of hosts" };
        for index in (0..count).map(|turn| (begin + turn) % count) {
            let host = &settings.hosts[index];
            let failure = match tokio::time::timeout(share, self.connect(host)).await {
                Ok(Ok(connection)) => {
                    // Until all that follows has gone well, which may never be said: the next attempt is for the next host.
                    self.first.store(index + 1, Ordering::Relaxed);
                    return Ok((connection, host.clone()));
                }
                // Who may not log in to one may not to another.
                Ok(Err(refusal @ Error::Refused { code: "ACCESS_REFUSED", .. })) => return Err(refusal),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    let after_ms = u64::try_from(share.as_millis()).unwrap_or(u64::MAX);
                    Error::TimedOut { address: settings.address.clone(), after_ms }
                }
            };
            if !matches!(error, Error::Refused { .. }) {
                error = failure;
            }
        }
        Err(error)
    }
}

/// Declares what is shared on a connection, and gives it back with what stands as declared.
async fn declare_on(mut connection: Connection, plan: &Plan, durable: bool) -> Result<(Connection, Standing)> {
    connection.open_channel(CHANNEL).await?;
    let exchanges = exchanges(&mut connection, plan).await?;
    let mut standing = Standing { exchanges, queues: Vec::new(), durable };
    if let Some(name) = &plan.dead_letter_exchange {
        dead_letter_exchange(&mut connection, name).await?;
    }
    for queue in plan.queues.iter().filter(|queue| !queue.private).chain(&plan.targets) {
        if shared_queue(&mut connection, plan, queue, durable).await? {
            standing.queues.push(queue.name.clone());
        }
    }
    connection.close_channel(CHANNEL).await?;
    Ok((connection, standing))
}

/// Whether it stands as declared; what exists otherwise is left as it is, and the channel is opened again. `option` names
/// it for at-least-once, which needs it as it is declared.
async fn stands(connection: &mut Connection, plan: &Plan, declare: &AMQPClass, option: &str) -> Result<bool> {
    match connection.call(CHANNEL, declare).await {
        Ok(_) => Ok(true),
        Err(Error::Refused { code: code @ "PRECONDITION_FAILED", address, detail }) if plan.is_reliable() => {
            let detail = format!(
                "{detail}. mqConf.delivery 'at-least-once' needs it as it declares it: delete the one that is there when \
                 nobody uses it any more, or give mqConf.{option} another name, here and in every gateway and client"
            );
            Err(Error::Refused { code, address, detail })
        }
        Err(Error::Refused { code: "PRECONDITION_FAILED", .. }) => {
            connection.open_channel(CHANNEL).await?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn exchanges(connection: &mut Connection, plan: &Plan) -> Result<Vec<String>> {
    let mut as_declared = Vec::new();
    for exchange in &plan.exchanges {
        let option = match exchange.route {
            Route::Receive => "receiveExchange",
            Route::Status => "statusExchange",
            Route::Message => "messageExchange",
        };
        if stands(connection, plan, &exchange_method(plan, exchange, false), option).await? {
            as_declared.push(exchange.name.clone());
        }
    }
    Ok(as_declared)
}

/// exchange.declare; with `nowait` there is no answer.
fn exchange_method(plan: &Plan, exchange: &Exchange, nowait: bool) -> AMQPClass {
    let reliable = plan.is_reliable();
    AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: exchange.name.as_str().into(),
        kind: match exchange.kind {
            ExchangeKind::Direct => "direct".into(),
            ExchangeKind::Fanout => "fanout".into(),
        },
        passive: false,
        durable: reliable,
        auto_delete: !reliable,
        internal: false,
        nowait,
        arguments: FieldTable::default(),
    }))
}

/// It is the user's: kind and properties are theirs to choose.
async fn dead_letter_exchange(connection: &mut Connection, name: &str) -> Result<()> {
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
async fn shared_queue(connection: &mut Connection, plan: &Plan, queue: &Queue, durable: bool) -> Result<bool> {
    let option = if queue.route == Route::Status { "statusQueue" } else { "receiveQueue" };
    let stands = stands(connection, plan, &shared_queue_method(plan, queue, durable, false), option).await?;
    bind(connection, CHANNEL, queue, &queue.exchange, &queue.binding_key).await?;
    Ok(stands)
}

/// queue.declare of a shared queue; with `nowait` there is no answer.
fn shared_queue_method(plan: &Plan, queue: &Queue, durable: bool, nowait: bool) -> AMQPClass {
    let reliable = plan.is_reliable();
    let mut arguments = FieldTable::default();
    if reliable {
        type_argument(&mut arguments, plan);
        if let Some(name) = &plan.dead_letter_exchange {
            arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(name.as_str().into()));
        }
    }
    AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: queue.name.as_str().into(),
        passive: false,
        durable: durable || reliable,
        exclusive: false,
        auto_delete: plan.queue_ends_with_its_consumers(),
        nowait,
        arguments,
    }))
}

/// Classic is what a broker makes of a queue that says nothing, unless its virtual host says otherwise.
pub(super) fn type_argument(arguments: &mut FieldTable, plan: &Plan) {
    if plan.queue_type == QueueType::Quorum {
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    }
}

pub(super) async fn bind(connection: &mut Connection, channel: u16, queue: &Queue, to: &str, key: &str) -> Result<()> {
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
