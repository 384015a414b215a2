//! Random directions that are the same on every machine.

use crate::random::{Random, mix};

/// Directions `[count][dimensions]` of length 1, spread evenly over the sphere as far as a sum of twelve uniform
/// numbers is normal (basic arithmetic only: logarithms and cosines differ between machines).
pub(super) fn directions(seed: u64, count: usize, dimensions: usize) -> Vec<f32> {
    let mut random = Random::new(mix(seed));
    // Indices in files were made with the numbers from the second on.
    random.next();
    let mut uniform = || (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
    let mut all = Vec::with_capacity(count * dimensions);
    for _ in 0..count {
        let direction: Vec<f64> = (0..dimensions).map(|_| (0..12).map(|_| uniform()).sum::<f64>() - 6.0).collect();
        let length = direction.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        all.extend(direction.iter().map(|x| (x / length) as f32));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_have_length_one_and_no_preference() {
        let (count, dimensions) = (2000, 5);
        let all = directions(3, count, dimensions);
        let mut mean = vec![0.0; dimensions];
        for direction in all.chunks(dimensions) {
            let length: f32 = direction.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-5);
            mean.iter_mut().zip(direction).for_each(|(sum, x)| *sum += x / count as f32);
        }
        // Standard deviation of a mean: sqrt(1/5 / 2000) = 0.01.
        assert!(mean.iter().all(|x| x.abs() < 0.05), "{mean:?}");
        assert_eq!(all, directions(3, count, dimensions));
        assert_ne!(all, directions(4, count, dimensions));
    }
}
