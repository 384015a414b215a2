//! Graph: every vector is linked to near ones, and a search walks along links towards the query.
//!
//! One flat graph of at most 32 links per vector, without upper levels: a walk begins at the nearest of a random
//! sample of about the square root of the vectors, which is one scan of bytes side by side. Of near vectors those are
//! linked that no other link leads to (Malkov and Yashunin 2018; Subramanya et al. 2019). Near is what the metric
//! says: an inner product is no distance, but a graph of the largest inner products (Morozov and Babenko 2018) needs
//! several times less work for the same recall on attention keys than one of the smallest distances.
//!
//! Walks compare codes of one byte per number by products of integers, so that they are the same on every machine;
//! what they find is ranked exactly.

mod codes;
mod entries;
mod exact;
mod link;
mod prune;
mod repair;
mod walk;

use std::sync::Arc;

use crate::chunked::Chunked;
use crate::error::{Error, Result};
use crate::file::accepted::first_problem;
use crate::file::{Reader, Writer};
use crate::neighbour::{Neighbour, keep_nearest};
use crate::stock::Stock;
use crate::structure::{Batch, Bytes, Context, Effort, Emit, Request, SlotSet, Structure};
use crate::vectors::Vectors;
use codes::{CodedQuery, Codes};
use entries::Entries;
use walk::{DEGREE, Found, Ground, NONE, Scratch};

/// Queries that one item of parallel work takes.
const BLOCK: usize = 16;
/// Queries whose beginnings are found before their walks.
const TOGETHER: usize = 4096;
/// Vectors ranked exactly for each wanted neighbour (codes order nearly as ranks do), and a few more.
const RANKED: usize = 2;
const RANKED_MORE: usize = 16;
/// A walk that keeps more in sight than this times the square root of the vectors is slower than reading them all.
const WIDEST: usize = 4;
/// More vectors than are ever added: the counter stays far from its end.
const MOST_ADDED: u64 = 1 << 40;

/// The slots in use, ascending.
fn slots_of(taken: &Chunked<bool>) -> impl Iterator<Item = u32> {
    (0..taken.len() as u32).filter(|&slot| taken.row(slot as usize)[0])
}

/// A navigable graph.
#[derive(Debug, Clone)]
pub(crate) struct Graph {
    vectors: Vectors,
    codes: Codes,
    /// `[slots][DEGREE]`, [`NONE`] after the last link.
    links: Chunked<u32>,
    /// `[slots][1]`
    taken: Chunked<bool>,
    /// Slots taken.
    len: usize,
    entries: Arc<Entries>,
    /// Vectors ever added: a counter for random numbers.
    added: u64,
    /// Vectors taken out since all links were looked at.
    unswept: usize,
    /// Of walks, shared by a graph and its copies.
    stock: Arc<Stock<Scratch>>,
}

impl Graph {
    pub fn new(context: &Context) -> Self {
        let codes = Codes::new(context.shape.dimensions, context.shape.metric);
        Self {
            vectors: Vectors::new(context.shape),
            entries: Arc::new(Entries::new(codes.width())),
            codes,
            links: Chunked::new(DEGREE),
            taken: Chunked::new(1),
            len: 0,
            added: 0,
            unswept: 0,
            stock: Arc::new(Stock::new(usize::MAX)),
        }
    }

    fn ground(&self, context: &Context) -> Ground<'_> {
        Ground { kernels: context.kernels, codes: &self.codes, links: &self.links }
    }

    /// Reads what [`Structure::save`] wrote.
    pub fn load(context: &Context, reader: &mut Reader<'_>, taken: &SlotSet, slots: usize) -> Result<Self> {
        let mut graph = Self::new(context);
        graph.vectors = Vectors::load(context, reader, slots, taken)?;
        graph.len = taken.len();
        graph.codes = Codes::load(context, reader, slots)?;
        graph.links = Chunked::load("links", reader, slots, DEGREE)?;
        // Links to free slots are left until they are swept; whatever else is not a slot is damage.
        let problem = first_problem(&context.pool, slots, 0, |slot, _| {
            let stray = graph.links.row(slot).iter().find(|&&to| to != NONE && to as usize >= slots);
            stray.map(|to| format!("a link to slot {to} of {slots}"))
        });
        if let Some((slot, problem)) = problem {
            return Err(reader.invalid::<u32>("links", slot * DEGREE, problem));
        }
        graph.taken.resize(slots, false)?;
        taken.iter().for_each(|slot| graph.taken.row_mut(slot as usize)[0] = true);
        let state = reader.section_of::<u64>("graph", 2)?;
        if state[0] > MOST_ADDED {
            return Err(reader.invalid::<u64>("graph", 0, format!("{} vectors were added", state[0])));
        }
        graph.added = state[0];
        graph.unswept = usize::try_from(state[1]).unwrap_or(usize::MAX).min(slots);
        let entries = reader.section::<u32>("entries")?;
        if let Some(i) = entries.iter().position(|&slot| slot as usize >= slots || !taken.contains(slot)) {
            return Err(reader.invalid::<u32>("entries", i, format!("entry {} is not a vector", entries[i])));
        }
        graph.entries = Arc::new(Entries::of(entries.to_vec(), &graph.codes)?);
        Ok(graph)
    }
}

