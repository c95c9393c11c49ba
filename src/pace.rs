//! How large the batches are that cross into JavaScript: a crossing wakes two threads and costs as much as ten messages, so
//! under load there is at most one in a millisecond, and otherwise one at once for whatever is there.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::broker::Batch;

/// The least time between two crossings under load.
const INTERVAL: Duration = Duration::from_millis(1);
/// Deliveries in an interval from which on there is load: below that, waiting would cost more time than it saves work.
const LOAD: f64 = 8.0;
/// How long deliveries are counted before the count says something.
const WINDOW: Duration = Duration::from_millis(4);

/// Gathers the deliveries of one reader of batches.
pub struct Pace {
    /// When the last batch was handed out.
    last: Instant,
    since: Instant,
    counted: usize,
    busy: bool,
}

impl Default for Pace {
    fn default() -> Self {
        let now = Instant::now();
        Pace { last: now, since: now, counted: 0, busy: false }
    }
}

impl Pace {
    /// The next batch, of about `enough` deliveries at the most.
    pub async fn gather(&mut self, batches: &mut mpsc::Receiver<Batch>, enough: usize) -> Option<Batch> {
        let mut batch = Batch::gather(batches, enough).await?;
        let due = self.last + INTERVAL;
        if self.busy && batch.deliveries.len() < enough && Instant::now() < due {
            sleep_until(due).await;
            batch.join_waiting(batches, enough);
        }
        self.count(batch.deliveries.len(), Instant::now());
        Some(batch)
    }

    fn count(&mut self, deliveries: usize, now: Instant) {
        self.last = now;
        self.counted += deliveries;
        let window = now - self.since;
        if window >= WINDOW {
            let intervals = window.as_secs_f64() / INTERVAL.as_secs_f64();
            self.busy = self.counted as f64 >= LOAD * intervals;
            self.since = now;
            self.counted = 0;
        }
    }
}
