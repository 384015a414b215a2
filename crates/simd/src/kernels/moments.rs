//! Means and variances of the vectors of a tile.

use super::Kernels;
use crate::LANES;

impl Kernels {
    /// Mean of each row of a panel (`[k][16]`), which are the numbers of sixteen vectors, and their variance: the mean square
    /// of what they are off it. `means` and `variances` are `[k]`, k is even.
    pub fn panel_moments_f32(&self, panel: &[f32], means: &mut [f32], variances: &mut [f32]) {
        check_moments(panel.len(), means.len(), variances.len());
        // SAFETY: lengths are checked.
        unsafe { (self.panel_moments_f32)(panel.as_ptr(), means, variances) }
    }

    /// As [`Kernels::panel_moments_f32`] of a panel in bf16, `[k / 2][16][2]`.
    pub fn panel_moments_bf16(&self, panel: &[u16], means: &mut [f32], variances: &mut [f32]) {
        check_moments(panel.len(), means.len(), variances.len());
        // SAFETY: lengths are checked.
        unsafe { (self.panel_moments_bf16)(panel.as_ptr(), means, variances) }
    }

    /// Mean of the sixteen values of a tile, `[n / 16][16][16]`; `means` is `[n]`, n a multiple of 16.
    pub fn value_means_f32(&self, values: &[f32], means: &mut [f32]) {
        assert!(values.len() == means.len() * LANES && means.len().is_multiple_of(LANES));
        // SAFETY: lengths are checked.
        unsafe { (self.value_means_f32)(values.as_ptr(), means) }
    }

    /// As [`Kernels::value_means_f32`] of values in bf16, `[n / 16][8][16][2]`.
    pub fn value_means_bf16(&self, values: &[u16], means: &mut [f32]) {
        assert!(values.len() == means.len() * LANES && means.len().is_multiple_of(LANES));
        // SAFETY: lengths are checked.
        unsafe { (self.value_means_bf16)(values.as_ptr(), means) }
    }

    /// As [`Kernels::panel_moments_f32`] of the keys of a tile of codes: `[k / 4][16][4]` unsigned bytes that are 128 too
    /// large, and behind them the scale of each key, `[16]` f32. k is a multiple of 4.
    pub fn code_moments(&self, keys: &[i8], means: &mut [f32], variances: &mut [f32]) {
        assert!(means.len() == variances.len() && means.len().is_multiple_of(4));
        assert!(keys.len() == LANES * (means.len() + size_of::<f32>()));
        // SAFETY: lengths are checked.
        unsafe { (self.code_moments)(keys.as_ptr(), means, variances) }
    }

    /// As [`Kernels::value_means_f32`] of the values of a tile of codes: `[n / 16][4][16][4]` signed bytes, and behind
    /// them the scale of each value, `[16]` f32.
    pub fn code_value_means(&self, values: &[i8], means: &mut [f32]) {
        assert!(means.len().is_multiple_of(LANES) && values.len() == LANES * (means.len() + size_of::<f32>()));
        // SAFETY: lengths are checked.
        unsafe { (self.code_value_means)(values.as_ptr(), means) }
    }
}

fn check_moments(panel: usize, means: usize, variances: usize) {
    assert!(panel == means * LANES && means == variances && means.is_multiple_of(2));
}
