//! Cutting vectors into balanced clusters, and what a search reads of a cluster before it reads its keys.
//!
//! A set is split in two halves of whole leaves along the line between two centres (two-means on a
//! sample), and again, until one leaf is left: every leaf but the last is full, so clusters are runs of
//! whole tiles and need no lists. All sums here are plain Rust in a fixed order: the clusters are the same
//! at every SIMD level and with any number of threads.

use std::sync::{Mutex, PoisonError};

use iceformer_simd::{AlignedBuffer, Kernels, LANES};
use iceformer_threads::ThreadPool;

use crate::error::{Error, Result};
use crate::keys::{Keys, Storage};

/// Vectors that the centres of a split are found from.
const SAMPLE: usize = 256;
/// Rounds of two-means per split.
const ROUNDS: usize = 4;

/// Reorders `numbers` (rows of `rows`, `[n][dimensions]`) so that every run of `leaf` of them is a cluster.
pub(crate) fn split(rows: &[f32], dimensions: usize, numbers: &mut [u32], leaf: usize, seed: u64, pool: &ThreadPool) {
    // The first splits are one job each; once there are enough parts, each is split to the end by itself.
    let enough = 8 * pool.threads();
    let mut parts = vec![numbers];
    while parts.len() < enough && parts.iter().any(|part| part.len() > leaf) {
        let level: Vec<_> = parts.into_iter().map(Mutex::new).collect();
        pool.for_each(level.len(), |_, item| {
            let mut part = level[item].lock().unwrap_or_else(PoisonError::into_inner);
            halve(rows, dimensions, &mut part, leaf, seed, &mut Scratch::default());
        });
        parts = Vec::with_capacity(level.len() * 2);
        for part in level {
            let part = part.into_inner().unwrap_or_else(PoisonError::into_inner);
            let (near, far) = part.split_at_mut(cut(part.len(), leaf));
            parts.extend([near, far].into_iter().filter(|half| !half.is_empty()));
        }
    }
    let items: Vec<_> = parts.into_iter().map(Mutex::new).collect();
    pool.for_each(items.len(), |_, item| {
        let mut part = items[item].lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = Scratch::default();
        let mut open: Vec<&mut [u32]> = vec![&mut part];
        while let Some(part) = open.pop() {
            if part.len() > leaf {
                halve(rows, dimensions, part, leaf, seed, &mut scratch);
                let (near, far) = part.split_at_mut(cut(part.len(), leaf));
                open.extend([near, far]);
            }
        }
    });
}

/// Where a part of `len` vectors is cut: half of its leaves, rounded up.
fn cut(len: usize, leaf: usize) -> usize {
    (len.div_ceil(leaf).div_ceil(2) * leaf).min(len)
}

#[derive(Default)]
struct Scratch {
    sample: Vec<u32>,
    projections: Vec<(f32, u32)>,
}

