//! Online softmax over tiles of codes: keys and values of one byte a number, multiplied in whole numbers.
//!
//! As [`crate::attention`], with two differences. Queries are codes too, with a scale for each row, so that a score is a
//! whole number times the scale of the query and the scale of the key (`SageAttention`, Zhang et al. 2024). Weights
//! become whole numbers from 0 to 255 once for each row and step of [`STEP_TILES`] tiles: the scale of a value is
//! multiplied into its weight, and the largest of these products becomes 255. So a step whose weights are small next to
//! those of another step keeps as many bits as that one, and what rounding takes is at most half a 255th of what the
//! step's heaviest value adds. The sum of the weights is that of the weights before they are rounded.
//!
//! A few rows go through a step together: its codes, their scores and weights then stay in the nearest cache.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each function passes on its own contract: see SAFETY (all functions)"
)]

use crate::LANES;
use crate::attention::{Attend, STEP_TILES, Tile, mask};
use crate::lanes::{Lanes, Quads};
use crate::prefetch::prefetch;
use crate::register_tile::{panels_by_four, rows_in_even_tiles};
use std::ops::Range;

/// Numbers of a key, and keys of a value's dimension, that lie side by side.
const QUAD: usize = 4;

/// Bytes that hold one quad of each of sixteen keys, or of sixteen dimensions of values.
const QUAD_BYTES: usize = LANES * QUAD;

/// Most rows that go through a step together.
const ROWS: usize = 4;

/// Keys of a step.
const WIDTH: usize = STEP_TILES * LANES;

/// log2(1 + f) exceeds f by 0.0861 at most, for f from 0 to 1; and a little for rounding.
const LOG2_EXCESS: f32 = 0.0875;

/// The largest weight as a whole number.
const LARGEST_WEIGHT: f32 = 255.0;

/// Values whose scale is less than 2^this times the step's largest count as much: their weights are zero all the same.
const LOWEST_LIFT: f32 = -30.0;

/// A block of query rows in codes and the state of its softmax over tiles of codes.
#[derive(Debug)]
pub struct AttendCodes<'a> {
    /// Number of query rows.
    pub rows: usize,
    /// Numbers per key.
    pub dimensions: usize,
    /// Panels of sixteen numbers per value.
    pub value_panels: usize,
    /// `[rows][4 x quads]`, `quads` = dimensions / 4, rounded up, with zeros behind a row's dimensions: scale and
    /// log2(e) folded in, as [`crate::Kernels::quantize_i8`] makes them of a row as a single group.
    pub queries: &'a [i8],
    /// `[rows]`: a query is this times its codes.
    pub query_scales: &'a [f32],
    /// `[rows]`: -128 times the sum of the row's codes.
    pub query_starts: &'a [i32],
    /// `[rows]`: first position that the row sees.
    pub from: &'a [u32],
    /// `[rows]`: position after the last that the row sees.
    pub to: &'a [u32],
    /// `[rows][16 x value_panels]`: sum of weighted values so far.
    pub output: &'a mut [f32],
    /// `[rows]`: what weights are relative to (base 2), at first [`Attend::NO_SCORE`]; no more than the largest score.
    pub largest: &'a mut [f32],
    /// `[rows]`: sum of weights so far, relative to `largest`.
    pub sum: &'a mut [f32],
}

impl AttendCodes<'_> {
    /// Codes of a query.
    #[must_use]
    pub fn query_width(dimensions: usize) -> usize {
        dimensions.div_ceil(QUAD) * QUAD
    }

    /// Checks lengths, so that the kernel may trust them.
    ///
    /// # Panics
    /// If a buffer is shorter than its shape says: a bug of the caller.
    pub(crate) fn check(&self) {
        let rows = self.rows;
        assert!(self.queries.len() >= rows * Self::query_width(self.dimensions));
        assert!(self.query_scales.len() >= rows && self.query_starts.len() >= rows);
        assert!(self.from.len() >= rows && self.to.len() >= rows);
        assert!(self.output.len() >= rows * self.value_panels * LANES);
        assert!(self.largest.len() >= rows && self.sum.len() >= rows);
    }
}

