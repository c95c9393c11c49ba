//! The embedded broker behind a network that breaks: sessions whose connection goes at any point, confirms that do not come,
//! messages that come back, acknowledgements that are late, a broker that blocks.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use message_engin::broker::memory::MemoryBroker;
use message_engin::broker::topology::{Role, Routes, Topology};
use message_engin::broker::{Acker, Broker, Routed, Session};
use message_engin::error::{Error, Result};
use message_engin::message::{Delivery, OutboundMessage, Route};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::dice::Dice;
use super::label::Label;
use super::ledger::{Ledger, LineLog};
use super::story::story;
use super::told::Told;
use super::wire::{Slot, Wire};

/// How much goes wrong in a run.
#[derive(Debug)]
pub struct Faults {
    pub on: AtomicBool,
    /// ms that a session lives at the most; 0: it is not cut by the clock.
    pub life: u64,
    /// Per cent of the attempts to connect.
    pub refuse: u64,
    pub hang: u64,
    /// Per mille of the calls.
    pub cut_publish: u64,
    pub cut_receive: u64,
    /// Per mille of the messages.
    pub nack: u64,
    pub unroutable: u64,
    pub too_large: u64,
    /// ms between two times that the broker blocks, at the most; 0: never.
    pub block: u64,
    /// ms that things take, at the most.
    pub slow: u64,
    /// ms that the broker does not notice the loss of a connection, at the most.
    pub unnoticed: u64,
    /// Messages that may be unconfirmed.
    pub window: usize,
}

impl Faults {
    pub fn are_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }
}

/// Of one gateway or worker.
pub struct Faulty {
    pub inner: MemoryBroker,
    pub faults: Arc<Faults>,
    pub ledger: Arc<Ledger>,
    pub line: Arc<LineLog>,
    pub dice: Dice,
    /// Sessions that are over and the broker has not noticed it.
    pub unnoticed: Arc<Told<usize>>,
}

pub fn lost(detail: &str) -> Error {
    Error::Lost { address: "faulty".into(), detail: detail.into() }
}

impl Broker for Faulty {
    type Session = FaultySession;

    async fn connect(&self, plan: &Topology) -> Result<FaultySession> {
        let Faults { slow, refuse, hang, .. } = *self.faults;
        sleep(self.dice.ms(slow)).await;
        // The first connection is made for certain: without it there is no gateway.
        if self.faults.are_on() && self.line.log().sessions > 0 {
            if self.dice.percent(refuse) {
                return Err(lost("refused"));
            }
            if self.dice.percent(hang) {
                pending::<()>().await;
            }
        }
        let mut plan = plan.clone();
        let at_least_once = plan.is_at_least_once();
        if plan.role == Role::Gateway && at_least_once {
            // A queue that outlives its connection has one active consumer.
            self.unnoticed.wait_for(|count| *count == 0).await;
        }
        let number = self.line.log().sessions + 1;
        for queue in plan.queues.iter_mut().filter(|queue| queue.private) {
            if at_least_once {
                queue.private = false;
            } else {
                queue.name = format!("{}-{number}", queue.name);
            }
        }
        let inner = self.inner.connect(&plan).await?;
        {
            let mut log = self.line.log();
            log.sessions = number;
            log.up = true;
            log.blocked = false;
        }
        story!("line {} session {number} is up", self.line.id);
        let wire = Arc::new(Wire {
            acker: inner.acker(),
            inner,
            number,
            at_least_once,
            mandatory: plan.role == Role::Gateway,
            state: Told::default(),
            faults: self.faults.clone(),
            ledger: self.ledger.clone(),
            line: self.line.clone(),
            dice: self.dice.fork(),
            unnoticed: self.unnoticed.clone(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(wire.clone().carry());
        tasks.spawn(wire.clone().acknowledge());
        tasks.spawn(wire.clone().disturb());
        Ok(FaultySession { wire, _tasks: tasks })
    }

    fn address(&self) -> String {
        "faulty".into()
    }
}

pub struct FaultySession {
    wire: Arc<Wire>,
    _tasks: JoinSet<()>,
}

/// Counts what was handed over in a call that came to no end.
struct Interrupted<'a> {
    line: &'a LineLog,
    count: u64,
    done: bool,
}

impl Drop for Interrupted<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.line.log().interrupted += self.count;
        }
    }
}

impl FaultySession {
    fn cut(&self, chance: u64) -> bool {
        let Wire { faults, dice, .. } = &*self.wire;
        faults.are_on() && dice.permille(chance)
    }

    /// An operation on a connection that is gone: an error, or nothing until the loss is noticed elsewhere.
    async fn fail<T>(&self) -> Result<T> {
        self.wire.break_now();
        if self.wire.dice.percent(50) { Err(lost("broken")) } else { pending().await }
    }

    async fn dawdle(&self) {
        let Wire { faults, dice, .. } = &*self.wire;
        if faults.slow > 0 && dice.percent(20) {
            sleep(dice.ms(faults.slow)).await;
        }
    }

    /// What has come back goes out again before anything else, once nothing more can come back.
    async fn publish_back(&self) -> Result<()> {
        let state = &self.wire.state;
        while !self.wire.state.look().back.is_empty() {
            let at_least_once = self.wire.at_least_once;
            state.wait_for(|state| state.broken || state.is_calm(at_least_once)).await;
            if self.wire.is_broken() {
                return self.fail().await;
            }
            self.wire.state.change(|state| {
                state.back.make_contiguous().sort_by_key(|message| message.id.number);
                let back = std::mem::take(&mut state.back);
                state.flight.extend(back.into_iter().map(Slot::of));
            });
        }
        Ok(())
    }
}