/// Puts the half of `part` that is nearer to one centre before the half that is nearer to the other.
fn halve(rows: &[f32], dimensions: usize, part: &mut [u32], leaf: usize, seed: u64, scratch: &mut Scratch) {
    if part.len() <= leaf {
        return;
    }
    let row = |number: u32| &rows[number as usize * dimensions..(number as usize + 1) * dimensions];
    let Scratch { sample, projections } = scratch;
    let mut random = Random::new(seed ^ (part.len() as u64) << 32 ^ u64::from(part[0]));
    sample.clear();
    if part.len() <= SAMPLE {
        sample.extend_from_slice(part);
    } else {
        sample.extend((0..SAMPLE).map(|_| part[random.below(part.len())]));
    }
    let direction = direction(sample, row, dimensions, &mut random);
    projections.clear();
    projections.extend(part.iter().map(|&number| (dot(row(number), &direction), number)));
    let middle = cut(part.len(), leaf);
    projections.select_nth_unstable_by(middle - 1, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    for (to, (_, number)) in part.iter_mut().zip(&*projections) {
        *to = *number;
    }
    // Selection leaves each half in an order of its own making; that of insertion is kept instead.
    part[..middle].sort_unstable();
    part[middle..].sort_unstable();
}

/// The line between the centres of two-means on the sample.
fn direction<'a>(sample: &[u32], row: impl Fn(u32) -> &'a [f32], dimensions: usize, random: &mut Random) -> Vec<f32> {
    // One centre at random, the other the vector farthest from it.
    let start = row(sample[random.below(sample.len())]);
    let farthest = sample
        .iter()
        .map(|&number| (squared_distance(row(number), start), number))
        .fold((-1.0, sample[0]), |best, this| if this.0 > best.0 { this } else { best });
    let mut centres = [start.to_vec(), row(farthest.1).to_vec()];
    let mut line = vec![0.0_f32; dimensions];
    for _ in 0..ROUNDS {
        // x is nearer to b than to a when (b − a)·x > (|b|² − |a|²) / 2.
        for (line, (a, b)) in line.iter_mut().zip(centres[0].iter().zip(&centres[1])) {
            *line = b - a;
        }
        let border = (dot(&centres[1], &centres[1]) - dot(&centres[0], &centres[0])) / 2.0;
        let mut sums = [vec![0.0_f32; dimensions], vec![0.0_f32; dimensions]];
        let mut counts = [0_usize; 2];
        for &number in sample {
            let x = row(number);
            let side = usize::from(dot(x, &line) > border);
            counts[side] += 1;
            for (sum, x) in sums[side].iter_mut().zip(x) {
                *sum += x;
            }
        }
        if counts.contains(&0) {
            break;
        }
        for (side, sum) in sums.into_iter().enumerate() {
            let share = 1.0 / counts[side] as f32;
            centres[side] = sum.into_iter().map(|x| x * share).collect();
        }
    }
    for (line, (a, b)) in line.iter_mut().zip(centres[0].iter().zip(&centres[1])) {
        *line = b - a;
    }
    line
}

const WIDTH: usize = 8;

/// Inner product in a fixed order that every compiler target keeps.
fn dot(x: &[f32], y: &[f32]) -> f32 {
    sum(x, y, |x, y| x * y)
}

fn squared_distance(x: &[f32], y: &[f32]) -> f32 {
    sum(x, y, |x, y| (x - y) * (x - y))
}

#[inline]
fn sum(x: &[f32], y: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; WIDTH];
    let (x_whole, x_rest) = x.as_chunks::<WIDTH>();
    let (y_whole, y_rest) = y.as_chunks::<WIDTH>();
    for (x, y) in x_whole.iter().zip(y_whole) {
        for lane in 0..WIDTH {
            sums[lane] += term(x[lane], y[lane]);
        }
    }
    for (lane, (x, y)) in x_rest.iter().zip(y_rest).enumerate() {
        sums[lane] += term(*x, *y);
    }
    sums.iter().sum()
}

/// A small generator of random numbers (`SplitMix64`, Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

/// What is known of each cluster without reading its keys.
#[derive(Debug, Clone)]
pub(crate) struct Clusters {
    /// Tiles per cluster (the last may have fewer).
    leaf_tiles: usize,
    count: usize,
    /// The mean key of each cluster.
    means: Keys,
    /// Root of the mean squared deviation of a cluster's keys from their mean, per dimension.
    spreads: Vec<f32>,
    /// Minus half the squared length of each mean.
    offsets: Vec<f32>,
    /// The largest length of a mean plus spread.
    reach: f64,
    /// Mean value of each cluster, `[count][value_dimensions]`.
    values: Vec<f32>,
}

