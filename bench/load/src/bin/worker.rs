//! An echo worker: each message goes back with its properties as they came. It is made so that a measurement of
//! gateways never waits for it.

use std::{io, process};

use message_engin_bench::{
    amqp,
    args::Args,
    control,
    lane::{self, PREFETCH, Publisher},
    line::{Line, Place},
};

const MESSAGES: &str = "messages";
const STATUSES: &str = "statuses";

fn main() {
    control::run(async {
        let args = Args::parse();
        let place = Place::of(&args);
        drop(control::commands());

        let mut publishing = Line::open(&place)?;
        publishing.declare_exchanges(&place)?;
        let mut consuming = Line::open(&place)?;
        consuming.declare_queue(&place.status_queue, &place.status_exchange, &place.status_queue)?;
        consuming.declare_queue(&place.receive_queue, &place.receive_exchange, &place.receive_queue)?;
        consuming.consume(&place.status_queue, STATUSES, PREFETCH)?;
        consuming.consume(&place.receive_queue, MESSAGES, PREFETCH)?;

        let echo = amqp::publish_to(&place.message_exchange, &place.receive_queue);
        let publisher = Publisher::start(publishing.into_parts()?);
        println!(r#"{{"event":"ready","pid":{}}}"#, process::id());

        let mut scratch = Vec::new();
        let handle = |delivery: amqp::Delivery<'_>| {
            if delivery.consumer == MESSAGES.as_bytes() {
                publisher.put(&echo, delivery.properties, delivery.body(&mut scratch));
            }
        };
        match lane::consume(consuming.into_parts()?, handle, || {}).await? {}
        #[expect(unreachable_code, reason = "names the type of this block")]
        io::Result::Ok(())
    });
}
