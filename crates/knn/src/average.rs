//! Soft search: the average of all stored values, weighted by the softmax of the scores.
//!
//! For inner products this is attention with one head; for L2 it is kernel regression with a Gaussian
//! kernel (Nadaraya 1964, Watson 1964). Scores stream by in blocks: each row keeps the largest score so
//! far and rescales what it has when a larger one comes (online softmax, Milakov and Gimelshein 2018).
//!
//! Clusters that are estimated to hold little of the mass are not read: each stands in by its mean vector and its
//! mean value, weighted by the number of its vectors.

use std::f32::consts::LOG2_E;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use iceformer_simd::{Kernels, LANES};

use crate::error::{Error, Result};
use crate::input::{self, filled};
use crate::metric::Metric;
use crate::snapshot::Snapshot;
use crate::structure::Outline;

/// Queries that read together.
const BLOCK_ROWS: usize = 64;
/// Vectors in one matrix product.
const COLUMNS: usize = 256;
/// Vectors of a part of a structure that has no parts of its own.
const PART: usize = 1024;
/// Parts that the reading of all vectors is cut into, over all groups of queries: enough for any number of
/// threads, and the same for every number, so that sums come out the same.
const SHARES: usize = 64;
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
    /// until the others are estimated to hold less than the rest, and those stand in by their means. L2, and an
    /// index without clusters, always read everything.
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

/// Some queries, and what they read.
struct Plan {
    rows: usize,
    /// `[rows][dimensions]`, relative to the origin.
    queries: Vec<f32>,
    /// Part, and the rows that read it.
    readings: Vec<(u32, Vec<u32>)>,
    /// Base-2 logarithm of the mass that each part's mean stands for, `[rows][parts]`; −∞ where the part is
    /// read. Empty if everything is read.
    unread: Vec<f32>,
}

/// The stored vectors in parts.
enum Parts {
    /// The structure's own.
    Own(usize),
    /// Runs of [`PART`] of these slots.
    Slots(Vec<u32>),
}

impl Parts {
    fn len(&self) -> usize {
        match self {
            Self::Own(count) => *count,
            Self::Slots(slots) => slots.len().div_ceil(PART),
        }
    }
}

