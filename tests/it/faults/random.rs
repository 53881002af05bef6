//! Numbers from a seed: a run is repeated with the seed that it printed, as far as two processes
//! can be made to meet again.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014): one line of state, good enough to choose moments.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One for another purpose, so that scenarios do not depend on each other.
    pub fn fork(&self, purpose: &str) -> Self {
        let mixed = purpose
            .bytes()
            .fold(self.0, |seed, byte| Self(seed ^ u64::from(byte)).next());
        Self(mixed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `n` - 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// From 1 to `n`.
    pub fn up_to(&mut self, n: usize) -> usize {
        1 + self.below(n)
    }

    /// Less than `n` milliseconds, finer than one.
    pub fn millis(&mut self, n: usize) -> Duration {
        Duration::from_micros(self.below(n * 1000) as u64)
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
