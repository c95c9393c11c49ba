//! What must hold of a run, whatever went wrong in it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use message_engin::config::SlowConsumer;
use message_engin::gateway::Gateway;
use message_engin::worker::Worker;

use super::label::Label;
use super::ledger::{Conn, LineLog, Log};
use super::scenario::World;

macro_rules! ensure {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(format!($($text)*));
        }
    };
}

type Verdict = Result<(), String>;

/// Once faults have stopped: all has arrived that must.
pub fn messages(world: &World) -> Verdict {
    for (gateway, line) in world.gateways() {
        let stats = gateway.stats();
        ensure!(stats.buffered == 0, "gateway {} holds {} bytes", line.id, stats.buffered);
        line_is_calm(&line)?;
        if !world.scale.many {
            let log = line.log();
            let unanswered = world.ledger.unanswered.lock().unwrap();
            let dropped =
                log.dropped.iter().filter(|label| !world.at_least_once && log.handed.contains_key(label)).count();
            let handed = log.handed.keys().filter(|label| !unanswered.contains(&(line.id, **label))).count();
            let told = (stats.sent + stats.overflowed + stats.unmatched) as usize;
            ensure!(
                told <= handed && handed <= told + dropped,
                "gateway {} was handed {handed}, {dropped} of them in vain, and counts {told}: {stats:?}",
                line.id
            );
        }
    }
    for (worker, line) in world.workers() {
        ensure!(worker.buffered() == 0, "worker {} holds {} bytes", line.id, worker.buffered());
        line_is_calm(&line)?;
        ensure!(!line.log().hold_on, "worker {} was told to hold on and never to go on", line.id);
    }
    all_routed_is_done(world)?;
    // One that does not read may be over and not know it.
    let conns = world.ledger.conns.lock().unwrap();
    for (id, conn) in conns.iter().enumerate().filter(|(_, conn)| conn.open && !conn.stuck) {
        ensure!(conn.quiet, "connection {id} is still sending");
        let lines = world.ledger.lines.lock().unwrap();
        let log = lines[conn.gateway as usize].log();
        for n in 0..conn.wrote {
            let label = Label::Up { conn: id as u32, n };
            ensure!(arrives(world, &log, label), "{label:?} is lost");
        }
        drop(log);
        drop(lines);
        received(world, id, conn)?;
    }
    Ok(())
}

/// Taken by the broker, or lost where that may be.
fn arrives(world: &World, log: &Log, label: Label) -> bool {
    log.taken.contains(&label) || log.unfit.contains(&label) || (!world.at_least_once && log.vanished.contains(&label))
}

fn line_is_calm(line: &LineLog) -> Verdict {
    let log = line.log();
    ensure!(log.up, "line {} is not connected", line.id);
    ensure!(!log.blocked, "line {} was never told that the broker goes on", line.id);
    ensure!(u64::from(log.sessions) == log.readies + 1, "line {} was not ready for each session", line.id);
    Ok(())
}

fn all_routed_is_done(world: &World) -> Verdict {
    let done = world.ledger.done.lock().unwrap();
    for line in world.ledger.lines.lock().unwrap().iter().filter(|line| line.is_gateway) {
        let log = line.log();
        let missing = log.taken.iter().filter(|label| !done.contains(label)).min();
        ensure!(missing.is_none(), "{missing:?} of gateway {} came to no worker", line.id);
    }
    Ok(())
}

