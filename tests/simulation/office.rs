//! The back office: workers that send, hear, and settle when and how they please.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use message_engin::broker::Settlement;
use message_engin::error::{Error, Result};
use message_engin::host::{ConnectionEvents, Keys, ListenerOutcome, Listeners, MessageKeys};
use message_engin::message::{Delivery, Headers, JSON, OutboundMessage, Properties, Route, Value};
use message_engin::worker::{Sent, Worker};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::browser::name;
use super::dice::Dice;
use super::label::Label;
use super::ledger::{Heard, LineLog};
use super::scenario::World;
use super::story::story;

/// Whoever hears what a worker is given.
pub struct Office {
    pub world: Arc<World>,
    pub id: u32,
    pub dice: Dice,
    pub worker: Arc<OnceLock<Worker>>,
}

impl Listeners for Office {
    fn deliver(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, Result<ListenerOutcome>> {
        let ledger = &self.world.ledger;
        let on = self.world.faults.are_on();
        if on && self.dice.permille(self.world.scale.unheard) {
            return Box::pin(async { Err(Error::Closed { what: "client" }) });
        }
        let labels: Vec<Label> = batch.iter().map(|delivery| Label::of(&delivery.body)).collect();
        story!("worker {} hears {labels:?}", self.id);
        let heard = labels.iter().zip(batch.iter()).map(|(label, delivery)| Heard {
            worker: self.id,
            label: *label,
            marked: delivery.redelivered || delivery.repeated,
        });
        ledger.heard.lock().unwrap().extend(heard);
        let slow = self.world.faults.slow;
        let pause = self.dice.ms(slow);
        if self.world.at_least_once {
            for (label, delivery) in labels.iter().zip(batch.iter()) {
                let settlement = match self.dice.below(100) {
                    0..8 if on => Settlement::Again,
                    8..10 => Settlement::Drop,
                    _ => Settlement::Done,
                };
                if settlement != Settlement::Again {
                    ledger.done.lock().unwrap().insert(*label);
                }
                let (session, route, tag) = (delivery.session, delivery.route, delivery.tag);
                let (worker, pause) = (self.worker.clone(), self.dice.ms(slow * 3));
                tokio::spawn(async move {
                    sleep(pause).await;
                    if let Some(worker) = worker.get() {
                        worker.settle(session, route, tag, settlement);
                    }
                });
            }
            return Box::pin(async move {
                sleep(pause).await;
                Ok(ListenerOutcome::EachForItself)
            });
        }
        ledger.done.lock().unwrap().extend(labels);
        Box::pin(async move {
            sleep(pause).await;
            Ok(ListenerOutcome::All)
        })
    }
}

/// Takes keys from the header `k`, in its own time.
pub struct Asker {
    pub world: Arc<World>,
    pub id: u32,
    pub dice: Dice,
}

impl MessageKeys for Asker {
    fn keys(&self, batch: Arc<[Delivery]>) -> BoxFuture<'static, Result<Vec<Keys>>> {
        let Asker { world, id, dice } = self;
        if world.faults.are_on() && dice.permille(world.scale.unheard) {
            let labels = batch.iter().map(|delivery| (*id, Label::of(&delivery.body)));
            world.ledger.unanswered.lock().unwrap().extend(labels);
            return Box::pin(async { Err(Error::Invalid { detail: "no answer".into() }) });
        }
        let key = |delivery: &Delivery| match delivery.text_header("k") {
            Some(keys) if keys.contains(',') => Keys::Many(keys.split(',').map(Into::into).collect()),
            Some(key) => Keys::One(key.into()),
            None => Keys::None,
        };
        let keys = batch.iter().map(key).collect();
        let pause = dice.ms(world.faults.slow / 2);
        Box::pin(async move {
            sleep(pause).await;
            Ok(keys)
        })
    }
}

/// Sees that what is told of a line makes sense.
pub struct Watcher {
    pub line: Arc<LineLog>,
    pub drained: Notify,
    pub lost: Mutex<bool>,
}

impl ConnectionEvents for Watcher {
    fn reconnecting(&self, _attempt: u32, _delay_ms: u64, _error: &Error) {
        *self.lost.lock().unwrap() = true;
    }
    fn ready(&self) {
        let mut log = self.line.log();
        if !std::mem::take(&mut *self.lost.lock().unwrap()) {
            log.problems.push("ready without a loss".into());
        }
        log.readies += 1;
    }
    fn blocked(&self, reason: Option<&str>) {
        let mut log = self.line.log();
        if log.blocked == reason.is_some() {
            log.problems.push(format!("blocked {reason:?} twice"));
        }
        log.blocked = reason.is_some();
    }
    fn failed(&self, error: &Error) {
        self.line.log().problems.push(format!("failed: {error}"));
    }
    fn undeliverable(&self, _message: &OutboundMessage, _error: &Error) {}
    fn drain(&self) {
        self.line.log().hold_on = false;
        self.drained.notify_waiters();
    }
}

/// Sends numbered messages until the run ends or this worker does.
pub async fn send(world: Arc<World>, line: Arc<LineLog>, worker: Worker, watcher: Arc<Watcher>, dice: Dice) {
    let mut n = 0;
    let mut polite = true;
    while Instant::now() < world.ends {
        sleep(dice.ms(world.scale.pause)).await;
        let count = if dice.percent(70) { 1 } else { dice.range(1, world.scale.burst) };
        for _ in 0..count {
            let keys = if world.scale.many && dice.percent(20) {
                dice.range(1, (1 << world.scale.keys) - 1) as u32
            } else {
                1 << dice.below(world.scale.keys)
            };
            let label = Label::Down { worker: line.id, keys, n };
            let names: Vec<String> = (0..32).filter(|key| keys & (1 << key) != 0).map(name).collect();
            let headers = Headers(vec![("k".into(), Value::Text(names.join(",").into()))]);
            let properties = Properties::tracked_if(world.at_least_once, JSON, &headers);
            let body = label.body(dice.below(world.scale.padding) as usize);
            let sent = worker.send(OutboundMessage::new(Route::Message, Arc::new(properties), body.into()));
            if matches!(sent, Sent::Taken | Sent::HoldOn) {
                n += 1;
                world.ledger.sent.lock().unwrap().push(label);
            }
            match sent {
                Sent::Taken => (),
                Sent::HoldOn | Sent::Dropped => {
                    line.log().hold_on = true;
                    if polite || sent == Sent::Dropped {
                        let _ = timeout(Duration::from_secs(1), watcher.drained.notified()).await;
                    }
                    polite = dice.percent(50);
                }
                Sent::Closed => return,
            }
        }
    }
}
