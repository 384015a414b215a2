//! Summaries of tiles: the mean of their keys, the variance of these, and the mean of their values.
//!
//! Sixteen summaries lie together as panels, so that what stands for sixteen tiles is scored and summed up like sixteen
//! vectors. Means and variances of keys only say what a tile might weigh: they are codes of one byte with a scale for each
//! tile, which CPUs multiply two to four times as fast as numbers of two bytes.

use crate::element::Element;
use crate::tile_rows::TileShape;
use iceformer_simd::{AlignedBuffer, AttendCodes, Kernels, LANES, OutOfMemory};

/// Panels in one allocation.
pub(crate) const CHUNK_PANELS: usize = 16;

/// Numbers of a key that lie side by side.
const QUAD: usize = 4;

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

/// Vectors of keys as codes, for [`Kernels::gemm_i8`] with a single group.
#[derive(Debug)]
struct Codes {
    /// `[16][quads][16][4]`: codes above 128 are positive.
    codes: AlignedBuffer<u8>,
    /// `[16][16]`: a number is its code less 128 times this.
    scales: AlignedBuffer<f32>,
}

impl Codes {
    fn try_new(quads: usize) -> Result<Self, OutOfMemory> {
        Ok(Self {
            codes: AlignedBuffer::try_new(CHUNK_PANELS * quads * QUAD * LANES)?,
            scales: AlignedBuffer::try_new(CHUNK_PANELS * LANES)?,
        })
    }

    fn bytes(&self) -> usize {
        self.codes.len() + self.scales.len() * size_of::<f32>()
    }

    /// Stores a vector as number `at` of the chunk; `zeros` and `row` are as long as a code.
    fn write(&mut self, kernels: &Kernels, at: usize, vector: &[f32], zeros: &[f32], row: &mut [u8]) {
        let largest = kernels.largest_magnitude(vector);
        let scale = largest / 127.0;
        let inverse = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
        kernels.to_codes(vector, &zeros[..vector.len()], inverse, row);
        let shape = TileShape { step: QUAD, keys: row.len(), values: 0, behind: 0 };
        shape.write_one(&mut self.codes[at / LANES * row.len() * LANES..][..row.len() * LANES], at % LANES, row);
        self.scales[at] = scale;
    }
}

/// Panels of codes that lie together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CodePanels<'a> {
    /// `[panels][quads][16][4]`.
    pub codes: &'a [u8],
    /// `[panels][16]`.
    pub scales: &'a [f32],
}

/// Panels that lie together.
#[derive(Debug)]
struct Chunk<T: Element> {
    means: Codes,
    variances: Codes,
    /// `[16][value_dimensions / 16][16][16]` (bf16: `[16][..][8][16][2]`).
    values: AlignedBuffer<T>,
    /// The means of the panels' values, which lie like a panel of their own.
    coarse_values: AlignedBuffer<T>,
}

/// Summaries, by the number of their tile.
#[derive(Debug)]
pub(crate) struct Summaries<T: Element> {
    dimensions: usize,
    value_dimensions: usize,
    chunks: Vec<Chunk<T>>,
    /// The value written next, `[value_dimensions]`, padded.
    value: Vec<T>,
    /// The mean of values written next, `[value_dimensions]`, padded.
    mean: Vec<f32>,
    /// The codes written next, `[4 x quads]`.
    row: Vec<u8>,
    /// `[dimensions]`.
    zeros: Vec<f32>,
}

impl<T: Element> Summaries<T> {
    pub fn new(dimensions: usize, value_dimensions: usize) -> Self {
        let row = vec![0; AttendCodes::query_width(dimensions)];
        let (value, mean, zeros) = (Vec::new(), Vec::new(), vec![0.0; dimensions]);
        Self { dimensions, value_dimensions, chunks: Vec::new(), value, mean, row, zeros }
    }

    /// Codes of a key, in fours.
    pub fn quads(&self) -> usize {
        self.dimensions.div_ceil(QUAD)
    }

    /// How panels of values lie.
    fn shape(&self) -> TileShape {
        let values = Self::value_length(self.value_dimensions) / LANES;
        TileShape { step: T::STEP, keys: 0, values, behind: 0 }
    }

    /// Numbers of a panel of values.
    fn value_length(value_dimensions: usize) -> usize {
        value_dimensions.next_multiple_of(LANES) * LANES
    }

    /// Bytes of `count` summaries, in whole chunks; `usize::MAX` where that is more.
    pub fn estimate_bytes(dimensions: usize, value_dimensions: usize, count: usize) -> usize {
        let codes = (AttendCodes::query_width(dimensions) + size_of::<f32>()) * LANES;
        let values = (CHUNK_PANELS + 1) * Self::value_length(value_dimensions) * size_of::<T>();
        let chunk = CHUNK_PANELS * 2 * codes + values;
        count.div_ceil(CHUNK_PANELS * LANES).saturating_mul(chunk)
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        let chunk = |c: &Chunk<T>| {
            c.means.bytes() + c.variances.bytes() + (c.values.len() + c.coarse_values.len()) * size_of::<T>()
        };
        self.chunks.iter().map(chunk).sum()
    }

