//! Soft search of one index: the average of all stored values, weighted by the softmax of the scores.
//!
//! For inner products this is attention with one head; for L2 it is kernel regression with a Gaussian
//! kernel (Nadaraya 1964, Watson 1964). Scores stream by in blocks: each row keeps the largest score so
//! far and rescales what it has when a larger one comes (online softmax, Milakov and Gimelshein 2018).

use std::f32::consts::LOG2_E;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use iceformer_simd::{Kernels, LANES};

use crate::cluster::Clusters;
use crate::error::{Error, Result};
use crate::keys::{QueryRows, RowData};
use crate::metric::Metric;
use crate::reading::{BLOCK_ROWS, ClusterPlace, Gathered, Group, MAX_STEP, step_tiles};
use crate::search::{Snapshot, filled};

/// Parts that the reading of all vectors is cut into, over all groups of queries: enough for any number of
/// threads, and the same for every number, so that sums come out the same.
const PARTS: usize = 64;
/// Largest exponent that a cluster's spread may add to the estimate of its mass: clusters of outliers
/// would be read first otherwise.
const SPREAD_CAP: f32 = 16.0;
/// Scores times scale must stay below this.
const MAX_EXPONENT: f64 = 1e30;

/// What a soft search weighs and reads.
#[derive(Debug, Clone, Copy)]
pub struct AverageOptions<'a> {
    /// Factor of every score before the softmax, above 0. For L2 the score is the negated squared distance.
    pub scale: f32,
    /// Share of the softmax's mass to compute exactly, above 0 and at most 1. Below 1 clusters are read
    /// until the others are estimated to hold less than the rest, and those stand in by their means. L2
    /// always reads everything.
    pub mass_target: f32,
    /// Set to true by another thread to make the search return [`Error::Cancelled`].
    pub cancel: Option<&'a AtomicBool>,
}

/// Weighted averages of values.
#[derive(Debug, Clone, PartialEq)]
pub struct Averages {
    /// `[queries][value_dimensions]`; zeros if the index is empty.
    pub values: Vec<f32>,
    /// Natural logarithm of the sum of the exponentials of the scaled scores, `[queries]`; −∞ if the index
    /// is empty.
    pub log_sum_exp: Vec<f32>,
    /// Share of the mass that was computed exactly, `[queries]`, where the rest is estimated from the means
    /// of what was not read; 1 if everything was read.
    pub retained_mass: Vec<f32>,
}

impl Snapshot {
    /// The average of all values for each query, weighted by the softmax of `scale` times the score;
    /// `queries` is `[n][dimensions]`.
    pub fn soft_search(&self, queries: &[f32], options: AverageOptions<'_>) -> Result<Averages> {
        let (dimensions, width) = (self.shape.dimensions, self.shape.value_dimensions);
        if width == 0 {
            return Err(Error::NoValues);
        }
        if !(options.scale > 0.0 && options.scale.is_finite()) {
            return Err(Error::SoftSearch { what: "scale", value: options.scale, allowed: "above 0 and finite" });
        }
        if !(options.mass_target > 0.0 && options.mass_target <= 1.0) {
            let value = options.mass_target;
            return Err(Error::SoftSearch { what: "massTarget", value, allowed: "above 0 and at most 1" });
        }
        if !queries.len().is_multiple_of(dimensions) {
            return Err(Error::RaggedBatch { what: "queries", length: queries.len(), dimensions });
        }
        let longest = self.segments.iter().fold(0.0_f64, |longest, segment| longest.max(segment.longest()));
        for (row, query) in queries.chunks_exact(dimensions).enumerate() {
            let reach = longest + self.shape.metric.check(query, "query", row)?;
            if reach * reach * f64::from(options.scale) > MAX_EXPONENT {
                let allowed = "small enough for scaled scores to stay below 1e30";
                return Err(Error::SoftSearch { what: "scale", value: options.scale, allowed });
            }
        }
        let count = queries.len() / dimensions;
        let mut averages = Averages {
            values: filled(count * width, 0.0)?,
            log_sum_exp: filled(count, f32::NEG_INFINITY)?,
            retained_mass: filled(count, 1.0)?,
        };
        if count > 0 && self.len > 0 {
            self.average_groups(queries, options, &mut averages)?;
        }
        Ok(averages)
    }

