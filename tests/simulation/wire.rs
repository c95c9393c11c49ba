//! What is between a session and the embedded broker: what is on its way, and what goes wrong there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use message_engin::broker::memory::MemorySession;
use message_engin::broker::{Acker, Session, Settlement};
use message_engin::message::{Delivery, OutboundMessage, Route};
use tokio::time::sleep;

use super::dice::Dice;
use super::faulty::Faults;
use super::label::Label;
use super::ledger::{Ledger, LineLog, Routed};
use super::story::story;
use super::told::Told;

pub struct Wire {
    pub inner: MemorySession,
    pub acker: Arc<dyn Acker>,
    /// Of its line, from 1.
    pub number: u32,
    pub at_least_once: bool,
    /// What has no queue comes back.
    pub mandatory: bool,
    pub state: Told<State>,
    pub faults: Arc<Faults>,
    pub ledger: Arc<Ledger>,
    pub line: Arc<LineLog>,
    pub dice: Dice,
    pub unnoticed: Arc<Told<usize>>,
}

#[derive(Default)]
pub struct State {
    pub broken: bool,
    ended: bool,
    pub blocked: bool,
    pub told: bool,
    /// Handed over, and not taken or not confirmed.
    pub flight: VecDeque<Slot>,
    pub back: VecDeque<OutboundMessage>,
    /// Acknowledgements that wait for company.
    acks: Vec<Ack>,
    last_received: Vec<Label>,
}

pub struct Slot {
    message: OutboundMessage,
    taken: bool,
}

#[derive(Debug)]
enum Ack {
    UpTo(Route, u64),
    One(Route, u64, Settlement),
}

impl Slot {
    pub fn of(message: OutboundMessage) -> Slot {
        Slot { message, taken: false }
    }
}

impl State {
    pub fn untaken(&self) -> usize {
        self.flight.iter().filter(|slot| !slot.taken).count()
    }

    /// Nothing can come back.
    pub fn is_calm(&self, at_least_once: bool) -> bool {
        if at_least_once { self.flight.is_empty() } else { self.untaken() == 0 }
    }
}

impl Wire {
    pub fn is_broken(&self) -> bool {
        self.state.look().broken
    }

    /// The connection is gone; the broker may take its time to notice.
    pub fn break_now(self: &Arc<Self>) {
        let mut fresh = false;
        self.state.change(|state| {
            fresh = !state.broken;
            state.broken = true;
            state.acks.clear();
        });
        if fresh {
            let unnoticed = if self.faults.are_on() { self.dice.ms(self.faults.unnoticed) } else { Duration::ZERO };
            self.end(unnoticed);
        }
    }

    /// Its consumers go, at once or later.
    pub fn end(self: &Arc<Self>, after: Duration) {
        let mut fresh = false;
        self.state.change(|state| {
            fresh = !state.ended;
            (state.ended, state.broken) = (true, true);
        });
        if !fresh {
            return;
        }
        story!("line {} session {} ends, noticed after {after:?}", self.line.id, self.number);
        let mut log = self.line.log();
        log.up = false;
        log.dropped.extend(self.state.look().last_received.iter());
        drop(log);
        if after.is_zero() {
            let _ = self.inner.close().now_or_never();
            return;
        }
        self.unnoticed.change(|count| *count += 1);
        let wire = self.clone();
        tokio::spawn(async move {
            sleep(after).await;
            wire.inner.close().await;
            wire.unnoticed.change(|count| *count -= 1);
        });
    }

    /// What was on its way is nowhere now, unless somebody keeps it.
    pub fn forget(&self) {
        let state = self.state.look();
        if !self.at_least_once {
            self.line.log().vanished.extend(state.flight.iter().map(|slot| Label::of(&slot.message.body)));
        }
    }

    pub fn unsettled(&self) -> VecDeque<OutboundMessage> {
        let mut left = VecDeque::new();
        self.state.change(|state| {
            left.append(&mut state.back);
            if self.at_least_once {
                left.extend(state.flight.iter().map(|slot| {
                    let mut message = slot.message.clone();
                    message.id.again = true;
                    message
                }));
            }
        });
        left.make_contiguous().sort_by_key(|message| message.id.number);
        left
    }

    pub fn handed(&self, deliveries: &[Delivery]) {
        let labels: Vec<Label> = deliveries.iter().map(|delivery| Label::of(&delivery.body)).collect();
        story!("line {} session {} is given {labels:?}", self.line.id, self.number);
        let mut log = self.line.log();
        for (label, delivery) in labels.iter().zip(deliveries) {
            log.handed.insert(*label, self.number);
            let id = delivery.message_id();
            log.ids.insert(if id.is_empty() { format!("{label:?}") } else { id.to_owned() });
        }
        drop(log);
        self.state.change(|state| state.last_received = labels);
    }

