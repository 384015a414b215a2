//! The levels: which vectors are promoted, and which cell each belongs to.
//!
//! A vector of level l has a cell of its own in layers 0 to l - 1. Its level is decided by a hash of the seed and the
//! slot, so that the levels are those of a fresh index whatever has been inserted and removed before.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use super::block::{Block, GROUP, Scorer};
use super::layer::{Layer, NONE};
use super::nearest::key;
use super::{Dci, FLAT, FREE};
use crate::random::mix;
use crate::structure::Context;

/// A level is added when the highest one has more cells, or, without cells, when there are more vectors.
pub(super) const CROWDED: usize = 64;

/// Cells that a vector compares itself with to find its own, at least.
const CONSTRUCTION_VIEW: usize = 256;

/// Nearest cells that a new cell takes members from.
const NEIGHBOUR_CELLS: usize = 32;

/// Rows that look for cells at once.
const ROWS: usize = 64;

impl Dci {
    /// Level of a slot: 0 for most, h for one in `promotion`^h.
    pub(super) fn level(&self, slot: u32) -> usize {
        let mut hash = mix(self.seed ^ mix(u64::from(slot)));
        let mut level = 0;
        let bound = u64::MAX / self.options.promotion as u64;
        while level + 1 < self.options.levels && hash < bound {
            hash = mix(hash);
            level += 1;
        }
        level
    }

    /// Builds all levels anew.
    pub(super) fn rebuild(&mut self, context: &Context) {
        self.layers.clear();
        self.arranged_for = self.embedding.longest;
        for slot in 0..self.cell_of.len() {
            let cell = self.cell_of.row_mut(slot);
            if cell[0] != FREE {
                cell[0] = FLAT;
            }
        }
        self.grow(context);
    }

    /// Adds levels while the highest is crowded.
    fn grow(&mut self, context: &Context) {
        let first = self.layers.len();
        let mut owned: Vec<HashMap<u32, u32>> = Vec::new();
        while self.layers.len() + 1 < self.options.levels {
            let height = self.layers.len();
            if self.layers.last().map_or(self.len, Layer::len) <= CROWDED {
                break;
            }
            let below: Vec<u32> = match self.layers.last() {
                None => self.slots().collect(),
                Some(layer) => layer.cells().map(|(_, cell)| cell.owner).collect(),
            };
            let owners: Vec<u32> = below.into_iter().filter(|&slot| self.level(slot) > height).collect();
            if owners.is_empty() {
                break;
            }
            self.layers.push(Layer::new(self.dimensions));
            owned.push(self.open_cells(context, height, &owners));
        }
        for height in (first..self.layers.len()).rev() {
            let members: Vec<u32> = match height.checked_sub(1) {
                None => self.slots().collect(),
                Some(below) => self.layers[below].cells().map(|(cell, _)| cell).collect(),
            };
            self.assign(context, height, &members, &owned[height - first]);
        }
    }

    /// Opens cells around slots; returns which cell each owns.
    fn open_cells(&mut self, context: &Context, height: usize, owners: &[u32]) -> HashMap<u32, u32> {
        let mut vector = vec![0.0; self.dimensions];
        owners
            .iter()
            .map(|&owner| {
                self.vectors.read(context.kernels, owner, &mut vector);
                let extra = self.extra(owner);
                (owner, self.layers[height].open(owner, &vector, extra))
            })
            .collect()
    }

    /// Slot of a member of layer `height`.
    #[inline]
    pub(super) fn slot_of(&self, height: usize, member: u32) -> u32 {
        if height == 0 { member } else { self.layers[height - 1].cell(member).owner }
    }

    /// Makes members, which have no cell in layer `height`, members of the nearest one; those that own a cell there
    /// belong to it.
    fn assign(&mut self, context: &Context, height: usize, members: &[u32], owned: &HashMap<u32, u32>) {
        let slots: Vec<u32> = members.iter().map(|&member| self.slot_of(height, member)).collect();
        let nearest = self.nearest_cells(context, height, &slots, 1);
        for ((&member, &slot), &nearest) in members.iter().zip(&slots).zip(&nearest) {
            let cell = owned.get(&slot).copied().unwrap_or(nearest);
            self.set_cell(height, member, cell);
            self.layers[height].cell_mut(cell).members.push(member);
        }
    }

    /// Notes which cell of layer `height` a member belongs to.
    fn set_cell(&mut self, height: usize, member: u32, cell: u32) {
        match height.checked_sub(1) {
            None => self.cell_of.row_mut(member as usize)[0] = cell,
            Some(below) => self.layers[below].cell_mut(member).parent = cell,
        }
    }

