//! Estimated masses of tiles of keys.

use super::Kernels;
use crate::LANES;

impl Kernels {
    /// Turns a row's scores (base 2) into weights: `weights = 2^min(scores - shift, 80)`, 0 below 2^-126, a ten-thousandth
    /// of each off at most. Returns their sum. Lengths are equal and multiples of 16.
    pub fn weigh_f32(&self, scores: &[f32], shift: f32, weights: &mut [f32]) -> f32 {
        check_row(scores, weights);
        // SAFETY: equal lengths are checked.
        unsafe { (self.weigh_f32)(scores, shift, weights.as_mut_ptr()) }
    }

    /// As [`Kernels::weigh_f32`] with weights in bf16.
    pub fn weigh_bf16(&self, scores: &[f32], shift: f32, weights: &mut [u16]) -> f32 {
        check_row(scores, weights);
        // SAFETY: equal lengths are checked.
        unsafe { (self.weigh_bf16)(scores, shift, weights.as_mut_ptr()) }
    }

    /// Adds the share of mass that each tile of keys holds for some rows: `masses += share * min(rows, 2^min(spreads,
    /// cap) * sum over rows of weights * inverse)`.
    ///
    /// `weights` (`[rows][stride]`, the first n of each row count) are the tiles' weights if all their keys were their
    /// mean, `inverses` (`[rows]`) is one over each row's sum of weights, `spreads` (`[n]`) are the second-order terms
    /// (half the variance of the tile's scores, in bits, the mean over the rows); `cap` is at most 126. `mean_masses` takes
    /// the same without spreads: `mean_masses += share * sum over rows of weights * inverse`. n is a multiple of 16.
    #[allow(clippy::too_many_arguments, reason = "a formula's terms")]
    pub fn add_tile_masses_f32(
        &self,
        weights: &[f32],
        stride: usize,
        inverses: &[f32],
        spreads: &[f32],
        cap: f32,
        share: f32,
        masses: &mut [f32],
        mean_masses: &mut [f32],
    ) {
        check_rows(weights, stride, inverses, spreads, masses);
        assert!(mean_masses.len() == masses.len());
        // SAFETY: lengths are checked.
        unsafe {
            (self.add_tile_masses_f32)(weights.as_ptr(), stride, inverses, spreads, cap, share, masses, mean_masses);
        }
    }

    /// As [`Kernels::add_tile_masses_f32`] with weights in bf16.
    #[allow(clippy::too_many_arguments, reason = "a formula's terms")]
    pub fn add_tile_masses_bf16(
        &self,
        weights: &[u16],
        stride: usize,
        inverses: &[f32],
        spreads: &[f32],
        cap: f32,
        share: f32,
        masses: &mut [f32],
        mean_masses: &mut [f32],
    ) {
        check_rows(weights, stride, inverses, spreads, masses);
        assert!(mean_masses.len() == masses.len());
        // SAFETY: lengths are checked.
        unsafe {
            (self.add_tile_masses_bf16)(weights.as_ptr(), stride, inverses, spreads, cap, share, masses, mean_masses);
        }
    }

    /// Takes out a row's weights that do not stay (`kept` is 1 for those that do and 0 for others), and parts the rest by
    /// panels of sixteen: the weights of `fine` panels move to the front of `weights`, in their order, what follows them is
    /// undefined; of every other panel `coarse` takes the sum, and 0 of the fine ones. Returns the sum of all that stay.
    ///
    /// `kept` and `weights` are `[16 x panels]`, `fine` and `coarse` `[panels]`.
    pub fn thin_weights_f32(&self, kept: &[f32], fine: &[bool], weights: &mut [f32], coarse: &mut [f32]) -> f32 {
        check_panels(kept, fine, weights, coarse);
        // SAFETY: lengths are checked.
        unsafe { (self.thin_weights_f32)(kept, fine, weights.as_mut_ptr(), coarse) }
    }

    /// As [`Kernels::thin_weights_f32`] with weights in bf16.
    pub fn thin_weights_bf16(&self, kept: &[f32], fine: &[bool], weights: &mut [u16], coarse: &mut [f32]) -> f32 {
        check_panels(kept, fine, weights, coarse);
        // SAFETY: lengths are checked.
        unsafe { (self.thin_weights_bf16)(kept, fine, weights.as_mut_ptr(), coarse) }
    }
}

/// Panics unless a row's weights, f32 or bf16, are whole panels with as many marks and sums as panels.
fn check_panels<Weight>(kept: &[f32], fine: &[bool], weights: &[Weight], coarse: &[f32]) {
    check_row(kept, weights);
    assert!(fine.len() * LANES == kept.len() && coarse.len() == fine.len());
}

/// Panics unless a row's weights, f32 or bf16, are as many as its other terms, a multiple of 16.
fn check_row<Weight>(terms: &[f32], weights: &[Weight]) {
    assert!(terms.len() == weights.len() && terms.len().is_multiple_of(LANES));
}

/// Panics unless weights, f32 or bf16, have the shape that [`Kernels::add_tile_masses_f32`] says.
fn check_rows<Weight>(weights: &[Weight], stride: usize, inverses: &[f32], spreads: &[f32], masses: &[f32]) {
    let n = spreads.len();
    assert!(n == masses.len() && n <= stride && n.is_multiple_of(LANES));
    assert!(weights.len() + stride >= inverses.len() * stride + n);
}
