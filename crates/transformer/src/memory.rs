//! Allocations whose size a user decides: refusal is an error, not an abort.

use iceformer_simd::OutOfMemory;

use crate::error::{Result, TransformerError};

/// Says what refused memory was for.
pub(crate) fn granted<T>(allocation: std::result::Result<T, OutOfMemory>, purpose: &str) -> Result<T> {
    allocation.map_err(|refused| out_of_memory(refused.bytes, purpose))
}

/// A zeroed vector.
pub(crate) fn try_zeroed(length: usize, purpose: &str) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    values.try_reserve_exact(length).map_err(|_| out_of_memory(length.saturating_mul(4), purpose))?;
    values.resize(length, 0.0);
    Ok(values)
}

pub(crate) fn out_of_memory(bytes: usize, purpose: &str) -> TransformerError {
    TransformerError::OutOfMemory { bytes: bytes as u64, purpose: purpose.to_owned() }
}
