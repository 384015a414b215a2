//! Exact and clustered search by scanning: vectors lie in blocks, and queries read whole blocks.
//!
//! ```text
//!            queries  (coded as signed bytes)
//!               |
//!   centres ----+--> choose: the clusters that may hold the best     (matrix product; exact search: all)
//!               |
//!   codes   ----+--> scan: one byte per number, sixteen vectors at a time, every score within a known bound
//!               |
//!   rows    ----+--> rank: the few that are left, exactly
//! ```
//!
//! Without clusters blocks are runs of vectors in no particular order, and every query reads all of them. With
//! clusters a block is a cluster (k-means): a vector joins the nearest, a cluster that has grown too large is split,
//! one that has grown too small dissolves into its neighbours, and when the index has grown to a multiple of the size
//! it was clustered at, or as many vectors have come and gone as there are, all is clustered anew. (The layout is that
//! of an inverted file: Sivic and Zisserman 2003; Jégou, Douze and Schmid 2011. Splitting and merging as in `SPFresh`:
//! Xu et al. 2023.)

mod block;
mod build;
mod centres;
mod choose;
mod code_tiles;
mod file;
mod nearest;
mod query;
mod reading;
mod search;
mod train;

use std::sync::Arc;

use crate::chunked::Chunked;
use crate::error::Result;
use crate::file::{Buffer, Writer};
use crate::metric::Metric;
use crate::row::RowFormat;
use crate::structure::{Batch, Bytes, Context, Emit, Outline, Request, Structure};

use block::{Block, Member};
use centres::Centres;

/// Numbers (vectors times dimensions) from which [`Clustering::WhenLarge`] clusters: up to there a batch of queries reads
/// everything as quickly as it chooses (measured on keys of attention, 16,384 of 64 dimensions, where a tenth to a
/// quarter of the clusters must be read), and a single query does not wait long either.
const LARGE: usize = 2 << 20;
/// Vectors from which [`Clustering::Always`] clusters.
const FEWEST_CLUSTERED: usize = 1024;
/// Vectors of a block without clusters.
const RUN: usize = 1024;
/// An index is clustered anew when it has grown to so many times the size it was clustered at.
const GROWTH: usize = 4;
/// The block of a free slot.
const NOWHERE: u32 = u32::MAX;

/// Whether vectors are grouped by where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clustering {
    /// Every search reads everything.
    Never,
    /// As soon as it is worth it.
    WhenLarge,
    /// As soon as there are enough for a few clusters.
    Always,
}

/// Vectors in blocks; see the module.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    format: RowFormat,
    clustering: Clustering,
    /// L2 only: near the middle of all vectors, so that lengths, and with them errors, are small. `[dimensions]` or
    /// empty.
    origin: Arc<[f32]>,
    len: usize,
    blocks: Vec<Arc<Block>>,
    /// `[slots][1]`: the block of each slot.
    places: Chunked<u32>,
    /// Of each block; `None` without clusters.
    centres: Option<Arc<Centres>>,
    /// Vectors that a cluster should have.
    target: usize,
    /// Vectors when all was last clustered.
    clustered_at: usize,
    /// Vectors added and removed since.
    changes: usize,
}

impl Scan {
    pub fn new(context: &Context, clustering: Clustering) -> Self {
        let shape = context.shape;
        Self {
            format: RowFormat { storage: shape.storage, dimensions: shape.dimensions },
            clustering,
            origin: Arc::from([]),
            len: 0,
            blocks: Vec::new(),
            places: Chunked::new(1),
            centres: None,
            target: RUN,
            clustered_at: 0,
            changes: 0,
        }
    }

    fn len(&self) -> usize {
        self.len
    }

    /// True if an index of `len` vectors should have clusters.
    fn clusters_at(&self, len: usize) -> bool {
        match self.clustering {
            Clustering::Never => false,
            Clustering::WhenLarge => len >= FEWEST_CLUSTERED * 4 && len * self.format.dimensions >= LARGE,
            Clustering::Always => len >= FEWEST_CLUSTERED,
        }
    }

    /// The block of a slot.
    fn place(&self, slot: u32) -> Option<u32> {
        if slot as usize >= self.places.len() {
            return None;
        }
        Some(self.places.row(slot as usize)[0]).filter(|&block| block != NOWHERE)
    }

    /// Copies a block's centre to where clusters are chosen by.
    fn note_centre(&mut self, index: usize) {
        if let Some(centres) = &mut self.centres {
            let block = &self.blocks[index];
            Arc::make_mut(centres).set(index, block.centre(), block.radius());
        }
    }
}

impl Structure for Scan {
    fn fork(&self) -> Box<dyn Structure> {
        Box::new(self.clone())
    }