    /// The `count` nearest cells of layer `height` of each slot, nearest first, [`NONE`] where there are fewer:
    /// `[slots][count]`.
    fn nearest_cells(&self, context: &Context, height: usize, slots: &[u32], count: usize) -> Vec<u32> {
        let nearest: Vec<AtomicU32> = (0..slots.len() * count).map(|_| AtomicU32::new(NONE)).collect();
        let width = self.dimensions + 1;
        context.pool.for_each(slots.len().div_ceil(ROWS), |_, part| {
            let start = part * ROWS;
            let slots = &slots[start..slots.len().min(start + ROWS)];
            let mut rows = vec![0.0; slots.len() * width];
            for (row, &slot) in rows.chunks_exact_mut(width).zip(slots) {
                self.vectors.read(context.kernels, slot, &mut row[..width - 1]);
                row[width - 1] = self.embedding.extra_of_child(self.squared.row(slot as usize)[0]);
            }
            let block = Block { rows: &rows, m: slots.len(), extra: true };
            let mut scorer = Scorer::new(self, context.kernels);
            let compared = self.compare(&mut scorer, context, height, CONSTRUCTION_VIEW.max(count), block);
            for (row, mut keys) in compared.into_iter().enumerate() {
                if count > 1 && keys.len() > count {
                    keys.select_nth_unstable(count - 1);
                    keys.truncate(count);
                }
                if count > 1 {
                    keys.sort_unstable();
                } else {
                    keys = keys.into_iter().min().into_iter().collect();
                }
                for (i, &key) in keys.iter().enumerate() {
                    nearest[(start + row) * count + i].store(key as u32, Ordering::Relaxed);
                }
            }
        });
        let nearest: Vec<u32> = nearest.into_iter().map(AtomicU32::into_inner).collect();
        // A cell to belong to there is in every layer.
        debug_assert!(nearest.iter().step_by(count).all(|&cell| cell != NONE));
        nearest
    }

    /// Compares each row of a block with cells of a layer: all of them, or the members of the nearest cells of the
    /// layer above, at least `wanted`. Returns [`key`]s of cells.
    pub(super) fn compare(
        &self,
        scorer: &mut Scorer<'_>,
        context: &Context,
        height: usize,
        wanted: usize,
        block: Block<'_>,
    ) -> Vec<Vec<u64>> {
        let layer = &self.layers[height];
        // Half of all is as fast to compare as all, which lie as panels.
        if height + 1 == self.layers.len() || wanted.saturating_mul(2) >= layer.len() {
            return self.compare_all(context, height, block);
        }
        let above = &self.layers[height + 1];
        let opened = wanted.saturating_mul(above.len()).div_ceil(layer.len());
        let mut cells = self.compare(scorer, context, height + 1, self.in_view(opened), block);
        for keys in &mut cells {
            let (count, _) = pick(keys, |cell| above.cell(cell).members.len(), wanted);
            keys.truncate(count);
        }
        let mut compared: Vec<Vec<u64>> = vec![Vec::with_capacity(wanted + GROUP); block.m];
        self.visit(scorer, height + 1, block, &Visits::of(&cells, above.end()), &|| false, |row, members, scores| {
            compared[row].extend(members.iter().zip(scores).map(|(&member, &score)| key(score, member)));
        });
        compared
    }

    /// Cells to compare in order to visit so many.
    pub(super) fn in_view(&self, visited: usize) -> usize {
        visited.saturating_mul(self.options.view).saturating_add(self.options.promotion)
    }

    fn compare_all(&self, context: &Context, height: usize, block: Block<'_>) -> Vec<Vec<u64>> {
        let (layer, width) = (&self.layers[height], self.dimensions + 1);
        let mut compared: Vec<Vec<u64>> = (0..block.m).map(|_| Vec::with_capacity(layer.len())).collect();
        let mut scores = vec![0.0; block.m * GROUP];
        assert!(block.rows.len() >= block.m * width);
        for (page, panels) in layer.pages() {
            assert!(panels.len() >= GROUP * width);
            // SAFETY: the block has m rows of `width` numbers, the page 4 panels of `width` rows (both asserted),
            // and `scores` m rows of 64 numbers.
            unsafe {
                context.kernels.gemm_f32(
                    block.m,
                    width - usize::from(!block.extra),
                    block.rows.as_ptr(),
                    width,
                    panels.as_ptr(),
                    width * iceformer_simd::LANES,
                    GROUP / iceformer_simd::LANES,
                    scores.as_mut_ptr(),
                    GROUP,
                    false,
                );
            }
            let used: Vec<(usize, u32)> = layer.used(page).collect();
            for (compared, scores) in compared.iter_mut().zip(scores.chunks_exact(GROUP)) {
                compared.extend(used.iter().map(|&(column, cell)| key(scores[column], cell)));
            }
        }
        compared
    }

