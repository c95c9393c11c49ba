//! Latencies in buckets whose width grows with the value, as HDR histograms have them.

const SUB_BITS: u32 = 7;
const SUB: u64 = 1 << SUB_BITS;

/// Microseconds, to within 1/128 of the value.
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; index(u64::from(u32::MAX)) + 1], count: 0, sum: 0, max: 0 }
    }
}

fn index(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(SUB_BITS + 1);
    usize::try_from(u64::from(shift) * SUB + (value >> shift)).unwrap_or(usize::MAX)
}

/// The largest value of a bucket.
fn value(index: usize) -> u64 {
    let index = index as u64;
    let shift = (index / SUB).saturating_sub(1);
    ((index - shift * SUB + 1) << shift) - 1
}

impl Histogram {
    pub fn record(&mut self, value: u64) {
        let value = value.min(u64::from(u32::MAX));
        self.buckets[index(value)] += 1;
        self.count += 1;
        self.sum += value;
        self.max = self.max.max(value);
    }

    pub fn quantile(&self, quantile: f64) -> u64 {
        let wanted = (self.count as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return value(index).min(self.max);
            }
        }
        self.max
    }

    pub fn json(&self) -> String {
        let mean = self.sum.checked_div(self.count).unwrap_or(0);
        let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(|quantile| self.quantile(quantile));
        format!(
            r#"{{"count":{},"mean":{mean},"p50":{p50},"p90":{p90},"p99":{p99},"p999":{p999},"max":{}}}"#,
            self.count, self.max
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_a_bucket_that_ends_close_above_it() {
        for exact in (0..2_000).chain((0..32).map(|bit| (1 << bit) - 1)).chain([1_234_567, u64::from(u32::MAX)]) {
            let end = value(index(exact));
            assert!(end >= exact && end - exact <= exact / 128, "{exact}: {end}");
            assert_eq!(index(end), index(exact));
        }
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|value| histogram.record(value));
        assert!((495..=505).contains(&histogram.quantile(0.5)));
        assert!((985..=1000).contains(&histogram.quantile(0.99)));
        assert_eq!(histogram.quantile(1.0), 1000);
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }
}
