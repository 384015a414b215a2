//! Keys as sketches of two bits per number, and the pass that estimates from them the softmax mass of every tile.
//!
//! A tile holds sixteen keys. Of each key a byte holds two bits of four numbers: line `[16][4]` number i of a tile
//! `[lines][16][4]` u8 has, in bits 2s and 2s + 1 of byte `[j][n]`, the code of key j's number 16i + 4s + n. So a line is
//! one load, and each of its four parts is, shifted and masked, what `vpdpbusd` multiplies. Sums are integers and
//! exact; what follows is the same at every level but for the order in which the sixteen keys of a tile are added.
//!
//! Four tiles are a group: their codes, and behind them the scales of their keys, `[4][16]` bf16. So a pass reads one
//! stretch of memory from its start to its end, which is asked for ahead: three rows of 64 numbers take 27 ns a tile so, 31
//! with scales in a stretch of their own that is asked for as well, 33 where it is not (`avx512-fp16`, 21 in cache).

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each function passes on its own contract: see SAFETY (all functions)"
)]
#![allow(clippy::cast_ptr_alignment, reason = "scales lie at even bytes of a group and are read unaligned")]

use crate::LANES;
use crate::lanes::{Lanes, Quads};
use crate::prefetch::prefetch;

/// Numbers of a key whose codes share a line.
pub const SKETCH_LINE: usize = 16;

/// Bytes of a line.
pub const SKETCH_LINE_BYTES: usize = LANES * SKETCH_LINE / 4;

/// Tiles of a group, which share a line or more of scales.
pub const SKETCH_GROUP: usize = 4;

/// Bytes of a group of tiles whose keys have `lines` lines each: a whole number of lines.
#[must_use]
pub const fn sketch_group_bytes(lines: usize) -> usize {
    SKETCH_GROUP * (lines * SKETCH_LINE_BYTES + LANES * size_of::<u16>())
}

/// Bytes between a tile and what is asked for while it is worked on.
const AHEAD_BYTES: usize = 4608;

/// Tiles whose scales a line holds.
const SCALES_IN_LINE: usize = SKETCH_LINE_BYTES / (LANES * size_of::<u16>());

/// Weights are 2^this at most: a sum of as many as memory holds stays finite.
const LARGEST_EXPONENT: f32 = 80.0;

/// What a row of queries brings to a pass: a key with scale `k` and codes `c` has the score
/// `k * (scale * sum of a[i] * c[i] + offset - penalty * k) + base`, in base 2.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SketchRow {
    /// Value of one step of the query's codes.
    pub scale: f32,
    /// What makes codes 0 to 3 count as -1.5 to 1.5: -1.5 times `scale` times the sum of the query's codes.
    pub offset: f32,
    /// What the codes' rounding adds to the mean of a weight, as a factor of the key's squared scale.
    pub penalty: f32,
    /// Score of the centre of the keys less the score that counts as weight 1.
    pub base: f32,
}

/// What [`crate::Kernels::sketch_masses`] works on; see there.
pub(crate) struct Sketch {
    pub m: usize,
    pub lines: usize,
    pub a: *const i8, // [m][lda]
    pub lda: usize,
    pub rows: *const SketchRow, // [m]
    pub tiles: usize,
    pub groups: *const u8, // [tiles / 4, rounded up] groups: [4][lines][16][4] u8 and [4][16] bf16 each
    pub masses: *mut f32,  // [m][stride]
    pub stride: usize,
}

// SAFETY (all functions): the level's CPU features are enabled; the pointers of a sketch are valid for the shapes
// beside them (the caller's promise), and every row and tile that is touched is below `m` and `tiles`.

