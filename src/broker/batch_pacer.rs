//! How often deliveries are looked for. A crossing into JavaScript wakes two threads and costs as much as ten messages, a turn
//! of the event loop as much as some, and a look alone its system calls: so under load there is one in a millisecond or two (the
//! timer's are whole ones), and otherwise one at once for whatever is there.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The least time between two of them under load.
const INTERVAL: Duration = Duration::from_millis(1);
/// Deliveries in an interval from which on there is load: below that, waiting would cost more time than it saves work.
const LOAD: f64 = 8.0;
/// How long deliveries are counted before the count says something.
const WINDOW: Duration = Duration::from_millis(4);

/// Of one reader of deliveries.
pub struct BatchPacer {
    /// When something was found last.
    last: Instant,
    since: Instant,
    counted: usize,
    busy: bool,
}

impl Default for BatchPacer {
    fn default() -> Self {
        let now = Instant::now();
        BatchPacer { last: now, since: now, counted: 0, busy: false }
    }
}

impl BatchPacer {
    /// Waits until the next look is due.
    pub async fn pause(&self) {
        let due = self.last + INTERVAL;
        if self.busy && Instant::now() < due {
            sleep_until(due).await;
        }
    }

    pub fn count(&mut self, deliveries: usize) {
        let now = Instant::now();
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
