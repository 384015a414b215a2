//! Which clusters a query reads.

use iceformer_simd::LANES;

use crate::metric::Metric;
use crate::scan::Scan;
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
                estimate(metric, estimates, centres.offsets(), centres.radii(), size, &mut scratch.largest);
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

/// Turns products with centres into estimates of the best score in each cluster, and notes the largest of each
/// panel.
fn estimate(
    metric: Metric,
    products: &mut [f32],
    offsets: &[f32],
    radii: &[f32],
    size: &QuerySize,
    largest: &mut Vec<f32>,
) {
    largest.clear();
    let tiles = products.as_chunks_mut::<LANES>().0.iter_mut();
    let tiles = tiles.zip(offsets.as_chunks::<LANES>().0).zip(radii.as_chunks::<LANES>().0);
    let (length, squared) = (size.length * REACH, size.squared as f32);
    for ((products, offsets), radii) in tiles {
        if metric == Metric::L2 {
            for lane in 0..LANES {
                let score = products[lane] + offsets[lane];
                let away = (squared - 2.0 * score).max(0.0).sqrt();
                products[lane] = score + REACH * away * radii[lane];
            }
        } else {
            for lane in 0..LANES {
                products[lane] = products[lane] + offsets[lane] + length * radii[lane];
            }
        }
        let mut most = products[0];
        for &product in &products[1..] {
            most = if product > most { product } else { most };
        }
        largest.push(most);
    }
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