    /// Scores the members of cells of layer `height` for the rows of a block that visit them, and hands `sink` rows,
    /// members and scores. Ends early if `cancelled`.
    pub(super) fn visit(
        &self,
        scorer: &mut Scorer<'_>,
        height: usize,
        block: Block<'_>,
        visits: &Visits,
        cancelled: &dyn Fn() -> bool,
        mut sink: impl FnMut(usize, &[u32], &[f32]),
    ) {
        let mut slots = Vec::with_capacity(GROUP);
        for (number, (cell, rows)) in visits.cells().enumerate() {
            if number % 64 == 63 && cancelled() {
                return;
            }
            for members in self.layers[height].cell(cell).members.chunks(GROUP) {
                let slots = if height == 0 {
                    members
                } else {
                    slots.clear();
                    slots.extend(members.iter().map(|&member| self.slot_of(height, member)));
                    &slots
                };
                scorer.score(block, Some(rows), slots, |row, scores| sink(row, members, scores));
            }
        }
    }

    /// Finds cells for slots that were just stored, and opens those that they own.
    pub(super) fn join(&mut self, context: &Context, slots: &[u32]) {
        let mut owned: Vec<HashMap<u32, u32>> = Vec::new();
        for height in 0..self.layers.len() {
            let owners: Vec<u32> = slots.iter().copied().filter(|&slot| self.level(slot) > height).collect();
            owned.push(self.open_cells(context, height, &owners));
        }
        // From the top: finding a cell takes those above.
        for height in (0..self.layers.len()).rev() {
            let mut members: Vec<u32> = match height.checked_sub(1) {
                None => slots.to_vec(),
                Some(below) => owned[below].values().copied().collect(),
            };
            members.sort_unstable();
            self.assign(context, height, &members, &owned[height]);
            let mut new: Vec<u32> = owned[height].values().copied().collect();
            new.sort_unstable();
            self.take_members(context, height, &new);
        }
        self.grow(context);
    }

    /// Moves to new cells what is nearer to their owners than to that of its own cell.
    fn take_members(&mut self, context: &Context, height: usize, new: &[u32]) {
        if new.is_empty() {
            return;
        }
        let owners: Vec<u32> = new.iter().map(|&cell| self.layers[height].cell(cell).owner).collect();
        let near = self.nearest_cells(context, height, &owners, NEIGHBOUR_CELLS);
        let width = self.dimensions + 1;
        for ((&cell, &owner), near) in new.iter().zip(&owners).zip(near.chunks_exact(NEIGHBOUR_CELLS)) {
            let mut moved: Vec<(u32, u32)> = Vec::new();
            let mut scorer = Scorer::new(self, context.kernels);
            // The owners of the two cells look at the members: the embedding is the same both ways but for L2.
            for &from in near.iter().filter(|&&from| from != NONE && from != cell) {
                let source = self.layers[height].cell(from);
                let slots: Vec<u32> = source.members.iter().map(|&member| self.slot_of(height, member)).collect();
                let mut rows = vec![0.0; 2 * width];
                for (row, slot) in rows.chunks_exact_mut(width).zip([owner, source.owner]) {
                    self.vectors.read(context.kernels, slot, &mut row[..width - 1]);
                }
                let extras = [self.extra(owner), self.extra(source.owner)];
                let block = Block { rows: &rows, m: 2, extra: false };
                let mut scores = [Vec::new(), Vec::new()];
                for (row, scores) in scores.iter_mut().enumerate() {
                    scorer.score_one(block, row, &slots, &mut |_, part: &[f32]| scores.extend_from_slice(part));
                }
                for (i, &slot) in slots.iter().enumerate() {
                    let child = self.embedding.extra_of_child(self.squared.row(slot as usize)[0]);
                    if slot != source.owner && scores[0][i] + child * extras[0] > scores[1][i] + child * extras[1] {
                        moved.push((from, source.members[i]));
                    }
                }
            }
            for (from, member) in moved {
                self.leave(height, from, member);
                self.set_cell(height, member, cell);
                self.layers[height].cell_mut(cell).members.push(member);
            }
        }
    }

