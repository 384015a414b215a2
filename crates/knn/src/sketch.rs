//! Sketches of a lane's settled keys: two bits per number, from which one query's scores of all of them are estimated
//! while a quarter of an eighth of their bytes are read.
//!
//! A key less the lane's centre is rotated by a Walsh-Hadamard transform, which spreads what is large in few places,
//! and each number is rounded to one of four levels, -1.5 to 1.5 times a step that suits a normal distribution of the
//! key's own spread (Max 1960). The key's scale is then chosen such that the sketch's inner product with the key is
//! the key's squared length: so the estimate has no bias for queries in the direction of the key, which are those that
//! look for it (as in `RaBitQ`, Gao and Long 2024).

use half::bf16;
use iceformer_simd::{
    AlignedBuffer, Kernels, LANES, OutOfMemory, SKETCH_GROUP, SKETCH_LINE, SKETCH_LINE_BYTES, SketchRow,
    sketch_group_bytes,
};
use std::f32::consts::LN_2;

/// Tiles in one allocation, whole groups: so many that the beginning of a stretch, which nothing asked for, counts little.
/// (With 128 a step of decoding at 32,768 tokens takes 1 to 2 % longer.)
pub(crate) const SKETCH_CHUNK: usize = 512;
const _: () = assert!(SKETCH_CHUNK.is_multiple_of(SKETCH_GROUP));

/// Step of four levels that rounds a normal distribution best, in standard deviations (Max 1960).
const STEP: f32 = 0.9957;

/// Mean squared error per number that the levels leave in a normal distribution, in squared scales.
const ERROR: f32 = 0.1056;

/// What the rounding adds to the mean of a weight is taken off up to this (bits). Where estimates are coarser than that
/// masses come out too high rather than too low: more is read, nothing is overlooked.
const MOST_PENALTY: f32 = 1.0;

/// The sketches of a lane.
#[derive(Debug)]
pub(crate) struct Sketches {
    dimensions: usize,
    /// `[dimensions]`: what the keys are relative to. Empty until the first keys come.
    centre: Vec<f32>,
    /// Mean squared scale of the first keys.
    squared_scale: f32,
    /// Each `[SKETCH_CHUNK / 4]` groups: codes `[4][lines][16][4]`, see [`SKETCH_LINE`], then scales `[4][16]`, bf16: the
    /// value of one step of each key.
    chunks: Vec<AlignedBuffer<u8>>,
}

/// Query rows as a pass over sketches takes them.
#[derive(Debug, Default)]
pub(crate) struct SketchQueries {
    /// `[rows][16 x lines]`: codes of the rotated queries.
    codes: Vec<i8>,
    rows: Vec<SketchRow>,
    /// `[dimensions]`: one rotated query.
    rotated: Vec<f32>,
    error: f32,
}

impl SketchQueries {
    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.codes.capacity()
            + self.rows.capacity() * size_of::<SketchRow>()
            + self.rotated.capacity() * size_of::<f32>()
    }

    /// Score (base 2) of the keys' centre for a row that was just loaded.
    pub fn base(&self, row: usize) -> f32 {
        self.rows[row].base
    }

    /// Standard error (bits) of a key's estimated score, of the row for which it is largest.
    pub fn error(&self) -> f32 {
        self.error
    }
}

impl Sketches {
    pub fn new(dimensions: usize) -> Self {
        Self { dimensions, centre: Vec::new(), squared_scale: 0.0, chunks: Vec::new() }
    }

    fn lines(&self) -> usize {
        self.dimensions.div_ceil(SKETCH_LINE)
    }

    /// Bytes of an allocation.
    const fn chunk_bytes(dimensions: usize) -> usize {
        SKETCH_CHUNK / SKETCH_GROUP * sketch_group_bytes(dimensions.div_ceil(SKETCH_LINE))
    }

    /// Bytes of `tiles` tiles, in whole chunks; `usize::MAX` where that is more.
    pub fn estimate_bytes(dimensions: usize, tiles: usize) -> usize {
        tiles.div_ceil(SKETCH_CHUNK).saturating_mul(Self::chunk_bytes(dimensions))
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(AlignedBuffer::len).sum()
    }

    /// Makes room for `tiles` tiles in all.
    pub fn reserve(&mut self, tiles: usize) -> Result<(), OutOfMemory> {
        while self.chunks.len() * SKETCH_CHUNK < tiles {
            self.chunks.push(AlignedBuffer::try_new(Self::chunk_bytes(self.dimensions))?);
        }
        Ok(())
    }

    /// Gives back what is not needed for `tiles` tiles.
    pub fn truncate(&mut self, tiles: usize) {
        self.chunks.truncate(tiles.div_ceil(SKETCH_CHUNK));
        if tiles == 0 {
            self.centre.clear();
        }
    }

