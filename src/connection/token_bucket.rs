//! How fast a connection's messages may come: a token bucket for their number and one for their bytes.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::MessageRate;

/// What may come at this moment. May be less than nothing: a message passes as a whole, and what it took beyond the
/// allowance has to come back before the next one.
pub struct TokenBucket {
    messages: f64,
    bytes: f64,
    counted: Instant,
}

impl TokenBucket {
    pub fn new(rate: &MessageRate, now: Instant) -> TokenBucket {
        TokenBucket { messages: most(rate, rate.messages), bytes: most(rate, rate.bytes), counted: now }
    }

    /// How long until the next message may come; None when it may come now.
    pub fn wait(&mut self, rate: &MessageRate, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.counted).as_secs_f64();
        self.counted = now;
        let pairs = [(&mut self.messages, rate.messages), (&mut self.bytes, rate.bytes)];
        let waits = pairs.into_iter().filter_map(|(left, per_second)| {
            let per_second = per_second?;
            *left = (*left + passed * per_second).min(most(rate, Some(per_second)));
            (*left < 1.0).then(|| (1.0 - *left) / per_second)
        });
        // A millisecond is what timers can tell apart; more than a day is looked at again.
        waits.reduce(f64::max).map(|seconds| Duration::from_secs_f64(seconds.clamp(0.001, 86_400.0)))
    }

    /// A message of so many bytes has come.
    pub fn take(&mut self, bytes: usize) {
        self.messages -= 1.0;
        self.bytes -= bytes as f64;
    }
}

/// One message must be able to come at all.
fn most(rate: &MessageRate, per_second: Option<f64>) -> f64 {
    per_second.map_or(f64::INFINITY, |per_second| (per_second * rate.burst).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RatePolicy;

    fn rate(messages: Option<f64>, bytes: Option<f64>, burst: f64) -> MessageRate {
        MessageRate { messages, bytes, burst, policy: RatePolicy::Slow }
    }

    /// Messages of `bytes` that come within `seconds`, each as soon as it may.
    fn count(rate: &MessageRate, bytes: usize, seconds: f64) -> u32 {
        let began = Instant::now();
        let mut now = began;
        let mut allowance = TokenBucket::new(rate, now);
        let mut count = 0;
        loop {
            match allowance.wait(rate, now) {
                Some(wait) => now += wait,
                None => {
                    allowance.take(bytes);
                    count += 1;
                }
            }
            if (now - began).as_secs_f64() > seconds {
                return count;
            }
        }
    }

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let close = |count: u32, expected: u32| assert!(count.abs_diff(expected) <= 1, "{count} for {expected}");
        close(count(&rate(Some(10.0), None, 1.0), 1000, 0.0), 10);
        close(count(&rate(Some(10.0), None, 1.0), 1000, 5.0), 60);
        close(count(&rate(Some(10.0), None, 3.0), 1000, 5.0), 80);
        close(count(&rate(None, Some(1000.0), 1.0), 100, 5.0), 60);
    }

    #[test]
    fn the_stricter_of_both_counts() {
        assert!(count(&rate(Some(1000.0), Some(100.0), 1.0), 100, 9.5) <= 12);
        assert!(count(&rate(Some(2.0), Some(1e9), 1.0), 100, 9.5) <= 22);
    }

    #[test]
    fn a_message_larger_than_the_burst_passes_and_is_paid_for() {
        let rate = rate(None, Some(100.0), 1.0);
        let now = Instant::now();
        let mut allowance = TokenBucket::new(&rate, now);
        assert_eq!(allowance.wait(&rate, now), None);
        allowance.take(1100);
        let wait = allowance.wait(&rate, now).unwrap().as_secs_f64();
        assert!((10.0..10.1).contains(&wait), "{wait}");
        assert!(allowance.wait(&rate, now + Duration::from_secs(9)).is_some());
        assert_eq!(allowance.wait(&rate, now + Duration::from_secs(11)), None);
    }

    #[test]
    fn less_than_one_a_second_passes_one_at_a_time() {
        let rate = rate(Some(0.5), None, 1.0);
        assert!((5..=6).contains(&count(&rate, 10, 9.9)));
    }

    #[test]
    fn silence_saves_up_no_more_than_the_burst() {
        let rate = rate(Some(10.0), None, 1.0);
        let now = Instant::now();
        let mut allowance = TokenBucket::new(&rate, now);
        let later = now + Duration::from_secs(3600);
        let passed = std::iter::from_fn(|| allowance.wait(&rate, later).is_none().then(|| allowance.take(1))).count();
        assert_eq!(passed, 10);
    }
}
