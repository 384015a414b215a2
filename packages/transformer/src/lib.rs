//! napi binding of `@iceformer/transformer`: the dense layers of a decoder, and nothing that is not conversion.
//!
//! Calls are synchronous and use all threads of the pool. They belong in a worker thread; the TypeScript side puts them
//! there.

mod decoder;
mod error;
mod options;

use napi_derive::napi;

use crate::error::{Result, to_js};
use crate::options::NativeDecoderOptions;

/// The SIMD level in use: `scalar`, `neon`, `avx2`, `avx2-vnni`, `avx512`, `avx512-vnni`, `avx512-fp16`, `avx512-bf16` or `amx`.
#[napi(catch_unwind)]
#[must_use]
pub fn simd_level() -> String {
    iceformer_simd::kernels().level.to_string()
}

/// Index of the largest logit, the first one of equals; -1 if one is NaN, the largest is infinite or there is none.
#[napi(catch_unwind)]
#[must_use]
pub fn argmax(logits: &[f32]) -> i32 {
    let index = iceformer_transformer::argmax(iceformer_simd::kernels(), logits);
    index.and_then(|index| i32::try_from(index).ok()).unwrap_or(-1)
}

/// Bytes that the weights of a decoder will take once packed. Checks sizes and shapes, reads nothing.
#[napi(catch_unwind)]
pub fn estimate_weight_bytes(options: NativeDecoderOptions) -> Result<f64> {
    let (config, tensors) = options.convert()?;
    config.check().map_err(to_js)?;
    config.check_tensors(&tensors).map_err(to_js)?;
    Ok(config.weight_bytes(&tensors) as f64)
}
