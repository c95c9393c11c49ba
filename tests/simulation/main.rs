//! Gateways, workers and browsers over a broker whose connections break, thousands of times over, each time in another way
//! and the same way again for the same seed.
//!
//! `MESSAGE_ENGIN_SEEDS=n` runs n seeds for each guarantee, `MESSAGE_ENGIN_SEED=k` runs one
//! and tells its story (`-- --nocapture`).

mod browser;
#[path = "../common/mod.rs"]
mod common;
mod dice;
mod faulty;
mod label;
mod ledger;
mod office;
mod scenario;
mod story;
mod told;
mod verdict;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

const SEEDS: u64 = 2000;
/// For one seed.
const PATIENCE: Duration = Duration::from_secs(30);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// A task that spins keeps the paused clock from moving, and no timeout ends it: real time does.
struct Watch {
    _over: mpsc::Sender<()>,
}

impl Watch {
    fn over(seed: u64, at_least_once: bool) -> Watch {
        let (sender, over) = mpsc::channel();
        std::thread::spawn(move || {
            if over.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("MESSAGE_ENGIN_SEED={seed} hangs, at least once: {at_least_once}");
                std::process::abort();
            }
        });
        Watch { _over: sender }
    }
}

fn run(seed: u64, at_least_once: bool) -> Option<u64> {
    let _watch = Watch::over(seed, at_least_once);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(scenario::run(seed, at_least_once))
}

fn run_all(at_least_once: bool) {
    if let Some(seed) = number("MESSAGE_ENGIN_SEED") {
        run(seed, at_least_once);
        return;
    }
    let failed: Vec<u64> = (1..=number("MESSAGE_ENGIN_SEEDS").unwrap_or(SEEDS))
        .filter(|seed| {
            let failed = catch_unwind(AssertUnwindSafe(|| run(*seed, at_least_once))).is_err();
            if failed {
                eprintln!("this was MESSAGE_ENGIN_SEED={seed}, at least once: {at_least_once}");
            }
            failed
        })
        .take(10)
        .collect();
    assert_eq!(failed, [0; 0], "seeds that fail");
}

#[test]
fn at_least_once_loses_nothing_whatever_breaks() {
    run_all(true);
}

#[test]
fn at_most_once_doubles_nothing_and_counts_what_is_lost() {
    run_all(false);
}

#[test]
fn a_seed_runs_the_same_way_twice() {
    for seed in 1..=30 {
        for at_least_once in [false, true] {
            assert_eq!(run(seed, at_least_once), run(seed, at_least_once), "seed {seed}");
        }
    }
}
