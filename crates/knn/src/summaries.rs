//! Summaries of groups of vectors: the mean of their keys, the variance of these, and the mean of their values.
//!
//! Sixteen summaries lie together as panels, in the layout of a tile of keys with values, so that what stands for sixteen
//! groups is scored and summed up like sixteen vectors. There are two levels: a summary for each tile, and one for each
//! *node*, which is sixteen tiles that follow each other, a panel of the first level.

use crate::tiles::Element;
use iceformer_simd::{AlignedBuffer, LANES, OutOfMemory};

/// Panels in one allocation.
const CHUNK_PANELS: usize = 12;

/// Half of ln 2: turns the variance of keys into bits of score for queries that carry log2(e) (see `soft`).
const HALF_LN_2: f32 = std::f32::consts::LN_2 / 2.0;

/// One summary as numbers.
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
    pub fn new(dimensions: usize, value_dimensions: usize) -> Self {
        Self { mean: vec![0.0; dimensions], variance: vec![0.0; dimensions], value: vec![0.0; value_dimensions] }
    }

    /// Summarises `members` of `keys` (`[n][dimensions]`) and `values` (`[n][value_dimensions]`).
    pub fn take(&mut self, members: &[u32], keys: &[f32], values: &[f32]) {
        let (d, dv) = (self.mean.len(), self.value.len());
        let share = 1.0 / members.len() as f32;
        self.mean.fill(0.0);
        self.variance.fill(0.0);
        self.value.fill(0.0);
        for &m in members {
            for (sum, x) in self.mean.iter_mut().zip(&keys[m as usize * d..][..d]) {
                *sum += x * share;
            }
            for (sum, x) in self.value.iter_mut().zip(&values[m as usize * dv..][..dv]) {
                *sum += x * share;
            }
        }
        for &m in members {
            for ((sum, mean), x) in self.variance.iter_mut().zip(&self.mean).zip(&keys[m as usize * d..][..d]) {
                *sum += (x - mean) * (x - mean) * (share * HALF_LN_2);
            }
        }
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
}

impl<T: Element> Summaries<T> {
    pub fn new(dimensions: usize, value_dimensions: usize) -> Self {
        Self { dimensions, value_dimensions, chunks: Vec::new() }
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

    /// Stores summary `number`, which must be reserved.
    pub fn write(&mut self, number: usize, summary: &Summary) {
        let (keys, values) = Self::lengths(self.dimensions, self.value_dimensions);
        let (panel, lane) = (number / LANES % CHUNK_PANELS, number % LANES);
        let chunk = &mut self.chunks[number / LANES / CHUNK_PANELS];
        let (means, variances) =
            (&mut chunk.means[panel * keys..][..keys], &mut chunk.variances[panel * keys..][..keys]);
        for (i, (&mean, &variance)) in summary.mean.iter().zip(&summary.variance).enumerate() {
            let at = key_place::<T>(i, lane);
            means[at] = T::from_f32(mean);
            variances[at] = T::from_f32(variance);
        }
        let values = &mut chunk.values[panel * values..][..values];
        for (i, &value) in summary.value.iter().enumerate() {
            values[value_place::<T>(i, lane)] = T::from_f32(value);
        }
    }

    /// Reads summary `number`.
    pub fn read(&self, number: usize, summary: &mut Summary) {
        let (panel, lane) = (number / LANES, number % LANES);
        let (means, variances, values) = (self.means(panel), self.variances(panel), self.values(panel));
        for (i, (mean, variance)) in summary.mean.iter_mut().zip(&mut summary.variance).enumerate() {
            let at = key_place::<T>(i, lane);
            (*mean, *variance) = (means[at].to_f32(), variances[at].to_f32());
        }
        for (i, value) in summary.value.iter_mut().enumerate() {
            *value = values[value_place::<T>(i, lane)].to_f32();
        }
    }

    /// Summarises the sixteen groups of a panel as one: groups of equal size.
    pub fn summarize(&self, panel: usize, summary: &mut Summary) {
        const SHARE: f32 = 1.0 / LANES as f32;
        let (means, variances, values) = (self.means(panel), self.variances(panel), self.values(panel));
        for (i, (mean, variance)) in summary.mean.iter_mut().zip(&mut summary.variance).enumerate() {
            let (mut sum, mut within, mut between) = (0.0, 0.0, 0.0);
            for lane in 0..LANES {
                let at = key_place::<T>(i, lane);
                sum += means[at].to_f32();
                within += variances[at].to_f32();
            }
            *mean = sum * SHARE;
            for lane in 0..LANES {
                let off = means[key_place::<T>(i, lane)].to_f32() - *mean;
                between += off * off;
            }
            *variance = (within + between * HALF_LN_2) * SHARE;
        }
        for (i, value) in summary.value.iter_mut().enumerate() {
            *value = (0..LANES).map(|lane| values[value_place::<T>(i, lane)].to_f32()).sum::<f32>() * SHARE;
        }
    }
}

/// Where number `i` of the mean of the summary in lane `lane` lies in its panel.
fn key_place<T: Element>(i: usize, lane: usize) -> usize {
    (i / T::STEP * LANES + lane) * T::STEP + i % T::STEP
}

/// Where number `i` of the mean value of the summary in lane `lane` lies in its panel.
fn value_place<T: Element>(i: usize, lane: usize) -> usize {
    (i / LANES * LANES + lane / T::STEP * T::STEP) * LANES + i % LANES * T::STEP + lane % T::STEP
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
            let summary = |number: usize| Summary {
                mean: (0..d).map(|i| (number % 16 * (i + 1)) as f32).collect(),
                variance: (0..d).map(|i| (number % 7 + i) as f32).collect(),
                value: (0..dv).map(|i| i as f32 - (number % 50) as f32).collect(),
            };
            let numbers: Vec<usize> = (0..16).chain(192..208).chain([399]).collect();
            for &number in &numbers {
                summaries.write(number, &summary(number));
            }
            let mut read = Summary::new(d, dv);
            for number in numbers {
                summaries.read(number, &mut read);
                let want = summary(number);
                assert!(read.mean == want.mean && read.variance == want.variance && read.value == want.value);
            }
            summaries.summarize(12, &mut read);
            let of = |f: &dyn Fn(&Summary) -> f32| (192..208).map(|n| f(&summary(n))).sum::<f32>() / 16.0;
            for i in 0..d {
                let mean = of(&|s| s.mean[i]);
                let variance = of(&|s| s.variance[i] + (s.mean[i] - mean).powi(2) * HALF_LN_2);
                assert!((read.mean[i] - mean).abs() < 1e-4 && (read.variance[i] / variance - 1.0).abs() < 1e-4);
            }
            for i in 0..dv {
                assert!((read.value[i] - of(&|s| s.value[i])).abs() < 1e-4);
            }
        }
        check::<f32>();
        check::<u16>();
    }
}
