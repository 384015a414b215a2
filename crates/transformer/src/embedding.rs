//! Token embedding and output head. A tied model stores one matrix for both.

use iceformer_simd::Kernels;
use iceformer_threads::ThreadPool;

use crate::activations::ActivationView;
use crate::norm::RmsNorm;
use crate::packed::PackedMatrix;
use crate::product::multiply_all;
use crate::workspace::ResidualView;

/// Tokens whose rows are gathered by one work item.
const GATHER: usize = 16;

pub(crate) struct Embedding {
    /// `[vocabulary, hidden]`
    pub(crate) table: PackedMatrix,
    /// `[vocabulary, hidden]`; the table itself where the model ties them
    pub(crate) head: Option<PackedMatrix>,
    pub(crate) final_norm: RmsNorm,
}

impl Embedding {
    pub(crate) fn bytes(&self) -> u64 {
        self.table.bytes() + self.head.as_ref().map_or(0, PackedMatrix::bytes) + self.final_norm.bytes()
    }

    /// The matrix that logits are computed with.
    pub(crate) fn head(&self) -> &PackedMatrix {
        self.head.as_ref().unwrap_or(&self.table)
    }

    /// Writes the embedding of each token to its row of the residual stream. The tokens are in the vocabulary.
    pub(crate) fn gather(&self, kernels: &Kernels, pool: &ThreadPool, tokens: &[u32], hidden: &ResidualView<'_>) {
        pool.for_each(tokens.len().div_ceil(GATHER), |_, item| {
            let first = item * GATHER;
            for (row, &token) in tokens.iter().enumerate().skip(first).take(GATHER) {
                // SAFETY: each row belongs to one item.
                self.table.copy_output(kernels, token as usize, unsafe { hidden.row(row) });
            }
        });
    }

    /// Logits of the activations in rows `0..rows`, already normalised, into `out`, `[rows][vocabulary]`.
    pub(crate) fn logits(
        &self,
        kernels: &Kernels,
        pool: &ThreadPool,
        activations: &ActivationView<'_>,
        rows: usize,
        out: &mut [f32],
    ) {
        multiply_all(kernels, pool, activations, rows, self.head(), out);
    }
}