impl Snapshot {
    /// The average of all values for each query, weighted by the softmax of `scale` times the score;
    /// `queries` is `[n][dimensions]`.
    pub fn soft_search(&self, queries: &[f32], options: AverageOptions<'_>) -> Result<Averages> {
        let shape = self.context.shape;
        let (dimensions, width) = (shape.dimensions, shape.value_dimensions);
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
        let count = input::count(&self.context, queries, "queries")?;
        let queries = input::prepare(&self.context, queries, "query")?;
        let mut averages = Averages {
            values: filled(count * width, 0.0)?,
            log_sum_exp: filled(count, f32::NEG_INFINITY)?,
            retained_mass: filled(count, 1.0)?,
        };
        if count == 0 || self.is_empty() {
            return Ok(averages);
        }
        let parts = match self.structure.parts() {
            Some(count) => Parts::Own(count),
            None => Parts::Slots(self.table.iter().map(|(slot, _)| slot).collect()),
        };
        let origin = self.origin(&parts);
        let plans = self.plan(&queries, &origin, &parts, options)?;
        let stop = || options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed));
        let shares = (SHARES / plans.len()).max(1);
        let sums: Vec<Mutex<Option<Sums>>> = (0..plans.len() * shares).map(|_| Mutex::new(None)).collect();
        let overflow = AtomicBool::new(false);
        self.context.pool.for_each(sums.len(), |_, item| {
            if stop() {
                return;
            }
            let plan = &plans[item / shares];
            let (share, length) = (item % shares, plan.readings.len());
            let readings = &plan.readings[length * share / shares..length * (share + 1) / shares];
            let read = self.sum_up(plan, readings, &parts, &origin, options.scale, &stop, &overflow);
            *sums[item].lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
        });
        if stop() {
            return Err(Error::Cancelled);
        }
        if overflow.into_inner() {
            let allowed = "small enough for scaled scores to stay below 1e30";
            return Err(Error::SoftSearch { what: "scale", value: options.scale, allowed });
        }
        let mut sums = sums.into_iter().filter_map(|sums| sums.into_inner().unwrap_or_else(PoisonError::into_inner));
        let mut row = 0;
        for plan in &plans {
            let mut total = Sums::new(plan.rows, width);
            for part in sums.by_ref().take(shares) {
                total.merge(&part);
            }
            let exact: Vec<(f32, f32)> = total.largest.iter().copied().zip(total.sum.iter().copied()).collect();
            self.stand_in(&mut total, plan);
            for (i, (exact_largest, exact_sum)) in exact.into_iter().enumerate() {
                let (largest, sum) = (total.largest[i], total.sum[i]);
                let values = &total.values[i * total.stride..][..width];
                for (to, from) in averages.values[row * width..(row + 1) * width].iter_mut().zip(values) {
                    *to = from / sum;
                }
                // |q|² was left out of all squared distances.
                let query = &plan.queries[i * dimensions..(i + 1) * dimensions];
                let shift = match shape.metric {
                    Metric::L2 => f64::from(options.scale) * self.context.kernels.exact_dot(query, query),
                    _ => 0.0,
                };
                let log = (f64::from(largest) + f64::from(sum).log2()) * std::f64::consts::LN_2;
                averages.log_sum_exp[row] = (log - shift) as f32;
                averages.retained_mass[row] = (exact_sum * (exact_largest - largest).exp2() / sum).min(1.0);
                row += 1;
            }
        }
        Ok(averages)
    }

    /// L2: near the vectors, so that little is lost to rounding in squared distances; nothing otherwise.
    fn origin(&self, parts: &Parts) -> Vec<f32> {
        if self.context.shape.metric != Metric::L2 {
            return Vec::new();
        }
        let (mut vectors, mut values) = (Vec::new(), Vec::new());
        self.read_part(parts, 0, &mut vectors, &mut values);
        let dimensions = self.context.shape.dimensions;
        let count = (vectors.len() / dimensions).max(1) as f64;
        (0..dimensions)
            .map(|i| (vectors.iter().skip(i).step_by(dimensions).map(|&x| f64::from(x)).sum::<f64>() / count) as f32)
            .collect()
    }

    /// Reads a part: vectors `[n][dimensions]` and values `[n][value_dimensions]`.
    fn read_part(&self, parts: &Parts, part: usize, vectors: &mut Vec<f32>, values: &mut Vec<f32>) {
        vectors.clear();
        values.clear();
        match parts {
            Parts::Own(_) => self.structure.read_part(&self.context, part, vectors, values),
            Parts::Slots(slots) => {
                let dimensions = self.context.shape.dimensions;
                for &slot in slots.iter().skip(part * PART).take(PART) {
                    let start = vectors.len();
                    vectors.resize(start + dimensions, 0.0);
                    self.structure.read(&self.context, slot, &mut vectors[start..]);
                    values.extend_from_slice(self.structure.value(slot));
                }
            }
        }
    }

    /// Decides what each query reads.
    fn plan(&self, queries: &[f32], origin: &[f32], parts: &Parts, options: AverageOptions<'_>) -> Result<Vec<Plan>> {
        let dimensions = self.context.shape.dimensions;
        // For L2 a cluster's mean and spread say too little of its mass: on clusters that mix groups of keys a
        // target of 0.99 kept 0.69. So there everything is read.
        let selects = options.mass_target < 1.0
            && self.context.shape.metric != Metric::L2
            && matches!(parts, Parts::Own(_))
            && self.structure.outline(0).is_some();
        let plans: Vec<Mutex<Option<Plan>>> =
            queries.chunks(BLOCK_ROWS * dimensions).map(|_| Mutex::new(None)).collect();
        let stop = || options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed));
        self.context.pool.for_each(plans.len(), |_, item| {
            if stop() {
                return;
            }
            let start = item * BLOCK_ROWS * dimensions;
            let mut queries = queries[start..queries.len().min(start + BLOCK_ROWS * dimensions)].to_vec();
            if !origin.is_empty() {
                for query in queries.chunks_exact_mut(dimensions) {
                    query.iter_mut().zip(origin).for_each(|(q, o)| *q -= o);
                }
            }
            let rows = queries.len() / dimensions;
            let mut plan = Plan { rows, queries, readings: Vec::new(), unread: Vec::new() };
            if selects {
                self.select(&mut plan, parts.len(), options);
            } else {
                let all: Vec<u32> = (0..rows as u32).collect();
                plan.readings = (0..parts.len() as u32).map(|part| (part, all.clone())).collect();
            }
            *plans[item].lock().unwrap_or_else(PoisonError::into_inner) = Some(plan);
        });
        if stop() {
            return Err(Error::Cancelled);
        }
        Ok(plans.into_iter().filter_map(|plan| plan.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
    }

    /// Factor from a kernel's score to a base-2 exponent.
    fn exponent_factor(&self, scale: f32) -> f32 {
        // The kernel's score for L2 is half of |q|² less the squared distance.
        scale * LOG2_E * if self.context.shape.metric == Metric::L2 { 2.0 } else { 1.0 }
    }

    /// Lists the clusters that hold the mass for each row, by estimate, and what the others stand for.
    fn select(&self, plan: &mut Plan, parts: usize, options: AverageOptions<'_>) {
        let dimensions = self.context.shape.dimensions;
        let factor = self.exponent_factor(options.scale);
        plan.unread = vec![f32::NEG_INFINITY; plan.rows * parts];
        let mut estimates = plan.unread.clone();
        let lengths: Vec<f32> = plan
            .queries
            .chunks_exact(dimensions)
            .map(|query| self.context.kernels.exact_dot(query, query).sqrt() as f32)
            .collect();
        for part in 0..parts {
            let Some(Outline { len, centre, spread, .. }) = self.structure.outline(part) else { continue };
            for (row, query) in plan.queries.chunks_exact(dimensions).enumerate() {
                // Keys that lie normally around their mean weigh this much more than the mean on average.
                let deviation = options.scale * spread * lengths[row];
                let gain = (0.5 * deviation * deviation).min(SPREAD_CAP);
                let exponent = factor * self.context.kernels.dot(query, centre) + (len as f32).log2();
                plan.unread[row * parts + part] = exponent;
                estimates[row * parts + part] = exponent + gain * LOG2_E;
            }
        }
        let mut readers: Vec<Vec<u32>> = vec![Vec::new(); parts];
        let rows = plan.unread.chunks_exact_mut(parts).zip(estimates.chunks_exact(parts));
        for (row, (unread, estimates)) in rows.enumerate() {
            let largest = self.context.kernels.largest(estimates);
            let mut order: Vec<u32> = (0..parts as u32).collect();
            order.sort_unstable_by(|&a, &b| estimates[b as usize].total_cmp(&estimates[a as usize]).then(a.cmp(&b)));
            let mass = |&part: &u32| f64::from((estimates[part as usize] - largest).exp2());
            let total: f64 = order.iter().map(mass).sum();
            let mut left = total;
            for part in order {
                if left <= f64::from(1.0 - options.mass_target) * total {
                    break;
                }
                left -= mass(&part);
                readers[part as usize].push(row as u32);
                // What is read does not stand in.
                unread[part as usize] = f32::NEG_INFINITY;
            }
        }
        plan.readings = readers
            .into_iter()
            .enumerate()
            .filter(|(_, rows)| !rows.is_empty())
            .map(|(p, rows)| (p as u32, rows))
            .collect();
    }

    /// Sums up some of the parts that a plan reads.
    fn sum_up(
        &self,
        plan: &Plan,
        readings: &[(u32, Vec<u32>)],
        parts: &Parts,
        origin: &[f32],
        scale: f32,
        stop: &impl Fn() -> bool,
        overflow: &AtomicBool,
    ) -> Sums {
        let shape = self.context.shape;
        let (d, width, kernels) = (shape.dimensions, shape.value_dimensions, self.context.kernels);
        let factor = self.exponent_factor(scale);
        let limit = (MAX_EXPONENT * f64::from(LOG2_E)) as f32;
        let mut sums = Sums::new(plan.rows, width);
        let (mut vectors, mut values) = (Vec::new(), Vec::new());
        let (mut keys, mut panels, mut queries) = (Vec::new(), Vec::new(), Vec::new());
        let mut exponents = vec![0.0_f32; BLOCK_ROWS * COLUMNS];
        let mut offsets = [0.0_f32; COLUMNS];
        for (part, readers) in readings {
            if stop() {
                break;
            }
            self.read_part(parts, *part as usize, &mut vectors, &mut values);
            queries.clear();
            for &row in readers {
                queries.extend_from_slice(&plan.queries[row as usize * d..(row as usize + 1) * d]);
            }
            if !origin.is_empty() {
                for vector in vectors.chunks_exact_mut(d) {
                    vector.iter_mut().zip(origin).for_each(|(x, o)| *x -= o);
                }
            }
            for (vectors, values) in vectors.chunks(COLUMNS * d).zip(values.chunks(COLUMNS * width)) {
                let valid = vectors.len() / d;
                let columns = valid.next_multiple_of(LANES);
                transpose(&mut keys, vectors, d, columns);
                pack(&mut panels, values, valid, columns, width);
                assert!(queries.len() >= readers.len() * d && exponents.len() >= readers.len() * columns);
                // SAFETY: A is [readers][d], B columns / 16 panels [d][16], C [readers][columns]: asserted above and
                // by `transpose`.
                unsafe {
                    kernels.gemm_f32(
                        readers.len(),
                        d,
                        queries.as_ptr(),
                        d,
                        keys.as_ptr(),
                        d * LANES,
                        columns / LANES,
                        exponents.as_mut_ptr(),
                        columns,
                        false,
                    );
                }
                if shape.metric == Metric::L2 {
                    for (offset, vector) in offsets.iter_mut().zip(vectors.chunks_exact(d)) {
                        *offset = (-0.5 * kernels.exact_dot(vector, vector)) as f32;
                    }
                }
                for exponents in exponents.chunks_exact_mut(columns).take(readers.len()) {
                    if shape.metric == Metric::L2 {
                        kernels.add(exponents, &offsets[..columns]);
                    }
                    for exponent in exponents.iter_mut() {
                        *exponent *= factor;
                    }
                    // Scores far outside the range of numbers would make sums that are none.
                    if exponents[..valid].iter().any(|exponent| exponent.abs() > limit || exponent.is_nan()) {
                        overflow.store(true, Ordering::Relaxed);
                        return sums;
                    }
                    exponents[valid..].fill(f32::NEG_INFINITY);
                }
                sums.take(kernels, readers, &mut exponents, columns, &panels);
            }
        }
        sums
    }

    /// Adds the clusters that were not read, each as its mean key and mean value.
    fn stand_in(&self, sums: &mut Sums, plan: &Plan) {
        if plan.unread.is_empty() {
            return;
        }
        let width = self.context.shape.value_dimensions;
        let count = plan.unread.len() / plan.rows;
        let rows: Vec<u32> = (0..plan.rows as u32).collect();
        let (mut panels, mut block, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..count).step_by(COLUMNS) {
            let valid = (count - first).min(COLUMNS);
            let columns = valid.next_multiple_of(LANES);
            block.clear();
            block.resize(plan.rows * columns, f32::NEG_INFINITY);
            for (to, from) in block.chunks_exact_mut(columns).zip(plan.unread.chunks_exact(count)) {
                to[..valid].copy_from_slice(&from[first..first + valid]);
            }
            values.clear();
            for part in first..first + valid {
                if let Some(Outline { len, values: sums, .. }) = self.structure.outline(part) {
                    values.extend(sums.iter().map(|sum| (sum / len as f64) as f32));
                }
            }
            pack(&mut panels, &values, valid, columns, width);
            sums.take(self.context.kernels, &rows, &mut block, columns, &panels);
        }
    }
}

/// Turns `[n][dimensions]` vectors into panels `[columns/16][dimensions][16]`, zeros past the last.
fn transpose(panels: &mut Vec<f32>, vectors: &[f32], dimensions: usize, columns: usize) {
    panels.clear();
    panels.resize(columns * dimensions, 0.0);
    for (column, vector) in vectors.chunks_exact(dimensions).enumerate() {
        let panel = &mut panels[column / LANES * LANES * dimensions..][..LANES * dimensions];
        for (i, &x) in vector.iter().enumerate() {
            panel[i * LANES + column % LANES] = x;
        }
    }
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