impl Graph {
    /// Finds neighbours of some queries by walking. `starts` is memory for the beginnings.
    fn search_row(
        &self,
        context: &Context,
        request: &Request<'_>,
        row: usize,
        width: usize,
        starts: &[Found],
        coded: &CodedQuery,
        emit: Emit<'_>,
    ) {
        let d = context.shape.dimensions;
        let query = &request.queries[row * d..(row + 1) * d];
        let scratch = &mut *self.stock.lend();
        self.ground(context).walk(scratch, coded, starts, width);
        let wanted = request.k.saturating_mul(RANKED).saturating_add(RANKED_MORE);
        scratch.pool.retain(|found| self.found(request, found.slot()));
        scratch.pool.truncate(wanted);
        for found in &scratch.pool {
            self.vectors.prefetch(found.slot());
        }
        let mut near: Vec<Neighbour> = scratch
            .pool
            .iter()
            .map(|found| Neighbour {
                rank: self.vectors.rank(context.kernels, query, found.slot()),
                id: request.ids.id(found.slot()),
            })
            .filter(|neighbour| neighbour.rank >= request.floor)
            .collect();
        keep_nearest(&mut near, request.k);
        emit(row, &near);
    }

    /// How many vectors a walk keeps in sight; none if reading all vectors is better.
    fn width(&self, request: &Request<'_>) -> Option<usize> {
        let Effort::Share(share) = request.effort else { return None };
        let width = request.k.max((f64::from(share) * self.len as f64).ceil() as usize);
        // Of those in sight, as many as are wanted must be allowed.
        let width = match request.allowed {
            Some(allowed) => (width as f64 * self.len as f64 / allowed.len().max(1) as f64).ceil() as usize,
            None => width,
        };
        (width < self.len && width <= WIDEST * self.len.isqrt()).then_some(width)
    }
}

impl Structure for Graph {
    fn fork(&self) -> Box<dyn Structure> {
        Box::new(self.clone())
    }

    fn insert(&mut self, context: &Context, batch: Batch<'_>) -> Result<()> {
        let slots = batch.slots.iter().max().map_or(0, |&slot| slot as usize + 1);
        self.vectors.reserve(slots)?;
        self.codes.reserve(slots)?;
        if slots > self.taken.len() {
            self.links.resize(slots, NONE)?;
            self.taken.resize(slots, false)?;
        }
        let d = context.shape.dimensions;
        let len = self.len + batch.slots.len();
        if self.codes.stale(len) {
            self.codes.unshare((0..slots as u32).step_by(crate::chunked::ROWS))?;
            self.fit(context, batch, len);
            self.codes.refill(context, &self.vectors, slots_of(&self.taken));
            let mut entries = (*self.entries).clone();
            entries.refill(&self.codes)?;
            self.entries = Arc::new(entries);
        } else {
            self.codes.unshare(batch.slots.iter().copied())?;
        }
        for &slot in batch.slots {
            self.taken.unshare(slot as usize)?;
        }
        for (&slot, vector) in batch.slots.iter().zip(batch.vectors.chunks_exact(d)) {
            self.codes.store(slot, vector);
        }
        self.vectors.store(context, batch);
        self.link(context, batch.slots)
    }

    fn remove(&mut self, context: &Context, slots: &[u32]) -> Result<()> {
        for &slot in slots {
            self.taken.unshare(slot as usize)?;
        }
        for &slot in slots {
            self.taken.row_mut(slot as usize)[0] = false;
        }
        self.len -= slots.len();
        let unlinked = self.unlink(context, slots);
        if unlinked.is_err() {
            self.len += slots.len();
            for &slot in slots {
                self.taken.row_mut(slot as usize)[0] = true;
            }
        }
        unlinked
    }

