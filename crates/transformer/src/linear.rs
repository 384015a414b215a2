//! A linear layer: packed weights and, in some families, a bias.

use std::ops::Range;

use iceformer_simd::Kernels;
use iceformer_threads::ThreadPool;

use crate::error::Result;
use crate::packed::PackedMatrix;
use crate::precision::Precision;
use crate::weight::StoredTensor;
use crate::weight_memory::WeightMemory;

/// `y = W x + b`.
pub(crate) struct Linear {
    pub(crate) weights: PackedMatrix,
    /// `[outputs]`
    bias: Option<Vec<f32>>,
}

impl Linear {
    pub(crate) fn load(
        memory: Option<&WeightMemory>,
        weights: &StoredTensor,
        bias: Option<&StoredTensor>,
        precision: Precision,
        kernels: &Kernels,
        pool: &ThreadPool,
    ) -> Result<Self> {
        Ok(Self {
            weights: PackedMatrix::pack_into(memory, weights, precision, kernels, pool)?,
            bias: bias.map(StoredTensor::read_vector).transpose()?,
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.weights.bytes() + self.bias.as_ref().map_or(0, |bias| bias.len() as u64 * 4)
    }

    pub(crate) fn outputs(&self) -> usize {
        self.weights.outputs()
    }

    /// Adds the bias of the outputs in `columns` to `values`, which are these outputs of one row.
    pub(crate) fn add_bias(&self, kernels: &Kernels, columns: Range<usize>, values: &mut [f32]) {
        if let Some(bias) = &self.bias {
            kernels.add(values, &bias[columns]);
        }
    }

    pub(crate) fn has_bias(&self) -> bool {
        self.bias.is_some()
    }
}
