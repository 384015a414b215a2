//! What a worker needs besides the vectors: queries as the kernels take them, scores, sums.

use super::selection::Weighed;
use super::stand_in::StandInWeights;
use crate::element::Element;
use crate::stock::Lendable;
use crate::tiles::TileList;
use iceformer_simd::{AlignedBuffer, AttendCodes, Kernels};

/// A worker's memory, kept between searches.
#[derive(Debug, Default)]
pub(crate) struct Scratch<T: Element> {
    /// `[rows][dimensions]`: scaled queries.
    pub(super) scaled: Vec<f32>,
    /// `[rows][dimensions]`: the scaled queries as the kernels take them.
    pub(super) queries: Buffer<T>,
    /// The same as codes: if the keys are codes, or tiles are estimated.
    pub(super) coded: CodedRows,
    /// `[groups of rows][dimensions]`: mean squares of the scaled queries.
    pub(super) squares: Vec<f32>,
    /// The same as codes.
    pub(super) coded_squares: CodedRows,
    /// Weights of stand-ins.
    pub(super) stand_ins: StandInWeights<T>,
    /// The same where the kernels take f32.
    pub(super) wide_stand_ins: StandInWeights<f32>,
    pub(super) weights: Buffer<T>,
    /// Weights where the kernels take f32.
    pub(super) wide_weights: Buffer<f32>,
    pub(super) scores: Buffer<f32>,
    pub(super) from: Vec<u32>,
    pub(super) to: Vec<u32>,
    pub output: Vec<f32>,
    pub largest: Vec<f32>,
    pub sum: Vec<f32>,
    pub(super) tiles: TileList<T>,
    /// `[STEP_TILES]` tiles of numbers: what a step of codes is copied to.
    pub(super) copy: Buffer<T>,
    /// `[rows]`: what the weights of far tiles are relative to (base 2).
    pub(super) tops: Vec<f32>,
    /// `[rows]`: one over what a row weighs in all, relative to `tops`.
    pub(super) inverses: Vec<f32>,
    /// Tiles that a block may choose from.
    pub(super) candidates: usize,
    /// `[rows][tiles of a chunk]`: scores of mean keys, or second-order estimates.
    pub(super) estimates: Buffer<f32>,
    /// `[candidates]`: mean mass over the block.
    pub(super) masses: Vec<f32>,
    /// `[width]`: the block's mean share of weight that each tile's mean has as a stand-in.
    pub(super) mean_masses: Vec<f32>,
    /// Places in `masses`, while the lightest are sought.
    pub(super) by_mass: Vec<Weighed>,
    /// `[panels]`: those of which each tile stands in by itself.
    pub(super) fine: Vec<bool>,
    /// `[panels, in whole panels]`: weights of a row for the means of the others.
    pub(super) coarse: Vec<f32>,
    /// `[width]`: 1 for the weights of stand-ins that stay, 0 for those of tiles that are read.
    pub(super) kept: Vec<f32>,
    /// Tiles to read, rising, by their number behind the sinks.
    pub(super) ranking: Vec<u32>,
    /// Panels of mean values for a product.
    pub(super) panels: Vec<*const T>,
}

// SAFETY: the lists of tiles and panels hold pointers only while a search runs, on the thread that runs it.
unsafe impl<T: Element> Send for Scratch<T> {}

impl<T: Element> Lendable for Scratch<T> {
    fn bytes(&self) -> usize {
        let Self { scaled, squares, output, largest, sum, tops, inverses, masses, mean_masses, coarse, kept, .. } =
            self;
        let numbers = [scaled, squares, output, largest, sum, tops, inverses, masses, mean_masses, coarse, kept];
        let buffers = [&self.queries, &self.weights, &self.copy];
        let wide = [&self.wide_weights, &self.scores, &self.estimates];
        let tiles = [&self.from, &self.to, &self.ranking];
        let lists = vec_bytes(&self.tiles.numbers) + vec_bytes(&self.tiles.codes) + vec_bytes(&self.by_mass);
        numbers.into_iter().map(vec_bytes).sum::<usize>()
            + buffers.into_iter().map(Buffer::bytes).sum::<usize>()
            + wide.into_iter().map(Buffer::bytes).sum::<usize>()
            + tiles.into_iter().map(vec_bytes).sum::<usize>()
            + self.stand_ins.bytes()
            + self.wide_stand_ins.bytes()
            + self.coded.bytes()
            + self.coded_squares.bytes()
            + vec_bytes(&self.panels)
            + vec_bytes(&self.fine)
            + lists
    }
}

/// Rows as codes of one byte, each with a scale of its own, see [`Kernels::quantize_i8`].
#[derive(Debug, Default)]
pub(super) struct CodedRows {
    /// `[rows][numbers, padded to whole quads]`.
    pub codes: Vec<i8>,
    /// `[rows]`: a number is its code times this.
    pub scales: Vec<f32>,
    /// `[rows]`: what sums of products of the codes start with.
    pub starts: Vec<i32>,
}

impl CodedRows {
    /// Takes rows, `[rows][stride]`, `length` numbers of each.
    pub fn quantize(&mut self, kernels: &Kernels, rows: &[f32], stride: usize, length: usize) {
        let (count, width) = (rows.len() / stride, AttendCodes::query_width(length));
        self.codes.resize(count * width, 0);
        self.scales.resize(count, 0.0);
        self.starts.resize(count, 0);
        let codes = self.codes.chunks_exact_mut(width);
        let scales = self.scales.chunks_exact_mut(1).zip(self.starts.chunks_exact_mut(1));
        for ((row, codes), (scale, start)) in rows.chunks_exact(stride).zip(codes).zip(scales) {
            kernels.quantize_i8(&row[..length], length, codes, scale, start);
        }
    }

    /// Bytes allocated.
    fn bytes(&self) -> usize {
        vec_bytes(&self.codes) + vec_bytes(&self.scales) + vec_bytes(&self.starts)
    }
}

/// Bytes allocated.
pub(crate) fn vec_bytes<N>(numbers: &Vec<N>) -> usize {
    numbers.capacity() * size_of::<N>()
}

/// An aligned buffer that grows when a larger one is asked for.
#[derive(Debug)]
pub(super) struct Buffer<T: Element>(AlignedBuffer<T>);

impl<T: Element> Default for Buffer<T> {
    fn default() -> Self {
        Self(AlignedBuffer::new(0))
    }
}

impl<T: Element> Buffer<T> {
    /// Bytes allocated.
    pub(super) fn bytes(&self) -> usize {
        self.0.len() * size_of::<T>()
    }

    pub(super) fn at_least(&mut self, length: usize) -> &mut [T] {
        if self.0.len() < length {
            self.0 = AlignedBuffer::new(length.next_multiple_of(4096));
        }
        &mut self.0[..length]
    }
}