/// A connection that is there and reads has all that workers have sent since it came.
fn received(world: &World, id: usize, conn: &Conn) -> Verdict {
    let got: HashSet<Label> = conn.got.iter().copied().collect();
    let unanswered = world.ledger.unanswered.lock().unwrap();
    let lines = world.ledger.lines.lock().unwrap();
    let mut overflowed = 0;
    if world.scale.slow_consumer == SlowConsumer::Drop {
        let of =
            |(gateway, line): &(Gateway, Arc<LineLog>)| (line.id == conn.gateway).then(|| gateway.stats().overflowed);
        overflowed = world.gateways().iter().find_map(of).unwrap_or(0);
    }
    for label in &world.ledger.sent.lock().unwrap()[conn.since..] {
        let Label::Down { worker, .. } = *label else { continue };
        if !label.is_for(conn.key) || got.contains(label) || unanswered.contains(&(conn.gateway, *label)) {
            continue;
        }
        let log = lines[worker as usize].log();
        let Some(routed) = log.routed.iter().find(|routed| routed.label == *label) else {
            // Those that waited for the broker when their worker ended were counted there.
            ensure!(log.ended || arrives(world, &log, *label), "{label:?} is lost");
            continue;
        };
        let session = routed.sessions.iter().find(|(gateway, _)| *gateway == conn.gateway).map(|(_, session)| *session);
        drop(log);
        let log = lines[conn.gateway as usize].log();
        // With at-most-once a gateway's queue goes with its session, and what is on its way from it.
        let with_its_queue = session.is_none_or(|session| session != log.sessions || !log.up);
        let handed = log.handed.contains_key(label) && !log.dropped.contains(label);
        if world.at_least_once || handed || !with_its_queue {
            ensure!(overflowed > 0, "{label:?} is not with connection {id}, handed: {handed}, of {session:?}");
            overflowed -= 1;
        }
    }
    Ok(())
}

/// Nobody is there any more, and all has been told.
pub fn departed(world: &World) -> Verdict {
    for (gateway, line) in world.gateways() {
        let stats = gateway.stats();
        ensure!(gateway.running() == 0, "gateway {} runs {} connections", line.id, gateway.running());
        ensure!(stats.connections == 0, "gateway {} has {} in its hub", line.id, stats.connections);
        ensure!(stats.buffered == 0, "gateway {} holds {} bytes", line.id, stats.buffered);
    }
    all_routed_is_done(world)
}

/// The sums of a gateway that has ended.
pub fn gateway(world: &World, gateway: &Gateway, line: &LineLog) {
    let stats = gateway.stats();
    let mut log = line.log();
    log.lost = stats.lost;
    assert_eq!(log.problems, Vec::<String>::new(), "gateway {}", line.id);
    assert_eq!((gateway.running(), stats.connections, stats.buffered), (0, 0, 0), "gateway {}", line.id);
    let pushed = stats.published + stats.lost;
    let least = stats.received + stats.accepted;
    assert!(least <= pushed && pushed <= least + stats.accepted, "gateway {}: {stats:?}", line.id);
    assert_eq!(stats.reconnects, log.readies, "gateway {}", line.id);
    if world.at_least_once && stats.lost == 0 {
        let count = |of: fn(&Label) -> bool| log.taken.iter().filter(|label| of(label)).count() as u64;
        let (came, left) =
            (count(|label| matches!(label, Label::On { .. })), count(|label| matches!(label, Label::Off { .. })));
        let messages = count(|label| matches!(label, Label::Up { .. }));
        assert_eq!(
            (messages, came, came + messages + left),
            (stats.received, stats.accepted, pushed),
            "gateway {}",
            line.id
        );
    }
    published(world, line.id, &log, stats.published, stats.lost);
}

/// The sums of a worker that has ended.
pub fn worker(world: &World, worker: &Worker, line: &LineLog) {
    let log = line.log();
    assert_eq!(log.problems, Vec::<String>::new(), "worker {}", line.id);
    assert_eq!(worker.buffered(), 0);
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counters = worker.counters();
    let (published, lost) = (counters.published(), read(&counters.lost));
    let of_this = |label: &&Label| matches!(label, Label::Down { worker, .. } if *worker == line.id);
    let sent = world.ledger.sent.lock().unwrap().iter().filter(of_this).count() as u64;
    assert_eq!(published + lost, sent, "worker {}: {published} published, {lost} lost", line.id);
    assert_eq!(read(&counters.reconnects), log.readies, "worker {}", line.id);
    self::published(world, line.id, &log, published, lost);
}

/// What is counted as published and as lost is what the broker has taken and what it has not.
fn published(world: &World, id: u32, log: &Log, published: u64, lost: u64) {
    let taken = log.taken.len() as u64;
    if world.at_least_once {
        assert!(published <= taken, "line {id}: {published} published, {taken} taken");
        let known = log.taken.union(&log.unfit).count() as u64;
        assert!(known <= published + lost, "line {id}: {known} known, {published} and {lost} counted");
    } else {
        let vanished = log.vanished.len() as u64;
        let handed = published + log.interrupted;
        assert_eq!(handed, taken + vanished, "line {id}: {taken} taken, {vanished} vanished, {published} published");
        assert!(lost >= log.interrupted + log.refused, "line {id}: {lost} lost");
    }
}

