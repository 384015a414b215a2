//! Passes over vectors: sums, norms, distances, conversions.

use super::Kernels;

impl Kernels {
    /// Inner product.
    #[must_use]
    pub fn dot(&self, x: &[f32], y: &[f32]) -> f32 {
        assert_eq!(x.len(), y.len());
        // SAFETY: equal lengths.
        unsafe { (self.dot)(x, y) }
    }

    /// Squared Euclidean distance.
    #[must_use]
    pub fn squared_distance(&self, x: &[f32], y: &[f32]) -> f32 {
        assert_eq!(x.len(), y.len());
        // SAFETY: equal lengths.
        unsafe { (self.squared_distance)(x, y) }
    }

    /// Inner product summed in `f64`, the same to the last bit at every level.
    #[must_use]
    pub fn exact_dot(&self, x: &[f32], y: &[f32]) -> f64 {
        assert_eq!(x.len(), y.len());
        // SAFETY: equal lengths.
        unsafe { (self.exact_dot)(x, y) }
    }

    /// Squared Euclidean distance summed in `f64`, the same to the last bit at every level.
    #[must_use]
    pub fn exact_squared_distance(&self, x: &[f32], y: &[f32]) -> f64 {
        assert_eq!(x.len(), y.len());
        // SAFETY: equal lengths.
        unsafe { (self.exact_squared_distance)(x, y) }
    }

    /// `out = x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich 2019).
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len());
        // SAFETY: equal lengths.
        unsafe { (self.rms_norm)(x, weight, eps, out) }
    }

    /// Rotary position embedding of one head, the halves form: `(x[i], x[i + d/2])` turns by angle i.
    pub fn rotate_half(&self, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        assert!(x.len() == 2 * cos.len() && cos.len() == sin.len());
        // SAFETY: lengths agree.
        unsafe { (self.rotate_half)(x, cos, sin) }
    }

    /// out = silu(gate) * up, silu(x) = x / (1 + e^-x).
    pub fn silu_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == up.len() && gate.len() == out.len());
        // SAFETY: equal lengths.
        unsafe { (self.silu_mul)(gate, up, out) }
    }

    /// x += y.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len());
        // SAFETY: equal lengths.
        unsafe { (self.add)(x, y) }
    }

    /// Rounds to bf16 (bits), nearest even.
    pub fn to_bf16(&self, x: &[f32], out: &mut [u16]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: equal lengths.
        unsafe { (self.to_bf16)(x, out) }
    }

    /// Widens bf16 (bits).
    pub fn from_bf16(&self, x: &[u16], out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: equal lengths.
        unsafe { (self.from_bf16)(x, out) }
    }

    /// out = x * by.
    pub fn scale(&self, x: &[f32], by: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: equal lengths.
        unsafe { (self.scale)(x, by, out) }
    }

    /// out += x * by.
    pub fn add_scaled(&self, x: &[f32], by: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: equal lengths.
        unsafe { (self.add_scaled)(x, by, out) }
    }

    /// The largest element, -inf of nothing.
    #[must_use]
    pub fn largest(&self, x: &[f32]) -> f32 {
        // SAFETY: within the slice.
        unsafe { (self.largest)(x) }
    }

    /// The largest magnitude of finite numbers, 0 of nothing.
    #[must_use]
    pub fn largest_magnitude(&self, x: &[f32]) -> f32 {
        // SAFETY: within the slice.
        unsafe { (self.largest_magnitude)(x) }
    }

    /// out = x * by, rounded to nearest even; no product may exceed 127 in magnitude.
    pub fn to_signed_codes(&self, x: &[f32], by: f32, out: &mut [i8]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: equal lengths.
        unsafe { (self.to_signed_codes)(x, by, out) }
    }

    /// x = 2^(x - shift), 0 below 2^-126; returns the sum. `x - shift` must not exceed 126.
    pub fn exp2_shifted(&self, x: &mut [f32], shift: f32) -> f32 {
        // SAFETY: within the slice.
        unsafe { (self.exp2_shifted)(x, shift) }
    }

    /// Sum of all elements.
    #[must_use]
    pub fn sum(&self, x: &[f32]) -> f32 {
        // SAFETY: within the slice.
        unsafe { (self.sum)(x) }
    }

    /// out = max(out, x * by).
    pub fn largest_scaled(&self, x: &[f32], by: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: equal lengths.
        unsafe { (self.largest_scaled)(x, by, out) }
    }

    /// `sums[r]`: sum of `x[r][i]` over all i with `keys[i]` at most `most`. `x` is `[sums.len()][keys.len()]`, no key is
    /// NaN.
    pub fn sums_at_most(&self, keys: &[f32], most: f32, x: &[f32], sums: &mut [f32]) {
        assert_eq!(x.len(), sums.len() * keys.len());
        // SAFETY: lengths agree.
        unsafe { (self.sums_at_most)(keys, most, x, sums) }
    }
}