    fn average_groups(&self, queries: &[f32], options: AverageOptions<'_>, averages: &mut Averages) -> Result<()> {
        let (dimensions, width) = (self.shape.dimensions, self.shape.value_dimensions);
        let stop = || options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed));
        // For L2 a cluster's mean and spread say too little of its mass: on clusters that mix groups of keys a
        // target of 0.99 kept 0.69. So there everything is read.
        let selects = options.mass_target < 1.0
            && self.shape.metric != Metric::L2
            && self.segments.iter().any(|segment| segment.clusters().is_some());
        let plans: Vec<Mutex<Option<(Group, Unread)>>> =
            queries.chunks(BLOCK_ROWS * dimensions).map(|_| Mutex::new(None)).collect();
        self.pool.for_each(plans.len(), |_, item| {
            if stop() {
                return;
            }
            let start = item * BLOCK_ROWS * dimensions;
            let end = queries.len().min(start + BLOCK_ROWS * dimensions);
            let mut group = self.prepare(&queries[start..end]);
            group.keep_rest(self.shape, self.kernels);
            let unread = if selects {
                group.read_segments(&self.segments, |segment| segment.clusters().is_none());
                self.select(&mut group, options)
            } else {
                group.read_segments(&self.segments, |_| true);
                Unread::default()
            };
            *plans[item].lock().unwrap_or_else(PoisonError::into_inner) = Some((group, unread));
        });
        if stop() {
            return Err(Error::Cancelled);
        }
        let plans: Vec<(Group, Unread)> =
            plans.into_iter().filter_map(|plan| plan.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
        let parts = (PARTS / plans.len()).max(1);
        let sums: Vec<Mutex<Option<Sums>>> = (0..plans.len() * parts).map(|_| Mutex::new(None)).collect();
        self.pool.for_each(sums.len(), |_, item| {
            if !stop() {
                let read = self.average_part(&plans[item / parts].0, item % parts, parts, options.scale, &stop);
                *sums[item].lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
            }
        });
        if stop() {
            return Err(Error::Cancelled);
        }
        let mut sums = sums.into_iter().filter_map(|sums| sums.into_inner().unwrap_or_else(PoisonError::into_inner));
        let mut row = 0;
        for (group, unread) in &plans {
            let mut total = Sums::new(group.rows, width);
            for part in sums.by_ref().take(parts) {
                total.merge(&part);
            }
            let exact: Vec<(f32, f32)> = total.largest.iter().copied().zip(total.sum.iter().copied()).collect();
            self.stand_in(&mut total, group, unread);
            for (i, (exact_largest, exact_sum)) in exact.into_iter().enumerate() {
                let (largest, sum) = (total.largest[i], total.sum[i]);
                let values = &total.values[i * total.stride..][..width];
                for (to, from) in averages.values[row * width..(row + 1) * width].iter_mut().zip(values) {
                    *to = from / sum;
                }
                // |q|² was left out of all squared distances.
                let shift = match self.shape.metric {
                    Metric::L2 => f64::from(options.scale) * group.lengths[i] * group.lengths[i],
                    _ => 0.0,
                };
                let log = (f64::from(largest) + f64::from(sum).log2()) * std::f64::consts::LN_2;
                averages.log_sum_exp[row] = (log - shift) as f32;
                averages.retained_mass[row] = (exact_sum * (exact_largest - largest).exp2() / sum).min(1.0);
                row += 1;
            }
        }
        Ok(())
    }

    /// Factor from a kernel's score to a base-2 exponent.
    fn exponent_factor(&self, scale: f32) -> f32 {
        // The kernel's score for L2 is half of |q|² less the squared distance.
        scale * LOG2_E * if self.shape.metric == Metric::L2 { 2.0 } else { 1.0 }
    }

    /// Sums up one of `parts` parts of the group's list.
    fn average_part(&self, group: &Group, part: usize, parts: usize, scale: f32, stop: &impl Fn() -> bool) -> Sums {
        let factor = self.exponent_factor(scale);
        let mut sums = Sums::new(group.rows, self.shape.value_dimensions);
        let (mut gathered, mut gathered_rest) = (Gathered::default(), Gathered::default());
        let mut scores = vec![0.0_f32; BLOCK_ROWS * MAX_STEP * LANES];
        let mut exponents = vec![0.0_f32; BLOCK_ROWS * MAX_STEP * LANES];
        let mut panels = Vec::new();
        let everyone: Vec<u32> = (0..group.rows as u32).collect();
        let share = group.readings.len() * part / parts..group.readings.len() * (part + 1) / parts;
        for reading in &group.readings[share] {
            if stop() {
                break;
            }
            let segment = &*self.segments[reading.segment as usize];
            let readers = group.readers(reading).unwrap_or(&everyone);
            let step = step_tiles(segment.keys().bytes_per_tile());
            let queries = gathered.block(self.shape, group, readers);
            let rest = gathered_rest.rest(self.shape, group, readers);
            for first in (reading.first..reading.first + reading.tiles).step_by(step) {
                let tiles = step.min(reading.first + reading.tiles - first);
                let columns = tiles * LANES;
                segment.keys().multiply(self.kernels, queries, first, tiles, &mut scores);
                if let Some(rest) = rest {
                    segment.keys().multiply_add(self.kernels, rest, first, tiles, &mut scores);
                }
                let valid = columns.min(segment.len() - first * LANES);
                pack(&mut panels, segment.values_from(first * LANES), valid, columns, self.shape.value_dimensions);
                let offsets = segment.offsets(first, tiles);
                let rows = scores.chunks_exact_mut(columns).zip(exponents.chunks_exact_mut(columns));
                for (scores, exponents) in rows.take(readers.len()) {
                    if !offsets.is_empty() {
                        self.kernels.add(scores, offsets);
                    }
                    self.kernels.scale(scores, factor, exponents);
                    exponents[valid..].fill(f32::NEG_INFINITY);
                }
                sums.take(self.kernels, readers, &mut exponents, columns, &panels);
            }
        }
        sums
    }

    /// Lists the clusters that hold the mass for each row, by estimate, and returns what is left.
    fn select(&self, group: &mut Group, options: AverageOptions<'_>) -> Unread {
        let dimensions = self.shape.dimensions;
        let places: Vec<ClusterPlace> = self
            .segments
            .iter()
            .enumerate()
            .filter_map(|(index, segment)| Some((index, segment.clusters()?)))
            .flat_map(|(index, clusters)| (0..clusters.count()).map(move |cluster| (index as u32, cluster as u32)))
            .collect();
        let factor = self.exponent_factor(options.scale);
        // Of the mean key alone, which stands in for what is not read, and of the cluster's mass by estimate.
        let mut exponents = vec![f32::NEG_INFINITY; group.rows * places.len()];
        let mut estimates = exponents.clone();
        let mut chosen = Vec::with_capacity(group.rows);
        let queries = QueryRows { rows: group.rows, stride: dimensions, data: RowData::F32(&group.queries) };
        let mut base = 0;
        let mut scores = Vec::new();
        for segment in &self.segments {
            let Some(clusters) = segment.clusters() else { continue };
            let tiles = clusters.means().tiles();
            scores.resize(group.rows * tiles * LANES, 0.0);
            clusters.means().multiply(self.kernels, queries, 0, tiles, &mut scores);
            let sizes = cluster_sizes(clusters, segment.len());
            for (row, scores) in scores.chunks_exact(tiles * LANES).enumerate() {
                let span = row * places.len() + base..row * places.len() + base + clusters.count();
                let targets = exponents[span.clone()].iter_mut().zip(&mut estimates[span]);
                for (cluster, (exponent, estimate)) in targets.enumerate() {
                    let spread = clusters.spreads(cluster / LANES, 1)[cluster % LANES];
                    // Keys that lie normally around their mean weigh this much more than the mean on average.
                    let deviation = options.scale * spread * group.lengths[row] as f32;
                    let gain = (0.5 * deviation * deviation).min(SPREAD_CAP);
                    *exponent = factor * scores[cluster] + sizes[cluster].log2();
                    *estimate = *exponent + gain * LOG2_E;
                }
            }
            base += clusters.count();
        }
        for (exponents, estimates) in exponents.chunks_exact_mut(places.len()).zip(estimates.chunks_exact(places.len()))
        {
            let largest = self.kernels.largest(estimates);
            let mut order: Vec<u32> = (0..places.len() as u32).collect();
            order.sort_unstable_by(|&a, &b| estimates[b as usize].total_cmp(&estimates[a as usize]).then(a.cmp(&b)));
            let mass = |&cluster: &u32| f64::from((estimates[cluster as usize] - largest).exp2());
            let total: f64 = order.iter().map(mass).sum();
            let mut left = total;
            let mut wanted = Vec::new();
            for cluster in order {
                if left <= f64::from(1.0 - options.mass_target) * total {
                    break;
                }
                left -= mass(&cluster);
                wanted.push(places[cluster as usize]);
                // What is read does not stand in.
                exponents[cluster as usize] = f32::NEG_INFINITY;
            }
            chosen.push(wanted);
        }
        group.read_clusters(&self.segments, |row| &chosen[row]);
        Unread { exponents, clusters: places.len() }
    }

    /// Adds the clusters that were not read, each as its mean key and mean value.
    fn stand_in(&self, sums: &mut Sums, group: &Group, unread: &Unread) {
        let width = self.shape.value_dimensions;
        let rows: Vec<u32> = (0..group.rows as u32).collect();
        let mut panels = Vec::new();
        let mut block = Vec::new();
        let mut base = 0;
        for segment in &self.segments {
            let Some(clusters) = segment.clusters().filter(|_| unread.clusters > 0) else { continue };
            for first in (0..clusters.count()).step_by(MAX_STEP * LANES) {
                let valid = (clusters.count() - first).min(MAX_STEP * LANES);
                let columns = valid.next_multiple_of(LANES);
                block.clear();
                block.resize(group.rows * columns, f32::NEG_INFINITY);
                for (to, from) in block.chunks_exact_mut(columns).zip(unread.exponents.chunks_exact(unread.clusters)) {
                    to[..valid].copy_from_slice(&from[base + first..base + first + valid]);
                }
                pack(&mut panels, &clusters.values()[first * width..], valid, columns, width);
                sums.take(self.kernels, &rows, &mut block, columns, &panels);
            }
            base += clusters.count();
        }
    }
}

