//! Declares exchanges, queues and bindings, with the ways round what a broker refuses.
//!
//! - Something exists with other properties (406): it is used as it is.
//! - The broker refuses transient shared queues (541, RabbitMQ 4.3, or 4.x by its setting): they are declared durable and
//!   autoDelete instead.

use std::sync::atomic::Ordering;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{Connection, ErrorKind};

use super::{AmqpBroker, is_internal_error};
use crate::broker::topology::{ExchangeKind, Plan, Queue};
use crate::error::Result;

impl AmqpBroker {
    /// A connection with everything in `plan` declared on it.
    pub(super) async fn declared(&self, plan: &Plan) -> Result<Connection> {
        let connection = self.open().await?;
        let durable = self.durable_queues.load(Ordering::Relaxed);
        match topology(&connection, plan, durable).await {
            Ok(()) => return Ok(connection),
            Err(error) if !durable && is_internal_error(&error) => (),
            Err(error) => return Err(self.explain(&error)),
        }
        let connection = self.open().await?;
        topology(&connection, plan, true).await.map_err(|error| self.explain(&error))?;
        self.durable_queues.store(true, Ordering::Relaxed);
        Ok(connection)
    }
}

async fn topology(connection: &Connection, plan: &Plan, durable: bool) -> lapin::Result<()> {
    let as_declared = exchanges(connection, plan).await?;
    for queue in &plan.queues {
        declare_queue(connection, queue, durable).await?;
        let channel = connection.create_channel().await?;
        let bind = async |exchange: &str, key: &str| {
            let options = QueueBindOptions::default();
            channel
                .queue_bind(queue.name.as_str().into(), exchange.into(), key.into(), options, FieldTable::default())
                .await
        };
        bind(&queue.exchange, &queue.binding_key).await?;
        if queue.private {
            // An autoDelete exchange goes with its last binding, and would take the gateway's publishing channel along
            // whenever the last client leaves. A binding with a key that nobody uses holds it.
            for exchange in as_declared.iter().filter(|name| **name != queue.exchange) {
                bind(exchange, &queue.name).await?;
            }
        }
        let _ = channel.close(200, "OK".into()).await;
    }
    Ok(())
}

/// Declares the exchanges; returns the names of the direct ones that stand as declared.
pub(super) async fn exchanges<'a>(connection: &Connection, plan: &'a Plan) -> lapin::Result<Vec<&'a str>> {
    let mut as_declared = Vec::new();
    for exchange in &plan.exchanges {
        let channel = connection.create_channel().await?;
        let kind = match exchange.kind {
            ExchangeKind::Direct => lapin::ExchangeKind::Direct,
            ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
        };
        let options = ExchangeDeclareOptions { auto_delete: true, ..ExchangeDeclareOptions::default() };
        let name = exchange.name.as_str();
        match channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await {
            Ok(()) => {
                let _ = channel.close(200, "OK".into()).await;
                if exchange.kind == ExchangeKind::Direct {
                    as_declared.push(name);
                }
            }
            Err(error) if is_precondition(&error) => (),
            Err(error) => return Err(error),
        }
    }
    Ok(as_declared)
}

async fn declare_queue(connection: &Connection, queue: &Queue, durable: bool) -> lapin::Result<()> {
    let options = QueueDeclareOptions {
        durable: durable && !queue.private,
        exclusive: queue.private,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let channel = connection.create_channel().await?;
    match channel.queue_declare(queue.name.as_str().into(), options, FieldTable::default()).await {
        Ok(_) => {
            let _ = channel.close(200, "OK".into()).await;
            Ok(())
        }
        Err(error) if is_precondition(&error) && !queue.private => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_precondition(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(refusal)
        if matches!(refusal.kind(), AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)))
}
