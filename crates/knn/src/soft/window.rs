//! Attention to the first and the latest vectors only, as in `StreamingLLM` (Xiao et al. 2023).

use super::SoftReport;
use super::block::Block;
use super::scratch::Scratch;
use crate::element::Element;
use iceformer_simd::LANES;

impl<T: Element> Block<'_, T> {
    /// Searches, for each query, the first `sinks` vectors and the `recent` latest, as far as it sees them. The lane
    /// must be in the order of insertion.
    pub(super) fn search_window(&self, scratch: &mut Scratch<T>, sinks: u32, recent: u32) -> SoftReport {
        let (mut tiles, mut left_out) = (0, false);
        for first_part in [true, false] {
            scratch.from.clear();
            scratch.to.clear();
            for i in 0..self.count {
                let (from, to) = self.sight(i);
                let latest = from.max(to.saturating_sub(recent as usize));
                // What lies before the latest are sinks or left out.
                let (from, to) = if first_part { (from, latest.min(sinks as usize).max(from)) } else { (latest, to) };
                left_out |= !first_part && latest > self.sight(i).0.max(sinks as usize);
                scratch.from.extend(std::iter::repeat_n(from as u32, self.group));
                scratch.to.extend(std::iter::repeat_n(to as u32, self.group));
            }
            let (last_from, first_to) = (bound(&scratch.from, u32::max), bound(&scratch.to, u32::min));
            let range = bound(&scratch.from, u32::min) / LANES..bound(&scratch.to, u32::max).div_ceil(LANES);
            scratch.tiles.clear();
            for tile in range {
                let masked = tile * LANES < last_from || (tile + 1) * LANES > first_to;
                self.lane.store.list(tile, masked, &mut scratch.tiles);
            }
            tiles += scratch.tiles.len();
            self.attend(scratch);
        }
        let rows = self.rows() as f64;
        let (first, end) = self.tile_range();
        // A tile may hold both sinks and recent vectors.
        let (tiles, visible) = (tiles.min(end - first), end - first);
        SoftReport {
            rows,
            retained_mass: if left_out { f64::NAN } else { rows },
            tiles_read: rows * tiles as f64,
            tiles_visible: rows * visible as f64,
        }
    }
}

/// The smallest or largest of the bounds, which are one per row.
fn bound(of: &[u32], choose: fn(u32, u32) -> u32) -> usize {
    of.iter().copied().reduce(choose).unwrap_or(0) as usize
}