impl Session for FaultySession {
    fn fits(&self, message: &OutboundMessage) -> bool {
        let unfit = self.cut(self.wire.faults.too_large);
        if unfit {
            let mut log = self.wire.line.log();
            log.unfit.insert(Label::of(&message.body));
            log.refused += 1;
        }
        !unfit
    }

    async fn publish(&self, batch: &mut VecDeque<OutboundMessage>) -> Result<usize> {
        let Wire { state, faults, line, .. } = &*self.wire;
        self.publish_back().await?;
        let mut handed = Interrupted { line, count: 0, done: false };
        while !batch.is_empty() {
            let clear =
                |state: &super::wire::State| state.broken || (!state.blocked && state.flight.len() < faults.window);
            state.wait_for(clear).await;
            if self.wire.is_broken() || self.cut(faults.cut_publish) {
                return self.fail().await;
            }
            while let Some(message) = batch.pop_front() {
                handed.count += 1;
                state.change(|state| state.flight.push_back(Slot::of(message)));
                if self.cut(faults.cut_publish) {
                    if self.wire.dice.percent(50) {
                        self.wire.break_now();
                    } else {
                        return self.fail().await;
                    }
                }
                if state.look().flight.len() >= faults.window {
                    break;
                }
                if self.cut(10) {
                    sleep(self.wire.dice.ms(faults.slow)).await;
                }
            }
        }
        if self.cut(faults.cut_publish) {
            self.wire.break_now();
        }
        self.publish_back().await?;
        handed.done = true;
        Ok(0)
    }

    async fn publish_if_routed(&self, batch: &mut VecDeque<OutboundMessage>) -> Result<Routed> {
        let Wire { state, line, ledger, .. } = &*self.wire;
        let changes = state;
        changes.wait_for(|state| state.broken || !state.blocked).await;
        self.dawdle().await;
        if self.wire.is_broken() || self.cut(self.wire.faults.cut_publish) {
            return self.fail().await;
        }
        if ledger.gateways().is_empty() {
            return Ok(Routed::No);
        }
        let Some(message) = batch.pop_front() else { return Ok(Routed::Yes) };
        let mut handed = Interrupted { line, count: 1, done: false };
        state.change(|state| state.flight.push_back(Slot::of(message)));
        changes.wait_for(|state| state.broken || state.flight.is_empty()).await;
        if self.wire.is_broken() {
            return self.fail().await;
        }
        handed.done = true;
        Ok(Routed::Yes)
    }

    async fn returned(&self) {
        self.wire.state.wait_for(|state| !state.broken && !state.back.is_empty()).await;
    }

    async fn settle(&self) -> Result<usize> {
        loop {
            let at_least_once = self.wire.at_least_once;
            self.wire.state.wait_for(|state| state.broken || state.is_calm(at_least_once)).await;
            if self.wire.is_broken() {
                return self.fail().await;
            }
            if self.wire.state.look().back.is_empty() {
                return Ok(0);
            }
            self.publish_back().await?;
        }
    }

    fn unsettled(&self) -> VecDeque<OutboundMessage> {
        self.wire.unsettled()
    }

    async fn receive(&self, into: &mut Vec<Delivery>, max: usize) -> Result<()> {
        // Nothing is waited for once something has been taken: whoever calls may look elsewhere at any moment.
        self.dawdle().await;
        let before = into.len();
        let state = &self.wire.state;
        let broken = tokio::select! {
            biased;
            _ = state.wait_for(|state| state.broken) => true,
            received = self.wire.inner.receive(into, max) => { received?; false }
        };
        if broken {
            return self.fail().await;
        }
        let cut = self.cut(self.wire.faults.cut_receive);
        if cut {
            self.wire.break_now();
            if self.wire.dice.percent(50) {
                into.truncate(before);
                return Err(lost("broken"));
            }
        }
        self.wire.handed(&into[before..]);
        Ok(())
    }

    async fn consume(&self, routes: Routes) -> Result<()> {
        if self.wire.is_broken() {
            return self.fail().await;
        }
        self.wire.inner.consume(routes).await
    }

    async fn given_back(&self) -> Route {
        self.wire.inner.given_back().await
    }

    async fn stop_receiving(&self) -> Result<()> {
        if self.wire.is_broken() {
            return self.fail().await;
        }
        self.wire.inner.stop_receiving().await
    }

    fn acker(&self) -> Arc<dyn Acker> {
        self.wire.clone()
    }

    async fn lost(&self, blocked: impl Fn(Option<&str>) + Send + Sync) -> Error {
        let state = &self.wire.state;
        loop {
            state.wait_for(|state| state.broken || state.blocked != state.told).await;
            if self.wire.is_broken() {
                sleep(self.wire.dice.ms(self.wire.faults.slow)).await;
                return lost("cut");
            }
            let now = self.wire.state.look().blocked;
            self.wire.state.change(|state| state.told = now);
            blocked(now.then_some("low on memory"));
        }
    }

    async fn close(&self) {
        let state = &self.wire.state;
        state.wait_for(|state| state.broken || state.untaken() == 0).await;
        self.wire.tell();
        self.dawdle().await;
        self.wire.inner.close().await;
    }
}

impl Drop for FaultySession {
    fn drop(&mut self) {
        self.wire.end(Duration::ZERO);
        self.wire.forget();
    }
}
