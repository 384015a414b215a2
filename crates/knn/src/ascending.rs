//! Scores as whole numbers in the same order: they sort, select and pack into keys without branches.

const SIGN: u32 = 1 << 31;

/// A number that rises with the score, in the order of [`f32::total_cmp`].
#[inline]
pub(crate) fn ascending(score: f32) -> u32 {
    let bits = score.to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

/// The score of an [`ascending`] number.
#[inline]
pub(crate) fn score_of(ascending: u32) -> f32 {
    f32::from_bits(if ascending & SIGN == 0 { !ascending } else { ascending & !SIGN })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_with_scores_and_lead_back() {
        let scores = [f32::NEG_INFINITY, -7.5, -f32::MIN_POSITIVE, -0.0, 0.0, 1e-40, 3.0, f32::MAX, f32::INFINITY];
        assert!(scores.windows(2).all(|pair| ascending(pair[0]) < ascending(pair[1])));
        assert!(scores.iter().all(|score| score_of(ascending(*score)).to_bits() == score.to_bits()));
    }
}