impl Clusters {
    /// Describes the clusters of `len` vectors, where `row(position)` is `[dimensions]`.
    pub fn summarise<'a>(
        dimensions: usize,
        len: usize,
        leaf_tiles: usize,
        row: impl Fn(usize) -> &'a [f32] + Sync,
        kernels: &Kernels,
        pool: &ThreadPool,
    ) -> Result<Self> {
        let leaf = leaf_tiles * LANES;
        let count = len.div_ceil(leaf);
        let tiles = count.div_ceil(LANES);
        let mut means = Keys::new(dimensions, Storage::F32, tiles)?;
        let mut rows = AlignedBuffer::<f32>::try_new(count * dimensions)
            .map_err(|error| Error::OutOfMemory { bytes: error.bytes })?; // [count][dimensions]
        let mut spreads = vec![0.0_f32; tiles * LANES];
        let items: Vec<_> =
            rows.chunks_mut(LANES * dimensions).zip(spreads.chunks_mut(LANES)).map(Mutex::new).collect();
        pool.for_each(items.len(), |_, item| {
            let mut guard = items[item].lock().unwrap_or_else(PoisonError::into_inner);
            let (means, spreads) = &mut *guard;
            let mut sums = vec![0.0_f64; dimensions];
            for (i, (mean, spread)) in means.chunks_mut(dimensions).zip(spreads.iter_mut()).enumerate() {
                let start = (item * LANES + i) * leaf;
                let end = len.min(start + leaf);
                let share = 1.0 / (end - start) as f64;
                sums.fill(0.0);
                let mut squares = 0.0_f64;
                for position in start..end {
                    let x = row(position);
                    sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += f64::from(x));
                    squares += f64::from(dot(x, x));
                }
                let mut length = 0.0_f64;
                for (mean, sum) in mean.iter_mut().zip(&sums) {
                    length += (sum * share) * (sum * share);
                    *mean = (sum * share) as f32;
                }
                *spread = ((squares * share - length).max(0.0) / dimensions as f64).sqrt() as f32;
            }
        });
        drop(items);
        let mut squared = vec![0.0_f32; tiles * LANES];
        means.fill(kernels, pool, 0..count, |i| &rows[i * dimensions..(i + 1) * dimensions], &mut squared);
        let reach = squared
            .iter()
            .zip(&spreads)
            .fold(0.0_f64, |reach, (&squared, &spread)| reach.max(f64::from(squared).sqrt() + f64::from(spread)));
        let offsets = squared.iter().map(|x| -0.5 * x).collect();
        Ok(Self { leaf_tiles, count, means, spreads, offsets, reach, values: Vec::new() })
    }

    /// Describes the values too, `[len][value_dimensions]`.
    pub fn summarise_values(&mut self, values: &[f32], value_dimensions: usize) -> Result<()> {
        let length = self.count * value_dimensions;
        self.values.try_reserve_exact(length).map_err(|_| Error::OutOfMemory { bytes: length * size_of::<f32>() })?;
        let mut sums = vec![0.0_f64; value_dimensions];
        for cluster in values.chunks(self.leaf_tiles * LANES * value_dimensions) {
            sums.fill(0.0);
            for value in cluster.chunks_exact(value_dimensions) {
                sums.iter_mut().zip(value).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            let share = value_dimensions as f64 / cluster.len() as f64;
            self.values.extend(sums.iter().map(|sum| (sum * share) as f32));
        }
        Ok(())
    }

    /// The mean value of each cluster, `[count][value_dimensions]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn leaf_tiles(&self) -> usize {
        self.leaf_tiles
    }

    pub fn means(&self) -> &Keys {
        &self.means
    }

    /// A bound on what a cluster's rank is to the length of the query.
    pub fn reach(&self) -> f64 {
        self.reach
    }

    /// Root of the mean squared deviation of a cluster's keys from its mean, per dimension, of the clusters
    /// in the tiles of means from `first` on, `[16 * tiles]`.
    pub fn spreads(&self, first: usize, tiles: usize) -> &[f32] {
        &self.spreads[first * LANES..(first + tiles) * LANES]
    }

    /// Minus half the squared length of the means in the tiles from `first` on, `[16 * tiles]`.
    pub fn offsets(&self, first: usize, tiles: usize) -> &[f32] {
        &self.offsets[first * LANES..(first + tiles) * LANES]
    }

    pub fn bytes(&self) -> usize {
        self.means.bytes()
            + (self.spreads.capacity() + self.offsets.capacity() + self.values.capacity()) * size_of::<f32>()
    }
}
