//! Online softmax over key tiles: the inner loop of soft search, dense or selected.
//!
//! A block of query rows meets a list of tiles of sixteen keys, [`STEP_TILES`] tiles at a time: scores
//! as a matrix product, exponentials with the running maximum, and the product with the values.
//! Tiles may lie anywhere, so a selection of tiles runs at the speed of all tiles. Scores are in
//! base 2: the scale and log2(e) are folded into the queries (Flash attention's online softmax,
//! Dao et al. 2022, with base-2 exponentials).

use crate::LANES;
use crate::gemm::{self, Weigh};
use crate::lanes::Lanes;
use crate::prefetch::{prefetch, steps_in_line};

/// Tiles per step: 192 keys, so that a block's scores and the step's keys fit the second-level cache.
pub const STEP_TILES: usize = 12;

/// With no more rows than this memory decides the time: what comes next is asked for before it is needed.
const AHEAD_ROWS: usize = 16;

/// Sixteen keys with their values, in f32, in bf16 or in codes of one signed byte.
///
/// Codes have a scale for each vector: the key or value is scale times code. The sixteen scales (f32, bytes in
/// the machine's order) lie behind the codes. Codes of keys have 128 added and are padded to whole quads.
#[derive(Clone, Copy, Debug)]
pub struct Tile<T> {
    /// Keys as a panel: f32 `[d][16]`, bf16 `[d/2][16][2]`, codes `[d/4][16][4]` and behind them scales `[16]`.
    pub keys: *const T,
    /// Values as panels of sixteen dimensions over the tile's keys: f32 `[dv/16][16][16]`, bf16 `[dv/16][8][16][2]`,
    /// codes `[dv/16][4][16][4]` and behind them scales `[16]`.
    pub values: *const T,
    /// Position of the first key.
    pub start: u32,
    /// True if rows may not see all of the sixteen keys: then positions are compared with `from..to` per row.
    pub masked: bool,
}

/// A block of query rows and the state of its softmax.
#[derive(Debug)]
pub struct Attend<'a, T> {
    /// Number of query rows.
    pub rows: usize,
    /// Numbers per key, a multiple of 2.
    pub dimensions: usize,
    /// Panels of sixteen numbers per value.
    pub value_panels: usize,
    /// `[rows][dimensions]`, scale and log2(e) folded in.
    pub queries: &'a [T],
    /// `[rows]`: first position that the row sees.
    pub from: &'a [u32],
    /// `[rows]`: position after the last that the row sees.
    pub to: &'a [u32],
    /// `[rows][16 x value_panels]`: sum of weighted values so far.
    pub output: &'a mut [f32],
    /// `[rows]`: largest score so far (base 2), at first [`Attend::NO_SCORE`].
    pub largest: &'a mut [f32],
    /// `[rows]`: sum of weights so far, relative to `largest`.
    pub sum: &'a mut [f32],
    /// `[rows][STEP_TILES x 16]`: scratch for scores.
    pub scores: &'a mut [f32],
    /// `[rows][STEP_TILES x 16]`: scratch for weights.
    pub weights: &'a mut [T],
}

impl<T> Attend<'_, T> {
    /// Stands for minus infinity in `largest`, finite so that differences stay numbers.
    pub const NO_SCORE: f32 = -1e30;

    /// Checks lengths, so that the kernel may trust them.
    ///
    /// # Panics
    /// If a buffer is shorter than its shape says: a bug of the caller.
    pub(crate) fn check(&self) {
        let rows = self.rows;
        assert!(self.dimensions.is_multiple_of(2));
        assert!(self.queries.len() >= rows * self.dimensions);
        assert!(self.from.len() >= rows && self.to.len() >= rows);
        assert!(self.output.len() >= rows * self.value_panels * LANES);
        assert!(self.largest.len() >= rows && self.sum.len() >= rows);
        assert!(self.scores.len() >= rows * STEP_TILES * LANES);
        assert!(self.weights.len() >= rows * STEP_TILES * LANES);
    }
}