/// M queries times P tiles of one group: rows from `row`, tiles from `tile`.
#[inline(always)]
unsafe fn block<L: Lanes, Q: Quads<L>, const M: usize, const P: usize>(sketch: &Sketch, row: usize, tile: usize) {
    unsafe {
        let a = sketch.a.add(row * sketch.lda);
        let length = sketch.lines * SKETCH_LINE_BYTES;
        let group = sketch.groups.add(tile / SKETCH_GROUP * sketch_group_bytes(sketch.lines));
        let codes = group.add(tile % SKETCH_GROUP * length);
        let key_scales = group.add(SKETCH_GROUP * length).cast::<u16>().add(tile % SKETCH_GROUP * LANES);
        let quads = sketch.lines * 4;
        let mut sums = [[Q::start(a, quads); P]; M];
        for m in 1..M {
            sums[m] = [Q::start(a.add(m * sketch.lda), quads); P];
        }
        for line in 0..sketch.lines {
            let at = codes.add(line * SKETCH_LINE_BYTES);
            // In the order of memory: the loads here jump from tile to tile.
            for p in 0..P {
                prefetch(codes.wrapping_add(AHEAD_BYTES + (line * P + p) * SKETCH_LINE_BYTES));
            }
            macro_rules! part {
                ($shift:literal) => {
                    let mut keys = [Q::two_bits::<$shift>(at); P];
                    for p in 1..P {
                        keys[p] = Q::two_bits::<$shift>(at.add(p * length));
                    }
                    for m in 0..M {
                        let query = Q::query(a.add(m * sketch.lda + line * SKETCH_LINE + $shift * 2));
                        for p in 0..P {
                            sums[m][p] = Q::add(sums[m][p], keys[p], query);
                        }
                    }
                };
            }
            part!(0);
            part!(2);
            part!(4);
            part!(6);
        }
        for line in 0..P.div_ceil(SCALES_IN_LINE) {
            prefetch(key_scales.cast::<u8>().wrapping_add(AHEAD_BYTES + line * SKETCH_LINE_BYTES));
        }
        let mut scales = [L::zero(); P];
        for p in 0..P {
            scales[p] = L::widen(key_scales.add(p * LANES));
        }
        let most = L::splat(LARGEST_EXPONENT);
        for m in 0..M {
            let terms = &*sketch.rows.add(row + m);
            let (scale, offset) = (L::splat(terms.scale), L::splat(terms.offset));
            let (penalty, base) = (L::splat(-terms.penalty), L::splat(terms.base));
            let masses = sketch.masses.add((row + m) * sketch.stride + tile);
            let mut weights = [L::zero(); P];
            for p in 0..P {
                let inner = L::fma(penalty, scales[p], L::fma(Q::to_f32(sums[m][p]), scale, offset));
                weights[p] = L::exp2::<true>(L::min(L::fma(inner, scales[p], base), most));
            }
            if P == 4 {
                L::sum_four([weights[0], weights[1 % P], weights[2 % P], weights[3 % P]], masses);
            } else {
                for p in 0..P {
                    *masses.add(p) = L::sum(weights[p]);
                }
            }
        }
    }
}

/// All rows times P tiles from `tile`.
#[inline(always)]
unsafe fn rows<L: Lanes, Q: Quads<L>, const P: usize>(sketch: &Sketch, tile: usize) {
    unsafe {
        let mut row = 0;
        // ROWS is a constant of the level: the branches not taken vanish.
        while Q::ROWS >= 4 && sketch.m - row >= 4 {
            block::<L, Q, 4, P>(sketch, row, tile);
            row += 4;
        }
        match sketch.m - row {
            3 if Q::ROWS >= 3 => block::<L, Q, 3, P>(sketch, row, tile),
            2 if Q::ROWS >= 2 => block::<L, Q, 2, P>(sketch, row, tile),
            _ => {
                while row < sketch.m {
                    block::<L, Q, 1, P>(sketch, row, tile);
                    row += 1;
                }
            }
        }
    }
}

/// The whole pass, see [`crate::Kernels::sketch_masses`].
#[inline(always)]
pub(crate) unsafe fn sketch_masses<L: Lanes, Q: Quads<L>>(sketch: &Sketch) {
    unsafe {
        let mut tile = 0;
        if Q::TILES > 1 {
            while sketch.tiles - tile >= SKETCH_GROUP {
                rows::<L, Q, SKETCH_GROUP>(sketch, tile);
                tile += SKETCH_GROUP;
            }
        }
        while tile < sketch.tiles {
            rows::<L, Q, 1>(sketch, tile);
            tile += 1;
        }
    }
}
