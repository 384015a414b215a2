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
use crate::panels::{self, Pieces};
use crate::register_tile::{panels_by_three, panels_of_few_rows, rows_in_one_tile};

/// Tiles per step: 192 keys, so that a block's scores and the step's keys fit the second-level cache.
pub const STEP_TILES: usize = 12;

/// Keys of a step.
const WIDTH: usize = STEP_TILES * LANES;

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
    let value_width = block.value_panels * LANES;
    let ahead = block.rows <= AHEAD_ROWS;
    for (number, step) in tiles.chunks(STEP_TILES).enumerate() {
        let next = if ahead { &tiles[((number + 1) * STEP_TILES).min(tiles.len())..] } else { &[] };
        // SAFETY: tiles and buffers are valid by contract.
        unsafe {
            let scores = block.scores.as_mut_ptr(); // [rows][WIDTH]
            let (queries, d) = (block.queries.as_ptr(), block.dimensions);
            // A tile's values lie behind its keys.
            let values = d * LANES;
            let mut tile = 0;
            if block.rows <= gemm::FEW_ROWS {
                panels_of_few_rows!(L::PANELS, step.len(), tile, P => {
                    let keys: [*const T::Column; P] = std::array::from_fn(|p| step[tile + p].keys);
                    let scores = scores.add(tile * LANES);
                    gemm::few_rows::<L, T, P>(block.rows, d, queries, d, keys, scores, WIDTH, values);
                });
            }
            panels_by_three!(L::PANELS, step.len(), tile, P => {
                let keys: [*const T::Column; P] = std::array::from_fn(|p| step[tile + p].keys);
                let scores = scores.add(tile * LANES);
                if ahead {
                    gemm::rows_ahead::<L, T, P, true>(block.rows, d, queries, d, keys, scores, WIDTH, false, values);
                } else {
                    gemm::rows::<L, T, P>(block.rows, d, queries, d, keys, scores, WIDTH, false);
                }
            });
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
    let values = &StepValues { step: step.iter(), next, index: 0 };
    let (rows, weights, output) = (block.rows, block.weights.as_ptr(), block.output.as_mut_ptr());
    let mut panel = 0;
    // SAFETY: panels below `value_panels` exist in every tile, the rows are all there are.
    unsafe {
        if rows <= gemm::FEW_ROWS {
            panels_of_few_rows!(L::PANELS, block.value_panels, panel, P => {
                let output = output.add(panel * LANES);
                rows_in_one_tile!(rows, M => {
                    panels::add_tile::<L, T, _, M, P>(weights, WIDTH, values, panel, output, value_width);
                });
            });
        }
        panels_by_three!(L::PANELS, block.value_panels, panel, P => {
            let output = output.add(panel * LANES);
            panels::add_rows::<L, T, _, P>(rows, weights, WIDTH, values, panel, output, value_width);
        });
    }
}

/// The values of a step's tiles; while they are multiplied the keys of the next step's are asked for, if there are any.
struct StepValues<'a, C> {
    step: std::slice::Iter<'a, Tile<C>>,
    next: &'a [Tile<C>],
    index: usize,
}

impl<C> Clone for StepValues<'_, C> {
    #[inline(always)]
    fn clone(&self) -> Self {
        Self { step: self.step.clone(), ..*self }
    }
}

impl<C> Iterator for StepValues<'_, C> {
    type Item = (*const C, *const C);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let tile = self.step.next()?;
        let later = self.next.get(self.index).map_or(tile.keys, |tile| tile.keys);
        self.index += 1;
        Some((tile.values, later))
    }
}

impl<C> Pieces<C> for StepValues<'_, C> {
    #[inline(always)]
    fn asks(&self) -> bool {
        !self.next.is_empty()
    }

    #[inline(always)]
    fn again(&self) -> Self {
        Self { step: self.step.clone(), next: &[], index: 0 }
    }
}
