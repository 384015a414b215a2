//! Rotary position embedding (`RoPE`), halves rotated as the Hugging Face checkpoints expect.

use iceformer_simd::Kernels;

use crate::error::{Result, TransformerError};
use crate::memory::try_zeroed;

/// The cosines and sines of one chunk's positions. They are computed by the caller, so that every scaling is a
/// matter of these tables alone.
pub(crate) struct Rotation {
    /// Half of the head dimension.
    half: usize,
    /// Rows that are set.
    rows: usize,
    /// `[maxChunk][half]`
    cos: Vec<f32>,
    /// `[maxChunk][half]`
    sin: Vec<f32>,
}

impl Rotation {
    pub(crate) fn new(max_chunk: usize, head_dim: usize) -> Result<Self> {
        let half = head_dim / 2;
        Ok(Self {
            half,
            rows: 0,
            cos: try_zeroed(max_chunk * half, "rotation tables")?,
            sin: try_zeroed(max_chunk * half, "rotation tables")?,
        })
    }

    /// Bytes that the tables take.
    pub(crate) fn bytes(&self) -> u64 {
        (self.cos.len() + self.sin.len()) as u64 * 4
    }

    /// Takes the tables of a chunk of `rows` tokens.
    pub(crate) fn set(&mut self, rows: usize, cos: &[f32], sin: &[f32]) -> Result<()> {
        let expected = rows * self.half;
        for (name, table) in [("cos", cos), ("sin", sin)] {
            if table.len() != expected {
                return Err(TransformerError::BufferLength {
                    name,
                    found: table.len(),
                    expected,
                    shape: "[tokens, headDim / 2]",
                });
            }
        }
        self.cos[..expected].copy_from_slice(cos);
        self.sin[..expected].copy_from_slice(sin);
        self.rows = rows;
        Ok(())
    }

    /// Forgets the tables: the next chunk needs its own.
    pub(crate) fn clear(&mut self) {
        self.rows = 0;
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Rotates each head of `heads`, `[heads][2 * half]`, by the position of a row of the chunk.
    pub(crate) fn apply(&self, kernels: &Kernels, row: usize, heads: &mut [f32]) {
        let table = row * self.half..(row + 1) * self.half;
        let (cos, sin) = (&self.cos[table.clone()], &self.sin[table]);
        for head in heads.chunks_exact_mut(2 * self.half) {
            kernels.rotate_half(head, cos, sin);
        }
    }
}
