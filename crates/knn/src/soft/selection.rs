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

        let width = settled.next_multiple_of(LANES);
        self.estimate(scratch, settled, width);
        match self.reused {
            Some(reused) => reused.list(settled, &mut scratch.ranking),
            None => Self::select(scratch, settled, 1.0 - mass_target, limits),
        }
        scratch.tiles.clear();
        for i in 0..scratch.ranking.len() {
            let tile = base + scratch.ranking[i] as usize;
            self.lane.store.list(tile, false, &mut scratch.tiles);
        }
        tiles += scratch.tiles.len();
        self.attend(scratch);
        let retained_mass = self.correct_tail(scratch, settled, width);
        SoftReport {
            rows: rows as f64,
            retained_mass,
            tiles_read: (rows * tiles) as f64,
            tiles_visible: (rows * (end - first)) as f64,
        }
    }

    /// Fills `ranking` with the tiles to read: the fewest whose omission leaves at most `left_out` of the mass, but
    /// neither fewer nor more than `limits`.
    pub(super) fn select(scratch: &mut Scratch<T>, settled: usize, left_out: f32, limits: (usize, usize)) {
        let masses = &scratch.masses;
        let (least, most) = limits;
        scratch.ranking.clear();
        scratch.ranking.extend(0..settled as u32);
        if left_out <= 0.0 && most >= settled {
            return;
        }
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