    fn insert(&mut self, context: &Context, batch: Batch<'_>) -> Result<()> {
        if batch.slots.is_empty() {
            return Ok(());
        }
        let (words, width) = (self.format.words(), context.shape.value_dimensions);
        let rows = self.encode(context, &batch)?;
        let members: Vec<Member<'_>> = batch
            .slots
            .iter()
            .enumerate()
            .map(|(i, &slot)| Member {
                row: &rows[i * words..(i + 1) * words],
                value: &batch.values[i * width..(i + 1) * width],
                slot,
            })
            .collect();
        let slots = batch.slots.iter().max().map_or(0, |&slot| slot as usize + 1);
        if slots > self.places.len() {
            self.places.resize(slots, NOWHERE)?;
        }
        if context.shape.metric == Metric::L2 && self.len == 0 {
            self.origin = build::mean(self.format.dimensions, batch.vectors);
        }
        let len = self.len + members.len();
        let changes = self.changes + members.len();
        // Splitting and dissolving follow what comes and goes, but not for ever: after as many changes as there are
        // vectors the clusters are those of vectors that are gone.
        let outdated = len >= GROWTH * self.clustered_at || changes >= len;
        if self.clusters_at(len) && (self.centres.is_none() || outdated) {
            return self.cluster_all(context, &members);
        }
        if self.centres.is_some() {
            self.join_clusters(context, &members)?;
        } else {
            self.join_runs(context, &members)?;
        }
        self.changes = changes;
        Ok(())
    }

    fn remove(&mut self, context: &Context, slots: &[u32]) -> Result<()> {
        self.take(context, slots)?;
        self.changes += slots.len();
        Ok(())
    }

    fn compact(&mut self, context: &Context, renumber: &[u32]) -> Result<()> {
        self.tidy(context, renumber)
    }

    fn read(&self, context: &Context, slot: u32, vector: &mut [f32]) {
        let Some((block, position)) = self.find_slot(slot) else { return };
        self.format.decode(context.kernels, block.row(self.format.words(), position), vector);
    }

    fn value(&self, slot: u32) -> &[f32] {
        match self.find_slot(slot) {
            Some((block, position)) => block.value(block.values().len() / block.len(), position),
            None => &[],
        }
    }

    fn search(&self, context: &Context, request: &Request<'_>, emit: Emit<'_>) -> Result<()> {
        self.find(context, request, emit)
    }

    fn save(&self, _: &Context, writer: &mut Writer<'_>, _: usize) -> Result<()> {
        self.write(writer)
    }

    fn parts(&self) -> Option<usize> {
        Some(self.blocks.len())
    }

    fn read_part(&self, context: &Context, part: usize, vectors: &mut Vec<f32>, values: &mut Vec<f32>) {
        let (block, d) = (&self.blocks[part], self.format.dimensions);
        let start = vectors.len();
        vectors.resize(start + block.len() * d, 0.0);
        let rows = block.rows().chunks_exact(self.format.words());
        for (row, vector) in rows.zip(vectors[start..].chunks_exact_mut(d)) {
            self.format.decode(context.kernels, row, vector);
        }
        values.extend_from_slice(block.values());
    }

    fn outline(&self, part: usize) -> Option<Outline<'_>> {
        self.centres.as_ref().map(|_| self.blocks[part].outline())
    }

    fn bytes(&self) -> Bytes {
        let (live, reserved) = self.places.bytes();
        let fixed = self.blocks.capacity() * size_of::<Arc<Block>>()
            + self.centres.as_ref().map_or(0, |centres| centres.bytes());
        self.blocks
            .iter()
            .fold(Bytes { live: live + fixed, reserved: reserved + fixed }, |sum, block| sum + block.bytes())
    }

    fn clusters(&self) -> usize {
        self.centres.as_ref().map_or(0, |centres| centres.len())
    }
}

impl Scan {
    fn find_slot(&self, slot: u32) -> Option<(&Block, usize)> {
        let block = &self.blocks[self.place(slot)? as usize];
        Some((block, block.position(slot)?))
    }

    /// The rows of a batch, `[n][words]`, as they are stored.
    fn encode(&self, context: &Context, batch: &Batch<'_>) -> Result<Buffer<u32>> {
        let (words, d) = (self.format.words(), self.format.dimensions);
        let mut rows = Buffer::try_zeroed(batch.slots.len() * words)?;
        let parts: Vec<_> = rows.make_mut()?.chunks_mut(words * 1024).map(std::sync::Mutex::new).collect();
        context.pool.for_each(parts.len(), |_, part| {
            let mut rows = parts[part].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let vectors = batch.vectors[part * 1024 * d..].chunks_exact(d);
            for (row, vector) in rows.chunks_exact_mut(words).zip(vectors) {
                self.format.encode(context.kernels, vector, row);
            }
        });
        drop(parts);
        Ok(rows)
    }
}

#[cfg(test)]
mod tests;
