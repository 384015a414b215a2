//! Options as plain JavaScript objects, and their conversion.

use std::path::PathBuf;

use iceformer_transformer::{DecoderConfig, DecoderTensors, LayerTensors, Precision, StoredTensor, StoredType};
use napi_derive::napi;

use crate::error::{Result, fail, to_js};

/// Where a tensor lies in a safetensors file.
#[napi(object)]
pub struct NativeTensor {
    /// The file.
    pub path: String,
    /// Element type.
    #[napi(ts_type = "'F32' | 'F16' | 'BF16'")]
    pub dtype: String,
    /// Dimensions, outermost first.
    pub shape: Vec<i64>,
    /// Absolute offset of the first element in the file.
    pub byte_offset: i64,
    /// Length in bytes.
    pub byte_length: i64,
}

/// The tensors of one layer, matrices as `[out, in]`.
#[napi(object)]
pub struct NativeLayer {
    /// `[hiddenSize]`
    pub input_norm: NativeTensor,
    /// `[heads * headDim, hiddenSize]`
    pub q: NativeTensor,
    /// `[kvHeads * headDim, hiddenSize]`
    pub k: NativeTensor,
    /// `[kvHeads * headDim, hiddenSize]`
    pub v: NativeTensor,
    /// `[heads * headDim]`
    pub q_bias: Option<NativeTensor>,
    /// `[kvHeads * headDim]`
    pub k_bias: Option<NativeTensor>,
    /// `[kvHeads * headDim]`
    pub v_bias: Option<NativeTensor>,
    /// `[headDim]`, per head before the rotation
    pub q_norm: Option<NativeTensor>,
    /// `[headDim]`, per head before the rotation
    pub k_norm: Option<NativeTensor>,
    /// `[hiddenSize, heads * headDim]`
    pub o: NativeTensor,
    /// `[hiddenSize]`
    pub o_bias: Option<NativeTensor>,
    /// `[hiddenSize]`
    pub post_norm: NativeTensor,
    /// `[intermediateSize, hiddenSize]`
    pub gate: NativeTensor,
    /// `[intermediateSize, hiddenSize]`
    pub up: NativeTensor,
    /// `[hiddenSize, intermediateSize]`
    pub down: NativeTensor,
    /// `[intermediateSize]`
    pub gate_bias: Option<NativeTensor>,
    /// `[intermediateSize]`
    pub up_bias: Option<NativeTensor>,
    /// `[hiddenSize]`
    pub down_bias: Option<NativeTensor>,
}

/// Sizes and tensors of a decoder.
#[napi(object)]
pub struct NativeDecoderOptions {
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the MLP.
    pub intermediate_size: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Width of a head, even.
    pub head_dim: u32,
    /// Tokens in the vocabulary.
    pub vocab_size: u32,
    /// Added to the mean square in every norm.
    pub norm_eps: f64,
    /// Type that weights are packed in.
    #[napi(ts_type = "'f32' | 'bf16' | 'int8'")]
    pub dtype: String,
    /// Threads of the addon's own pool, the caller included; without meaning where a pool is passed.
    pub threads: u32,
    /// Most tokens in one chunk.
    pub max_chunk: u32,
    /// `[vocabSize, hiddenSize]`
    pub embedding: NativeTensor,
    /// `[vocabSize, hiddenSize]`; absent where the embedding serves as head too.
    pub head: Option<NativeTensor>,
    /// `[hiddenSize]`
    pub final_norm: NativeTensor,
    /// One for each layer.
    pub layers: Vec<NativeLayer>,
}

impl NativeDecoderOptions {
    /// Sizes and tensors, not yet checked against each other.
    pub fn convert(self) -> Result<(DecoderConfig, DecoderTensors)> {
        let precision = match self.dtype.as_str() {
            "f32" => Precision::F32,
            "bf16" => Precision::Bf16,
            "int8" => Precision::Int8,
            other => return fail("ERR_CONFIGURATION", format!("dtype is {other}: it must be f32, bf16 or int8")),
        };
        let config = DecoderConfig {
            hidden: self.hidden_size as usize,
            intermediate: self.intermediate_size as usize,
            heads: self.heads as usize,
            kv_heads: self.kv_heads as usize,
            head_dim: self.head_dim as usize,
            vocabulary: self.vocab_size as usize,
            norm_eps: self.norm_eps as f32,
            precision,
            max_chunk: self.max_chunk as usize,
        };
        let layers = self.layers.into_iter().enumerate().map(|(index, layer)| layer.convert(index));
        let tensors = DecoderTensors {
            embedding: self.embedding.convert("embedding".to_owned())?,
            head: self.head.map(|head| head.convert("head".to_owned())).transpose()?,
            final_norm: self.final_norm.convert("finalNorm".to_owned())?,
            layers: layers.collect::<Result<Vec<_>>>()?,
        };
        Ok((config, tensors))
    }
}

impl NativeLayer {
    fn convert(self, index: usize) -> Result<LayerTensors> {
        let needed = |tensor: NativeTensor, role: &str| tensor.convert(format!("layers.{index}.{role}"));
        let optional = |tensor: Option<NativeTensor>, role: &str| tensor.map(|t| needed(t, role)).transpose();
        Ok(LayerTensors {
            input_norm: needed(self.input_norm, "inputNorm")?,
            q: needed(self.q, "q")?,
            k: needed(self.k, "k")?,
            v: needed(self.v, "v")?,
            q_bias: optional(self.q_bias, "qBias")?,
            k_bias: optional(self.k_bias, "kBias")?,
            v_bias: optional(self.v_bias, "vBias")?,
            q_norm: optional(self.q_norm, "qNorm")?,
            k_norm: optional(self.k_norm, "kNorm")?,
            o: needed(self.o, "o")?,
            o_bias: optional(self.o_bias, "oBias")?,
            post_norm: needed(self.post_norm, "postNorm")?,
            gate: needed(self.gate, "gate")?,
            up: needed(self.up, "up")?,
            down: needed(self.down, "down")?,
            gate_bias: optional(self.gate_bias, "gateBias")?,
            up_bias: optional(self.up_bias, "upBias")?,
            down_bias: optional(self.down_bias, "downBias")?,
        })
    }
}

impl NativeTensor {
    fn convert(self, name: String) -> Result<StoredTensor> {
        let Some(dtype) = StoredType::from_name(&self.dtype) else {
            return Err(to_js(iceformer_transformer::TransformerError::TensorDtype { name, found: self.dtype }));
        };
        let (Ok(offset), Ok(length)) = (u64::try_from(self.byte_offset), u64::try_from(self.byte_length)) else {
            let (offset, length) = (self.byte_offset, self.byte_length);
            return fail("ERR_TENSOR_LENGTH", format!("tensor {name} has byteOffset {offset} and byteLength {length}"));
        };
        let Ok(shape) = self.shape.iter().map(|&size| usize::try_from(size)).collect() else {
            return fail("ERR_TENSOR_SHAPE", format!("tensor {name} has shape {:?}", self.shape));
        };
        Ok(StoredTensor { name, path: PathBuf::from(self.path), dtype, shape, offset, length })
    }
}
