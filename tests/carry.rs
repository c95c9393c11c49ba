//! Messages and statuses go between browsers and workers, in order and once, on every broker.

mod common;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use futures_util::future::BoxFuture;
use message_engin::broker::memory::MemoryBroker;
use message_engin::broker::topology::{Role, Topology};
use message_engin::broker::{Broker, Session};
use message_engin::config::{SlowConsumer, SocketSettings};
use message_engin::error::{Error, Result};
use message_engin::host::{ListenerOutcome, Listeners};
use message_engin::message::{Delivery, OutboundMessage, Route, Value};
use message_engin::worker::{Sent, Worker};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn three_thousand_messages_come_and_go_complete_and_in_order() {
    for url in brokers() {
        let settings = broker(&url);
        let gateway = gateway(&settings, socket()).await;
        let (worker, mut heard) = worker(&settings).await;
        let mut browser = Browser::connect(&gateway, "a").await;
        let (mut sink, mut stream) = futures_util::StreamExt::split(browser.0);
        let sending = tokio::spawn(async move {
            for number in 0..3000 {
                let message = Message::Text(format!("{{\"n\":{number}}}").into());
                futures_util::SinkExt::send(&mut sink, message).await.unwrap();
            }
            sink
        });
        for number in 0..3000 {
            let delivery = next(&mut heard, Route::Receive).await;
            assert_eq!(text(&delivery), format!("{{\"n\":{number}}}"), "{url}");
            assert_eq!(delivery.headers().0[0].1, Value::Text("a".into()));
            assert_eq!(worker.send(json("a", &text(&delivery))), Sent::Taken);
        }
        for number in 0..3000 {
            let message = within(futures_util::StreamExt::next(&mut stream)).await.unwrap().unwrap();
            assert_eq!(message, Message::Text(format!("{{\"n\":{number}}}").into()), "{url}");
        }
        browser = Browser(stream.reunite(sending.await.unwrap()).unwrap());
        drop(browser);
        within(gateway.close(Duration::ZERO)).await;
        within(worker.close(PATIENCE)).await;
    }
}

#[tokio::test]
async fn text_and_octets_keep_their_form() {
    for url in brokers() {
        let settings = broker(&url);
        let gateway = gateway(&settings, socket()).await;
        let (worker, mut heard) = worker(&settings).await;
        let mut browser = Browser::connect(&gateway, "a").await;
        browser.send("not JSON \u{1F600}").await;
        assert_eq!(text(&next(&mut heard, Route::Receive).await), "not JSON \u{1F600}");
        within(futures_util::SinkExt::send(&mut browser.0, Message::Binary(vec![0, 255].into()))).await.unwrap();
        let binary = next(&mut heard, Route::Receive).await;
        assert_eq!((binary.content_type(), &binary.body[..]), ("application/octet-stream", &[0, 255][..]));
        worker.send(json("a", "\"a string\""));
        assert_eq!(browser.next().await, Message::Text("a string".into()));
        worker.send(octets("a", &[0, 255]));
        assert_eq!(browser.next().await, Message::Binary(vec![0, 255].into()));
        worker.send(to("a", "application/json", vec![b'{', 0xff]));
        assert_eq!(browser.next().await, Message::Binary(vec![b'{', 0xff].into()));
        within(gateway.close(Duration::ZERO)).await;
        within(worker.close(PATIENCE)).await;
    }
}

#[tokio::test]
async fn who_is_waited_for_gets_large_messages_behind_small_ones() {
    let settings = broker("memory:");
    let slow = SocketSettings { slow_consumer: SlowConsumer::Wait, max_backpressure: 1000, ..socket() };
    let gateway = gateway(&settings, slow).await;
    let (worker, _heard) = worker(&settings).await;
    let mut browser = Browser::connect(&gateway, "a").await;
    let texts: Vec<String> =
        (0..40).map(|number: usize| "x".repeat(if number.is_multiple_of(2) { 10 } else { 20_000 })).collect();
    for text in &texts {
        worker.send(to("a", "application/json", format!("\"{text}\"")));
    }
    // The pipe to the browser is full.
    until(|| gateway.stats().sent > 4).await;
    for text in texts {
        assert_eq!(browser.next().await, Message::Text(text.into()));
    }
    assert_eq!(gateway.stats().overflowed, 0);
}

