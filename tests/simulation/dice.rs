//! Where all that is random comes from: a generator of our own, so that a seed means the same everywhere and for ever.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// xorshift64*, shared by reference.
pub struct Dice(AtomicU64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        let dice = Dice(AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
        // Seeds that are neighbours begin alike.
        for _ in 0..8 {
            dice.next();
        }
        dice
    }

    /// Somebody else's, so that what one does is not changed by how often another throws.
    pub fn fork(&self) -> Dice {
        Dice::new(self.next())
    }

    fn next(&self) -> u64 {
        let mut state = self.0.load(Ordering::Relaxed);
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.store(state, Ordering::Relaxed);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// From 0 to `end` - 1; 0 for an `end` of 0.
    pub fn below(&self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn range(&self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    pub fn permille(&self, chance: u64) -> bool {
        chance > 0 && self.below(1000) < chance
    }

    pub fn percent(&self, chance: u64) -> bool {
        self.permille(chance * 10)
    }

    /// Up to `end` ms.
    pub fn ms(&self, end: u64) -> Duration {
        Duration::from_millis(self.below(end + 1))
    }

    pub fn pick<T: Copy>(&self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}