/// What a few rows need for a step.
#[repr(C, align(64))]
struct Room {
    scores: [[f32; WIDTH]; ROWS],
    weights: [[u8; WIDTH]; ROWS],
    /// Of each row, in sixteen parts: the largest sum of a score and the lift of its value.
    tops: [[f32; LANES]; ROWS],
    /// Of each value: the logarithm (base 2) of its scale relative to the step's largest, or up to a ninth more.
    lifts: [f32; WIDTH],
    /// Of each value: its scale relative to the power of two that is above all of the step, times 255.
    factors: [f32; WIDTH],
}

// SAFETY (all functions): the level's CPU features are enabled; tiles point to panels of the block's shape (the caller's
// promise), lengths are checked in `AttendCodes::check`, and rows and panels that are touched are below `rows` and
// `value_panels`.

/// Continues the block's softmax over `tiles`, see [`crate::Kernels::attend_i8`].
#[inline(always)]
pub(crate) unsafe fn attend<L: Lanes, Q: Quads<L>>(block: &mut AttendCodes<'_>, tiles: &[Tile<i8>]) {
    let most = if Q::PRODUCT_ROWS < ROWS { Q::PRODUCT_ROWS } else { ROWS };
    let mut room = Room {
        scores: [[0.0; WIDTH]; ROWS],
        weights: [[0; WIDTH]; ROWS],
        tops: [[0.0; LANES]; ROWS],
        lifts: [0.0; WIDTH],
        factors: [0.0; WIDTH],
    };
    // With rows for a single pass, memory is what takes time: each line is asked for as another is worked on.
    let single = block.rows <= most;
    let mut steps = tiles.chunks(STEP_TILES).peekable();
    while let Some(step) = steps.next() {
        let next = steps.peek().copied().unwrap_or_default();
        let unit = unsafe { value_scales(step, block.value_panels, &mut room) };
        let masked = step.iter().any(|tile| tile.masked);
        rows_in_even_tiles!(most, block.rows, [1 2 3 4], row, M => {
            if single {
                unsafe { rows::<L, Q, M>(block, row, step, Some(next), masked, unit, &mut room) };
            } else {
                ask_for(block, next, row..row + M);
                unsafe { rows::<L, Q, M>(block, row, step, None, masked, unit, &mut room) };
            }
        });
    }
}

/// Prepares what all rows need of the scales of a step's values; returns what 1 of a weight as a whole number stands for
/// where the largest product of weight and scale is 2^0 times the power of two that the factors are relative to.
#[inline(always)]
unsafe fn value_scales(step: &[Tile<i8>], value_panels: usize, room: &mut Room) -> f32 {
    let mut bits = [0_i32; WIDTH];
    let mut most = 0;
    for (index, tile) in step.iter().enumerate() {
        unsafe {
            let scales = tile.values.add(value_panels * LANES * LANES).cast::<[i32; LANES]>().read_unaligned();
            for (lane, &scale) in scales.iter().enumerate() {
                bits[index * LANES + lane] = scale;
                // Scales are positive, and then in the order of their bits.
                most = if scale > most { scale } else { most };
            }
        }
    }
    // Above every scale of the step; scales are below 2^122.
    let exponent = (most >> 23) + 1;
    let (above, inverse) = (f32::from_bits((exponent as u32) << 23), f32::from_bits(((254 - exponent) as u32) << 23));
    let base = exponent as f32 - LOG2_EXCESS;
    for i in 0..step.len() * LANES {
        // The bits of a number are its logarithm, with a straight line from each power of two to the next.
        let lift = bits[i] as f32 * (1.0 / 8_388_608.0) - base;
        room.lifts[i] = if lift > LOWEST_LIFT { lift } else { LOWEST_LIFT };
        room.factors[i] = f32::from_bits(bits[i] as u32) * inverse * LARGEST_WEIGHT;
    }
    above / LARGEST_WEIGHT
}

