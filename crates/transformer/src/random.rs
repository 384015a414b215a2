//! Random numbers of this crate's tests: seeded, so that a failure repeats.

/// A small deterministic generator (xorshift) and its state, which must not be zero.
pub(crate) struct Random(pub u64);

impl Random {
    /// Uniform in -1..1.
    fn value(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `count` numbers in -scale..scale.
    pub fn values(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.value() * scale).collect()
    }
}