    /// Makes room for `count` summaries in all.
    pub fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        while self.chunks.len() * CHUNK_PANELS * LANES < count {
            self.chunks.push(Chunk {
                means: Codes::try_new(self.quads())?,
                variances: Codes::try_new(self.quads())?,
                values: AlignedBuffer::try_new(CHUNK_PANELS * Self::value_length(self.value_dimensions))?,
                coarse_values: AlignedBuffer::try_new(Self::value_length(self.value_dimensions))?,
            });
        }
        Ok(())
    }

    /// Gives back what is not needed for `count` summaries.
    pub fn truncate(&mut self, count: usize) {
        self.chunks.truncate(count.div_ceil(CHUNK_PANELS * LANES));
    }

    /// The mean keys of chunk number `chunk`, [`CHUNK_PANELS`] panels.
    pub fn means(&self, chunk: usize) -> CodePanels<'_> {
        let Codes { codes, scales } = &self.chunks[chunk].means;
        CodePanels { codes, scales }
    }

    /// The variances of keys, as [`Self::means`].
    pub fn variances(&self, chunk: usize) -> CodePanels<'_> {
        let Codes { codes, scales } = &self.chunks[chunk].variances;
        CodePanels { codes, scales }
    }

    /// `[value_dimensions / 16][16][16]` (bf16: `[..][8][16][2]`): the mean values of sixteen summaries.
    pub fn values(&self, panel: usize) -> &[T] {
        let length = Self::value_length(self.value_dimensions);
        &self.chunks[panel / CHUNK_PANELS].values[panel % CHUNK_PANELS * length..][..length]
    }

    /// As [`Self::values`]: the mean of each panel of values of a chunk, of those that [`Self::join`] was told of.
    pub fn coarse_values(&self, chunk: usize) -> &[T] {
        &self.chunks[chunk].coarse_values
    }

    /// Makes the mean of a panel's sixteen values anew.
    pub fn join(&mut self, kernels: &Kernels, panel: usize) {
        let (shape, length) = (self.shape(), Self::value_length(self.value_dimensions));
        let Chunk { values, coarse_values, .. } = &mut self.chunks[panel / CHUNK_PANELS];
        let values = &values[panel % CHUNK_PANELS * length..][..length];
        self.mean.resize(shape.row(), 0.0);
        T::value_means(kernels, values, &mut self.mean);
        self.value.resize(shape.row(), T::default());
        T::convert(kernels, &self.mean, &mut self.value);
        shape.write_one(coarse_values, panel % CHUNK_PANELS, &self.value);
    }

    /// Stores summary `number`, which must be reserved.
    pub fn write(&mut self, kernels: &Kernels, number: usize, summary: &Summary) {
        let (shape, length) = (self.shape(), Self::value_length(self.value_dimensions));
        let (chunk, at) = (&mut self.chunks[number / LANES / CHUNK_PANELS], number % (CHUNK_PANELS * LANES));
        for (codes, vector) in [(&mut chunk.means, &summary.mean), (&mut chunk.variances, &summary.variance)] {
            codes.write(kernels, at, &vector[..self.dimensions], &self.zeros, &mut self.row);
        }
        self.value.resize(shape.row(), T::default());
        T::convert(kernels, &summary.value[..shape.row()], &mut self.value);
        shape.write_one(&mut chunk.values[at / LANES * length..][..length], at % LANES, &self.value);
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
            let numbers: Vec<usize> = (0..16).chain(256..272).chain([399]).collect();
            for &number in &numbers {
                summaries.write(kernels, number, &summary(number));
            }
            for number in numbers {
                let (at, summary) = (number % 256, summary(number));
                let (panels, quads) = (at / LANES, summaries.quads());
                let parts = [
                    (summaries.means(number / 256), &summary.mean),
                    (summaries.variances(number / 256), &summary.variance),
                ];
                for (CodePanels { codes, scales }, want) in parts {
                    let largest = want[..d].iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
                    for (i, &want) in want[..d].iter().enumerate() {
                        let code = codes[((panels * quads + i / QUAD) * LANES + at % LANES) * QUAD + i % QUAD];
                        let read = (f32::from(code) - 128.0) * scales[at];
                        assert!((read - want).abs() <= largest / 253.0, "{number}, {i}: {read} for {want}");
                    }
                }
                let shape = summaries.shape();
                let values = summaries.values(number / LANES);
                for (i, &want) in summary.value.iter().enumerate() {
                    assert_eq!(values[shape.place(number % LANES, i)].to_f32().to_bits(), want.to_bits());
                }
            }
            // The means of sixteen whole numbers that follow each other are halves: both types hold them.
            for panel in [0, 16] {
                summaries.join(kernels, panel);
                let (shape, first) = (summaries.shape(), panel * LANES % 50);
                for i in 0..dv {
                    let mean = i as f32 - first as f32 - 7.5;
                    let read = summaries.coarse_values(panel / CHUNK_PANELS)[shape.place(panel % CHUNK_PANELS, i)];
                    assert_eq!(read.to_f32().to_bits(), mean.to_bits(), "{panel}, {i}");
                }
            }
        }
        check::<f32>();
        check::<u16>();
    }
}