/// Asks for those of a step's tiles that fall to some rows if all rows share them: asked for all at once, they would hold up
/// the rows that do.
#[inline(always)]
fn ask_for(block: &AttendCodes<'_>, step: &[Tile<i8>], rows: Range<usize>) {
    let key_lines = block.dimensions.div_ceil(QUAD) + 1;
    let value_lines = block.value_panels * (LANES / QUAD) + 1;
    let part = |row: usize| step.len() * row / block.rows;
    for tile in &step[part(rows.start)..part(rows.end)] {
        for line in 0..key_lines {
            prefetch(tile.keys.wrapping_add(line * QUAD_BYTES));
        }
        for line in 0..value_lines {
            prefetch(tile.values.wrapping_add(line * QUAD_BYTES));
        }
    }
}

/// M rows from `row` through one step. If there is a `next` step, asks for this one's values and for that one's keys.
#[inline(always)]
unsafe fn rows<L: Lanes, Q: Quads<L>, const M: usize>(
    block: &mut AttendCodes<'_>,
    row: usize,
    step: &[Tile<i8>],
    next: Option<&[Tile<i8>]>,
    masked: bool,
    unit: f32,
    room: &mut Room,
) {
    unsafe {
        score::<L, Q, M>(block, row, step, next.is_some(), room);
        let mut before = [L::zero(); M];
        let mut units = [L::zero(); M];
        for m in 0..M {
            let scores = room.scores[m].as_mut_ptr();
            if masked {
                mask::<L>(scores, step, block.from[row + m], block.to[row + m]);
                tops_of_masked::<L>(step.len(), m, room);
            }
            let (factor, added) = weigh::<L>(block, row + m, step.len(), m, room);
            before[m] = factor;
            units[m] = L::mul(added, L::splat(unit));
        }
        let mut panel = 0;
        panels_by_four!(Q::PRODUCT_PANELS, block.value_panels, panel, P => {
            add_values::<L, Q, M, P>(block, row, step, next, panel, &before, &units, room);
        });
    }
}

/// Scores of M rows; asks for the step's values if `asks`.
#[inline(always)]
unsafe fn score<L: Lanes, Q: Quads<L>, const M: usize>(
    block: &AttendCodes<'_>,
    row: usize,
    step: &[Tile<i8>],
    asks: bool,
    room: &mut Room,
) {
    let mut tile = 0;
    panels_by_four!(Q::PRODUCT_PANELS, step.len(), tile, P => {
        unsafe { score_tiles::<L, Q, M, P>(block, row, &step[tile..][..P], tile, asks, room) };
    });
}

/// Scores of M rows for P tiles, the step's `first` and what follows; if `asks`, asks for the tiles' values, which lie behind
/// the keys.
#[allow(clippy::cast_ptr_alignment, reason = "scales are read unaligned")]
#[inline(always)]
unsafe fn score_tiles<L: Lanes, Q: Quads<L>, const M: usize, const P: usize>(
    block: &AttendCodes<'_>,
    row: usize,
    tiles: &[Tile<i8>],
    first: usize,
    asks: bool,
    room: &mut Room,
) {
    unsafe {
        let quads = block.dimensions.div_ceil(QUAD);
        let queries = block.queries.as_ptr().add(row * quads * QUAD);
        let (scales, starts) = (block.query_scales.as_ptr().add(row), block.query_starts.as_ptr().add(row));
        let mut keys = [tiles[0].keys.cast::<u8>(); P];
        for p in 1..P {
            keys[p] = tiles[p].keys.cast::<u8>();
        }
        let mut sums = [[Q::started(*starts); P]; M];
        for m in 1..M {
            sums[m] = [Q::started(*starts.add(m)); P];
        }
        for quad in 0..quads {
            let mut columns = [Q::keys(keys[0].add(quad * QUAD_BYTES)); P];
            for p in 1..P {
                columns[p] = Q::keys(keys[p].add(quad * QUAD_BYTES));
            }
            if asks {
                for p in 0..P {
                    prefetch(keys[p].wrapping_add((quads + 1 + quad) * QUAD_BYTES));
                }
            }
            for m in 0..M {
                let query = Q::query(queries.add((m * quads + quad) * QUAD));
                for p in 0..P {
                    sums[m][p] = Q::add(sums[m][p], columns[p], query);
                }
            }
        }
        // Two passes: the first one stays short enough to unroll, which keeps the sums in registers.
        let mut values = [[L::zero(); P]; M];
        for m in 0..M {
            for p in 0..P {
                values[m][p] = Q::to_f32(sums[m][p]);
            }
        }
        for m in 0..M {
            let query_scale = L::splat(*scales.add(m));
            let to = room.scores[m].as_mut_ptr().add(first * LANES);
            let mut top = L::splat(Attend::<f32>::NO_SCORE);
            if first > 0 {
                top = L::load(room.tops[m].as_ptr());
            }
            for p in 0..P {
                let key_scales = L::load(keys[p].add(quads * QUAD_BYTES).cast::<f32>());
                let scores = L::mul(values[m][p], L::mul(key_scales, query_scale));
                L::store(scores, to.add(p * LANES));
                top = L::max(top, L::add(scores, L::load(room.lifts.as_ptr().add((first + p) * LANES))));
            }
            L::store(top, room.tops[m].as_mut_ptr());
        }
    }
}

