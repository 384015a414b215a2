//! Vectors as codes of one byte per number, and the scan that finds the keys whose estimate reaches a threshold.
//!
//! A tile holds sixteen keys, four numbers of each side by side: `[quads][16][4]` u8, so that one load is what
//! `vpdpbusd` multiplies. Queries are signed bytes. Sums are integers and therefore exact in any order; what
//! follows (one conversion, one fused multiply-add, in f32) is the same at every level, so that all levels agree to
//! the bit.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each function passes on its own contract: see SAFETY (all functions)"
)]

use crate::LANES;
use crate::lanes::{Lanes, Quads};
use crate::prefetch::prefetch;
use crate::register_tile::{panels_by_three, rows_in_even_tiles, whole_groups};

/// Numbers of a key that lie side by side in a tile.
const QUAD: usize = 4;

/// Bytes that hold one quad of each of a tile's keys.
const STEP: usize = LANES * QUAD;

/// What [`crate::Kernels::scan_u8`] works on; see there.
pub(crate) struct Scan {
    pub m: usize,
    pub quads: usize,
    pub a: *const i8, // [m][lda]
    pub lda: usize,
    pub tiles: usize,
    pub b: *const u8, // [tiles][tile_stride], of each [quads][16][4]
    pub tile_stride: usize,
    pub scales: *const f32,     // [m]
    pub thresholds: *const f32, // [m]
    pub offsets: *const f32,    // [tiles][16] or null
    pub values: *mut f32,       // [m][tiles][16]
    pub masks: *mut u16,        // [m][tiles]
}

// SAFETY (all functions): the level's CPU features are enabled; the pointers of a scan are valid for the shapes
// beside them (the caller's promise), and every row and tile that is touched is below `m` and `tiles`.

/// M queries times P tiles: rows from `row`, tiles from `tile`. If AHEAD, the P tiles behind are prefetched.
#[inline(always)]
unsafe fn block<L: Lanes, Q: Quads<L>, const M: usize, const P: usize, const AHEAD: bool>(
    scan: &Scan,
    row: usize,
    tile: usize,
) {
    unsafe {
        let a = scan.a.add(row * scan.lda);
        let b = scan.b.add(tile * scan.tile_stride);
        let mut sums = [[Q::start(a, scan.quads); P]; M];
        for m in 1..M {
            sums[m] = [Q::start(a.add(m * scan.lda), scan.quads); P];
        }
        for quad in 0..scan.quads {
            let step = b.add(quad * STEP);
            if AHEAD {
                for p in 0..P {
                    prefetch(step.wrapping_add((P + p) * scan.tile_stride));
                }
            }
            if M == 1 {
                let query = Q::query(a.add(quad * QUAD));
                for p in 0..P {
                    sums[0][p] = Q::add(sums[0][p], Q::keys(step.add(p * scan.tile_stride)), query);
                }
            } else {
                let mut keys = [Q::keys(step); P];
                for p in 1..P {
                    keys[p] = Q::keys(step.add(p * scan.tile_stride));
                }
                for m in 0..M {
                    let query = Q::query(a.add(m * scan.lda + quad * QUAD));
                    for p in 0..P {
                        sums[m][p] = Q::add(sums[m][p], keys[p], query);
                    }
                }
            }
        }
        let mut offsets = [L::zero(); P];
        if !scan.offsets.is_null() {
            for p in 0..P {
                offsets[p] = L::load(scan.offsets.add((tile + p) * LANES));
            }
        }
        // Two passes, the second one rare: the first stays short enough to unroll, which keeps the sums in registers.
        let mut values = [[L::zero(); P]; M];
        let mut any = 0;
        for m in 0..M {
            let scale = L::splat(*scan.scales.add(row + m));
            let threshold = L::splat(*scan.thresholds.add(row + m));
            let masks = scan.masks.add((row + m) * scan.tiles + tile);
            for p in 0..P {
                values[m][p] = L::fused(Q::to_f32(sums[m][p]), scale, offsets[p]);
                let mask = L::at_least(values[m][p], threshold);
                *masks.add(p) = mask;
                any |= mask;
            }
        }
        if any != 0 {
            for m in 0..M {
                for p in 0..P {
                    L::store(values[m][p], scan.values.add(((row + m) * scan.tiles + tile + p) * LANES));
                }
            }
        }
    }
}

/// All rows times P tiles from `tile`. If AHEAD, the first block of rows prefetches the P tiles behind.
#[inline(always)]
unsafe fn rows<L: Lanes, Q: Quads<L>, const P: usize, const AHEAD: bool>(scan: &Scan, tile: usize) {
    unsafe {
        let mut ahead = AHEAD;
        rows_in_even_tiles!(Q::ROWS, scan.m, [1 2 3 4 5 6], row, M => {
            if ahead {
                block::<L, Q, M, P, true>(scan, row, tile);
            } else {
                block::<L, Q, M, P, false>(scan, row, tile);
            }
            ahead = false;
        });
    }
}

/// The whole scan, see [`crate::Kernels::scan_u8`].
#[inline(always)]
pub(crate) unsafe fn scan_u8<L: Lanes, Q: Quads<L>>(scan: &Scan) {
    unsafe {
        let mut tile = 0;
        if scan.m == 1 && Q::TILES_OF_ONE == 4 {
            // A single query waits for memory: several tiles at once are several streams, and hide the sums' latency.
            whole_groups!(4, scan.tiles, tile, P => {
                if tile + 2 * P <= scan.tiles {
                    block::<L, Q, 1, P, true>(scan, 0, tile);
                } else {
                    block::<L, Q, 1, P, false>(scan, 0, tile);
                }
            });
        }
        panels_by_three!(Q::TILES, scan.tiles, tile, P => {
            // What lies behind the last tile is not known.
            if tile + 2 * P <= scan.tiles {
                rows::<L, Q, P, true>(scan, tile);
            } else {
                rows::<L, Q, P, false>(scan, tile);
            }
        });
    }
}

/// One number's code. Adding 1.5 x 2^23 leaves the number, rounded to nearest even, in the lowest bits.
#[inline(always)]
fn to_code(x: f32, centre: f32, inverse_step: f32) -> u8 {
    let steps = (x - centre) * inverse_step;
    // Written so that NaN becomes the lowest code, as the vector instructions have it.
    let steps = if steps > -127.0 { steps } else { -127.0 };
    let steps = if steps < 127.0 { steps } else { 127.0 };
    ((steps + 12_582_912.0).to_bits() as u8).wrapping_add(128)
}

/// See [`crate::Kernels::to_codes`].
#[inline(always)]
pub(crate) unsafe fn to_codes<L: Lanes>(x: &[f32], centre: &[f32], inverse_step: f32, out: &mut [u8]) {
    unsafe {
        let (from, by, to) = (x.as_ptr(), centre.as_ptr(), out.as_mut_ptr());
        let (scale, least, most) = (L::splat(inverse_step), L::splat(-127.0), L::splat(127.0));
        let whole = x.len() / LANES * LANES;
        let mut i = 0;
        while i < whole {
            let steps = L::mul(L::sub(L::load(from.add(i)), L::load(by.add(i))), scale);
            L::narrow_to_codes(L::min(L::max(steps, least), most), to.add(i));
            i += LANES;
        }
        for i in whole..x.len() {
            out[i] = to_code(x[i], centre[i], inverse_step);
        }
        out[x.len()..].fill(128);
    }
}
