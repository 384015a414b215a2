//! Search for few rows, as decoding asks for: what is read decides the time, not what is computed.
//!
//! A block's tiles are split in parts that several threads work on, in two rounds:
//! 1. each part reads its share of the sinks and the recent vectors exactly and, where tiles are selected, estimates
//!    the mass of its share of the settled tiles from the sketches of their keys;
//! 2. what all parts found says how much of each row's mass a tile holds. The tiles of which some row needs most are
//!    read exactly, as many as it takes for every single row to be left with no more than it may lose. Those left out
//!    stand in by their estimated mass and their mean value.
//!
//! A sketch sees single keys, so a row finds the one key it looks for; the mean and the variance of a tile, which serve
//! blocks of many rows, may hide it.

use super::block::Block;
use super::scratch::{Buffer, Scratch, vec_bytes};
use super::selection::Light;
use super::stand_in::{Own, StandInWeights, StandIns, Wide};
use super::{SoftReport, Strategy};
use crate::element::Element;
use crate::sketch::SketchQueries;
use crate::stock::Lendable;
use crate::summaries::CHUNK_PANELS;
use iceformer_simd::{Attend, Kernels, LANES};
use std::ops::Range;

/// Most rows that count as few: each row brings its own needs, and reading sketches takes time for each.
pub(crate) const FEW_ROWS: usize = 32;

/// Where estimates of scores are off by more than this (bits, one standard deviation), everything is read. Rows of the
/// models measured have 1.5, the worst ones 4.
const MOST_ERROR: f32 = 5.0;

/// Fewer dimensions than this say too little in two bits each.
pub(crate) const SKETCHED_DIMENSIONS: usize = 32;

/// Steps of the search for the threshold: it ends within a tenth of the best one for any number of tiles.
const THRESHOLD_STEPS: usize = 7;

/// A part of a block's tiles and what was found in it.
#[derive(Debug, Default)]
pub(crate) struct Part<T: Element> {
    pub scratch: Scratch<T>,
    queries: SketchQueries,
    /// Settled tiles of this part; empty if nothing is selected.
    range: Range<usize>,
    /// `[rows]`: masses are relative to 2^this.
    reference: Vec<f32>,
    /// `[rows][range, padded]`: estimated mass of each tile.
    masses: Buffer<f32>,
    /// `[range, padded]`: the largest share of its mass that a row is estimated to have in the tile.
    importance: Buffer<f32>,
    /// Tiles of this importance at most are left out.
    threshold: f32,
    /// Sixteen stand-ins of this importance together at most share one mean value.
    shared: f32,
    /// `[rows]`: weight of the stand-ins in `scratch.sum`.
    tail: Vec<f32>,
    tiles_read: usize,
}

impl<T: Element> Lendable for Part<T> {
    fn bytes(&self) -> usize {
        let buffers = self.masses.bytes() + self.importance.bytes();
        let rows = vec_bytes(&self.reference) + vec_bytes(&self.tail);
        self.scratch.bytes() + self.queries.bytes() + buffers + rows
    }
}

impl<T: Element> Part<T> {
    fn width(&self) -> usize {
        self.range.len().next_multiple_of(LANES)
    }
}