/// The tops of `room`'s row `m` anew, of which scores have been masked.
#[inline(always)]
unsafe fn tops_of_masked<L: Lanes>(tiles: usize, m: usize, room: &mut Room) {
    unsafe {
        // Minus infinity less itself is no number.
        let mut top = L::splat(Attend::<f32>::NO_SCORE);
        for at in (0..tiles).map(|tile| tile * LANES) {
            let scores = L::load(room.scores[m].as_ptr().add(at));
            top = L::max(top, L::add(scores, L::load(room.lifts.as_ptr().add(at))));
        }
        L::store(top, room.tops[m].as_mut_ptr());
    }
}

/// Turns the scores of `room`'s row `m`, which is the block's `row`, into weights. Returns, in all lanes, what the row's
/// output so far must be multiplied with, and the weight that 1 stands for.
#[inline(always)]
unsafe fn weigh<L: Lanes>(
    block: &mut AttendCodes<'_>,
    row: usize,
    tiles: usize,
    m: usize,
    room: &mut Room,
) -> (L::F, L::F) {
    unsafe {
        let scores = room.scores[m].as_ptr();
        let weights = room.weights[m].as_mut_ptr();
        let factors = room.factors.as_ptr();
        let top = L::largest(L::load(room.tops[m].as_ptr()));
        let shift = L::splat(top);
        let mut sum = L::zero();
        for tile in 0..tiles {
            let at = tile * LANES;
            let weight = L::exp2::<true>(L::sub(L::load(scores.add(at)), shift));
            sum = L::add(sum, weight);
            L::narrow_to_weights(L::mul(weight, L::load(factors.add(at))), weights.add(at));
        }
        let before = block.largest[row];
        // The larger of both stays as it is.
        let smaller = L::exp2::<false>(L::splat((-(top - before).abs()).max(-1000.0)));
        let (factor, unit) = if top > before { (smaller, L::splat(1.0)) } else { (L::splat(1.0), smaller) };
        block.largest[row] = if top > before { top } else { before };
        let mut total = [0.0; LANES];
        let added = L::mul(L::splat(L::sum(sum)), unit);
        L::store(L::fma(L::splat(block.sum[row]), factor, added), total.as_mut_ptr());
        block.sum[row] = total[0];
        (factor, unit)
    }
}