/// Continues the block's softmax over `tiles`.
///
/// # Safety
/// Tiles point to panels of the block's shape; buffers have the lengths checked by [`Attend::check`];
/// the level's CPU features are enabled.
#[inline(always)]
pub(crate) unsafe fn attend<L: Lanes, T: Weigh<L>>(block: &mut Attend<'_, T::Row>, tiles: &[Tile<T::Column>]) {
    const WIDTH: usize = STEP_TILES * LANES;
    let value_width = block.value_panels * LANES;
    let ahead = block.rows <= AHEAD_ROWS;
    for (number, step) in tiles.chunks(STEP_TILES).enumerate() {
        let next = if ahead { &tiles[((number + 1) * STEP_TILES).min(tiles.len())..] } else { &[] };
        // SAFETY: tiles and buffers are valid by contract.
        unsafe {
            let scores = block.scores.as_mut_ptr(); // [rows][WIDTH]
            let mut tile = 0;
            let few = block.rows <= gemm::FEW_ROWS;
            macro_rules! score_few {
                ($n:literal) => {{
                    let keys: [*const T::Column; $n] = std::array::from_fn(|p| step[tile + p].keys);
                    let (queries, d) = (block.queries.as_ptr(), block.dimensions);
                    let scores = scores.add(tile * LANES);
                    // A tile's values lie behind its keys.
                    gemm::few_rows::<L, T, $n>(block.rows, d, queries, d, keys, scores, WIDTH, d * LANES);
                    tile += $n;
                }};
            }
            macro_rules! score {
                ($n:literal) => {{
                    let keys: [*const T::Column; $n] = std::array::from_fn(|p| step[tile + p].keys);
                    let (queries, d) = (block.queries.as_ptr(), block.dimensions);
                    let scores = scores.add(tile * LANES);
                    if ahead {
                        // A tile's values lie behind its keys.
                        let values = d * LANES;
                        gemm::rows_ahead::<L, T, $n, true>(
                            block.rows, d, queries, d, keys, scores, WIDTH, false, values,
                        );
                    } else {
                        gemm::rows::<L, T, $n>(block.rows, d, queries, d, keys, scores, WIDTH, false);
                    }
                    tile += $n;
                }};
            }
            while tile < step.len() {
                match step.len() - tile {
                    // Few rows have few sums in flight: more panels at once make up for it.
                    _ if few && L::PANELS == 1 => score_few!(1),
                    4.. if few => score_few!(4),
                    _ if L::PANELS == 1 => score!(1),
                    1 => score!(1),
                    2 | 4 => score!(2),
                    _ => score!(3),
                }
            }
            let any_masked = step.iter().any(|t| t.masked);
            for row in 0..block.rows {
                let scores = scores.add(row * WIDTH);
                if any_masked {
                    mask::<L>(scores, step, block.from[row], block.to[row]);
                }
                weigh::<L, T>(block, row, scores, step, value_width);
            }
            accumulate::<L, T>(block, step, next, value_width);
        }
    }
}

/// Takes away the scores that a row may not see.
///
/// # Safety
/// `scores` holds the step's tiles; the level's CPU features are enabled.
#[inline(always)]
pub(crate) unsafe fn mask<L: Lanes>(scores: *mut f32, step: &[Tile<impl Copy>], from: u32, to: u32) {
    for (index, tile) in step.iter().enumerate().filter(|(_, tile)| tile.masked) {
        // SAFETY: `scores` has room for the step's tiles.
        unsafe {
            let at = scores.add(index * LANES);
            let kept = L::keep(L::load(at), from.saturating_sub(tile.start), to.saturating_sub(tile.start));
            L::store(kept, at);
        }
    }
}

/// Turns a row's scores into weights and rescales what it has so far.
#[inline(always)]
unsafe fn weigh<L: Lanes, T: Weigh<L>>(
    block: &mut Attend<'_, T::Row>,
    row: usize,
    scores: *const f32, // [tiles x 16]
    step: &[Tile<T::Column>],
    value_width: usize,
) {
    // SAFETY: lengths are checked in `Attend::check`.
    unsafe {
        let mut top = L::load(scores);
        for tile in 1..step.len() {
            top = L::max(top, L::load(scores.add(tile * LANES)));
        }
        let top = L::largest(top);
        let before = block.largest[row];
        let largest = if top > before { top } else { before };
        let shift = L::splat(largest);
        let weights = block.weights.as_mut_ptr().add(row * STEP_TILES * LANES);
        let mut sum = L::zero();
        for tile in 0..step.len() {
            let score = L::sub(L::load(scores.add(tile * LANES)), shift);
            let weight = if T::ROUGH { L::exp2::<true>(score) } else { L::exp2::<false>(score) };
            sum = L::add(sum, weight);
            T::narrow(weight, weights.add(tile * LANES));
        }
        let mut total = block.sum[row];
        if largest > before {
            let factor = L::exp2::<false>(L::splat((before - largest).max(-1000.0)));
            let output = block.output.as_mut_ptr().add(row * value_width);
            for panel in 0..block.value_panels {
                let at = output.add(panel * LANES);
                L::store(L::mul(L::load(at), factor), at);
            }
            total *= L::largest(factor);
            block.largest[row] = largest;
        }
        block.sum[row] = total + L::sum(sum);
    }
}