    /// Gives the owners of all cells their extra numbers anew: c has grown.
    pub(super) fn raise_extras(&mut self) {
        for height in 0..self.layers.len() {
            let owners: Vec<(u32, u32)> =
                self.layers[height].cells().map(|(number, cell)| (number, cell.owner)).collect();
            for (cell, owner) in owners {
                let extra = self.extra(owner);
                self.layers[height].set_extra(cell, extra);
            }
        }
    }

    fn leave(&mut self, height: usize, cell: u32, member: u32) {
        let members = &mut self.layers[height].cell_mut(cell).members;
        if let Some(at) = members.iter().position(|&other| other == member) {
            members.swap_remove(at);
        }
    }

    /// Takes slots, which are no longer in use, out of their cells, closes the cells that they own and finds other
    /// cells for the members of those.
    pub(super) fn part(&mut self, context: &Context, slots: &[u32]) {
        let mut orphans: Vec<Vec<u32>> = vec![Vec::new(); self.layers.len()];
        for &slot in slots {
            let mut cell = self.cell_of.row(slot as usize)[0];
            self.cell_of.row_mut(slot as usize)[0] = FREE;
            self.len -= 1;
            let mut member = slot;
            for (height, orphans) in orphans.iter_mut().enumerate() {
                if cell == FLAT || cell == NONE {
                    break;
                }
                self.leave(height, cell, member);
                if self.layers[height].cell(cell).owner != slot {
                    break;
                }
                let closed = self.layers[height].close(cell);
                for &orphan in &closed.members {
                    self.set_cell(height, orphan, if height == 0 { FLAT } else { NONE });
                }
                orphans.extend(closed.members);
                (member, cell) = (cell, closed.parent);
            }
        }
        while self.layers.last().is_some_and(|layer| layer.len() == 0) {
            self.layers.pop();
        }
        if self.layers.first().is_some_and(|layer| layer.end() > 4 * layer.len().max(super::layer::PAGE)) {
            self.rebuild(context);
            return;
        }
        for height in (0..self.layers.len()).rev() {
            let mut members = std::mem::take(&mut orphans[height]);
            // Some have been removed, or closed, since they lost their cell.
            members.retain(|&member| match height.checked_sub(1) {
                None => self.cell_of.row(member as usize)[0] == FLAT,
                Some(below) => {
                    let cell = self.layers[below].cell(member);
                    cell.owner != NONE && cell.parent == NONE
                }
            });
            self.assign(context, height, &members, &HashMap::new());
        }
    }
}

/// Which rows of a block visit which cells.
pub(super) struct Visits {
    /// Cells that are visited, ascending, and where the rows of each begin; one more at the end.
    cells: Vec<(u32, u32)>,
    rows: Vec<u32>,
}

impl Visits {
    /// From the [`key`]s of the cells that each row visits; numbers of cells are below `end`.
    pub fn of(opened: &[Vec<u64>], end: usize) -> Self {
        Self::from_lists(opened.iter().map(|keys| keys.iter().map(|&key| key as u32)), end)
    }

    /// From the cells that each row visits.
    pub fn from_lists<I: ExactSizeIterator<Item = u32> + Clone>(
        lists: impl Iterator<Item = I> + Clone,
        end: usize,
    ) -> Self {
        let total: usize = lists.clone().map(|cells| cells.len()).sum();
        let visits = lists.enumerate().flat_map(|(row, cells)| cells.map(move |cell| (cell, row as u32)));
        if total * 4 < end { Self::sorted(visits.collect()) } else { Self::counted(visits, total, end) }
    }

    /// By sorting: when there are fewer visits than cells.
    fn sorted(mut visits: Vec<(u32, u32)>) -> Self {
        visits.sort_unstable();
        let mut cells: Vec<(u32, u32)> = Vec::new();
        for (at, &(cell, _)) in visits.iter().enumerate() {
            if cells.last().is_none_or(|&(last, _)| last != cell) {
                cells.push((cell, at as u32));
            }
        }
        cells.push((NONE, visits.len() as u32));
        Self { cells, rows: visits.into_iter().map(|(_, row)| row).collect() }
    }

