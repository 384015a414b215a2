//! Online softmax over tiles of keys and values.

use super::Kernels;
use crate::LANES;
use crate::attention::{Attend, Tile};
use crate::attention_i8::AttendCodes;

impl Kernels {
    /// Continues a block's softmax over tiles of f32.
    ///
    /// # Safety
    /// The tiles must point to panels of the block's shape.
    pub unsafe fn attend_f32(&self, block: &mut Attend<'_, f32>, tiles: &[Tile<f32>]) {
        block.check();
        // SAFETY: lengths are checked, tiles are the caller's promise.
        unsafe { (self.attend_f32)(block, tiles) }
    }

    /// Continues a block's softmax over tiles of bf16, which are widened exactly; queries and weights stay f32. Where
    /// [`crate::Level::multiplies_bf16`] is false this is the fastest way through tiles of bf16.
    ///
    /// # Safety
    /// The tiles must point to panels of the block's shape.
    pub unsafe fn attend_f32_bf16(&self, block: &mut Attend<'_, f32>, tiles: &[Tile<u16>]) {
        block.check();
        // SAFETY: lengths are checked, tiles are the caller's promise.
        unsafe { (self.attend_f32_bf16)(block, tiles) }
    }

    /// Continues a block's softmax over tiles of bf16; weights are rounded to bf16.
    ///
    /// # Safety
    /// The tiles must point to panels of the block's shape.
    pub unsafe fn attend_bf16(&self, block: &mut Attend<'_, u16>, tiles: &[Tile<u16>]) {
        block.check();
        // SAFETY: lengths are checked, tiles are the caller's promise.
        unsafe { (self.attend_bf16)(block, tiles) }
    }

    /// Continues a block's softmax over tiles of codes, which are multiplied as they are: scores are exact products of
    /// codes times their scales, weights are rounded to 255ths of a step's largest (times the value's scale).
    ///
    /// # Safety
    /// The tiles must point to panels of the block's shape.
    pub unsafe fn attend_i8(&self, block: &mut AttendCodes<'_>, tiles: &[Tile<i8>]) {
        block.check();
        // SAFETY: lengths are checked, tiles are the caller's promise.
        unsafe { (self.attend_i8)(block, tiles) }
    }

    /// Writes a tile of codes as a tile of bf16: `keys` takes `[dimensions / 2][16][2]`, `values`
    /// `[value_panels][8][16][2]`. Each number is scale times code, rounded to nearest even: the same at every level if
    /// that product is exact in f32. Many rows are faster with this and [`Self::attend_bf16`] where tiles of bf16 are
    /// multiplied ([`crate::Level::Amx`]).
    ///
    /// # Safety
    /// The tile must point to panels of this shape.
    pub unsafe fn dequantize_tile(
        &self,
        dimensions: usize,
        value_panels: usize,
        tile: &Tile<i8>,
        keys: &mut [u16],
        values: &mut [u16],
    ) {
        assert!(dimensions.is_multiple_of(2));
        assert!(keys.len() >= dimensions * LANES && values.len() >= value_panels * LANES * LANES);
        // SAFETY: lengths are checked, the tile is the caller's promise.
        unsafe { (self.dequantize_tile)(dimensions, value_panels, tile, keys.as_mut_ptr(), values.as_mut_ptr()) }
    }
}