/// Adds the weighted values of a step to the output of M rows, P panels from `panel`; asks for the keys of the `next` step,
/// if there is one.
#[inline(always)]
unsafe fn add_values<L: Lanes, Q: Quads<L>, const M: usize, const P: usize>(
    block: &mut AttendCodes<'_>,
    row: usize,
    step: &[Tile<i8>],
    next: Option<&[Tile<i8>]>,
    panel: usize,
    before: &[L::F; M],
    units: &[L::F; M],
    room: &Room,
) {
    /// Quads of a tile's keys.
    const QUADS: usize = LANES / QUAD;
    unsafe {
        let width = block.value_panels * LANES;
        let mut sums = [[Q::started(0); P]; M];
        for (index, tile) in step.iter().enumerate() {
            let values = tile.values.add(panel * LANES * LANES); // [P][4][16][4]
            let later = next.map(|next| match next.get(index) {
                Some(tile) => tile.keys.wrapping_add(panel * LANES * LANES),
                None => tile.keys,
            });
            for quad in 0..QUADS {
                let mut columns = [Q::values(values.add(quad * QUAD_BYTES)); P];
                for p in 1..P {
                    columns[p] = Q::values(values.add((p * QUADS + quad) * QUAD_BYTES));
                }
                if let Some(later) = later {
                    for p in 0..P {
                        prefetch(later.wrapping_add((p * QUADS + quad) * QUAD_BYTES));
                    }
                }
                for m in 0..M {
                    let weights = Q::weights(room.weights[m].as_ptr().add(index * LANES + quad * QUAD));
                    for p in 0..P {
                        sums[m][p] = Q::add_weighted(sums[m][p], columns[p], weights);
                    }
                }
            }
        }
        for m in 0..M {
            let output = block.output.as_mut_ptr().add((row + m) * width + panel * LANES);
            for p in 0..P {
                let to = output.add(p * LANES);
                let so_far = L::mul(L::load(to), before[m]);
                L::store(L::fma(Q::to_f32(sums[m][p]), units[m], so_far), to);
            }
        }
    }
}

/// Writes a tile of codes as a tile of bf16, rounded to nearest even: the same at every level. `dimensions` is even.
///
/// # Safety
/// The tile points to panels of the shape; `keys` is valid for 16 x `dimensions` numbers, `values` for
/// 256 x `value_panels`; the level's CPU features are enabled.
#[allow(clippy::cast_ptr_alignment, reason = "scales are read unaligned")]
#[inline(always)]
pub(crate) unsafe fn dequantize_tile<L: Lanes>(
    dimensions: usize,
    value_panels: usize,
    tile: &Tile<i8>,
    keys: *mut u16,   // [dimensions / 2][16][2]
    values: *mut u16, // [value_panels][8][16][2]
) {
    unsafe {
        let quads = dimensions.div_ceil(QUAD);
        let scales = L::load(tile.keys.add(quads * QUAD_BYTES).cast::<f32>());
        for quad in 0..quads {
            let (from, to) = (tile.keys.add(quad * QUAD_BYTES), keys.add(quad * QUAD_BYTES));
            let (first, second) = (L::widen_codes::<0, false>(from), L::widen_codes::<1, false>(from));
            L::narrow_pairs(L::mul(first, scales), L::mul(second, scales), to);
            if quad * QUAD + 2 < dimensions {
                let (third, fourth) = (L::widen_codes::<2, false>(from), L::widen_codes::<3, false>(from));
                L::narrow_pairs(L::mul(third, scales), L::mul(fourth, scales), to.add(2 * LANES));
            }
        }
        let scales = tile.values.add(value_panels * LANES * LANES).cast::<f32>();
        for quad in 0..LANES / QUAD {
            let mut scale = [L::zero(); QUAD];
            for i in 0..QUAD {
                scale[i] = L::splat(scales.add(quad * QUAD + i).read_unaligned());
            }
            for panel in 0..value_panels {
                let at = (panel * LANES + quad * QUAD) * LANES;
                let from = tile.values.add(at);
                let (first, second) = (L::widen_codes::<0, true>(from), L::widen_codes::<1, true>(from));
                L::narrow_pairs(L::mul(first, scale[0]), L::mul(second, scale[1]), values.add(at));
                let (third, fourth) = (L::widen_codes::<2, true>(from), L::widen_codes::<3, true>(from));
                L::narrow_pairs(L::mul(third, scale[2]), L::mul(fourth, scale[3]), values.add(at + 2 * LANES));
            }
        }
    }
}
