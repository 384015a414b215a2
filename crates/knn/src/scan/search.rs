//! Hard search: which blocks a query reads, and what it finds there.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::neighbour::{Neighbour, keep_nearest};
use crate::row::prefetch_row;
use crate::scan::Scan;
use crate::scan::choose::LATER;
use crate::scan::nearest::Nearest;
use crate::scan::query::{Queries, QuerySize};
use crate::scan::reading::ScanScratch;
use crate::structure::{Context, Effort, Emit, Request, SlotSet};

/// Queries that read blocks together: enough for many to meet in one cluster, so that its codes come from memory once.
const GROUP: usize = 1024;
/// The same when everything is read anyway: few enough for their candidates to stay in the second-level cache.
const GROUP_OF_ALL: usize = 128;
/// Bytes of codes from which one query is worth the work of all threads.
const SHARED_BYTES: usize = 4 << 20;
/// Rank vectors one by one if fewer than one in so many may be found.
const FEW_ALLOWED: usize = 16;
/// Errors of a scan rarely line up: without a promise of exactness this many standard deviations are allowed for
/// (the bound divided by the root of the dimensions is about one). That loses one neighbour in several thousand.
const DEVIATIONS: f32 = 1.0;

/// Memory of a thread for searching, kept from call to call.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[rows][16 * panels]`: scores of queries with centres, then estimates.
    pub products: Vec<f32>,
    /// `[rows][panels]`
    pub masks: Vec<u16>,
    /// Largest estimate of each panel.
    pub largest: Vec<f32>,
    /// Blocks chosen by a query; in no particular order.
    pub chosen: Vec<u32>,
    /// Block and row, for each row and block chosen.
    pub pairs: Vec<(u32, u32)>,
    /// Where the pairs of each block begin, and the pairs in that order.
    pub starts: Vec<u32>,
    pub sorted: Vec<(u32, u32)>,
    nearest: Vec<Nearest>,
    found: Vec<Neighbour>,
    scan: ScanScratch,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// What all queries of a request have in common.
pub(super) struct Task<'a> {
    pub context: &'a Context,
    pub request: &'a Request<'a>,
    /// Clusters to read; `None`: all, and always without clusters.
    pub probes: Option<usize>,
    /// Share of the full bound to keep candidates by.
    pub caution: f32,
}

impl Scan {
    pub(super) fn find(&self, context: &Context, request: &Request<'_>, emit: Emit<'_>) -> Result<()> {
        let d = context.shape.dimensions;
        let rows = request.queries.len() / d;
        if let Some(allowed) = request.allowed
            && allowed.len() <= self.len() / FEW_ALLOWED
        {
            return self.rank_allowed(context, request, allowed, emit);
        }
        let probes = match (request.effort, &self.centres) {
            (Effort::Share(share), Some(centres)) => {
                let probes = (f64::from(share) * centres.len() as f64).ceil() as usize;
                (probes < centres.len()).then_some(probes.max(1))
            }
            _ => None,
        };
        let caution = if request.effort == Effort::Exact { 1.0 } else { (DEVIATIONS / (d as f32).sqrt()).min(1.0) };
        let task = Task { context, request, probes, caution };
        let threads = context.pool.threads();
        let read = probes.map_or(self.len(), |probes| probes * self.target) * d;
        if rows < threads && read >= SHARED_BYTES {
            for row in 0..rows {
                self.find_one_on_all_threads(&task, row, emit);
            }
        } else {
            // Groups of one size, and so many that no thread waits for another for long.
            let most = if self.centres.is_some() { GROUP } else { GROUP_OF_ALL };
            let rounds = rows.div_ceil(most * threads).max(2);
            let group = rows.div_ceil(rounds * threads).max(1);
            context.pool.for_each(rows.div_ceil(group), |_, item| {
                let first = item * group;
                self.find_group(&task, first, group.min(rows - first), emit);
            });
        }
        if request.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Ranks every allowed vector.
    fn rank_allowed(&self, context: &Context, request: &Request<'_>, allowed: &SlotSet, emit: Emit<'_>) -> Result<()> {
        let d = context.shape.dimensions;
        let rows = request.queries.len() / d;
        let places: Vec<(u32, u32)> = allowed
            .iter()
            .filter_map(|slot| {
                let block = self.place(slot)?;
                Some((block, self.blocks[block as usize].position(slot)? as u32))
            })
            .collect();
        context.pool.for_each(rows, |_, row| {
            let query = &request.queries[row * d..(row + 1) * d];
            let mut found = Vec::new();
            let mut floor = request.floor;
            for (i, &(block, position)) in places.iter().enumerate() {
                if i % 4096 == 0 && request.cancelled() {
                    return;
                }
                let neighbour = self.rank(context, request, query, block, position);
                if neighbour.rank >= floor {
                    found.push(neighbour);
                    if found.len() >= request.k.saturating_mul(2).saturating_add(64) {
                        keep_nearest(&mut found, request.k);
                        floor = found[request.k - 1].rank;
                    }
                }
            }
            keep_nearest(&mut found, request.k);
            emit(row, &found);
        });
        if request.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    #[inline]
    fn rank(&self, context: &Context, request: &Request<'_>, query: &[f32], block: u32, position: u32) -> Neighbour {
        let block = &self.blocks[block as usize];
        let row = block.row(self.format.words(), position as usize);
        let rank = self.format.rank(context.kernels, context.shape.metric, query, row);
        Neighbour { rank, id: request.ids.id(block.slots()[position as usize]) }
    }

    fn find_group(&self, task: &Task<'_>, first: usize, rows: usize, emit: Emit<'_>) {
        let d = task.context.shape.dimensions;
        let queries = Queries::new(task.context, &task.request.queries[first * d..(first + rows) * d], &self.origin);
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { pairs, nearest, scan, .. } = scratch;
            reset(task, &queries, nearest);
            if self.centres.is_none() {
                let mut all = std::mem::take(&mut scan.rows);
                all.clear();
                all.extend(0..rows as u32);
                self.guess(task, &queries, nearest, scan);
                // A second time for those whose guess was too high.
                while !all.is_empty() {
                    for block in 0..self.blocks.len() {
                        if task.request.cancelled() {
                            return;
                        }
                        self.scan_block(task, &queries, block, &all, nearest, scan);
                    }
                    all.retain(|&row| !nearest[row as usize].is_sure());
                    for &row in &all {
                        restart(task, &queries.sizes[row as usize], &mut nearest[row as usize]);
                    }
                }
                scan.rows = all;
            } else {
                pairs.clear();
                self.choose(task, &queries, scratch);
                let Scratch { pairs, nearest, scan, .. } = scratch;
                let mut rows = std::mem::take(&mut scan.rows);
                for run in pairs.chunk_by(|a, b| a.0 == b.0) {
                    if task.request.cancelled() {
                        return;
                    }
                    rows.clear();
                    rows.extend(run.iter().map(|pair| pair.1));
                    self.scan_block(task, &queries, (run[0].0 & !LATER) as usize, &rows, nearest, scan);
                }
                scan.rows = rows;
            }
            let Scratch { nearest, found, .. } = scratch;
            for (row, nearest) in nearest.iter_mut().take(rows).enumerate() {
                self.finish(task, &queries, row, nearest, found);
                emit(first + row, found);
            }
        });
    }

