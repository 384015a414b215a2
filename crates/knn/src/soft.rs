//! Soft search: the softmax-weighted sum of values over a lane, exactly or over selected tiles.
//!
//! Attention is this search: with keys as vectors and the scale in the query, the result is the attended
//! value (Vaswani et al. 2017), and the log-sum-exp is what merges partial results.
//!
//! A block of query rows (neighbours in the text, all of one head) is searched in four steps:
//! 1. sinks and the vectors right before the block exactly;
//! 2. every other tile's share of mass is estimated for every row from its summary: weight of its mean key times
//!    sixteen, times 2^(spread), the second-order term of a Gaussian tile, capped. Weights are normalised without the
//!    spread, for a tile's spread is often far too high and would make all others look small, and no row counts
//!    a tile for more than all of its mass; the shares are averaged over the block;
//! 3. tiles are taken, heaviest first, until the estimated mass left out is at most 1 - `mass_target`, or all that hold
//!    `least_mass` each, and searched exactly;
//! 4. each tile left out stands in as one key: its mean key plus log 16, its mean value (tail correction).

mod block;
mod estimate;
mod few;
mod reuse;
mod scratch;
mod selection;
mod stand_in;
mod stocks;
mod tail;
mod window;

pub(crate) use block::{Block, block_shape};
pub(crate) use few::{FEW_ROWS, Part, SKETCHED_DIMENSIONS};
pub use reuse::Selection;
pub(crate) use reuse::{BlockPlace, BlockTiles};
pub(crate) use scratch::Scratch;
pub(crate) use stocks::{SharedStocks, Stocks};

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Strategy {
    /// Every visible vector.
    Exact,
    /// Settled tiles by estimated mass.
    Selected {
        /// Share of the mass to keep, above 0, at most 1. At 1 every tile is read.
        mass_target: f32,
        /// Above 0, at most 1: goes before the target. A block of queries reads the tiles that hold at least this share of
        /// its mass, few rows (a step of decoding) those that do for any of them. 0: the target decides.
        least_mass: f32,
        /// Settled tiles that a block of queries reads at least, if there are so many.
        least_tiles: u32,
        /// Settled tiles that a block of queries reads at most; this limit goes before the mass target.
        most_tiles: u32,
    },
    /// The first `sinks` vectors and the `recent` latest that a query sees; the others count for nothing.
    Window {
        /// Vectors from the first one on, by order of insertion.
        sinks: u32,
        /// Latest vectors, at least 1.
        recent: u32,
    },
    /// Nothing: the output is zero.
    Skip,
    /// The k vectors of largest score of each query, as far as an index of the keys finds them (see
    /// `IndexGroup::index_keys`); the others count for nothing.
    TopK {
        /// Vectors per query, at least 1.
        k: u32,
        /// Share of the k largest that are found on average, above 0, at most 1. At 1 all are.
        recall: f32,
        /// Share of what the algorithm could read that it reads, instead of `recall`.
        effort: Option<f32>,
    },
}

impl Strategy {
    /// Settled tiles by estimated mass, as few or as many as it takes.
    #[must_use]
    pub const fn selected(mass_target: f32) -> Self {
        Self::Selected { mass_target, least_mass: 0.0, least_tiles: 0, most_tiles: u32::MAX }
    }
}

/// What one soft search asks for.
#[derive(Debug, Clone, Copy)]
pub struct SoftQuery {
    /// Number of queries.
    pub queries: usize,
    /// Factor of every score before the softmax, for attention 1 / sqrt(d).
    pub scale: f32,
    /// Vectors visible to the first query, by order of insertion.
    pub visible: usize,
    /// True if query i sees i vectors more than the first one.
    pub causal: bool,
    /// A query sees only this many of the latest vectors visible to it.
    pub window: Option<usize>,
    /// How to search.
    pub strategy: Strategy,
}

impl SoftQuery {
    /// First and after-last vector that query `i` sees: as `sights`, `[queries][2]`, has it if there are any.
    pub(crate) fn sight(&self, sights: Option<&[[u32; 2]]>, i: usize) -> (usize, usize) {
        if let Some(sights) = sights {
            let [from, to] = sights[i];
            return (from as usize, to as usize);
        }
        let to = self.visible + if self.causal { i } else { 0 };
        let from = self.window.map_or(0, |window| to.saturating_sub(window));
        (from, to)
    }
}

/// What a soft search read and kept, summed over query rows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SoftReport {
    /// Query rows searched.
    pub rows: f64,
    /// Sum over rows of the share of (estimated) mass that was computed exactly; NaN where it is not known: after a
    /// strategy that does not estimate what it leaves out.
    pub retained_mass: f64,
    /// Sum over rows of tiles computed exactly.
    pub tiles_read: f64,
    /// Sum over rows of tiles that the row's block could see.
    pub tiles_visible: f64,
}

impl SoftReport {
    pub(crate) fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.retained_mass += other.retained_mass;
        self.tiles_read += other.tiles_read;
        self.tiles_visible += other.tiles_visible;
    }
}
