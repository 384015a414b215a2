//! Linking new vectors: each walks to its neighbours in the graph as it is, then links are made both ways.

use std::sync::{Arc, Mutex, PoisonError};

use super::Graph;
use super::codes::CodedQuery;
use super::prune::Pruning;
use super::walk::{DEGREE, NONE};
use crate::error::Result;
use crate::structure::Context;

/// Vectors a walk keeps in sight when it looks for the neighbours of a new vector.
pub(super) const WIDTH: usize = 160;
/// Links that a choice leaves of a full row: room for others, so that not every new link needs a choice.
pub(super) const KEPT: usize = 26;
/// New vectors do not see those of the same step, which is at most this share of the vectors there are ...
const SHARE: usize = 16;
/// ... and this many.
const LARGEST_STEP: usize = 8192;
/// Once there are enough vectors, steps are at least this long.
const STEP_AT_LEAST: usize = 16;
/// Vectors that one item of parallel work takes.
const BLOCK: usize = 16;
/// Rows of links whose chunks are copied before a step if a copy of the graph shares them.
const CHUNK: usize = crate::chunked::ROWS;

/// A link to be made: to a vector of the graph, from a new one.
type Back = (u32, u32);

impl Graph {
    /// Links new vectors, whose codes are stored, and takes their slots, in steps. On an error nothing has changed.
    pub(super) fn link(&mut self, context: &Context, slots: &[u32]) -> Result<()> {
        // A long batch changes links everywhere.
        if slots.len() > STEP_AT_LEAST {
            for row in (0..self.links.len()).step_by(CHUNK) {
                self.links.unshare(row)?;
            }
        }
        let before = (Arc::clone(&self.entries), self.added, self.len);
        let mut rest = slots;
        while !rest.is_empty() {
            let longest = (self.len / SHARE).clamp(1, LARGEST_STEP);
            // A short batch is one step, so that it can fail before it changes anything.
            let longest = if self.len >= SHARE * SHARE { longest.max(STEP_AT_LEAST) } else { longest };
            let (step, after) = rest.split_at(rest.len().min(longest));
            if let Err(error) = self.link_step(context, step) {
                (self.entries, self.added, self.len) = before;
                for &slot in slots {
                    self.taken.row_mut(slot as usize)[0] = false;
                }
                return Err(error);
            }
            rest = after;
        }
        Ok(())
    }

    /// Links vectors that do not see each other.
    fn link_step(&mut self, context: &Context, step: &[u32]) -> Result<()> {
        let forward = self.forward(context, step);
        let mut back: Vec<Back> = Vec::with_capacity(step.len() * KEPT);
        for (&slot, links) in step.iter().zip(forward.chunks_exact(DEGREE)) {
            back.extend(links.iter().take_while(|&&to| to != NONE).map(|&to| (to, slot)));
        }
        back.sort_unstable();
        for &slot in step.iter().chain(back.iter().map(|(to, _)| to)) {
            self.links.unshare(slot as usize)?;
        }
        Arc::make_mut(&mut self.entries).offer(&self.codes, step, self.len, context.seed, self.added)?;
        for (&slot, links) in step.iter().zip(forward.chunks_exact(DEGREE)) {
            self.links.row_mut(slot as usize).copy_from_slice(links);
            self.taken.row_mut(slot as usize)[0] = true;
        }
        self.link_back(context, &back);
        self.added += step.len() as u64;
        self.len += step.len();
        Ok(())
    }

    /// The links of new vectors to those of the graph, `[step][DEGREE]`.
    fn forward(&self, context: &Context, step: &[u32]) -> Vec<u32> {
        let ground = self.ground(context);
        let mut begun = in_blocks(context, step.len(), |i| {
            let (mut query, mut starts) = (CodedQuery::empty(), Vec::new());
            self.codes.query_of(step[i], &mut query);
            self.entries.nearest(context.kernels, &query, &mut starts);
            (i, starts)
        });
        // Vectors that begin at the same entry read the same parts of the graph: one after another.
        begun.sort_unstable_by_key(|(i, starts)| (starts.first().map(|start| start.slot()), *i));
        let linked = in_blocks(context, begun.len(), |place| {
            let (i, starts) = &begun[place];
            let (mut query, mut pruning) = (CodedQuery::empty(), Pruning::default());
            let mut links = [NONE; DEGREE];
            self.codes.query_of(step[*i], &mut query);
            let scratch = &mut *self.stock.lend();
            ground.walk(scratch, &query, starts, WIDTH);
            // A link may lead to a slot that became free.
            let near = scratch.pool.iter().map(|found| found.slot()).filter(|&slot| self.taken.row(slot as usize)[0]);
            pruning.measure(context.kernels, &self.codes, step[*i], near);
            pruning.choose(context.kernels, &self.codes, KEPT, &mut links);
            links
        });
        let mut forward = vec![NONE; step.len() * DEGREE];
        for ((i, _), links) in begun.iter().zip(linked) {
            forward[i * DEGREE..(i + 1) * DEGREE].copy_from_slice(&links);
        }
        forward
    }

    /// Adds links, sorted, to vectors of the graph; where there is no room, chooses.
    pub(super) fn link_back(&mut self, context: &Context, back: &[Back]) {
        let mut full: Vec<&[Back]> = Vec::new();
        for links in back.chunk_by(|x, y| x.0 == y.0) {
            let row = self.links.row_mut(links[0].0 as usize);
            let mut count = row.iter().position(|&to| to == NONE).unwrap_or(DEGREE);
            if count + links.len() > DEGREE {
                full.push(links);
                continue;
            }
            for &(_, from) in links {
                // A slot that was free and linked to is linked to again.
                if !row[..count].contains(&from) {
                    row[count] = from;
                    count += 1;
                }
            }
        }
        let chosen = in_blocks(context, full.len(), |i| {
            let slot = full[i][0].0;
            let old = self.links.row(slot as usize).iter().copied().take_while(|&to| to != NONE);
            let new = full[i].iter().map(|(_, from)| *from);
            let mut pruning = Pruning::default();
            let mut row = [NONE; DEGREE];
            let is_new = |slot: u32| full[i].binary_search_by_key(&slot, |(_, from)| *from).is_ok();
            pruning.measure(context.kernels, &self.codes, slot, old.filter(|&slot| !is_new(slot)).chain(new));
            pruning.choose(context.kernels, &self.codes, KEPT, &mut row);
            row
        });
        for (links, row) in full.iter().zip(chosen) {
            self.links.row_mut(links[0].0 as usize).copy_from_slice(&row);
        }
    }
}

/// Runs `work` for items `0..items` on all threads, a few at a time. Returns the results in order.
pub(super) fn in_blocks<R: Send>(context: &Context, items: usize, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let blocks: Vec<Mutex<Vec<R>>> = (0..items.div_ceil(BLOCK)).map(|_| Mutex::default()).collect();
    context.pool.for_each(blocks.len(), |_, block| {
        let results = (block * BLOCK..items.min((block + 1) * BLOCK)).map(&work).collect();
        *blocks[block].lock().unwrap_or_else(PoisonError::into_inner) = results;
    });
    blocks.into_iter().flat_map(|block| block.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}