/// Nothing came out of turn or twice but what is marked so, at the broker, at workers and at browsers.
pub fn order(world: &World) {
    let lines = world.ledger.lines.lock().unwrap();
    let mut moved = HashSet::new();
    for line in lines.iter() {
        let log = line.log();
        moved.extend(log.came_back.iter().copied());
        let mut places: HashMap<u32, u32> = HashMap::new();
        let (mut number, mut n) = (0, None);
        let mut seen = HashSet::new();
        for routed in &log.routed {
            let first = seen.insert(routed.label);
            assert!(first || routed.again, "{:?} is published twice and not marked", routed.label);
            if routed.again || moved.contains(&routed.label) {
                continue;
            }
            if let Some((conn, place)) = routed.label.place() {
                let before = places.insert(conn, place);
                assert!(before.is_none_or(|before| before < place), "{:?} is published late", routed.label);
            }
            if let Label::Down { n: this, .. } = routed.label {
                assert!(n.is_none_or(|n| n < this), "{:?} is published late", routed.label);
                n = Some(this);
            }
            if world.at_least_once {
                assert!(number < routed.number, "{:?} has number {}", routed.label, routed.number);
                number = routed.number;
            }
        }
        if line.is_gateway && (world.at_least_once || log.vanished.is_empty()) && log.unfit.is_empty() {
            statuses(line.id, &log);
        }
    }

    let mut places: HashMap<(u32, u32, bool), u32> = HashMap::new();
    let mut unmarked = HashSet::new();
    for heard in world.ledger.heard.lock().unwrap().iter().filter(|heard| !heard.marked) {
        assert!(unmarked.insert(heard.label), "{:?} is heard twice and not marked", heard.label);
        let Some((conn, place)) = heard.label.place().filter(|_| !moved.contains(&heard.label)) else { continue };
        // Statuses have a queue of their own.
        let is_status = !matches!(heard.label, Label::Up { .. });
        let before = places.insert((heard.worker, conn, is_status), place);
        assert!(before.is_none_or(|before| before < place), "worker {}: {:?} is late", heard.worker, heard.label);
    }

    for (id, conn) in world.ledger.conns.lock().unwrap().iter().enumerate() {
        let of = lines[conn.gateway as usize].log();
        let known = |n: &u32| {
            let label = Label::Up { conn: id as u32, n: *n };
            of.taken.contains(&label) || of.unfit.contains(&label)
        };
        let last = (0..conn.began).rev().find(known).unwrap_or(0);
        let gaps = (0..last).filter(|n| !known(n)).count();
        assert!(
            gaps == 0 || of.lost > 0 || !(world.at_least_once || of.vanished.is_empty()),
            "connection {id}: {gaps} lost"
        );
        drop(of);
        let mut last: HashMap<u32, u32> = HashMap::new();
        let mut seen = HashSet::new();
        for label in &conn.got {
            assert!(label.is_for(conn.key), "connection {id} has {label:?}");
            assert!(seen.insert(*label), "connection {id} has {label:?} twice");
            let Label::Down { worker, n, .. } = *label else { continue };
            let before = last.insert(worker, n);
            let in_turn = before.is_none_or(|before| before < n) || moved.contains(label);
            assert!(in_turn, "connection {id} has {label:?} after {before:?}");
        }
    }
}

/// Of each key: somebody comes, or takes the place of whoever was there, and that one leaves.
fn statuses(id: u32, log: &Log) {
    let mut holders: HashMap<u32, u32> = HashMap::new();
    let mut seen = HashSet::new();
    for routed in log.routed.iter().filter(|routed| !log.came_back.contains(&routed.label)) {
        if !seen.insert(routed.label) {
            continue;
        }
        match routed.label {
            Label::On { conn, key } => drop(holders.insert(key, conn)),
            Label::Off { conn, key } if !log.came_back.contains(&Label::On { conn, key }) => {
                let holder = holders.remove(&key);
                assert_eq!(holder, Some(conn), "gateway {id}: key {key} is left by who does not hold it");
            }
            _ => (),
        }
    }
}