    fn compact(&mut self, _: &Context, renumber: &[u32]) -> Result<()> {
        let len = renumber.iter().filter(|&&new| new != u32::MAX).count();
        let mut links = Chunked::new(DEGREE);
        links.resize(len, NONE)?;
        for (old, &new) in renumber.iter().enumerate().filter(|(_, new)| **new != u32::MAX) {
            let kept = self.links.row(old).iter().take_while(|&&to| to != NONE).map(|&to| renumber[to as usize]);
            links
                .row_mut(new as usize)
                .iter_mut()
                .zip(kept.filter(|&to| to != u32::MAX))
                .for_each(|(to, link)| *to = link);
        }
        links.shrink();
        let mut taken = Chunked::new(1);
        taken.resize(len, true)?;
        taken.shrink();
        let codes = self.codes.renumbered(renumber, len)?;
        let entries = self.entries.slots().iter().map(|&slot| renumber[slot as usize]).collect();
        let entries = Arc::new(Entries::of(entries, &codes)?);
        let vectors = self.vectors.renumbered(renumber, len)?;
        self.stock.clear();
        let (added, stock) = (self.added, Arc::clone(&self.stock));
        *self = Self { vectors, codes, links, taken, len, entries, added, unswept: 0, stock };
        Ok(())
    }

    fn read(&self, context: &Context, slot: u32, vector: &mut [f32]) {
        self.vectors.read(context.kernels, slot, vector);
    }

    fn value(&self, slot: u32) -> &[f32] {
        self.vectors.value(slot)
    }

    fn search(&self, context: &Context, request: &Request<'_>, emit: Emit<'_>) -> Result<()> {
        let Some(width) = self.width(request) else { return self.search_exactly(context, request, emit) };
        let d = context.shape.dimensions;
        let n = request.queries.len() / d;
        let begin = |row: usize| {
            let coded = self.codes.query(context.shape.metric, &request.queries[row * d..(row + 1) * d]);
            let mut starts = Vec::with_capacity(entries::STARTS + 1);
            self.entries.nearest(context.kernels, &coded, &mut starts);
            (row, coded, starts)
        };
        if n < 2 * BLOCK {
            context.pool.for_each(n, |_, row| {
                if !request.cancelled() {
                    let (row, coded, starts) = begin(row);
                    self.search_row(context, request, row, width, &starts, &coded, emit);
                }
            });
        } else {
            // Queries that begin at the same entry read the same parts of the graph: one after another. In parts, as
            // what is kept for each query is not small.
            for first in (0..n).step_by(TOGETHER) {
                let rows = first..n.min(first + TOGETHER);
                let begun = link::in_blocks(context, rows.len(), |i| begin(first + i));
                let mut begun: Vec<_> = begun.into_iter().collect();
                begun.sort_unstable_by_key(|(row, _, starts)| (starts.first().map(|start| start.slot()), *row));
                context.pool.for_each(begun.len().div_ceil(BLOCK), |_, block| {
                    for (row, coded, starts) in &begun[block * BLOCK..begun.len().min((block + 1) * BLOCK)] {
                        if !request.cancelled() {
                            self.search_row(context, request, *row, width, starts, coded, emit);
                        }
                    }
                });
            }
        }
        if request.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn save(&self, _: &Context, writer: &mut Writer<'_>, slots: usize) -> Result<()> {
        self.vectors.save(writer, slots)?;
        self.codes.save(writer, slots)?;
        self.links.save("links", writer, slots)?;
        writer.section("graph", &[self.added, self.unswept as u64])?;
        writer.section("entries", self.entries.slots())
    }

    fn bytes(&self) -> Bytes {
        let parts = [self.links.bytes(), self.taken.bytes(), self.entries.bytes()];
        let scratch = self.stock.bytes();
        parts
            .into_iter()
            .fold(self.vectors.bytes() + self.codes.bytes(), |sum, (live, reserved)| sum + Bytes { live, reserved })
            + Bytes { live: 0, reserved: scratch }
    }

    fn clusters(&self) -> usize {
        0
    }
}

impl Graph {
    /// Computes how to code the vectors there are and those to come.
    fn fit(&mut self, context: &Context, batch: Batch<'_>, len: usize) {
        let d = context.shape.dimensions;
        let old: Vec<u32> = slots_of(&self.taken).collect();
        let mut sample = Vec::new();
        let mut vector = vec![0.0; d];
        for i in Codes::sample(len) {
            if let Some(&slot) = old.get(i) {
                self.vectors.read(context.kernels, slot, &mut vector);
                sample.extend_from_slice(&vector);
            } else {
                let i = i - old.len();
                sample.extend_from_slice(&batch.vectors[i * d..(i + 1) * d]);
            }
        }
        self.codes.fit(&sample, len);
    }
}
