//! The likeliest token.

use iceformer_simd::Kernels;

/// Logits that are passed over at once if the largest is not among them.
const BLOCK: usize = 1024;

/// Index of the largest logit, the first one of equals; None if one is NaN, the largest is infinite or there is none.
#[must_use]
pub fn argmax(kernels: &Kernels, logits: &[f32]) -> Option<usize> {
    // The sum of squares is a number unless something is none, or so large that it has to be looked at.
    if !kernels.dot(logits, logits).is_finite() && logits.iter().any(|logit| logit.is_nan()) {
        return None;
    }
    let top = kernels.largest(logits);
    if !top.is_finite() {
        return None;
    }
    let first = logits.chunks(BLOCK).position(|block| kernels.largest(block) >= top)? * BLOCK;
    logits[first..].iter().position(|&logit| logit >= top).map(|index| first + index)
}

#[cfg(test)]
mod tests {
    use iceformer_simd::kernels;

    use super::argmax;

    #[test]
    fn the_first_of_the_largest() {
        for length in [1, 15, 16, 1024, 3000] {
            for at in [0, length / 2, length - 1] {
                let mut logits: Vec<f32> = (0..length).map(|i| -((i * 37 % 101) as f32) - 1.0).collect();
                logits[at] = 3.5;
                logits[length - 1] = 3.5;
                assert_eq!(argmax(kernels(), &logits), Some(at), "{length}");
            }
        }
        assert_eq!(argmax(kernels(), &[f32::NEG_INFINITY, -1e30, -2e30]), Some(1));
        assert_eq!(argmax(kernels(), &[1e30, 2e30]), Some(1));
        assert_eq!(argmax(kernels(), &[-0.0, 0.0]), Some(0));
    }

    #[test]
    fn what_is_no_number_has_no_largest() {
        for length in [3, 40, 700] {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut logits = vec![1.0; length];
                logits[length / 2] = bad;
                assert_eq!(argmax(kernels(), &logits), None);
            }
        }
        assert_eq!(argmax(kernels(), &[f32::NEG_INFINITY; 20]), None);
        assert_eq!(argmax(kernels(), &[]), None);
    }
}
