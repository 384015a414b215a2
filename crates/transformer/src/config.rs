//! What a decoder is made from: sizes and where its tensors lie.

use crate::error::{Result, TransformerError};
use crate::packed::PackedMatrix;
use crate::precision::Precision;
use crate::weight::StoredTensor;
use crate::weight_memory::WeightMemory;

/// Most that any single size may be: products of two of them then fit 64 bits with room to spare.
const LARGEST: usize = 1 << 24;

/// Sizes of a decoder.
#[derive(Debug, Clone)]
pub struct DecoderConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head, even.
    pub head_dim: usize,
    /// Tokens.
    pub vocabulary: usize,
    /// Added to the mean square in every norm.
    pub norm_eps: f32,
    /// Type of the packed weights.
    pub precision: Precision,
    /// Most tokens in one chunk.
    pub max_chunk: usize,
}

/// The tensors of a decoder.
#[derive(Debug, Clone)]
pub struct DecoderTensors {
    /// `[vocabulary, hidden]`
    pub embedding: StoredTensor,
    /// `[vocabulary, hidden]`; without it the embedding serves as head.
    pub head: Option<StoredTensor>,
    /// `[hidden]`
    pub final_norm: StoredTensor,
    /// One for each layer.
    pub layers: Vec<LayerTensors>,
}

/// The tensors of one layer, as checkpoints name them: `W` is `[out, in]`.
#[derive(Debug, Clone)]
pub struct LayerTensors {
    /// `[hidden]`
    pub input_norm: StoredTensor,
    /// `[heads * headDim, hidden]`
    pub q: StoredTensor,
    /// `[kvHeads * headDim, hidden]`
    pub k: StoredTensor,
    /// `[kvHeads * headDim, hidden]`
    pub v: StoredTensor,
    /// `[heads * headDim]`
    pub q_bias: Option<StoredTensor>,
    /// `[kvHeads * headDim]`
    pub k_bias: Option<StoredTensor>,
    /// `[kvHeads * headDim]`
    pub v_bias: Option<StoredTensor>,
    /// `[headDim]`, per head, before the rotation
    pub q_norm: Option<StoredTensor>,
    /// `[headDim]`, per head, before the rotation
    pub k_norm: Option<StoredTensor>,
    /// `[hidden, heads * headDim]`
    pub o: StoredTensor,
    /// `[hidden]`
    pub o_bias: Option<StoredTensor>,
    /// `[hidden]`
    pub post_norm: StoredTensor,
    /// `[intermediate, hidden]`
    pub gate: StoredTensor,
    /// `[intermediate, hidden]`
    pub up: StoredTensor,
    /// `[hidden, intermediate]`
    pub down: StoredTensor,
    /// `[intermediate]`
    pub gate_bias: Option<StoredTensor>,
    /// `[intermediate]`
    pub up_bias: Option<StoredTensor>,
    /// `[hidden]`
    pub down_bias: Option<StoredTensor>,
}

impl DecoderConfig {
    /// Width of all query heads together.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    #[must_use]
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Checks that the sizes make sense by themselves.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("hiddenSize", self.hidden),
            ("intermediateSize", self.intermediate),
            ("heads", self.heads),
            ("kvHeads", self.kv_heads),
            ("headDim", self.head_dim),
            ("vocabSize", self.vocabulary),
            ("maxChunk", self.max_chunk),
            ("heads * headDim", self.heads.saturating_mul(self.head_dim)),
        ];
        for (name, value) in sizes {
            if value == 0 || value > LARGEST {
                let requirement = format!("it must be from 1 to {LARGEST}");
                return Err(TransformerError::Configuration { name, value, requirement });
            }
        }
        if !self.head_dim.is_multiple_of(2) {
            let requirement = "it must be even, since rotation pairs its halves".to_owned();
            return Err(TransformerError::Configuration { name: "headDim", value: self.head_dim, requirement });
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let requirement = format!("it must divide the {} query heads", self.heads);
            return Err(TransformerError::Configuration { name: "kvHeads", value: self.kv_heads, requirement });
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(TransformerError::NormEps { value: self.norm_eps });
        }
        Ok(())
    }

    /// Checks every tensor's shape and length. Reads nothing.
    pub fn check_tensors(&self, tensors: &DecoderTensors) -> Result<()> {
        let &Self { hidden, intermediate, head_dim, vocabulary, .. } = self;
        let (query, key) = (self.query_width(), self.key_width());
        tensors.embedding.expect_shape(&[vocabulary, hidden])?;
        if let Some(head) = &tensors.head {
            head.expect_shape(&[vocabulary, hidden])?;
        }
        tensors.final_norm.expect_shape(&[hidden])?;
        for layer in &tensors.layers {
            layer.input_norm.expect_shape(&[hidden])?;
            layer.post_norm.expect_shape(&[hidden])?;
            layer.q.expect_shape(&[query, hidden])?;
            layer.k.expect_shape(&[key, hidden])?;
            layer.v.expect_shape(&[key, hidden])?;
            layer.o.expect_shape(&[hidden, query])?;
            layer.gate.expect_shape(&[intermediate, hidden])?;
            layer.up.expect_shape(&[intermediate, hidden])?;
            layer.down.expect_shape(&[hidden, intermediate])?;
            let vectors = [
                (&layer.q_bias, query),
                (&layer.k_bias, key),
                (&layer.v_bias, key),
                (&layer.q_norm, head_dim),
                (&layer.k_norm, head_dim),
                (&layer.o_bias, hidden),
                (&layer.gate_bias, intermediate),
                (&layer.up_bias, intermediate),
                (&layer.down_bias, hidden),
            ];
            for (vector, width) in vectors {
                if let Some(vector) = vector {
                    vector.expect_shape(&[width])?;
                }
            }
        }
        Ok(())
    }

    /// Bytes that the weights will take once packed.
    #[must_use]
    pub fn weight_bytes(&self, tensors: &DecoderTensors) -> u64 {
        let matrix = |outputs, inputs| PackedMatrix::packed_bytes(outputs, inputs, self.precision);
        let &Self { hidden, intermediate, head_dim, vocabulary, .. } = self;
        let (query, key) = (self.query_width(), self.key_width());
        let layers: u64 = tensors
            .layers
            .iter()
            .map(|layer| {
                let matrices = matrix(query, hidden)
                    + 2 * matrix(key, hidden)
                    + matrix(hidden, query)
                    + 2 * matrix(intermediate, hidden)
                    + matrix(hidden, intermediate);
                let vectors = [
                    (&layer.q_bias, query),
                    (&layer.k_bias, key),
                    (&layer.v_bias, key),
                    (&layer.q_norm, head_dim),
                    (&layer.k_norm, head_dim),
                    (&layer.o_bias, hidden),
                    (&layer.gate_bias, intermediate),
                    (&layer.up_bias, intermediate),
                    (&layer.down_bias, hidden),
                ];
                let values = 2 * hidden + vectors.iter().filter(|(v, _)| v.is_some()).map(|(_, n)| n).sum::<usize>();
                matrices + 4 * values as u64
            })
            .sum();
        let tables = 1 + u64::from(tensors.head.is_some());
        tables * matrix(vocabulary, hidden) + 4 * hidden as u64 + layers
    }

    /// Bytes of [`WeightMemory`] that the matrices of all steps take at most.
    pub(crate) fn weight_memory(&self, tensors: &DecoderTensors) -> usize {
        // A matrix has two parts in int8, and one else.
        let parts = 2 * (2 + 7 * tensors.layers.len());
        (self.weight_bytes(tensors) as usize).saturating_add(parts * WeightMemory::taken(0))
    }
}
