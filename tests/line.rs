//! The line connects again by its backoff, keeps what waits in order, and ends when it is told to.

mod common;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Events, broker, everything, json};
use message_engin::broker::supervisor::ConnectionSupervisor;
use message_engin::broker::topology::{Role, Routes, Topology};
use message_engin::broker::{Acker, Broker, Routed, Session, Settlement};
use message_engin::config::{BackoffStrategy, BrokerSettings};
use message_engin::error::{Error, Result};
use message_engin::message::{Delivery, OutboundMessage, Route};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A broker that is there by turns: what each attempt to connect meets, then always success.
#[derive(Clone, Default)]
struct Fickle(Arc<State>);

#[derive(Default)]
struct State {
    refusals: AtomicU32,
    /// How often there is no queue for the first message.
    unrouted: AtomicU32,
    published: Mutex<Vec<String>>,
    cut: Notify,
    blocked: Notify,
    /// Sessions take this many messages and then break.
    breaks_after: Mutex<Option<usize>>,
    /// What was to be consumed: by the plan of each session, and within it.
    consumed: Mutex<Vec<Routes>>,
}

fn lost() -> Error {
    Error::Lost { address: "here".into(), detail: "cut".into() }
}

impl Broker for Fickle {
    type Session = Fickle;
    async fn connect(&self, plan: &Topology) -> Result<Fickle> {
        let left = self.0.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() {
            return Err(lost());
        }
        self.0.consumed.lock().unwrap().push(plan.consumed);
        Ok(self.clone())
    }
    fn address(&self) -> String {
        "here".into()
    }
}

impl Acker for State {
    fn ack(&self, _route: Route, _tag: u64) {}
    fn settle(&self, _route: Route, _tag: u64, _settlement: Settlement) {}
    fn session(&self) -> u32 {
        0
    }
}

impl Session for Fickle {
    async fn publish(&self, batch: &mut VecDeque<OutboundMessage>) -> Result<usize> {
        while let Some(message) = batch.front() {
            let mut breaks = self.0.breaks_after.lock().unwrap();
            match &mut *breaks {
                Some(0) => {
                    *breaks = None;
                    return Err(lost());
                }
                Some(left) => *left -= 1,
                None => (),
            }
            self.0.published.lock().unwrap().push(String::from_utf8(message.body.to_vec()).unwrap());
            batch.pop_front();
        }
        Ok(0)
    }
    async fn publish_if_routed(&self, batch: &mut VecDeque<OutboundMessage>) -> Result<Routed> {
        if self.0.unrouted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Ok(Routed::No);
        }
        self.publish(batch).await.map(|_| Routed::Yes)
    }
    async fn receive(&self, _into: &mut Vec<Delivery>, _max: usize) -> Result<()> {
        std::future::pending().await
    }
    fn acker(&self) -> Arc<dyn Acker> {
        self.0.clone()
    }
    async fn returned(&self) {
        std::future::pending().await
    }
    async fn settle(&self) -> Result<usize> {
        Ok(0)
    }
    fn unsettled(&self) -> VecDeque<OutboundMessage> {
        VecDeque::new()
    }
    async fn consume(&self, routes: Routes) -> Result<()> {
        self.0.consumed.lock().unwrap().push(routes);
        Ok(())
    }
    async fn given_back(&self) -> Route {
        std::future::pending().await
    }
    async fn stop_receiving(&self) -> Result<()> {
        Ok(())
    }
    async fn lost(&self, blocked: impl Fn(Option<&str>) + Send + Sync) -> Error {
        tokio::select! {
            () = self.0.cut.notified() => (),
            () = async {
                self.0.blocked.notified().await;
                blocked(Some("an alarm"));
                self.0.cut.notified().await;
            } => (),
        }
        lost()
    }
    async fn close(&self) {}
}