/// Clusters that a group does not read.
#[derive(Default)]
struct Unread {
    /// Base-2 logarithm of the mass that each cluster's mean stands for, `[rows][clusters]`; −∞ where the
    /// cluster is read.
    exponents: Vec<f32>,
    clusters: usize,
}

/// Vectors in each cluster.
fn cluster_sizes(clusters: &Clusters, len: usize) -> Vec<f32> {
    let leaf = clusters.leaf_tiles() * LANES;
    (0..clusters.count()).map(|cluster| leaf.min(len - cluster * leaf) as f32).collect()
}

/// Packs the first `valid` of `values`, `[n][width]`, into panels `[width/16][columns][16]`, zeros elsewhere.
fn pack(panels: &mut Vec<f32>, values: &[f32], valid: usize, columns: usize, width: usize) {
    panels.clear();
    panels.resize(width.div_ceil(LANES) * columns * LANES, 0.0);
    for (column, value) in values.chunks_exact(width).take(valid).enumerate() {
        for (panel, part) in value.chunks(LANES).enumerate() {
            panels[(panel * columns + column) * LANES..][..part.len()].copy_from_slice(part);
        }
    }
}

/// Weighted sums so far.
struct Sums {
    /// Numbers between rows of `values`: the value's dimensions up to whole panels.
    stride: usize,
    /// Largest base-2 exponent, `[rows]`.
    largest: Vec<f32>,
    /// Sum of 2^(exponent − largest), `[rows]`.
    sum: Vec<f32>,
    /// The same times the values, `[rows][stride]`.
    values: Vec<f32>,
    product: Vec<f32>,
}

