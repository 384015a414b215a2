//! Uniform quantization: a number as a whole multiple of a step, −127 to 127.

/// The largest absolute value of some numbers, 0 for none.
#[inline]
pub(crate) fn reach(numbers: &[f32]) -> f32 {
    numbers.iter().fold(0.0_f32, |reach, x| reach.max(x.abs()))
}

/// The step with which numbers up to `reach` fit; 0, with which every number becomes zero, if the inverse of the step
/// would overflow.
#[inline]
pub(crate) fn step_for(reach: f32) -> f32 {
    let step = reach / 127.0;
    if step >= f32::MIN_POSITIVE { step } else { 0.0 }
}

/// The steps that a number of 1 has; 0 for the step 0.
#[inline]
pub(crate) fn inverse(step: f32) -> f32 {
    if step > 0.0 { step.recip() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_reach_as_far_as_the_numbers_or_are_zero() {
        let numbers = [0.5, -3.0, 2.0];
        let step = step_for(reach(&numbers));
        assert!((step * 127.0 - 3.0).abs() < 1e-6 && (inverse(step) * step - 1.0).abs() < 1e-6);
        for tiny in [reach(&[]), f32::MIN_POSITIVE, 126.9 * f32::MIN_POSITIVE] {
            assert_eq!((step_for(tiny).to_bits(), inverse(step_for(tiny)).to_bits()), (0, 0));
        }
        assert!(inverse(step_for(127.1 * f32::MIN_POSITIVE)).is_finite());
    }
}