async fn open(fickle: &Fickle, settings: &BrokerSettings) -> (ConnectionSupervisor, Arc<Events>) {
    let events = Arc::<Events>::default();
    let plan = Topology::new(settings, Role::Worker, "");
    let (line, batches) =
        ConnectionSupervisor::open(fickle.clone(), plan, settings, events.clone(), None).await.unwrap();
    std::mem::forget(batches);
    (line, events)
}

fn numbers(count: u32) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

fn push(line: &ConnectionSupervisor, count: u32) {
    for number in numbers(count) {
        line.outgoing.force_push(json("k", &number));
    }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_follow_the_backoff_and_what_waits_goes_out_in_order() {
    let settings = BrokerSettings {
        reconnect_backoff_strategy: BackoffStrategy::Exponential,
        reconnect_backoff_time: 100,
        reconnect_exponential_limit: 350,
        ..broker("memory:")
    };
    let fickle = Fickle::default();
    let (line, events) = open(&fickle, &settings).await;
    fickle.0.refusals.store(4, Ordering::SeqCst);
    let began = Instant::now();
    fickle.0.cut.notify_one();
    until(|| !events.0.lock().unwrap().is_empty()).await;
    push(&line, 300);
    until(|| fickle.0.published.lock().unwrap().len() == 300).await;
    // The attempts, and then the time that gateways with these settings may take to be back.
    assert_eq!(began.elapsed().as_millis() / 50, (100 + 200 + 350 + 350 + 350 + 100 + 250) / 50);
    assert_eq!(*fickle.0.published.lock().unwrap(), numbers(300));
    let told = events.0.lock().unwrap().clone();
    assert_eq!(told.first().map(String::as_str), Some("reconnecting 1 after 100"));
    assert_eq!(told[told.len() - 2..], ["reconnecting 5 after 350", "ready"]);
    assert_eq!(line.counters.reconnects.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_breaks_in_a_batch_loses_nothing_that_it_did_not_take() {
    let fickle = Fickle::default();
    *fickle.0.breaks_after.lock().unwrap() = Some(10);
    let settings = broker("memory:");
    let (line, _) = open(&fickle, &settings).await;
    push(&line, 40);
    until(|| fickle.0.published.lock().unwrap().len() == 40).await;
    assert_eq!(*fickle.0.published.lock().unwrap(), numbers(40));
}

#[tokio::test(start_paused = true)]
async fn a_backlog_waits_until_its_first_message_has_somewhere_to_go() {
    let settings = broker("memory:");
    let fickle = Fickle::default();
    let (line, events) = open(&fickle, &settings).await;
    fickle.0.unrouted.store(20, Ordering::SeqCst);
    fickle.0.cut.notify_one();
    until(|| !events.0.lock().unwrap().is_empty()).await;
    let began = Instant::now();
    push(&line, 300);
    until(|| fickle.0.published.lock().unwrap().len() == 300).await;
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert_eq!(*fickle.0.published.lock().unwrap(), numbers(300));
    assert_eq!(line.counters.lost.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn closing_publishes_what_waits_and_gives_up_when_the_broker_stays_away() {
    let settings = broker("memory:");
    let fickle = Fickle::default();
    let (line, _) = open(&fickle, &settings).await;
    push(&line, 1000);
    line.close(Duration::from_secs(5)).await;
    assert_eq!(fickle.0.published.lock().unwrap().len(), 1000);

    let away = Fickle::default();
    let (line, events) = open(&away, &settings).await;
    away.0.refusals.store(u32::MAX, Ordering::SeqCst);
    away.0.cut.notify_one();
    until(|| !events.0.lock().unwrap().is_empty()).await;
    line.outgoing.force_push(json("k", "0"));
    let began = Instant::now();
    line.close(Duration::from_secs(5)).await;
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!(line.counters.lost.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_lost_while_closing_is_made_once_more_for_what_waits() {
    let settings = broker("memory:");
    let fickle = Fickle::default();
    *fickle.0.breaks_after.lock().unwrap() = Some(10);
    let (line, _) = open(&fickle, &settings).await;
    push(&line, 1000);
    line.close(Duration::from_secs(5)).await;
    assert_eq!(*fickle.0.published.lock().unwrap(), numbers(1000));
    // Those that were on their way count as lost, though they have arrived: nobody can know.
    assert_eq!(line.counters.lost.load(Ordering::Relaxed), 10);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_nobody_else_to_be_back() {
    let settings = BrokerSettings { reconnect_backoff_time: 3000, ..broker("memory:") };
    for waits in [false, true] {
        let fickle = Fickle::default();
        let (line, events) = open(&fickle, &settings).await;
        fickle.0.cut.notify_one();
        until(|| events.0.lock().unwrap().iter().any(|event| event == "ready")).await;
        if waits {
            line.outgoing.force_push(json("k", "0"));
        }
        let began = Instant::now();
        line.close(Duration::from_secs(5)).await;
        assert!(began.elapsed() < Duration::from_secs(1));
        assert_eq!(fickle.0.published.lock().unwrap().len(), usize::from(waits));
        assert_eq!(line.counters.lost.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_loss_while_the_broker_takes_nothing_ends_that() {
    let settings = broker("memory:");
    let fickle = Fickle::default();
    let (line, events) = open(&fickle, &settings).await;
    fickle.0.blocked.notify_one();
    until(|| !events.0.lock().unwrap().is_empty()).await;
    fickle.0.cut.notify_one();
    until(|| events.0.lock().unwrap().iter().any(|event| event == "ready")).await;
    let told = events.0.lock().unwrap().clone();
    assert_eq!(told, ["blocked Some(\"an alarm\")", "blocked None", "reconnecting 1 after 50", "ready"]);
    line.close(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn no_jitter_goes_beyond_the_limit() {
    let settings = BrokerSettings {
        reconnect_backoff_strategy: BackoffStrategy::Exponential,
        reconnect_exponential_limit: 60,
        reconnect_jitter: 1.0,
        ..broker("memory:")
    };
    let fickle = Fickle::default();
    let (_line, events) = open(&fickle, &settings).await;
    fickle.0.refusals.store(50, Ordering::SeqCst);
    fickle.0.cut.notify_one();
    until(|| events.0.lock().unwrap().iter().any(|event| event == "ready")).await;
    let delay = |event: &String| event.rsplit(' ').next().and_then(|delay| delay.parse::<u64>().ok());
    assert!(events.0.lock().unwrap().iter().filter_map(delay).all(|delay| delay <= 60));
}

#[tokio::test(start_paused = true)]
async fn what_is_consumed_can_be_changed_and_stays_so_through_a_reconnect() {
    let fickle = Fickle::default();
    let (line, events) = open(&fickle, &broker("memory:")).await;
    let consumed = || std::mem::take(&mut *fickle.0.consumed.lock().unwrap());
    let status: Routes = [Route::Status].into_iter().collect();
    until(|| fickle.0.consumed.lock().unwrap().len() == 2).await;
    assert_eq!(consumed(), [everything(); 2]);
    for routes in [Routes::NONE, status] {
        line.consume(routes);
        until(|| !fickle.0.consumed.lock().unwrap().is_empty()).await;
        assert_eq!(consumed(), [routes]);
    }
    fickle.0.cut.notify_one();
    until(|| events.0.lock().unwrap().iter().any(|event| event == "ready")).await;
    until(|| fickle.0.consumed.lock().unwrap().len() == 2).await;
    assert_eq!(consumed(), [status; 2]);
}

#[tokio::test(start_paused = true)]
async fn without_reconnect_the_loss_is_told_once_and_final() {
    let settings = BrokerSettings { reconnect: false, ..broker("memory:") };
    let fickle = Fickle::default();
    let (line, events) = open(&fickle, &settings).await;
    fickle.0.cut.notify_one();
    until(|| !events.0.lock().unwrap().is_empty()).await;
    line.close(Duration::ZERO).await;
    assert_eq!(*events.0.lock().unwrap(), ["failed ERR_CONNECTION_LOST"]);
}
