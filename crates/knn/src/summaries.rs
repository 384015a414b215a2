//! Summaries of groups of vectors: the mean of their keys, the variance of these, and the mean of their values.
//!
//! Sixteen summaries lie together as panels, in the layout of a tile of keys with values, so that what stands for sixteen
//! groups is scored and summed up like sixteen vectors. There are two levels: a summary for each tile, and one for each
//! *node*, which is sixteen tiles that follow each other, a panel of the first level.

use crate::tile_rows::TileShape;
use crate::tiles::Element;
use iceformer_simd::{AlignedBuffer, Kernels, LANES, OutOfMemory};
use std::array;
use std::ops::Range;

/// Panels in one allocation.
const CHUNK_PANELS: usize = 12;

/// Half of ln 2: turns the variance of keys into bits of score for queries that carry log2(e) (see `soft`).
const HALF_LN_2: f32 = std::f32::consts::LN_2 / 2.0;

/// One summary as numbers. Each of its vectors is as long as it was padded to at least where it came from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Summary {
    /// `[dimensions]`: mean key.
    pub mean: Vec<f32>,
    /// `[dimensions]`: variance of the keys, times ln 2 / 2.
    pub variance: Vec<f32>,
    /// `[value_dimensions]`: mean value.
    pub value: Vec<f32>,
}

impl Summary {
    /// Takes means (`[dimensions]`) and variances (`[dimensions]`) of keys and means (`[value_dimensions]`) of values as
    /// `fill` writes them.
    pub fn take(
        &mut self,
        dimensions: usize,
        value_dimensions: usize,
        fill: impl FnOnce(&mut [f32], &mut [f32], &mut [f32]),
    ) {
        self.mean.resize(dimensions, 0.0);
        self.variance.resize(dimensions, 0.0);
        self.value.resize(value_dimensions, 0.0);
        fill(&mut self.mean, &mut self.variance, &mut self.value);
        self.variance.iter_mut().for_each(|variance| *variance *= HALF_LN_2);
    }
}

/// Panels that lie together.
#[derive(Debug)]
struct Chunk<T: Element> {
    /// `[12][dimensions][16]` (bf16: `[12][dimensions / 2][16][2]`).
    means: AlignedBuffer<T>,
    /// As `means`.
    variances: AlignedBuffer<T>,
    /// `[12][value_dimensions / 16][16][16]` (bf16: `[12][..][8][16][2]`).
    values: AlignedBuffer<T>,
}

/// Summaries of one level.
#[derive(Debug)]
pub(crate) struct Summaries<T: Element> {
    dimensions: usize,
    value_dimensions: usize,
    chunks: Vec<Chunk<T>>,
    /// What is written next, `[dimensions]` or `[value_dimensions]`, padded.
    row: Vec<T>,
}

/// Summaries out of their panels, as they are stored.
#[derive(Debug, Default)]
pub(crate) struct StoredSummaries<T> {
    /// Number of the first one.
    first: usize,
    /// `[n][dimensions, padded]`
    means: Vec<T>,
    /// `[n][dimensions, padded]`
    variances: Vec<T>,
    /// `[n][value_dimensions, padded]`
    values: Vec<T>,
}

impl<T: Element> Summaries<T> {
    pub fn new(dimensions: usize, value_dimensions: usize) -> Self {
        Self { dimensions, value_dimensions, chunks: Vec::new(), row: Vec::new() }
    }

    /// How panels of means or variances lie, and those of values.
    fn shapes(&self) -> (TileShape, TileShape) {
        let (keys, values) = Self::lengths(self.dimensions, self.value_dimensions);
        let shape = |keys, values| TileShape { step: T::STEP, keys, values, behind: 0 };
        (shape(keys / LANES, 0), shape(0, values / LANES))
    }

    /// Numbers of a panel of means or variances, and of one of values.
    fn lengths(dimensions: usize, value_dimensions: usize) -> (usize, usize) {
        (dimensions.next_multiple_of(2) * LANES, value_dimensions.next_multiple_of(LANES) * LANES)
    }

    /// Bytes of `count` summaries, in whole chunks; `usize::MAX` where that is more.
    pub fn estimate_bytes(dimensions: usize, value_dimensions: usize, count: usize) -> usize {
        let (keys, values) = Self::lengths(dimensions, value_dimensions);
        let chunk = CHUNK_PANELS * (2 * keys + values) * size_of::<T>();
        count.div_ceil(CHUNK_PANELS * LANES).saturating_mul(chunk)
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        let chunk = |c: &Chunk<T>| (c.means.len() + c.variances.len() + c.values.len()) * size_of::<T>();
        self.chunks.iter().map(chunk).sum()
    }

