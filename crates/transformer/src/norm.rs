//! Root-mean-square normalisation.

use iceformer_simd::Kernels;

use crate::activations::ActivationView;
use crate::error::Result;
use crate::weight::StoredTensor;

/// `x / sqrt(mean(x²) + eps) * weight`.
pub(crate) struct RmsNorm {
    /// `[width]`
    weight: Vec<f32>,
    eps: f32,
}

impl RmsNorm {
    pub(crate) fn load(tensor: &StoredTensor, eps: f32) -> Result<Self> {
        Ok(Self { weight: tensor.read_vector()?, eps })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.weight.len() as u64 * 4
    }

    /// Normalises `x` into a row of activations. `scratch` has at least the width of `x`.
    ///
    /// # Safety
    /// Nobody else may touch that row at the same time.
    pub(crate) unsafe fn store(
        &self,
        kernels: &Kernels,
        x: &[f32],
        scratch: &mut [f32],
        out: &ActivationView<'_>,
        row: usize,
    ) {
        let normalised = &mut scratch[..x.len()];
        kernels.rms_norm(x, &self.weight, self.eps, normalised);
        // SAFETY: the caller's promise.
        unsafe { out.store(kernels, row, 0, normalised) };
    }

    /// Normalises each head of `heads`, `[heads][width]`, in place. `scratch` has at least `width` elements.
    pub(crate) fn heads(&self, kernels: &Kernels, heads: &mut [f32], scratch: &mut [f32]) {
        let width = self.weight.len();
        let copy = &mut scratch[..width];
        for head in heads.chunks_exact_mut(width) {
            copy.copy_from_slice(head);
            kernels.rms_norm(copy, &self.weight, self.eps, head);
        }
    }
}
