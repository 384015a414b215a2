//! Which settled tiles a block reads.

use super::SoftReport;
use super::block::Block;
use super::scratch::Scratch;
use crate::tiles::Element;
use iceformer_simd::LANES;

/// So many vectors before a block are always read.
const NEAR: usize = 64;

impl<T: Element> Block<'_, T> {
    /// The tiles behind the sinks that every row of the block sees whole, that have a summary, and that end at least
    /// [`NEAR`] vectors before the first row's last one.
    pub(super) fn candidates(&self) -> usize {
        let (sinks, (_, settled_end)) = (self.lane.sinks(), self.lane.settled());
        let sights = (0..self.count).map(|i| self.sight(i));
        let (last_from, first_to) = sights.fold((0, usize::MAX), |(from, to), (f, t)| (from.max(f), to.min(t)));
        if last_from > sinks || first_to < settled_end {
            return 0;
        }
        let whole = first_to.saturating_sub(NEAR).saturating_sub(sinks) / LANES;
        whole.max(self.lane.settled_tiles()).min(self.lane.summarized_tiles())
    }

    /// Searches sinks and the nearest vectors exactly, all others by estimated mass.
    pub(super) fn search_selected(
        &self,
        scratch: &mut Scratch<T>,
        mass_target: f32,
        limits: (usize, usize),
    ) -> SoftReport {
        let rows = self.rows();
        let base = self.lane.sinks() / LANES;
        let (first, end) = self.tile_range();
        let settled = self.candidates();
        scratch.tiles.clear();
        self.list_tiles(scratch, first..base);
        self.list_tiles(scratch, base + settled..end);
        self.attend(scratch);
        let mut tiles = scratch.tiles.len();

        let left_out = 1.0 - mass_target;
        scratch.candidates = settled;
        let all = self.reused.is_none() && left_out <= 0.0 && limits.1 >= settled;
        let width = if all {
            scratch.ranking.clear();
            scratch.ranking.extend(0..settled as u32);
            0
        } else {
            self.open_nodes(scratch, settled, left_out, limits.0);
            let width = self.estimate(scratch, settled);
            self.choose_tiles(scratch, left_out, limits);
            width
        };
        scratch.tiles.clear();
        for i in 0..scratch.ranking.len() {
            let tile = base + scratch.ranking[i] as usize;
            self.lane.store.list(tile, false, &mut scratch.tiles);
        }
        tiles += scratch.tiles.len();
        self.attend(scratch);
        let retained_mass = if all { rows as f64 } else { self.correct_tail(scratch, width) };
        SoftReport {
            rows: rows as f64,
            retained_mass,
            tiles_read: (rows * tiles) as f64,
            tiles_visible: (rows * (end - first)) as f64,
        }
    }

    /// Fills `ranking` with the tiles to read, rising, and `columns` with their places among the tiles of opened nodes.
    fn choose_tiles(&self, scratch: &mut Scratch<T>, left_out: f32, limits: (usize, usize)) {
        if let Some(reused) = self.reused {
            reused.list(scratch.candidates, &mut scratch.ranking);
            scratch.columns.clear();
            let mut place = 0;
            for &tile in &scratch.ranking {
                // The nodes of all these tiles are open.
                while scratch.opened[place] < tile / LANES as u32 {
                    place += 1;
                }
                scratch.columns.push((place * LANES) as u32 + tile % LANES as u32);
            }
            return;
        }
        let left_out = (left_out - scratch.closed_mass).max(0.0);
        Self::select(scratch, scratch.masses.len(), left_out, limits);
        scratch.columns.clone_from(&scratch.ranking);
        for tile in &mut scratch.ranking {
            *tile = scratch.opened[*tile as usize / LANES] * LANES as u32 + *tile % LANES as u32;
        }
    }

    /// Fills `ranking` with the tiles to read of those in `masses`: the fewest whose omission leaves at most `left_out`
    /// of the mass, but neither fewer nor more than `limits`.
    pub(super) fn select(scratch: &mut Scratch<T>, settled: usize, left_out: f32, limits: (usize, usize)) {
        let masses = &scratch.masses;
        let (least, most) = limits;
        scratch.ranking.clear();
        scratch.ranking.extend(0..settled as u32);
        // All that are at most their even share of what may be left out may go together, and most tiles do: no need to
        // rank them.
        let mut left = 0.0;
        let even = left_out / settled as f32;
        if least == 0 {
            scratch.ranking.retain(|&tile| {
                let mass = masses[tile as usize];
                if mass <= even {
                    left += mass;
                }
                mass > even
            });
        }
        scratch.ranking.sort_unstable_by(|&a, &b| masses[b as usize].total_cmp(&masses[a as usize]).then(a.cmp(&b)));
        let mut keep = scratch.ranking.len();
        while keep > least {
            left += masses[scratch.ranking[keep - 1] as usize];
            if left > left_out {
                break;
            }
            keep -= 1;
        }
        scratch.ranking.truncate(keep.min(most));
        // In memory order the tiles stream.
        scratch.ranking.sort_unstable();
    }
}