    /// Sketches tiles from `first` on, which must be reserved: sixteen of `keys` (`[n][dimensions]`) each, in the order
    /// that `order` lists them.
    pub fn write(&mut self, kernels: &Kernels, first: usize, order: &[u32], keys: &[f32]) {
        let d = self.dimensions;
        let new = self.centre.is_empty();
        let mut squared_scales = 0.0;
        if new {
            self.centre.resize(d, 0.0);
            for key in keys.chunks_exact(d) {
                kernels.add_scaled(key, 1.0 / order.len() as f32, &mut self.centre);
            }
        }
        let (line_bytes, group_bytes) = (self.lines() * SKETCH_LINE_BYTES, sketch_group_bytes(self.lines()));
        let (mut residual, mut levels) = (vec![0.0; d], vec![0.0; d]);
        let mut codes = vec![0; self.lines() * SKETCH_LINE];
        for (number, &key) in order.iter().enumerate() {
            let (tile, lane) = (first + number / LANES, number % LANES);
            residual.copy_from_slice(&keys[key as usize * d..][..d]);
            kernels.add_scaled(&self.centre, -1.0, &mut residual);
            kernels.hadamard(&mut residual);
            let square = kernels.dot(&residual, &residual);
            let inverse = if square > 0.0 { 1.0 / (STEP * (square / d as f32).sqrt()) } else { 0.0 };
            for ((code, level), &x) in codes.iter_mut().zip(&mut levels).zip(&residual) {
                // Comparisons instead of a conversion: compilers turn them into vectors.
                let number = x * inverse;
                let reached = i32::from(number >= -1.0) + i32::from(number >= 0.0) + i32::from(number >= 1.0);
                *level = reached as f32 - 1.5;
                *code = reached as u8;
            }
            let along = kernels.dot(&residual, &levels);
            let group = tile % SKETCH_CHUNK / SKETCH_GROUP * group_bytes;
            let group = &mut self.chunks[tile / SKETCH_CHUNK][group..][..group_bytes];
            let (all_codes, all_scales) = group.split_at_mut(SKETCH_GROUP * line_bytes);
            let tile = tile % SKETCH_GROUP;
            let lines = all_codes[tile * line_bytes..][..line_bytes].chunks_exact_mut(SKETCH_LINE_BYTES);
            for (line, numbers) in lines.zip(codes.as_chunks::<SKETCH_LINE>().0) {
                // Four codes at once: no byte runs over.
                let parts = numbers.as_chunks::<4>().0.iter().enumerate();
                let joined = parts.fold(0, |all, (part, &four)| all | u32::from_le_bytes(four) << (2 * part));
                line[lane * 4..][..4].copy_from_slice(&joined.to_le_bytes());
            }
            let scale = if along > 0.0 { square / along } else { 0.0 };
            let bits = bf16::from_f32(scale).to_bits();
            all_scales.as_chunks_mut::<2>().0[tile * LANES + lane] = bits.to_ne_bytes();
            squared_scales += scale * scale;
        }
        if new {
            self.squared_scale = squared_scales / order.len() as f32;
        }
    }

    /// Prepares rows (`[rows][stride]`, scaled to base 2, `dimensions` of each used) for one call of [`Self::masses`].
    pub fn load(&self, kernels: &Kernels, rows: &[f32], stride: usize, queries: &mut SketchQueries) {
        let (d, padded) = (self.dimensions, self.lines() * SKETCH_LINE);
        let count = rows.len() / stride;
        queries.codes.clear();
        queries.codes.resize(count * padded, 0);
        queries.rows.clear();
        queries.error = 0.0;
        for (row, codes) in rows.chunks_exact(stride).zip(queries.codes.chunks_exact_mut(padded)) {
            queries.rotated.clear();
            queries.rotated.extend_from_slice(&row[..d]);
            kernels.hadamard(&mut queries.rotated);
            let (mut scale, mut start) = ([0.0], [0]);
            kernels.quantize_i8(&queries.rotated, d, codes, &mut scale, &mut start);
            let squared_error = ERROR * kernels.dot(&row[..d], &row[..d]); // in squared scales
            queries.error = queries.error.max((squared_error * self.squared_scale).sqrt());
            // A normal error of this variance (in bits, hence ln 2) raises the mean of 2^error by half of it.
            let penalty = squared_error * (LN_2 / 2.0);
            queries.rows.push(SketchRow {
                scale: scale[0],
                // `start` is -128 times the sum.
                offset: start[0] as f32 * (1.5 / 128.0) * scale[0],
                penalty: penalty.min(MOST_PENALTY / self.squared_scale.max(f32::MIN_POSITIVE)),
                base: kernels.dot(&row[..d], &self.centre),
            });
        }
    }

    /// Estimates the masses of tiles `range`, which begins with a group, for all rows, relative to 2^`reference` of each
    /// row, into `masses[row * stride + tile - range.start]`.
    pub fn masses(
        &self,
        kernels: &Kernels,
        queries: &mut SketchQueries,
        reference: &[f32],
        range: std::ops::Range<usize>,
        masses: &mut [f32],
        stride: usize,
    ) {
        for (row, reference) in queries.rows.iter_mut().zip(reference) {
            row.base -= reference;
        }
        assert!(queries.rows.is_empty() || (queries.rows.len() - 1) * stride + range.len() <= masses.len());
        assert!(range.start.is_multiple_of(SKETCH_GROUP));
        let lines = self.lines();
        let group_bytes = sketch_group_bytes(lines);
        let mut tile = range.start;
        while tile < range.end {
            let chunk = &self.chunks[tile / SKETCH_CHUNK];
            let first = tile % SKETCH_CHUNK;
            let count = (SKETCH_CHUNK - first).min(range.end - tile);
            // A chunk is whole groups, and so is what comes before it.
            let groups = &chunk[first / SKETCH_GROUP * group_bytes..][..count.div_ceil(SKETCH_GROUP) * group_bytes];
            // SAFETY: the groups are those of `count` tiles; queries are [rows][16 x lines]; the last row's masses end
            // within the slice, as asserted.
            unsafe {
                kernels.sketch_masses(
                    lines,
                    queries.codes.as_ptr(),
                    lines * SKETCH_LINE,
                    &queries.rows,
                    count,
                    groups.as_ptr(),
                    masses.as_mut_ptr().add(tile - range.start),
                    stride,
                );
            }
            tile += count;
        }
    }
}