    fn find_one_on_all_threads(&self, task: &Task<'_>, row: usize, emit: Emit<'_>) {
        let d = task.context.shape.dimensions;
        let queries = Queries::new(task.context, &task.request.queries[row * d..(row + 1) * d], &self.origin);
        let pairs: Vec<(u32, u32)> = if self.centres.is_none() {
            (0..self.blocks.len() as u32).map(|block| (block, 0)).collect()
        } else {
            SCRATCH.with_borrow_mut(|scratch| {
                scratch.pairs.clear();
                self.choose(task, &queries, scratch);
                scratch.pairs.clone()
            })
        };
        let threads = task.context.pool.threads();
        let parts: Vec<Mutex<Nearest>> = (0..threads).map(|_| Mutex::new(Nearest::default())).collect();
        task.context.pool.for_each(threads, |_, part| {
            SCRATCH.with_borrow_mut(|scratch| {
                let Scratch { nearest, scan, .. } = scratch;
                reset(task, &queries, nearest);
                for pair in pairs.iter().skip(part).step_by(threads) {
                    if task.request.cancelled() {
                        return;
                    }
                    self.scan_block(task, &queries, (pair.0 & !LATER) as usize, &[0], nearest, scan);
                }
                std::mem::swap(&mut *parts[part].lock().unwrap_or_else(PoisonError::into_inner), &mut nearest[0]);
            });
        });
        let mut parts = parts.into_iter().map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner));
        let Some(mut all) = parts.next() else { return };
        parts.for_each(|part| all.join(part));
        let mut found = Vec::new();
        self.finish(task, &queries, 0, &mut all, &mut found);
        emit(row, &found);
    }

    fn finish(
        &self,
        task: &Task<'_>,
        queries: &Queries<'_>,
        row: usize,
        nearest: &mut Nearest,
        found: &mut Vec<Neighbour>,
    ) {
        let d = task.context.shape.dimensions;
        let query = &queries.exact[row * d..(row + 1) * d];
        let (metric, size) = (task.context.shape.metric, &queries.sizes[row]);
        nearest.finish(
            task.request.floor,
            |candidate| self.rank(task.context, task.request, query, candidate.block, candidate.position),
            |candidate| {
                let block = &self.blocks[candidate.block as usize];
                prefetch_row(block.row(self.format.words(), candidate.position as usize));
            },
            |rank| size.score(metric, rank),
            found,
        );
    }
}

fn reset(task: &Task<'_>, queries: &Queries<'_>, nearest: &mut Vec<Nearest>) {
    if nearest.len() < queries.rows() {
        nearest.resize_with(queries.rows(), Nearest::default);
    }
    for (nearest, size) in nearest.iter_mut().zip(&queries.sizes) {
        restart(task, size, nearest);
    }
}

fn restart(task: &Task<'_>, size: &QuerySize, nearest: &mut Nearest) {
    nearest.reset(task.request.k, size.score(task.context.shape.metric, task.request.floor));
}
