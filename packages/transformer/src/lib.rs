//! napi binding of `@iceformer/transformer`: the dense layers of a decoder, and nothing that is not conversion.
//!
//! Calls are synchronous and use all threads of the pool. They belong in a worker thread; the TypeScript side puts them
//! there.

mod decoder;
mod error;
mod options;

use napi_derive::napi;

/// The SIMD level in use: `scalar`, `neon`, `avx2`, `avx512` or `avx512-bf16`.
#[napi(catch_unwind)]
#[must_use]
pub fn simd_level() -> String {
    iceformer_simd::kernels().level.to_string()
}