#[tokio::test]
async fn several_keys_get_one_message_across_gateways() {
    for url in brokers() {
        let settings = broker(&url);
        let (first, second) = (gateway(&settings, socket()).await, gateway(&settings, socket()).await);
        let (worker, _heard) = worker(&settings).await;
        let mut a = Browser::connect(&first, "a").await;
        let mut b = Browser::connect(&second, "b").await;
        worker.send(json("a,nobody,b", "[1]"));
        assert_eq!(a.next().await, Message::Text("[1]".into()));
        assert_eq!(b.next().await, Message::Text("[1]".into()));
        within(first.close(Duration::ZERO)).await;
        assert_eq!(a.close_code().await, Some(1001));
        worker.send(json("b", "[2]"));
        assert_eq!(b.next().await, Message::Text("[2]".into()));
        within(second.close(Duration::ZERO)).await;
        within(worker.close(PATIENCE)).await;
    }
}

#[tokio::test]
async fn workers_share_without_doubles() {
    for url in brokers() {
        let settings = broker(&url);
        let gateway = gateway(&settings, socket()).await;
        let mut workers = Vec::new();
        for _ in 0..3 {
            workers.push(worker(&settings).await);
        }
        let mut browser = Browser::connect(&gateway, "a").await;
        for number in 0..300 {
            browser.send(&number.to_string()).await;
        }
        let mut seen = HashSet::new();
        let mut by_worker = [0; 3];
        while seen.len() < 300 {
            for (index, (_, heard)) in workers.iter_mut().enumerate() {
                while let Ok(delivery) = heard.try_recv() {
                    if delivery.route == Route::Receive {
                        assert!(seen.insert(text(&delivery)), "{url}: doubled");
                        by_worker[index] += 1;
                    }
                }
            }
            tokio::task::yield_now().await;
        }
        assert!(by_worker.iter().all(|count| *count > 0), "{url}: {by_worker:?}");
        within(gateway.close(Duration::ZERO)).await;
        for (worker, _) in workers {
            within(worker.close(PATIENCE)).await;
        }
    }
}

#[tokio::test]
async fn statuses_say_who_comes_and_goes_and_the_newest_wins() {
    for url in brokers() {
        let settings = broker(&url);
        let gateway = gateway(&settings, socket()).await;
        let (worker, mut heard) = worker(&settings).await;
        let mut old = Browser::connect(&gateway, "a").await;
        let mut new = Browser::connect(&gateway, "a").await;
        assert_eq!(old.close_code().await, Some(4001));
        worker.send(json("a", "{}"));
        assert_eq!(new.next().await, Message::Text("{}".into()));
        drop(new);
        for expected in [
            r#"{"status":1,"key":"a"}"#,
            r#"{"status":1,"key":"a"}"#,
            r#"{"status":0,"key":"a","reasonCode":1006,"description":"Connection dropped by remote peer."}"#,
        ] {
            let status = next(&mut heard, Route::Status).await;
            assert_eq!(text(&status), expected, "{url}");
            assert_eq!(status.headers().0[0].1, Value::Text("a".into()));
        }
        within(gateway.close(Duration::ZERO)).await;
        within(worker.close(PATIENCE)).await;
    }
}