    /// Makes room for `count` summaries in all.
    pub fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        let (keys, values) = Self::lengths(self.dimensions, self.value_dimensions);
        while self.chunks.len() * CHUNK_PANELS * LANES < count {
            self.chunks.push(Chunk {
                means: AlignedBuffer::try_new(CHUNK_PANELS * keys)?,
                variances: AlignedBuffer::try_new(CHUNK_PANELS * keys)?,
                values: AlignedBuffer::try_new(CHUNK_PANELS * values)?,
            });
        }
        Ok(())
    }

    /// Gives back what is not needed for `count` summaries.
    pub fn truncate(&mut self, count: usize) {
        self.chunks.truncate(count.div_ceil(CHUNK_PANELS * LANES));
    }

    /// `[dimensions][16]` (bf16: `[dimensions / 2][16][2]`): the means of sixteen summaries.
    pub fn means(&self, panel: usize) -> &[T] {
        let (length, _) = Self::lengths(self.dimensions, self.value_dimensions);
        &self.chunks[panel / CHUNK_PANELS].means[panel % CHUNK_PANELS * length..][..length]
    }

    /// As [`Self::means`].
    pub fn variances(&self, panel: usize) -> &[T] {
        let (length, _) = Self::lengths(self.dimensions, self.value_dimensions);
        &self.chunks[panel / CHUNK_PANELS].variances[panel % CHUNK_PANELS * length..][..length]
    }

    /// `[value_dimensions / 16][16][16]` (bf16: `[..][8][16][2]`): the mean values of sixteen summaries.
    pub fn values(&self, panel: usize) -> &[T] {
        let (_, length) = Self::lengths(self.dimensions, self.value_dimensions);
        &self.chunks[panel / CHUNK_PANELS].values[panel % CHUNK_PANELS * length..][..length]
    }

    /// The panels of means, variances and values.
    fn panels_mut(&mut self, panel: usize) -> [&mut [T]; 3] {
        let (keys, values) = Self::lengths(self.dimensions, self.value_dimensions);
        let (chunk, at) = (&mut self.chunks[panel / CHUNK_PANELS], panel % CHUNK_PANELS);
        [
            &mut chunk.means[at * keys..][..keys],
            &mut chunk.variances[at * keys..][..keys],
            &mut chunk.values[at * values..][..values],
        ]
    }

    /// Stores summary `number`, which must be reserved.
    pub fn write(&mut self, kernels: &Kernels, number: usize, summary: &Summary) {
        let (key_shape, value_shape) = self.shapes();
        let mut row = std::mem::take(&mut self.row);
        let parts = [(key_shape, &summary.mean), (key_shape, &summary.variance), (value_shape, &summary.value)];
        for (panel, (shape, numbers)) in self.panels_mut(number / LANES).into_iter().zip(parts) {
            row.resize(shape.row(), T::default());
            T::convert(kernels, &numbers[..shape.row()], &mut row);
            shape.write_one(panel, number % LANES, &row);
        }
        self.row = row;
    }

    /// Copies some summaries as they are stored, and those that share their panels.
    pub fn take(&self, numbers: Range<usize>, to: &mut StoredSummaries<T>) {
        let (key_shape, value_shape) = self.shapes();
        let panels = numbers.start / LANES..numbers.end.div_ceil(LANES);
        to.first = panels.start * LANES;
        for (rows, shape, panel_of) in [
            (&mut to.means, key_shape, Self::means as fn(&Self, usize) -> &[T]),
            (&mut to.variances, key_shape, Self::variances),
            (&mut to.values, value_shape, Self::values),
        ] {
            let length = LANES * shape.row();
            rows.resize(panels.len() * length, T::default());
            for (panel, rows) in panels.clone().zip(rows.chunks_exact_mut(length)) {
                shape.read(panel_of(self, panel), rows);
            }
        }
    }

    /// Moves summaries that were taken: what was `first + order[i]` becomes `first + i`.
    pub fn put(&mut self, first: usize, order: &[u32], taken: &StoredSummaries<T>) {
        let (key_shape, value_shape) = self.shapes();
        let last = first + order.len();
        for panel in first / LANES..last.div_ceil(LANES) {
            // What shares a panel with those that move stays.
            let from: [usize; LANES] = array::from_fn(|lane| match panel * LANES + lane {
                number if number < first || number >= last => number - taken.first,
                number => first + order[number - first] as usize - taken.first,
            });
            let parts = [(key_shape, &taken.means), (key_shape, &taken.variances), (value_shape, &taken.values)];
            for (panel, (shape, rows)) in self.panels_mut(panel).into_iter().zip(parts) {
                shape.write(panel, &from.map(|number| &rows[number * shape.row()..][..shape.row()]));
            }
        }
    }

    /// The means (`[n][dimensions]`) of `count` summaries from number `first` on, which were taken.
    pub fn taken_means(
        &self,
        kernels: &Kernels,
        taken: &StoredSummaries<T>,
        first: usize,
        count: usize,
        means: &mut Vec<f32>,
    ) {
        let (d, row) = (self.dimensions, self.shapes().0.row());
        means.resize(count * d, 0.0);
        for (mean, row) in means.chunks_exact_mut(d).zip(taken.means[(first - taken.first) * row..].chunks_exact(row)) {
            T::widen(kernels, &row[..d], mean);
        }
    }

    /// Summarises the sixteen groups of a panel as one: groups of equal size.
    pub fn summarize(&self, kernels: &Kernels, panel: usize, summary: &mut Summary) {
        let (key_shape, value_shape) = self.shapes();
        let mut within = vec![0.0; key_shape.row()];
        summary.take(key_shape.row(), value_shape.row(), |means, variances, values| {
            // Of the variances only the mean is needed.
            T::panel_moments(kernels, self.variances(panel), &mut within, variances);
            T::panel_moments(kernels, self.means(panel), means, variances);
            T::value_means(kernels, self.values(panel), values);
        });
        for (variance, within) in summary.variance.iter_mut().zip(&within) {
            *variance += within;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_was_written_and_sums_it_up() {
        fn check<T: Element>() {
            let (d, dv) = (5, 20);
            let mut summaries = Summaries::<T>::new(d, dv);
            summaries.reserve(400).unwrap();
            assert_eq!(summaries.bytes(), Summaries::<T>::estimate_bytes(d, dv, 400));
            // Whole numbers, so that both types hold them.
            let padded = |length: usize, padded: usize, number: &dyn Fn(usize) -> f32| -> Vec<f32> {
                (0..padded).map(|i| if i < length { number(i) } else { 0.0 }).collect()
            };
            let summary = |number: usize| Summary {
                mean: padded(d, 6, &|i| (number % 16 * (i + 1)) as f32),
                variance: padded(d, 6, &|i| (number % 7 + i) as f32),
                value: padded(dv, 32, &|i| i as f32 - (number % 50) as f32),
            };
            let kernels = iceformer_simd::kernels();
            let numbers: Vec<usize> = (0..16).chain(192..208).chain([399]).collect();
            for &number in &numbers {
                summaries.write(kernels, number, &summary(number));
            }
            let read = |summaries: &Summaries<T>, number: usize| {
                let ((keys, values), (panel, lane)) = (summaries.shapes(), (number / LANES, number % LANES));
                let numbers = |shape: TileShape, panel: &[T]| -> Vec<f32> {
                    (0..shape.row()).map(|i| panel[shape.place(lane, i)].to_f32()).collect()
                };
                Summary {
                    mean: numbers(keys, summaries.means(panel)),
                    variance: numbers(keys, summaries.variances(panel)),
                    value: numbers(values, summaries.values(panel)),
                }
            };
            let same = |a: &Summary, b: &Summary| a.mean == b.mean && a.variance == b.variance && a.value == b.value;
            for number in numbers {
                assert!(same(&read(&summaries, number), &summary(number)), "{number}");
            }
            let mut read_node = Summary::default();
            summaries.summarize(kernels, 12, &mut read_node);
            let of = |f: &dyn Fn(&Summary) -> f32| (192..208).map(|n| f(&summary(n))).sum::<f32>() / 16.0;
            for i in 0..d {
                let mean = of(&|s| s.mean[i]);
                let variance = of(&|s| s.variance[i] + (s.mean[i] - mean).powi(2) * HALF_LN_2);
                let (node_mean, node_variance) = (read_node.mean[i], read_node.variance[i]);
                assert!((node_mean - mean).abs() < 1e-4 && (node_variance / variance - 1.0).abs() < 1e-4);
            }
            for i in 0..dv {
                assert!((read_node.value[i] - of(&|s| s.value[i])).abs() < 1e-4);
            }
            // 195 to 204 move, their neighbours stay.
            let order = [3, 9, 0, 1, 2, 4, 8, 7, 5, 6];
            let (mut taken, mut means) = (StoredSummaries::default(), Vec::new());
            summaries.take(195..205, &mut taken);
            summaries.taken_means(kernels, &taken, 195, 10, &mut means);
            let expected: Vec<f32> = (195..205).flat_map(|number| summary(number).mean[..d].to_vec()).collect();
            assert_eq!(means, expected);
            summaries.put(195, &order, &taken);
            for number in 192..208 {
                let from = if (195..205).contains(&number) { 195 + order[number - 195] as usize } else { number };
                assert!(same(&read(&summaries, number), &summary(from)), "{number}");
            }
        }
        check::<f32>();
        check::<u16>();
    }
}