impl<T: Element> Block<'_, T> {
    /// What each row may lose, if tiles are selected for this block.
    fn may_lose(&self) -> Option<Light> {
        let Strategy::Selected { mass_target, least_mass, most_tiles, .. } = self.query.strategy else { return None };
        let (start, end) = self.lane.settled();
        let sees_settled = |i| {
            let (from, to) = self.sight(i);
            from <= start && to >= end
        };
        let leaves_out = mass_target < 1.0 || least_mass > 0.0 || most_tiles < u32::MAX;
        let light = Light::of(mass_target, least_mass);
        (leaves_out && end > start && (0..self.count).all(sees_settled)).then_some(light)
    }

    /// True if tiles are selected for this block.
    pub fn selects(&self) -> bool {
        self.may_lose().is_some()
    }

    /// First round of part `number` of `parts`, whose scratch is loaded.
    pub fn read_near(&self, part: &mut Part<T>, number: usize, parts: usize) {
        let (first, end) = self.tile_range();
        let share = |count: usize, number: usize| count * number / parts;
        part.tail.clear();
        part.tail.resize(self.rows(), 0.0);
        let sketches = self.lane.sketches();
        let selects = self.selects() && {
            let (d, _) = self.padded();
            sketches.load(self.kernels, &part.scratch.scaled, d, &mut part.queries);
            part.queries.error() <= MOST_ERROR
        };
        if !selects {
            part.range = 0..0;
            let count = end - first;
            part.tiles_read = share(count, number + 1) - share(count, number);
            self.search_exactly(&mut part.scratch, first + share(count, number)..first + share(count, number + 1));
            return;
        }
        let (settled_start, settled_end) = self.lane.settled();
        let (sinks, recent) = (first..settled_start / LANES, settled_end / LANES..end);
        let count = sinks.len() + recent.len();
        let (from, to) = (share(count, number), share(count, number + 1));
        part.scratch.tiles.clear();
        self.list_tiles(&mut part.scratch, sinks.start + from.min(sinks.len())..sinks.start + to.min(sinks.len()));
        let after = |tile: usize| recent.start + tile.saturating_sub(sinks.len());
        self.list_tiles(&mut part.scratch, after(from)..after(to));
        part.tiles_read = part.scratch.tiles.len();
        self.attend(&mut part.scratch);

        let settled = self.lane.settled_tiles();
        let bound = |number: usize| if number == parts { settled } else { share(settled, number) / LANES * LANES };
        part.range = bound(number)..bound(number + 1);
        let (rows, width) = (self.rows(), part.width());
        part.reference.clear();
        for row in 0..rows {
            let largest = part.scratch.largest[row];
            // Where nothing was read, the score of the keys' centre is a measure of the scores to come.
            part.reference.push(if largest > Attend::<T>::NO_SCORE / 2.0 { largest } else { part.queries.base(row) });
        }
        let masses = part.masses.at_least(rows * width);
        sketches.masses(self.kernels, &mut part.queries, &part.reference, part.range.clone(), masses, width);
        for row in masses.chunks_exact_mut(width.max(1)) {
            row[part.range.len()..].fill(0.0);
        }
    }

    /// Between the rounds: finds the threshold of importance (the largest share of mass that a tile holds of any row) that
    /// leaves out most tiles while no row loses more than it may.
    pub fn choose(&self, parts: &mut [&mut Part<T>]) {
        let Some(may_lose) = self.may_lose() else { return };
        // Every part selects or none does: the same queries decide.
        if parts.iter().all(|part| part.range.is_empty()) {
            return;
        }
        let rows = self.rows();
        let mut tiles = 0;
        for part in parts.iter_mut() {
            let width = part.width();
            part.importance.at_least(width).fill(0.0);
            tiles += part.range.len();
        }
        // `[parts][rows]`: share of the row's mass that a mass of 1 is.
        let mut shares = vec![0.0_f32; parts.len() * rows];
        for row in 0..rows {
            let tops = parts.iter().map(|part| part.scratch.largest[row].max(part.reference[row]));
            let top = tops.fold(f32::NEG_INFINITY, f32::max);
            let mut total = 0.0_f64;
            for part in parts.iter_mut() {
                let width = part.width();
                let far = self.kernels.sum(&part.masses.at_least(rows * width)[row * width..][..width]);
                let near = f64::from(part.scratch.sum[row]) * f64::from(part.scratch.largest[row] - top).exp2();
                total += near + f64::from(far) * f64::from(part.reference[row] - top).exp2();
            }
            for (number, part) in parts.iter_mut().enumerate() {
                let share = (f64::from(part.reference[row] - top).exp2() / total) as f32;
                shares[number * rows + row] = share;
                let width = part.width();
                let masses = &part.masses.at_least(rows * width)[row * width..][..width];
                self.kernels.largest_scaled(masses, share, part.importance.at_least(width));
            }
        }
        let low = match may_lose {
            // What is as important as a threshold is left out.
            Light::Each(share) => share.next_down(),
            Light::Together(share) => self.most_that_may_go(parts, &shares, share, tiles),
        };
        let threshold = self.within_limits(parts, low);
        for part in parts.iter_mut() {
            part.threshold = threshold;
            part.shared = may_lose.one_tile();
        }
    }

    /// The largest threshold below which tiles together hold at most `may_lose` of each row's mass; `shares`,
    /// `[parts][rows]`, see [`Block::choose`].
    fn most_that_may_go(&self, parts: &mut [&mut Part<T>], shares: &[f32], may_lose: f32, tiles: usize) -> f32 {
        let rows = self.rows();
        let mut sums = vec![0.0; rows];
        let mut lost = vec![0.0; rows];
        // Leaving out tiles below the first is always fine; a tile above the second cannot be left out.
        let (mut low, mut high) = (may_lose / tiles as f32, may_lose);
        for _ in 0..THRESHOLD_STEPS {
            let middle = (low * high).sqrt();
            lost.fill(0.0);
            for (number, part) in parts.iter_mut().enumerate() {
                let width = part.width();
                let masses = part.masses.at_least(rows * width);
                self.kernels.sums_at_most(part.importance.at_least(width), middle, masses, &mut sums);
                for row in 0..rows {
                    lost[row] += sums[row] * shares[number * rows + row];
                }
            }
            if lost.iter().all(|&lost| lost <= may_lose) {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The threshold, or the one that reads as many tiles as the strategy's limits say.
    fn within_limits(&self, parts: &mut [&mut Part<T>], threshold: f32) -> f32 {
        let Strategy::Selected { least_tiles, most_tiles, .. } = self.query.strategy else { return threshold };
        if least_tiles == 0 && most_tiles == u32::MAX {
            return threshold;
        }
        let mut all = Vec::new();
        for part in parts.iter_mut() {
            let (width, tiles) = (part.width(), part.range.len());
            all.extend_from_slice(&part.importance.at_least(width)[..tiles]);
        }
        let read = all.iter().filter(|&&importance| importance > threshold).count();
        let wanted = read.max(least_tiles as usize).min(most_tiles as usize);
        if wanted == read {
            return threshold;
        }
        if wanted >= all.len() {
            return -1.0;
        }
        // What is as important as the first tile that is not wanted is left out as well.
        *all.select_nth_unstable_by(wanted, |a, b| b.total_cmp(a)).1
    }

    /// Second round: reads the part's important tiles and lets the others stand in.
    pub fn read_selected(&self, part: &mut Part<T>) {
        if part.range.is_empty() {
            return;
        }
        let (rows, width) = (self.rows(), part.width());
        let (settled_start, _) = self.lane.settled();
        let base = settled_start / LANES + part.range.start;
        let masses = part.masses.at_least(rows * width);
        let importance = part.importance.at_least(width);
        part.scratch.tiles.clear();
        for (tile, importance) in importance[..part.range.len()].iter_mut().enumerate() {
            if *importance > part.threshold {
                self.lane.store.list(base + tile, false, &mut part.scratch.tiles);
                // Nothing is to stand in for it.
                *importance = 0.0;
                for row in 0..rows {
                    masses[row * width + tile] = 0.0;
                }
            }
        }
        part.tiles_read += part.scratch.tiles.len();
        self.attend(&mut part.scratch);
        if T::widens(self.kernels) {
            self.stand_in::<Wide>(part);
        } else {
            self.stand_in::<Own>(part);
        }
    }

    /// Adds the tiles left out, each with its estimated mass and its mean value, or that of its panel where the panel's tiles
    /// stand in with no more together than one tile may hold.
    fn stand_in<S: StandIns<T>>(&self, part: &mut Part<T>) {
        let (rows, (_, dv), width) = (self.rows(), self.padded(), part.width());
        let (panels, first) = (width / LANES, part.range.start / LANES);
        let masses = part.masses.at_least(rows * width);
        let scratch = &mut part.scratch;
        // What is read has neither mass nor importance any more.
        scratch.kept.clear();
        scratch.kept.resize(width, 1.0);
        let importance = part.importance.at_least(width).chunks_exact(LANES);
        self.part_panels(&mut scratch.fine, first, importance.map(|panel| self.kernels.sum(panel)), part.shared);
        let mut room = std::mem::take(S::room(scratch));
        let StandInWeights { single, shared } = &mut room;
        let weights = single.at_least(rows * width);
        let before_first = first % CHUNK_PANELS;
        let coarse_width = (before_first + panels).next_multiple_of(LANES);
        let coarse_weights = shared.at_least(rows * coarse_width);
        scratch.coarse.clear();
        scratch.coarse.resize(coarse_width, 0.0);
        let scaled = scratch.estimates.at_least(width);
        let both = weights.chunks_exact_mut(width).zip(coarse_weights.chunks_exact_mut(coarse_width));
        for (row, (weights, coarse_weights)) in both.enumerate() {
            let masses = &masses[row * width..][..width];
            let heaviest = self.kernels.largest(masses);
            if heaviest <= 0.0 {
                weights.fill(S::Weight::default());
                coarse_weights.fill(S::Weight::default());
                continue;
            }
            let before = scratch.largest[row];
            let top = before.max(part.reference[row] + heaviest.log2());
            let by = (part.reference[row] - top).exp2();
            let by_before = (before - top).exp2();
            if by_before < 1.0 {
                scratch.output[row * dv..][..dv].iter_mut().for_each(|x| *x *= by_before);
            }
            self.kernels.scale(masses, by, scaled);
            S::Weight::convert(self.kernels, scaled, weights);
            let coarse = &mut scratch.coarse[before_first..][..panels];
            part.tail[row] = S::Weight::thin_weights(self.kernels, &scratch.kept, &scratch.fine, weights, coarse);
            S::Weight::convert(self.kernels, &scratch.coarse, coarse_weights);
            scratch.sum[row] = scratch.sum[row] * by_before + part.tail[row];
            scratch.largest[row] = top;
        }
        self.add_mean_values::<S>(scratch, first, (weights, width), (coarse_weights, coarse_width));
        *S::room(scratch) = room;
    }

    /// Merges all parts into the first one and reports.
    pub fn merge(&self, parts: &mut [&mut Part<T>]) -> SoftReport {
        let (rows, (_, dv)) = (self.rows(), self.padded());
        let Some((merged, others)) = parts.split_first_mut() else { return SoftReport::default() };
        let mut tiles_read = merged.tiles_read;
        for part in others {
            merge_rows(self.kernels, &mut merged.scratch, &mut merged.tail, &part.scratch, &part.tail, dv);
            tiles_read += part.tiles_read;
        }
        // A row that sees nothing has lost nothing.
        let exact = |row: usize| match merged.scratch.sum[row] {
            sum if sum > 0.0 => 1.0 - f64::from(merged.tail[row]) / f64::from(sum),
            _ => 1.0,
        };
        let (first, end) = self.tile_range();
        SoftReport {
            rows: rows as f64,
            retained_mass: (0..rows).map(exact).sum(),
            tiles_read: (rows * tiles_read) as f64,
            tiles_visible: (rows * (end - first)) as f64,
        }
    }
}

/// Merges the softmax of the same rows over other tiles, by their log-sum-exp. `tail` is part of the sums.
fn merge_rows<T: Element>(
    kernels: &Kernels,
    to: &mut Scratch<T>,
    to_tail: &mut [f32],
    from: &Scratch<T>,
    from_tail: &[f32],
    dv: usize,
) {
    for row in 0..to.sum.len() {
        let top = to.largest[row].max(from.largest[row]);
        let (by, by_other) = ((to.largest[row] - top).exp2(), (from.largest[row] - top).exp2());
        let output = &mut to.output[row * dv..][..dv];
        for x in output.iter_mut() {
            *x *= by;
        }
        kernels.add_scaled(&from.output[row * dv..][..dv], by_other, output);
        to.sum[row] = to.sum[row] * by + from.sum[row] * by_other;
        to_tail[row] = to_tail[row] * by + from_tail[row] * by_other;
        to.largest[row] = top;
    }
}
