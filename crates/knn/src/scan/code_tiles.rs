//! The layout of codes: tiles of sixteen vectors, `[tiles][quads][16][4]`, so that four numbers of each of sixteen
//! vectors are in one load.

use iceformer_simd::LANES;

/// The code of zero, which also fills up vectors and tiles.
pub(crate) const ZERO: u8 = 128;

/// Groups of four numbers in a vector.
pub(crate) fn quads(dimensions: usize) -> usize {
    dimensions.div_ceil(4)
}

/// Bytes of a tile.
pub(crate) fn tile_bytes(dimensions: usize) -> usize {
    quads(dimensions) * 4 * LANES
}

/// Where the four codes of a quad of the vector at a position begin.
#[inline]
pub(crate) fn place(dimensions: usize, position: usize, quad: usize) -> usize {
    position / LANES * tile_bytes(dimensions) + (quad * LANES + position % LANES) * 4
}
