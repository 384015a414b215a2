//! Dense transformer layers on the CPU: packed weights, products, norms, rotary embedding, MLP.
//!
//! [`Decoder`] is everything of a Llama-family decoder but its attention. Weights are read from safetensors files into
//! panels of sixteen outputs ([`PackedMatrix`]), in f32, bf16 or int8. With many rows (prefill) each thread takes blocks of
//! rows through a whole layer, weights streaming past activations that stay in its cache; with few rows (decode) all
//! threads share the weights, each reading its part once. Either way every sum is taken in the same order whatever the
//! number of threads, so results do not depend on it.

mod activations;
mod argmax;
mod config;
mod decoder;
mod disjoint;
mod embedding;
mod error;
mod inner;
mod layer;
mod linear;
mod memory;
mod mlp;
mod norm;
mod packed;
mod precision;
mod product;
mod quantization;
#[cfg(test)]
mod random;
mod rope;
mod weight;
mod weight_memory;
mod workspace;

pub use argmax::argmax;
pub use config::{DecoderConfig, DecoderTensors, LayerTensors};
pub use decoder::Decoder;
pub use error::{Result, TransformerError};
pub use packed::PackedMatrix;
pub use precision::{GROUP_INPUTS, Precision};
pub use product::MatrixProduct;
pub use weight::{StoredTensor, StoredType};