    /// By counting the visits of each cell.
    fn counted(visits: impl Iterator<Item = (u32, u32)> + Clone, total: usize, end: usize) -> Self {
        let mut next = vec![0_u32; end];
        visits.clone().for_each(|(cell, _)| next[cell as usize] += 1);
        let (mut cells, mut start) = (Vec::new(), 0);
        for (cell, next) in next.iter_mut().enumerate().filter(|(_, count)| **count > 0) {
            cells.push((cell as u32, start));
            start += std::mem::replace(next, start);
        }
        cells.push((NONE, start));
        let mut rows = vec![0_u32; total];
        for (cell, row) in visits {
            let next = &mut next[cell as usize];
            rows[*next as usize] = row;
            *next += 1;
        }
        Self { cells, rows }
    }

    /// Cells that are visited and the rows that visit them.
    fn cells(&self) -> impl Iterator<Item = (u32, &[u32])> {
        let rows = |pair: &[(u32, u32)]| &self.rows[pair[0].1 as usize..pair[1].1 as usize];
        self.cells.windows(2).map(move |pair| (pair[0].0, rows(pair)))
    }
}

/// Moves to the front the keys of the nearest cells that together have at least `wanted` members, the farthest of
/// them last; returns how many they are, and how many members of the last one are needed.
pub(super) fn pick(keys: &mut [u64], size: impl Fn(u32) -> usize, wanted: usize) -> (usize, usize) {
    /// Below this, sorting is fastest.
    const SHORT: usize = 12;
    let (mut start, mut end, mut missing) = (0, keys.len(), wanted);
    let members = |keys: &[u64]| keys.iter().map(|&key| size(key as u32)).sum::<usize>();
    // Cells before `start` are picked; it is known that those before `end` are enough, or `end` is all.
    let mut total = members(keys);
    while end - start > SHORT {
        let length = end - start;
        let guess = (length as f64 * missing as f64 / total.max(missing) as f64) as usize;
        // Not at an end, so that the rest is shorter either way.
        let cut = guess.clamp(length / 8, length - length / 8 - 1).max(1);
        keys[start..end].select_nth_unstable(cut - 1);
        let first = members(&keys[start..start + cut]);
        if first >= missing {
            end = start + cut;
            total = first;
        } else {
            start += cut;
            missing -= first;
            total -= first;
        }
    }
    keys[start..end].sort_unstable();
    for (i, &key) in keys[start..end].iter().enumerate() {
        let size = size(key as u32);
        if size >= missing {
            return (start + i + 1, missing);
        }
        missing -= size;
    }
    (end, keys.get(end.wrapping_sub(1)).map_or(0, |&key| size(key as u32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_the_nearest_cells_with_enough_members() {
        for cells in [1, 5, 13, 200, 1000_u32] {
            let size = |cell: u32| mix(u64::from(cell)) as usize % 30;
            let mut sorted: Vec<u64> =
                (0..cells).map(|cell| key(mix(u64::from(cell) + 7) as u32 as f32, cell)).collect();
            let shuffled = sorted.clone();
            sorted.sort_unstable();
            let total: usize = (0..cells).map(size).sum();
            for wanted in [1, 2, total / 10, total / 2, total - total / 10, total, total + 1] {
                let wanted = wanted.max(1);
                let mut keys = shuffled.clone();
                let (count, last) = pick(&mut keys, size, wanted);
                let (mut expected, mut sum) = (0, 0);
                while expected < sorted.len() && sum < wanted {
                    sum += size(sorted[expected] as u32);
                    expected += 1;
                }
                assert_eq!(count, expected, "{cells} cells, {wanted} wanted");
                assert_eq!(keys[count - 1], sorted[count - 1]);
                let mut picked = keys[..count].to_vec();
                picked.sort_unstable();
                assert_eq!(picked, sorted[..count]);
                let before: usize = sorted[..count - 1].iter().map(|&key| size(key as u32)).sum();
                let expected = if sum >= wanted { wanted - before } else { size(sorted[count - 1] as u32) };
                assert_eq!(last, expected);
            }
        }
    }

    #[test]
    fn visits_are_inverted() {
        let lists = [vec![2, 0], vec![], vec![0, 5, 2], vec![5]];
        let lists = lists.iter().map(|cells| cells.iter().copied());
        // Few cells and many.
        for end in [6, 600] {
            let visits = Visits::from_lists(lists.clone(), end);
            let cells: Vec<(u32, Vec<u32>)> = visits.cells().map(|(cell, rows)| (cell, rows.to_vec())).collect();
            assert_eq!(cells, [(0, vec![0, 2]), (2, vec![0, 2]), (5, vec![2, 3])]);
        }
    }
}