    /// Takes what is handed over to the broker, and brings the confirms.
    pub async fn carry(self: Arc<Self>) {
        let state = &self.state;
        loop {
            let work = |state: &State| {
                state.broken || (!state.flight.is_empty() && (state.untaken() < state.flight.len() || !state.blocked))
            };
            state.wait_for(work).await;
            if self.faults.slow > 0 && self.dice.percent(30) {
                sleep(self.dice.ms(self.faults.slow)).await;
            }
            if self.is_broken() {
                return;
            }
            let (untaken, blocked) = {
                let state = self.state.look();
                (state.untaken(), state.blocked)
            };
            if untaken > 0 && !blocked {
                let some = self.faults.are_on() && self.dice.percent(30);
                let count = if some { untaken.min(1 + self.dice.below(8) as usize) } else { untaken };
                (0..count).for_each(|_| self.take_one());
            }
            if self.at_least_once {
                self.confirm().await;
            }
        }
    }

    fn take_one(&self) {
        let Some(message) = self.state.look().flight.iter().find(|slot| !slot.taken).map(|slot| slot.message.clone())
        else {
            return;
        };
        let label = Label::of(&message.body);
        let on = self.faults.are_on();
        let nacked = on && self.at_least_once && self.dice.permille(self.faults.nack);
        let returned = on && self.mandatory && self.dice.permille(self.faults.unroutable);
        if nacked || returned {
            self.line.log().came_back.insert(label);
        } else {
            let sessions = self.ledger.gateways();
            story!("line {} session {}: the broker takes {label:?} {:?}", self.line.id, self.number, message.id);
            let mut log = self.line.log();
            log.taken.insert(label);
            let (number, again) = (message.id.number, message.id.again);
            log.routed.push(Routed { label, number, again, sessions });
            drop(log);
            let mut one = VecDeque::from([message.clone()]);
            let _ = self.inner.publish(&mut one).now_or_never();
            assert!(one.is_empty(), "the embedded broker's queue is full");
        }
        self.state.change(|state| {
            let Some(index) = state.flight.iter().position(|slot| !slot.taken) else { return };
            if nacked || returned {
                state.flight.remove(index);
                state.back.push_back(message);
            } else if self.at_least_once {
                state.flight[index].taken = true;
            } else {
                state.flight.remove(index);
            }
        });
    }

    /// Confirms all that is taken, or one out of turn, or nothing for a while.
    async fn confirm(&self) {
        if !self.faults.are_on() || self.dice.percent(60) {
            self.state.change(|state| state.flight.retain(|slot| !slot.taken));
            return;
        }
        let taken = self.state.look().flight.iter().filter(|slot| slot.taken).count();
        if taken > 0 && self.dice.percent(40) {
            let index = self.dice.below(taken as u64) as usize;
            self.state.change(|state| drop(state.flight.remove(index)));
        }
        sleep(Duration::from_millis(1) + self.dice.ms(self.faults.slow)).await;
    }

    /// Brings acknowledgements that have waited for company.
    pub async fn acknowledge(self: Arc<Self>) {
        let state = &self.state;
        loop {
            state.wait_for(|state| state.broken || !state.acks.is_empty()).await;
            sleep(self.dice.ms(self.faults.slow)).await;
            if self.is_broken() {
                return;
            }
            self.tell();
        }
    }

    pub fn tell(&self) {
        let mut acks = Vec::new();
        self.state.change(|state| acks = std::mem::take(&mut state.acks));
        for ack in acks {
            story!("line {} session {} tells {ack:?}", self.line.id, self.number);
            match ack {
                Ack::UpTo(route, tag) => self.acker.ack(route, tag),
                Ack::One(route, tag, settlement) => self.acker.settle(route, tag, settlement),
            }
        }
    }

    /// Cuts the connection when its time has come, and blocks it now and then.
    pub async fn disturb(self: Arc<Self>) {
        let Faults { life, block, .. } = *self.faults;
        let cut = async {
            if life == 0 {
                std::future::pending::<()>().await;
            }
            sleep(self.dice.ms(life)).await;
            if self.faults.are_on() {
                self.break_now();
            }
        };
        let stop_and_go = async {
            if block == 0 {
                return;
            }
            loop {
                sleep(Duration::from_millis(1) + self.dice.ms(block)).await;
                if !self.faults.are_on() {
                    return;
                }
                self.state.change(|state| state.blocked = true);
                sleep(Duration::from_millis(1) + self.dice.ms(block)).await;
                self.state.change(|state| state.blocked = false);
            }
        };
        tokio::join!(cut, stop_and_go);
    }
}

impl Acker for Wire {
    fn ack(&self, route: Route, tag: u64) {
        self.state.change(|state| {
            if !state.broken {
                state.acks.push(Ack::UpTo(route, tag));
            }
        });
    }

    fn settle(&self, route: Route, tag: u64, settlement: Settlement) {
        self.state.change(|state| {
            if !state.broken {
                state.acks.push(Ack::One(route, tag, settlement));
            }
        });
    }

    fn session(&self) -> u32 {
        self.acker.session()
    }
}
