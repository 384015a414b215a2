//! Online softmax over key tiles on tile registers, as [`crate::attention`] does it on vectors.
//!
//! Tiles and vectors work at the same time. The work is cut into *turns*: 32 query rows and one step of [`STEP_TILES`]
//! key tiles. While the vectors turn the scores of turn `t` into weights, the tiles multiply queries with the keys of
//! turn `t + 1` and the weights of turn `t - 1` with their values: in program order a few rows of softmax follow every
//! few tile products, so that both are in flight together and nothing reads what has just been written. A larger
//! maximum therefore reaches the output one turn late.
//!
//! The values of a step are first put side by side: a key tile holds eight lines (sixteen keys in pairs) of each panel
//! of values, and half a tile takes the products as long as a whole one. All rows of the block share the copy.
//!
//! With 64 dimensions a turn is 96 tile products, 1,536 cycles, beside 384 vectors of scores, of which each takes
//! about nine instructions: 1,728 cycles at two a cycle, up to twice that while tiles use the port that half of them
//! need. So the softmax is the limit, and more than about 60 % of the products' rate is not to be had.

use super::Tiles;
use super::block::{self, Ahead, BLOCK_ROWS, Lengths, Operands, Pairs};
use super::product::FEWEST_ROWS;
use super::tiles::{ROW_BYTES, TILE_BYTES, TILE_ROWS};
use crate::LANES;
use crate::attention::{self, Attend, STEP_TILES, Tile};
use crate::gemm::Same;
use crate::lanes::{Bf16, Lanes};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Keys of a step.
const WIDTH: usize = STEP_TILES * LANES;

/// Lines of a step's values in one panel.
const VALUE_LINES: usize = WIDTH / 2;

/// Panels of values that the scratch has room for, 256 dimensions; longer values are left to vectors.
const MOST_PANELS: usize = 16;

/// Lines that a key tile holds of a panel of values.
const TILE_LINES: usize = LANES / 2;

/// Between one turn and the next. Rows that were never written are never read.
#[repr(C, align(64))]
struct Scratch {
    /// Scores of this turn and the next.
    scores: [[[f32; WIDTH]; BLOCK_ROWS]; 2],
    /// Weights of this turn and the one before, bf16.
    weights: [[[u16; WIDTH]; BLOCK_ROWS]; 2],
    /// Values of the step whose weights are multiplied, bf16 pairs.
    values: [[[u16; 2 * LANES]; VALUE_LINES]; MOST_PANELS],
    /// Of this turn and the one before: what the output must be multiplied with before the weights are used.
    factors: [[f32; BLOCK_ROWS]; 2],
}

/// See [`crate::Kernels::attend_bf16`].
///
/// # Safety
/// As there; AMX may be used and the CPU features of `L` are enabled.
#[inline(always)]
pub(crate) unsafe fn attend<T: Tiles, L: Lanes>(block: &mut Attend<'_, u16>, tiles: &[Tile<u16>]) {
    // SAFETY: the caller's promise.
    unsafe {
        if block.rows < FEWEST_ROWS || block.value_panels > MOST_PANELS {
            return attention::attend::<L, Same<Bf16>>(block, tiles);
        }
        if tiles.is_empty() {
            return;
        }
        let mut scratch = MaybeUninit::<Scratch>::uninit();
        let whole = block.rows / BLOCK_ROWS * BLOCK_ROWS;
        for rows in [0..whole, whole..block.rows] {
            if !rows.is_empty() {
                let turns = Turns::new(block, tiles, rows, scratch.as_mut_ptr());
                T::configure(&block::config(turns.unit_rows, turns.lengths.rest));
                turns.run::<T, L>(block);
            }
        }
        T::release();
    }
}

/// All turns of rows for which the registers can be shaped once. A *unit* is the rows of a turn.
struct Turns<'a> {
    tiles: &'a [Tile<u16>],
    /// Row of the block that is the first here.
    first_row: usize,
    units: usize,
    /// Rows of every unit: 32, or all.
    unit_rows: usize,
    /// Of the sum over the dimensions of a key.
    lengths: Lengths,
    /// `[rows][dimensions]`, of the block.
    queries: *const u16,
    dimensions: usize,
    /// `[rows][16 x value_panels]`, of the block.
    output: *mut f32,
    value_panels: usize,
    scratch: *mut Scratch,
}

impl<'a> Turns<'a> {
    fn new(block: &mut Attend<'_, u16>, tiles: &'a [Tile<u16>], rows: Range<usize>, scratch: *mut Scratch) -> Self {
        Self {
            tiles,
            first_row: rows.start,
            units: rows.len().div_ceil(BLOCK_ROWS),
            unit_rows: rows.len().min(BLOCK_ROWS),
            lengths: Lengths::of(block.dimensions / 2),
            queries: block.queries.as_ptr(),
            dimensions: block.dimensions,
            output: block.output.as_mut_ptr(),
            value_panels: block.value_panels,
            scratch,
        }
    }