/// Adds the weighted values of a step to the output.
#[inline(always)]
unsafe fn accumulate<L: Lanes, T: Weigh<L>>(
    block: &mut Attend<'_, T::Row>,
    step: &[Tile<T::Column>],
    next: &[Tile<T::Column>],
    value_width: usize,
) {
    let mut panel = 0;
    while panel < block.value_panels {
        let left = block.value_panels - panel;
        // SAFETY: panels below `value_panels` exist in every tile.
        unsafe {
            if block.rows <= gemm::FEW_ROWS && (L::PANELS == 1 || left >= 4) {
                panel += accumulate_few::<L, T>(block, step, next, panel, value_width);
                continue;
            }
            match left {
                _ if L::PANELS == 1 => accumulate_panels::<L, T, 1>(block, step, next, panel, value_width),
                1 => accumulate_panels::<L, T, 1>(block, step, next, panel, value_width),
                2 | 4 => accumulate_panels::<L, T, 2>(block, step, next, panel, value_width),
                _ => accumulate_panels::<L, T, 3>(block, step, next, panel, value_width),
            }
        }
        panel += if L::PANELS == 1 {
            1
        } else {
            match left {
                1 => 1,
                2 | 4 => 2,
                _ => 3,
            }
        };
    }
}

/// All of up to [`gemm::FEW_ROWS`] rows in one register tile; returns the panels done.
#[inline(always)]
unsafe fn accumulate_few<L: Lanes, T: Weigh<L>>(
    block: &mut Attend<'_, T::Row>,
    step: &[Tile<T::Column>],
    next: &[Tile<T::Column>],
    panel: usize,
    value_width: usize,
) -> usize {
    macro_rules! rows {
        ($panels:literal) => {{
            let weights = block.weights.as_ptr();
            // SAFETY: these panels exist by contract, the rows are all there are.
            unsafe {
                let output = block.output.as_mut_ptr().add(panel * LANES);
                match block.rows {
                    1 => accumulate_tile::<L, T, 1, $panels>(weights, step, next, panel, output, value_width),
                    2 => accumulate_tile::<L, T, 2, $panels>(weights, step, next, panel, output, value_width),
                    3 => accumulate_tile::<L, T, 3, $panels>(weights, step, next, panel, output, value_width),
                    _ => accumulate_tile::<L, T, 4, $panels>(weights, step, next, panel, output, value_width),
                }
            }
            $panels
        }};
    }
    if L::PANELS == 1 { rows!(1) } else { rows!(4) }
}

#[inline(always)]
unsafe fn accumulate_panels<L: Lanes, T: Weigh<L>, const P: usize>(
    block: &mut Attend<'_, T::Row>,
    step: &[Tile<T::Column>],
    next: &[Tile<T::Column>],
    panel: usize,
    value_width: usize,
) {
    let mut row = 0;
    macro_rules! rows {
        ($n:literal) => {
            while block.rows - row >= $n {
                // SAFETY: rows below `rows`, panels below `value_panels`.
                unsafe {
                    let weights = block.weights.as_ptr().add(row * STEP_TILES * LANES);
                    let output = block.output.as_mut_ptr().add(row * value_width + panel * LANES);
                    let next = if row == 0 { next } else { &[] };
                    accumulate_tile::<L, T, $n, P>(weights, step, next, panel, output, value_width);
                }
                row += $n;
            }
        };
    }
    if L::ROWS >= 8 {
        rows!(8);
    }
    if L::ROWS >= 6 && L::ROWS < 8 {
        rows!(6);
    }
    if L::ROWS >= 4 {
        rows!(4);
        // Three heads often share keys and values.
        rows!(3);
    }
    rows!(2);
    rows!(1);
}

/// If there are tiles in `next`, their keys are asked for on the way.
#[inline(always)]
unsafe fn accumulate_tile<L: Lanes, T: Weigh<L>, const M: usize, const P: usize>(
    weights: *const T::Row, // [M][STEP_TILES x 16]
    step: &[Tile<T::Column>],
    next: &[Tile<T::Column>],
    panel: usize,
    output: *mut f32, // [M][value_width]
    value_width: usize,
) {
    // SAFETY: by contract of the callers.
    unsafe {
        let mut sums: [[L::F; P]; M] =
            std::array::from_fn(|m| std::array::from_fn(|p| L::load(output.add(m * value_width + p * LANES))));
        for (index, tile) in step.iter().enumerate() {
            let values = tile.values.add(panel * LANES * LANES); // [P][16 / STEP][16][STEP]
            let weights = weights.add(index * LANES);
            let later = next.get(index).map_or(tile.keys, |tile| tile.keys).wrapping_add(panel * LANES * LANES);
            for key in 0..LANES / T::STEP {
                let mut columns = [values.add(key * LANES * T::STEP); P];
                for p in 1..P {
                    columns[p] = columns[p].add(p * LANES * LANES);
                }
                if !next.is_empty() && key % steps_in_line::<T::Column>(LANES * T::STEP) == 0 {
                    for p in 0..P {
                        prefetch(later.wrapping_add((key * T::STEP + p * LANES) * LANES));
                    }
                }
                T::add(&mut sums, weights.add(key * T::STEP), STEP_TILES * LANES, columns);
            }
        }
        for m in 0..M {
            for p in 0..P {
                L::store(sums[m][p], output.add(m * value_width + p * LANES));
            }
        }
    }
}
