//! Random numbers of this crate's tests: seeded, so that a failure repeats.

#![allow(dead_code, reason = "each test file uses a part")]

/// A small deterministic generator (xorshift) and its state, which must not be zero.
pub struct Random(pub u64);

impl Random {
    /// For seeds that follow each other: their first numbers are unlike.
    pub fn mixed(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| _ = random.next());
        random
    }

    /// A number of 40 bits, those of the state that are mixed best.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 24
    }

    /// A whole number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// A number from -1 to below 1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 16) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `n` numbers as [`Self::unit`] gives them.
    pub fn vector(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }

    /// A number from 0 to below 1.
    pub fn share(&mut self) -> f32 {
        self.unit() * 0.5 + 0.5
    }

    /// A whole number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.share() * (high - low + 1) as f32) as usize % (high - low + 1)
    }

    /// One of these.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.between(0, choices.len() - 1)]
    }
}
