//! Random numbers that are the same on every machine (`SplitMix64`: Steele, Lea and Flood 2014).

/// What the state of a generator grows by.
const GROWTH: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes the bits of a state into a random number.
fn finalize(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A well-mixed number for each number: the first of the generator with this seed.
pub(crate) fn mix(seed: u64) -> u64 {
    finalize(seed.wrapping_add(GROWTH))
}

/// A random number from a seed and a counter.
pub(crate) fn counted(seed: u64, counter: u64) -> u64 {
    finalize(seed ^ counter.wrapping_add(1).wrapping_mul(GROWTH))
}

/// A generator of random numbers.
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GROWTH);
        finalize(self.0)
    }

    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// `count` different numbers below `n`, ascending (Knuth's selection sampling).
    pub fn choose(&mut self, n: usize, count: usize) -> Vec<usize> {
        let mut chosen = Vec::with_capacity(count);
        for i in 0..n {
            if self.below(n - i) < count - chosen.len() {
                chosen.push(i);
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_splitmix64() {
        let mut random = Random::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(expected.map(|_| random.next()), expected);
        assert_eq!((mix(1_234_567), counted(0, 0)), (expected[0], mix(0)));
    }

    #[test]
    fn what_is_chosen_is_different_and_below() {
        let chosen = Random::new(3).choose(50, 20);
        assert!(chosen.len() == 20 && chosen.is_sorted_by(|a, b| a < b) && chosen[19] < 50);
    }
}