#[tokio::test]
async fn traffic_goes_on_after_the_last_worker_left_and_another_came() {
    for url in brokers() {
        let settings = broker(&url);
        let gateway = gateway(&settings, socket()).await;
        let mut browser = Browser::connect(&gateway, "a").await;
        for round in 0..3 {
            let (worker, mut heard) = worker(&settings).await;
            browser.send(&format!("{round}")).await;
            assert_eq!(text(&next(&mut heard, Route::Receive).await), format!("{round}"), "{url}");
            worker.send(json("a", &format!("[{round}]")));
            assert_eq!(browser.next().await, Message::Text(format!("[{round}]").into()));
            within(worker.close(PATIENCE)).await;
        }
        within(gateway.close(Duration::ZERO)).await;
    }
}

#[tokio::test]
async fn what_waited_for_a_worker_comes_to_the_first_one() {
    for url in brokers() {
        let settings = broker(&url);
        let gateway = gateway(&settings, socket()).await;
        let mut browser = Browser::connect(&gateway, "a").await;
        browser.send("early").await;
        until(|| gateway.stats().published == 2).await;
        let (worker, mut heard) = worker(&settings).await;
        assert_eq!(text(&next(&mut heard, Route::Receive).await), "early", "{url}");
        within(gateway.close(Duration::ZERO)).await;
        within(worker.close(PATIENCE)).await;
    }
}

/// Looks at nothing, and closes as soon as it has been given enough.
struct Shy(tokio::sync::Semaphore);

impl Listeners for Shy {
    fn deliver(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, Result<ListenerOutcome>> {
        self.0.add_permits(batch.len());
        Box::pin(async { Err(Error::Closed { what: "client" }) })
    }
}

#[tokio::test]
async fn what_a_worker_has_not_looked_at_comes_to_the_next_one_in_order() {
    let settings = broker("memory:");
    let gateway = gateway(&settings, socket()).await;
    let mut browser = Browser::connect(&gateway, "a").await;
    for number in 0..100 {
        browser.send(&number.to_string()).await;
    }
    let shy = Arc::new(Shy(tokio::sync::Semaphore::new(0)));
    let first =
        Worker::start(settings.clone(), "shy", everything(), Arc::<Events>::default(), shy.clone()).await.unwrap();
    within(shy.0.acquire_many(300)).await.unwrap().forget();
    within(first.close(PATIENCE)).await;
    let (second, mut heard) = worker(&settings).await;
    for number in 0..100 {
        let delivery = next(&mut heard, Route::Receive).await;
        assert_eq!(text(&delivery), number.to_string());
        assert!(delivery.redelivered);
    }
    within(gateway.close(Duration::ZERO)).await;
    within(second.close(PATIENCE)).await;
}

#[tokio::test]
async fn a_worker_goes_on_after_the_last_gateway_left_and_another_came() {
    for url in brokers() {
        let settings = broker(&url);
        let (worker, mut heard) = worker(&settings).await;
        for round in 0..3 {
            let gateway = gateway(&settings, socket()).await;
            let mut browser = Browser::connect(&gateway, "a").await;
            browser.send("x").await;
            next(&mut heard, Route::Receive).await;
            worker.send(json("a", &format!("[{round}]")));
            assert_eq!(browser.next().await, Message::Text(format!("[{round}]").into()), "{url}");
            within(gateway.close(Duration::ZERO)).await;
            // Nobody is there: lost, and no harm to what follows.
            worker.send(json("a", "\"into the void\""));
        }
        within(worker.close(PATIENCE)).await;
    }
}

#[tokio::test]
async fn statuses_that_nobody_consumes_hold_up_no_messages() {
    let memory = MemoryBroker::named("statuses that nobody consumes");
    let session = memory.connect(&Topology::new(&broker("memory:"), Role::Gateway, "g")).await.unwrap();
    let large = |route| OutboundMessage { route, ..octets("k", &[0; 1 << 20]) };
    let mut batch: VecDeque<_> = (0..40).map(|_| large(Route::Status)).collect();
    let dropped = within(session.publish(&mut batch)).await.unwrap();
    assert!((20..30).contains(&dropped), "{dropped} of 40");
    batch.push_back(large(Route::Receive));
    assert_eq!(within(session.publish(&mut batch)).await.unwrap(), 0);
}
