//! Finding the nearest vectors of queries.

use super::block::{Block, GROUP, Scorer};
use super::hierarchy::{Visits, pick};
use super::nearest::{Nearest, score};
use super::{Dci, FREE};
use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::neighbour::{Neighbour, keep_nearest};
use crate::structure::{Context, Effort, Emit, Request};

/// The most queries that visit cells together: the more, the more of them share the work of laying out a cell.
const BLOCK: usize = 512;

/// Blocks of a batch, so that threads end at about the same time.
const BLOCKS: usize = 8;

/// Queries that compare themselves with cells at once: their scores stay in the cache.
const ROUTED: usize = 32;

/// Which vectors a search reads.
enum Plan {
    /// These slots: all there are, or all that are allowed.
    All(Vec<u32>),
    /// So many candidates, of cells.
    Cells(usize),
    /// So many candidates of all slots (with their extra numbers), which are one cell.
    OneCell(usize, Vec<(u32, f32)>),
}

/// Part of a cell that is retrieved for a row of a block.
struct Part {
    row: usize,
    cell: u32,
    wanted: usize,
}

impl Dci {
    pub(super) fn find(&self, context: &Context, request: &Request<'_>, emit: Emit<'_>) -> Result<()> {
        let n = request.queries.len() / self.dimensions;
        let plan = self.plan(request);
        let rows = n.div_ceil(BLOCKS).clamp(1, BLOCK);
        context.pool.for_each(n.div_ceil(rows), |_, block| {
            if !request.cancelled() {
                self.find_block(context, request, &plan, block * rows, n.min((block + 1) * rows), emit);
            }
        });
        if request.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn plan(&self, request: &Request<'_>) -> Plan {
        let allowed = request.allowed.map_or(self.len, |allowed| allowed.len().min(self.len));
        let candidates = match request.effort {
            Effort::Exact => allowed,
            Effort::Share(share) => request.k.max((f64::from(share) * allowed as f64).ceil() as usize),
        };
        if candidates >= allowed {
            let taken = |&slot: &u32| self.cell_of.len() > slot as usize && self.cell_of.row(slot as usize)[0] != FREE;
            return Plan::All(match request.allowed {
                None => self.slots().collect(),
                Some(allowed) => allowed.iter().filter(taken).collect(),
            });
        }
        // As many more as do not pass.
        let candidates = (candidates as f64 * self.len as f64 / allowed as f64).ceil() as usize;
        if self.layers.is_empty() {
            Plan::OneCell(candidates, self.slots().map(|slot| (slot, self.extra(slot))).collect())
        } else {
            Plan::Cells(candidates)
        }
    }

    fn find_block(
        &self,
        context: &Context,
        request: &Request<'_>,
        plan: &Plan,
        start: usize,
        end: usize,
        emit: Emit<'_>,
    ) {
        let (dimensions, width) = (self.dimensions, self.dimensions + 1);
        let queries = &request.queries[start * dimensions..end * dimensions];
        let m = end - start;
        let mut rows = vec![self.embedding.extra_of_query(); m * width];
        for (row, query) in rows.chunks_exact_mut(width).zip(queries.chunks_exact(dimensions)) {
            row[..dimensions].copy_from_slice(query);
        }
        let block = Block { rows: &rows, m, extra: self.embedding.query_has_extra() };
        let lengths: Vec<f64> =
            queries.chunks_exact(dimensions).map(|query| context.kernels.exact_dot(query, query).sqrt()).collect();
        let mut nearest: Vec<Nearest> = lengths.iter().map(|&length| self.nearest(request, length)).collect();
        let mut scorer = Scorer::new(self, context.kernels);
        let allowed = |slot: u32| request.allowed.is_none_or(|allowed| allowed.contains(slot));
        match plan {
            Plan::All(slots) => {
                for (number, slots) in slots.chunks(GROUP).enumerate() {
                    if number % 16 == 15 && request.cancelled() {
                        return;
                    }
                    scorer.score(block, None, slots, |row, scores| nearest[row].offer(slots, scores, |_| true));
                }
            }
            Plan::OneCell(candidates, members) => {
                let places = self.places(context, block, &lengths);
                let mut order = Vec::new();
                for (row, places) in places.chunks_exact(self.projections.stride()).enumerate() {
                    if request.cancelled() {
                        return;
                    }
                    self.projections.retrieve(places, members, *candidates, &mut order);
                    for slots in order.chunks(GROUP) {
                        scorer.score_one(block, row, slots, &mut |row, scores: &[f32]| {
                            nearest[row].offer(slots, scores, allowed);
                        });
                    }
                }
            }
            Plan::Cells(candidates) => {
                let (visits, parts) =
                    self.choose_cells(&mut scorer, context, request, *candidates, block, &mut nearest);
                let cancelled = || request.cancelled();
                if request.allowed.is_some() {
                    self.visit(&mut scorer, 0, block, &visits, &cancelled, |row, members, scores| {
                        nearest[row].offer(members, scores, allowed);
                    });
                } else {
                    self.visit(&mut scorer, 0, block, &visits, &cancelled, |row, members, scores| {
                        nearest[row].offer(members, scores, |_| true);
                    });
                }
                self.retrieve_parts(&mut scorer, context, &parts, block, &lengths, |row, slots, scores| {
                    nearest[row].offer(slots, scores, allowed);
                });
            }
        }
        if request.cancelled() {
            return;
        }
        let mut found = Vec::new();
        for (i, (nearest, query)) in nearest.iter_mut().zip(queries.chunks_exact(dimensions)).enumerate() {
            found.clear();
            for slot in nearest.slots() {
                let rank = self.vectors.rank(context.kernels, query, slot);
                if rank >= request.floor {
                    found.push(Neighbour { rank, id: request.ids.id(slot) });
                }
            }
            keep_nearest(&mut found, request.k);
            emit(start + i, &found);
        }
    }

    /// What collects the neighbours of a query of a given length.
    fn nearest(&self, request: &Request<'_>, length: f64) -> Nearest {
        let longest = f64::from(self.embedding.longest);
        let size = match self.embedding.metric {
            // With half the squared length in the sum, and the square of the query in the exact rank.
            Metric::L2 => (length + longest).powi(2),
            Metric::InnerProduct | Metric::Cosine => length * longest,
        };
        // A sum of n products in any order is off by at most n roundings of the sum of their magnitudes, which is
        // at most `size`; a few more for what is rounded before and after. Twice, for two candidates, and twice for
        // stored vectors a little longer than 1.
        let roundings = (self.dimensions + 16) as f64 * f64::from(f32::EPSILON) / 2.0;
        let margin = (4.0 * roundings * size).max(f64::from(f32::MIN_POSITIVE));
        let floor = match self.embedding.metric {
            Metric::L2 => f64::midpoint(f64::from(request.floor), length * length),
            Metric::InnerProduct | Metric::Cosine => f64::from(request.floor),
        };
        Nearest::new(request.k, margin as f32, (floor - margin) as f32)
    }

    /// Places of the queries of a block along the directions, in the space of the embedding.
    fn places(&self, context: &Context, block: Block<'_>, lengths: &[f64]) -> Vec<f32> {
        let mut places = self.projections.project(context.kernels, block.m, block.rows, self.dimensions + 1);
        for (places, &length) in places.chunks_exact_mut(self.projections.stride()).zip(lengths) {
            let scale = self.embedding.query_scale(length);
            for place in places {
                *place *= scale;
            }
        }
        places
    }

    /// The cells of layer 0 that each query of a block visits: those that are retrieved whole, and parts.
    fn choose_cells(
        &self,
        scorer: &mut Scorer<'_>,
        context: &Context,
        request: &Request<'_>,
        candidates: usize,
        block: Block<'_>,
        nearest: &mut [Nearest],
    ) -> (Visits, Vec<Part>) {
        let layer = &self.layers[0];
        let share = f64::from(self.options.cell_share);
        let visited = ((candidates as f64 / share).ceil() as usize).min(self.len);
        let cells = self.in_view(visited.saturating_mul(layer.len()).div_ceil(self.len));
        // Looked up in one place if all will be, several times.
        let mut sizes = vec![0_u32; if block.m < ROUTED { 0 } else { layer.end() }];
        if !sizes.is_empty() {
            layer.cells().for_each(|(number, cell)| sizes[number as usize] = cell.members.len() as u32);
        }
        let size = |cell: u32| match sizes.get(cell as usize) {
            Some(&size) => size as usize,
            None => layer.cell(cell).members.len(),
        };
        let (mut whole, mut ends, mut parts) = (Vec::new(), vec![0], Vec::new());
        for first in (0..block.m).step_by(ROUTED) {
            let some = block.part(self.dimensions + 1, first, block.m.min(first + ROUTED));
            for (i, mut keys) in self.compare(scorer, context, 0, cells, some).into_iter().enumerate() {
                let row = first + i;
                let (mut count, last) = pick(&mut keys, size, visited);
                if self.options.cell_share < 1.0 {
                    let wanted = |size: usize| (share * size as f64).ceil() as usize;
                    parts.extend(keys[..count].iter().map(|&key| {
                        let cell = key as u32;
                        Part { row, cell, wanted: wanted(size(cell)) }
                    }));
                    count = 0;
                } else if count > 0 && last < size(keys[count - 1] as u32) {
                    count -= 1;
                    parts.push(Part { row, cell: keys[count] as u32, wanted: last });
                }
                // Cells that are visited whole have their owners among the candidates: k of them are a floor.
                if request.allowed.is_none() && count >= request.k {
                    let (_, &mut least, _) = keys[..count].select_nth_unstable(request.k - 1);
                    nearest[row].known(score(least));
                }
                whole.extend(keys[..count].iter().map(|&key| key as u32));
                ends.push(whole.len());
            }
        }
        let lists = ends.windows(2).map(|bounds| whole[bounds[0]..bounds[1]].iter().copied());
        (Visits::from_lists(lists, layer.end()), parts)
    }

    /// Scores the vectors that come first in cells which are not retrieved whole.
    fn retrieve_parts(
        &self,
        scorer: &mut Scorer<'_>,
        context: &Context,
        parts: &[Part],
        block: Block<'_>,
        lengths: &[f64],
        mut sink: impl FnMut(usize, &[u32], &[f32]),
    ) {
        let places = self.places(context, block, lengths);
        let stride = self.projections.stride();
        let (mut members, mut order) = (Vec::new(), Vec::new());
        for part in parts {
            members.clear();
            members.extend(self.layers[0].cell(part.cell).members.iter().map(|&slot| (slot, self.extra(slot))));
            let places = &places[part.row * stride..(part.row + 1) * stride];
            self.projections.retrieve(places, &members, part.wanted, &mut order);
            for slots in order.chunks(GROUP) {
                scorer.score_one(block, part.row, slots, &mut |row, scores: &[f32]| sink(row, slots, scores));
            }
        }
    }
}
