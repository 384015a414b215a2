//! Which clusters a query reads.

use iceformer_simd::LANES;

use crate::metric::Metric;
use crate::scan::Scan;
use crate::scan::centres::Centres;
use crate::scan::nearest::kth_largest;
use crate::scan::query::{Queries, QuerySize};
use crate::scan::search::{Scratch, Task};

/// Queries that choose clusters together: their products with all centres stay in the second-level cache.
const CHOOSE_ROWS: usize = 32;
/// How far the vectors of a cluster are taken to reach towards the query, as a share of its radius, when clusters
/// are chosen. Measured on keys of attention and on embeddings of sentences.
const REACH: f32 = 0.4;

/// Set in the block number of pairs that are read after all others.
pub(super) const LATER: u32 = 1 << 31;

impl Scan {
    /// Lists what to read in `scratch.pairs`: for every row its best blocks, then (marked [`LATER`]) the others,
    /// both in the order of blocks.
    pub(super) fn choose(&self, task: &Task<'_>, queries: &Queries<'_>, scratch: &mut Scratch) {
        let Some(centres) = &self.centres else { return };
        let (metric, width) = (task.context.shape.metric, centres.panels() * LANES);
        let probes = task.probes.unwrap_or(centres.len()).min(centres.len());
        let lead = task.request.k.div_ceil(self.target).saturating_add(1).min(probes);
        scratch.products.resize(CHOOSE_ROWS.min(queries.rows()) * width, 0.0);
        for first in (0..queries.rows()).step_by(CHOOSE_ROWS) {
            let rows = CHOOSE_ROWS.min(queries.rows() - first);
            centres.scan(task.context, queries, first..first + rows, &mut scratch.products, &mut scratch.masks);
            for (row, estimates) in scratch.products.chunks_exact_mut(width).take(rows).enumerate() {
                let size = &queries.sizes[first + row];
                estimate(metric, centres, size, estimates, &mut scratch.largest);
                let chosen = &mut scratch.chosen;
                best(estimates, &scratch.largest, centres.len(), probes, chosen);
                if lead < chosen.len() {
                    chosen.select_nth_unstable_by(lead, |&a, &b| {
                        estimates[b as usize].total_cmp(&estimates[a as usize]).then(a.cmp(&b))
                    });
                }
                let mark = |i: usize| if i < lead { 0 } else { LATER };
                let pairs = chosen.iter().enumerate().map(|(i, &block)| (block | mark(i), (first + row) as u32));
                scratch.pairs.extend(pairs);
            }
        }
        // By block, the rows in order: by counting, which for many pairs is several times quicker than comparing.
        let count = self.blocks.len();
        let place = |pair: u32| (pair & !LATER) as usize + if pair & LATER == 0 { 0 } else { count };
        if scratch.pairs.len() < count {
            scratch.pairs.sort_unstable();
            return;
        }
        scratch.starts.clear();
        scratch.starts.resize(2 * count + 1, 0);
        for &(block, _) in &scratch.pairs {
            scratch.starts[place(block) + 1] += 1;
        }
        for i in 0..2 * count {
            scratch.starts[i + 1] += scratch.starts[i];
        }
        scratch.sorted.clear();
        scratch.sorted.resize(scratch.pairs.len(), (0, 0));
        for &pair in &scratch.pairs {
            let next = &mut scratch.starts[place(pair.0)];
            scratch.sorted[*next as usize] = pair;
            *next += 1;
        }
        std::mem::swap(&mut scratch.pairs, &mut scratch.sorted);
    }
}

/// Turns products with centres, `[16 * panels]`, into estimates of the best score in each cluster, and notes the largest
/// of each panel.
fn estimate(metric: Metric, centres: &Centres, size: &QuerySize, products: &mut [f32], largest: &mut Vec<f32>) {
    let len = centres.len();
    let (panels, rest) = products[..len].as_chunks_mut::<LANES>();
    let (halves, rest_halves) = centres.halves()[..len].as_chunks::<LANES>();
    let (radii, rest_radii) = centres.radii()[..len].as_chunks::<LANES>();
    largest.clear();
    for ((products, halves), radii) in panels.iter_mut().zip(halves).zip(radii) {
        largest.push(estimate_panel(metric, size, products, halves, radii));
    }
    if !rest.is_empty() {
        largest.push(estimate_panel(metric, size, rest, rest_halves, rest_radii));
    }
}

/// Estimates for the centres of a panel, and the largest of them.
#[inline]
fn estimate_panel(metric: Metric, size: &QuerySize, products: &mut [f32], halves: &[f32], radii: &[f32]) -> f32 {
    let (length, squared) = (size.length * REACH, size.squared as f32);
    if metric == Metric::L2 {
        for ((product, half), radius) in products.iter_mut().zip(halves).zip(radii) {
            let score = *product + half;
            let away = (squared - 2.0 * score).max(0.0).sqrt();
            *product = score + REACH * away * radius;
        }
    } else {
        for (product, radius) in products.iter_mut().zip(radii) {
            *product += length * radius;
        }
    }
    products.iter().fold(f32::NEG_INFINITY, |most, &product| if product > most { product } else { most })
}

/// The `count` largest of the first `len` estimates, in no particular order.
fn best(estimates: &[f32], largest: &[f32], len: usize, count: usize, chosen: &mut Vec<u32>) {
    chosen.clear();
    if count >= len {
        chosen.extend(0..len as u32);
        return;
    }
    // So many panels have an estimate of at least this, so the `count`-th largest estimate is no less.
    let least = if count <= largest.len() { kth_largest(largest.iter().copied(), count) } else { f32::NEG_INFINITY };
    for (panel, (estimates, &most)) in estimates.as_chunks::<LANES>().0.iter().zip(largest).enumerate() {
        if most >= least {
            for (lane, &estimate) in estimates.iter().enumerate() {
                if estimate >= least && panel * LANES + lane < len {
                    chosen.push((panel * LANES + lane) as u32);
                }
            }
        }
    }
    if chosen.len() > count {
        chosen.select_nth_unstable_by(count - 1, |&a, &b| {
            estimates[b as usize].total_cmp(&estimates[a as usize]).then(a.cmp(&b))
        });
        chosen.truncate(count);
    }
}
