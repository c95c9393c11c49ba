//! What has happened in a run, written down by all who had a part in it, for the verdict.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::label::Label;

#[derive(Default)]
pub struct Ledger {
    pub lines: Mutex<Vec<Arc<LineLog>>>,
    pub conns: Mutex<Vec<Conn>>,
    /// What workers were told to send and have taken, in order.
    pub sent: Mutex<Vec<Label>>,
    pub heard: Mutex<Vec<Heard>>,
    /// What a worker is done with for good.
    pub done: Mutex<HashSet<Label>>,
    /// A gateway has closed several connections: in the order of its map, which is another every time.
    pub shuffled: AtomicBool,
    /// Questions of a gateway for keys that got no answer.
    pub unanswered: Mutex<HashSet<(u32, Label)>>,
}

/// A delivery that a worker has been given.
pub struct Heard {
    pub worker: u32,
    pub label: Label,
    pub marked: bool,
}

/// One browser's connection, from the gateway's answer on.
pub struct Conn {
    pub key: u32,
    pub gateway: u32,
    /// Messages that are in its socket, whole.
    pub wrote: u32,
    /// And that may be there in part.
    pub began: u32,
    pub got: Vec<Label>,
    /// How many messages workers had sent when it was there.
    pub since: usize,
    pub open: bool,
    /// It has sent all that it will.
    pub quiet: bool,
    /// It does not read any more.
    pub stuck: bool,
}

/// Of one gateway or worker.
pub struct LineLog {
    pub id: u32,
    pub is_gateway: bool,
    pub log: Mutex<Log>,
}

#[derive(Default)]
pub struct Log {
    /// In the order in which the broker took them.
    pub routed: Vec<Routed>,
    pub taken: HashSet<Label>,
    /// Handed over and never taken, as far as nobody will try again.
    pub vanished: Vec<Label>,
    /// What calls of `publish` that came to no end had been handed.
    pub interrupted: u64,
    /// Found to have no form that the broker takes.
    pub refused: u64,
    pub unfit: HashSet<Label>,
    /// What has come back once: it may have changed its place.
    pub came_back: HashSet<Label>,
    /// Sessions so far.
    pub sessions: u32,
    /// The last session is there.
    pub up: bool,
    /// With the session that gave them.
    pub handed: HashMap<Label, u32>,
    /// New ones among them, by message id.
    pub ids: HashSet<String>,
    /// What the last `receive` of a session gave that is over: the line may not have got it out of its hands.
    pub dropped: HashSet<Label>,
    pub ended: bool,
    pub hold_on: bool,
    pub blocked: bool,
    pub problems: Vec<String>,
    pub readies: u64,
    /// What was counted as lost at the end.
    pub lost: u64,
}

pub struct Routed {
    pub label: Label,
    pub number: u64,
    pub again: bool,
    /// The session that each gateway had at that time.
    pub sessions: Vec<(u32, u32)>,
}

impl LineLog {
    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }
}

impl Ledger {
    pub fn line(&self, is_gateway: bool) -> Arc<LineLog> {
        let mut lines = self.lines.lock().unwrap();
        let line = LineLog { id: lines.len() as u32, is_gateway, log: Mutex::default() };
        lines.push(Arc::new(line));
        lines[lines.len() - 1].clone()
    }

    /// Gateways whose queues are there, with their sessions.
    pub fn gateways(&self) -> Vec<(u32, u32)> {
        let lines = self.lines.lock().unwrap();
        let up = lines.iter().filter(|line| line.is_gateway).filter_map(|line| {
            let log = line.log();
            log.up.then_some((line.id, log.sessions))
        });
        up.collect()
    }

    pub fn conn(&self, id: u32, change: impl FnOnce(&mut Conn)) {
        change(&mut self.conns.lock().unwrap()[id as usize]);
    }

    /// A number over all that happened, in its order; none where that is not the same every time.
    pub fn digest(&self) -> Option<u64> {
        if self.shuffled.load(Ordering::Relaxed) {
            return None;
        }
        let mut digest = Digest(0xcbf2_9ce4_8422_2325);
        for heard in self.heard.lock().unwrap().iter() {
            digest.add(&format!("{} {:?} {}", heard.worker, heard.label, heard.marked));
        }
        for conn in self.conns.lock().unwrap().iter() {
            digest.add(&format!("{} {} {:?}", conn.gateway, conn.wrote, conn.got));
        }
        Some(digest.0)
    }
}

struct Digest(u64);

impl Digest {
    fn add(&mut self, text: &str) {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
