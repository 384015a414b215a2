//! Summaries of tiles: the mean of their keys, the variance of these, and the mean of their values.
//!
//! Sixteen summaries lie together as panels, in the layout of a tile of keys with values, so that what stands for sixteen
//! tiles is scored and summed up like sixteen vectors.

use crate::tile_rows::TileShape;
use crate::tiles::Element;
use iceformer_simd::{AlignedBuffer, Kernels, LANES, OutOfMemory};

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

/// Summaries, by the number of their tile.
#[derive(Debug)]
pub(crate) struct Summaries<T: Element> {
    dimensions: usize,
    value_dimensions: usize,
    chunks: Vec<Chunk<T>>,
    /// What is written next, `[dimensions]` or `[value_dimensions]`, padded.
    row: Vec<T>,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_was_written() {
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
        }
        check::<f32>();
        check::<u16>();
    }
}