impl Sums {
    fn new(rows: usize, width: usize) -> Self {
        let stride = width.next_multiple_of(LANES);
        Self {
            stride,
            largest: vec![f32::NEG_INFINITY; rows],
            sum: vec![0.0; rows],
            values: vec![0.0; rows * stride],
            product: vec![0.0; rows * stride],
        }
    }

    /// Takes in a block: `exponents` is `[rows.len()][columns]`, `panels` `[stride/16][columns][16]`.
    fn take(&mut self, kernels: &Kernels, rows: &[u32], exponents: &mut [f32], columns: usize, panels: &[f32]) {
        let stride = self.stride;
        for (&row, exponents) in rows.iter().zip(exponents.chunks_exact_mut(columns)) {
            let top = kernels.largest(exponents);
            if top == f32::NEG_INFINITY {
                exponents.fill(0.0);
                continue;
            }
            self.raise(row as usize, top);
            self.sum[row as usize] += kernels.exp2_shifted(exponents, self.largest[row as usize]);
        }
        assert!(exponents.len() >= rows.len() * columns && panels.len() >= stride * columns);
        assert!(self.product.len() >= rows.len() * stride);
        // SAFETY: A is [rows][columns], B stride / 16 panels [columns][16], C [rows][stride]: asserted above.
        unsafe {
            kernels.gemm_f32(
                rows.len(),
                columns,
                exponents.as_ptr(),
                columns,
                panels.as_ptr(),
                columns * LANES,
                stride / LANES,
                self.product.as_mut_ptr(),
                stride,
                false,
            );
        }
        for (&row, product) in rows.iter().zip(self.product.chunks_exact(stride)) {
            kernels.add(&mut self.values[row as usize * stride..][..stride], product);
        }
    }

    /// Makes `top` the largest exponent of a row if it is larger than the one so far.
    fn raise(&mut self, row: usize, top: f32) {
        if top > self.largest[row] {
            let shrink = (self.largest[row] - top).exp2();
            self.largest[row] = top;
            self.sum[row] *= shrink;
            for value in &mut self.values[row * self.stride..(row + 1) * self.stride] {
                *value *= shrink;
            }
        }
    }

    /// Adds other sums over the same rows.
    fn merge(&mut self, other: &Self) {
        for row in 0..self.largest.len() {
            if other.sum[row] > 0.0 {
                self.raise(row, other.largest[row]);
                let share = (other.largest[row] - self.largest[row]).exp2();
                self.sum[row] += share * other.sum[row];
                let range = row * self.stride..(row + 1) * self.stride;
                for (to, from) in self.values[range.clone()].iter_mut().zip(&other.values[range]) {
                    *to += share * from;
                }
            }
        }
    }
}
