//! Random numbers of this crate's tests: seeded, so that a failure repeats, and a failing case shrinks by its other
//! parts alone.

#![allow(dead_code, reason = "each test file uses a part")]

/// A small deterministic generator (xorshift) and its state, which must not be zero.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// For seeds that follow each other: their first numbers are unlike.
    pub fn mixed(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| _ = random.next());
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number from -1 to below 1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `n` numbers as [`Self::unit`] gives them.
    pub fn vector(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}