    /// Turns of all units with a step come before those with the next one.
    fn row(&self, turn: usize) -> usize {
        self.first_row + turn % self.units * BLOCK_ROWS
    }

    fn step(&self, turn: usize) -> &'a [Tile<u16>] {
        let first = turn / self.units * STEP_TILES;
        &self.tiles[first..self.tiles.len().min(first + STEP_TILES)]
    }

    /// The scores of a turn's tiles from `tile` on, two if there are as many.
    ///
    /// # Safety
    /// As [`attend`], for this and all functions below; registers are configured.
    #[inline(always)]
    unsafe fn score<T: Tiles>(&self, turn: usize, step: &[Tile<u16>], tile: usize) {
        let second = (tile + 1).min(step.len() - 1);
        // SAFETY: the unit's rows and the step's tiles exist, the scratch has room for both.
        unsafe {
            let operands = Operands {
                a: self.queries.add(self.row(turn) * self.dimensions).cast(),
                a_stride: self.dimensions * size_of::<u16>(),
                b: [step[tile].keys.cast(), step[second].keys.cast()],
                c: (&raw mut (*self.scratch).scores[turn % 2]).cast::<u8>().add(tile * ROW_BYTES),
                c_stride: WIDTH * size_of::<f32>(),
                accumulate: false,
            };
            let two_rows = self.unit_rows > TILE_ROWS;
            block::multiply::<T, Pairs>(&operands, self.lengths, self.lengths, two_rows, second > tile, Ahead::NONE);
        }
    }

    /// Adds a turn's weighted values to the output, panels from `panel` on, two if there are as many.
    #[inline(always)]
    unsafe fn add_values<T: Tiles>(&self, turn: usize, panel: usize) {
        let second = (panel + 1).min(self.value_panels - 1);
        let lengths = Lengths { whole: (self.step(turn).len() * TILE_LINES).div_ceil(TILE_ROWS), rest: 0 };
        // SAFETY: the unit's rows and the panels exist; weights and values were written up to whole tiles.
        unsafe {
            let values = (&raw const (*self.scratch).values).cast::<u8>();
            let value_width = self.value_panels * LANES;
            let operands = Operands {
                a: (&raw const (*self.scratch).weights[turn % 2]).cast(),
                a_stride: WIDTH * size_of::<u16>(),
                b: [panel, second].map(|panel| values.wrapping_add(panel * VALUE_LINES * ROW_BYTES)),
                c: self.output.add(self.row(turn) * value_width + panel * LANES).cast(),
                c_stride: value_width * size_of::<f32>(),
                accumulate: true,
            };
            let two_rows = self.unit_rows > TILE_ROWS;
            block::multiply::<T, Pairs>(&operands, lengths, self.lengths, two_rows, second > panel, Ahead::NONE);
        }
    }

    /// Does to the output what the maxima found in a turn ask for, before its weights are used.
    #[inline(always)]
    unsafe fn rescale<L: Lanes>(&self, turn: usize) {
        // SAFETY: the unit's rows exist, and the turn has written their factors.
        unsafe {
            let factors = (&raw const (*self.scratch).factors[turn % 2]).cast::<f32>();
            for row in 0..self.unit_rows {
                let factor = *factors.add(row);
                if factor < 1.0 {
                    let row = self.output.add((self.row(turn) + row) * self.value_panels * LANES);
                    for panel in 0..self.value_panels {
                        let at = row.add(panel * LANES);
                        L::store(L::mul(L::load(at), L::splat(factor)), at);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn run<T: Tiles, L: Lanes>(&self, block: &mut Attend<'_, u16>) {
        let turns = self.units * self.tiles.len().div_ceil(STEP_TILES);
        // Tile products per tile of sums.
        let score_cost = self.lengths.whole + usize::from(self.lengths.rest > 0);
        let value_cost = STEP_TILES / 2;
        // SAFETY: turns exist, and follow the order that each function asks for.
        unsafe {
            let step = self.step(0);
            for tile in (0..step.len()).step_by(2) {
                self.score::<T>(0, step, tile);
            }
            for turn in 0..turns {
                let step = self.step(turn);
                let masked = step.iter().any(|tile| tile.masked);
                let next = if turn + 1 < turns { self.step(turn + 1) } else { &[] };
                let value_panels = if turn > 0 { self.value_panels } else { 0 };
                if turn > 0 {
                    self.rescale::<L>(turn - 1);
                }
                // After each few products their share of the rows.
                let all = (next.len() * score_cost + value_panels * value_cost).max(1);
                let (mut done, mut row) = (0, 0);
                macro_rules! weigh_rows {
                    ($end:expr) => {
                        while row < $end {
                            weigh::<L>(block, step, masked, self.row(turn) + row, self.scratch, turn % 2, row);
                            row += 1;
                        }
                    };
                }
                for tile in (0..next.len()).step_by(2) {
                    self.score::<T>(turn + 1, next, tile);
                    done += 2 * score_cost;
                    weigh_rows!((self.unit_rows * done / all).min(self.unit_rows));
                }
                for panel in (0..value_panels).step_by(2) {
                    self.add_values::<T>(turn - 1, panel);
                    done += 2 * value_cost;
                    weigh_rows!((self.unit_rows * done / all).min(self.unit_rows));
                }
                weigh_rows!(self.unit_rows);
                if turn % self.units == 0 {
                    // Not before: the last turn with the step before needed its own values.
                    gather_values::<L>(step, self.value_panels, (&raw mut (*self.scratch).values).cast());
                }
            }
            self.rescale::<L>(turns - 1);
            for panel in (0..self.value_panels).step_by(2) {
                self.add_values::<T>(turns - 1, panel);
            }
        }
    }
}

/// Turns a row's scores into weights; `row` is the block's, `own` the turn's.
///
/// # Safety
/// The row's scores of the step are written; `buffer` is 0 or 1.
#[inline(always)]
unsafe fn weigh<L: Lanes>(
    block: &mut Attend<'_, u16>,
    step: &[Tile<u16>],
    masked: bool,
    row: usize,
    scratch: *mut Scratch,
    buffer: usize,
    own: usize,
) {
    // SAFETY: a step has at most STEP_TILES tiles, and the block has the row.
    unsafe {
        let scores = (&raw mut (*scratch).scores[buffer][own]).cast::<f32>(); // [WIDTH]
        let weights = (&raw mut (*scratch).weights[buffer][own]).cast::<u16>(); // [WIDTH]
        if masked {
            attention::mask::<L>(scores, step, block.from[row], block.to[row]);
        }
        // Two maxima, so that one does not wait for the other; with an index that changes they would live in memory.
        let mut tops = [L::load(scores); 2];
        for tile in (1..step.len()).step_by(2) {
            let at = scores.add(tile * LANES);
            tops[0] = L::max(tops[0], L::load(at));
            if tile + 1 < step.len() {
                tops[1] = L::max(tops[1], L::load(at.add(LANES)));
            }
        }
        let top = L::largest(L::max(tops[0], tops[1]));
        let before = block.largest[row];
        let largest = if top > before { top } else { before };
        let shift = L::splat(largest);
        let mut sums = [L::zero(); 2];
        for tile in (0..step.len()).step_by(2) {
            let at = scores.add(tile * LANES);
            let first = L::exp2::<true>(L::sub(L::load(at), shift));
            sums[0] = L::add(sums[0], first);
            // The values of a missing tile are zeros, and so must its weights be.
            let mut second = L::zero();
            if tile + 1 < step.len() {
                second = L::exp2::<true>(L::sub(L::load(at.add(LANES)), shift));
                sums[1] = L::add(sums[1], second);
            }
            L::narrow_two(first, second, weights.add(tile * LANES));
        }
        let mut factor = 1.0;
        if largest > before {
            factor = L::largest(L::exp2::<false>(L::splat((before - largest).max(-1000.0))));
            block.largest[row] = largest;
        }
        (*scratch).factors[buffer][own] = factor;
        block.sum[row] = block.sum[row] * factor + L::sum(L::add(sums[0], sums[1]));
    }
}

/// Copies a step's values from their tiles, `[panels][8][16][2]` each, to panels `[panels][VALUE_LINES][16][2]`, with
/// zeros behind an odd number of tiles.
///
/// # Safety
/// The tiles' values are readable, and `to` has room for the panels.
#[inline(always)]
unsafe fn gather_values<L: Lanes>(step: &[Tile<u16>], panels: usize, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        for (tile, values) in step.iter().enumerate() {
            let from = values.values.cast::<u8>();
            for panel in 0..panels {
                let from = from.add(panel * TILE_LINES * ROW_BYTES);
                let to = to.add((panel * VALUE_LINES + tile * TILE_LINES) * ROW_BYTES);
                for line in 0..TILE_LINES {
                    L::copy_line(from.add(line * ROW_BYTES), to.add(line * ROW_BYTES));
                }
            }
        }
        if step.len() % 2 == 1 {
            for panel in 0..panels {
                to.add((panel * VALUE_LINES + step.len() * TILE_LINES) * ROW_BYTES).write_bytes(0, TILE_BYTES / 2);
            }
        }
    }
}
