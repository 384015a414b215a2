//! The centres of clusters, side by side, to choose clusters by.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use iceformer_simd::{AlignedBuffer, LANES};

use crate::error::{Error, Result};
use crate::quantization::{inverse, reach, step_for};
use crate::scan::code_tiles::{ZERO, place, quads, tile_bytes};
use crate::scan::query::Queries;
use crate::structure::Context;

/// Centres in the layout of a matrix product: panels of sixteen, `[panels][dimensions][16]`.
#[derive(Debug, Clone)]
pub(crate) struct Centres {
    dimensions: usize,
    len: usize,
    panels: AlignedBuffer<f32>,
    /// `[16 * panels]`: half the squared length, negated, which makes products scores by distance; −∞ past the last.
    halves: Vec<f32>,
    /// `[16 * panels]`: the largest distance of a cluster's vectors from its centre.
    radii: Vec<f32>,
    /// The centres again, one byte per number; `None` until [`Centres::code`].
    coded: Option<Coded>,
}

/// Centres as codes, see [`crate::scan::block::Block`]: a query reads a quarter of the memory, and which clusters it
/// chooses is the same at every SIMD level.
#[derive(Debug, Clone)]
struct Coded {
    /// `[dimensions]`
    middle: Vec<f32>,
    step: f32,
    /// `[panels][quads][16][4]`
    codes: Vec<u8>,
}

impl Centres {
    /// Room for `len` centres, all zero.
    pub fn new(dimensions: usize, len: usize) -> Result<Self> {
        let panels = len.div_ceil(LANES);
        let numbers = AlignedBuffer::try_new(panels * dimensions * LANES)
            .map_err(|error| Error::OutOfMemory { bytes: error.bytes })?;
        let mut halves = vec![f32::NEG_INFINITY; panels * LANES];
        halves[..len].fill(0.0);
        Ok(Self { dimensions, len, panels: numbers, halves, radii: vec![0.0; panels * LANES], coded: None })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn panels(&self) -> usize {
        self.halves.len() / LANES
    }

    /// Sets a centre, `[dimensions]`.
    pub fn set(&mut self, index: usize, centre: &[f32], radius: f32) {
        let start = index / LANES * self.dimensions * LANES + index % LANES;
        for (i, &x) in centre.iter().enumerate() {
            self.panels[start + i * LANES] = x;
        }
        let squared: f64 = centre.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        self.halves[index] = (-0.5 * squared) as f32;
        self.radii[index] = radius;
        if let Some(coded) = &mut self.coded
            && !coded.set(index, centre)
        {
            self.code();
        }
    }

    /// Codes all centres; from then on changes are coded as they come.
    pub fn code(&mut self) {
        let d = self.dimensions;
        let mut sums = vec![0.0_f64; d];
        let mut centre = vec![0.0_f32; d];
        for index in 0..self.len {
            self.get(index, &mut centre);
            sums.iter_mut().zip(&centre).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let middle: Vec<f32> = sums.iter().map(|sum| (sum / self.len.max(1) as f64) as f32).collect();
        let mut most = 0.0_f32;
        for index in 0..self.len {
            self.get(index, &mut centre);
            centre.iter_mut().zip(&middle).for_each(|(x, m)| *x -= m);
            most = most.max(reach(&centre));
        }
        // Room for centres that move, so that not every change codes all of them again.
        let step = step_for(most * 1.25);
        let mut coded = Coded { middle, step, codes: vec![ZERO; self.panels() * tile_bytes(d)] };
        for index in 0..self.len {
            self.get(index, &mut centre);
            coded.set(index, &centre);
        }
        self.coded = Some(coded);
    }

    /// Products of coded queries with all centres, `[rows][16 * panels]`; anything past the last centre. `masks` is room to work in.
    pub fn scan(
        &self,
        context: &Context,
        queries: &Queries<'_>,
        rows: Range<usize>,
        scores: &mut [f32],
        masks: &mut Vec<u16>,
    ) {
        let Some(coded) = &self.coded else { return };
        let (width, panels) = (quads(self.dimensions) * 4, self.panels());
        let sizes = &queries.sizes[rows.clone()];
        let scales: Vec<f32> = sizes.iter().map(|size| size.step * coded.step).collect();
        let thresholds = vec![f32::NEG_INFINITY; sizes.len()];
        masks.resize(sizes.len() * panels, 0);
        assert!(scores.len() >= sizes.len() * panels * LANES && queries.codes.len() >= rows.end * width);
        // SAFETY: the rows' codes are [rows][4 * quads], the centres' [panels][quads][16][4], scales and thresholds
        // [rows], scores [rows][panels][16], masks [rows][panels].
        unsafe {
            context.kernels.scan_u8(
                sizes.len(),
                width / 4,
                queries.codes[rows.start * width..].as_ptr(),
                width,
                panels,
                coded.codes.as_ptr(),
                width * LANES,
                scales.as_ptr(),
                thresholds.as_ptr(),
                std::ptr::null(),
                scores.as_mut_ptr(),
                masks.as_mut_ptr(),
            );
        }
        let d = self.dimensions;
        let rows = queries.moved()[rows.start * d..rows.end * d].chunks_exact(d).zip(sizes).zip(&scales);
        for (((query, size), scale), scores) in rows.zip(scores.chunks_exact_mut(panels * LANES)) {
            let shift = context.kernels.dot(query, &coded.middle) - size.surplus * scale;
            for score in scores {
                *score += shift;
            }
        }
    }

    pub fn get(&self, index: usize, centre: &mut [f32]) {
        let start = index / LANES * self.dimensions * LANES + index % LANES;
        centre.iter_mut().enumerate().for_each(|(i, x)| *x = self.panels[start + i * LANES]);
    }

    /// Changes the number of centres; new ones are zero.
    pub fn resize(&mut self, len: usize) -> Result<()> {
        let panels = len.div_ceil(LANES);
        if panels > self.panels.len() / (self.dimensions * LANES) {
            let room = panels + panels / 8;
            let mut numbers = AlignedBuffer::try_new(room * self.dimensions * LANES)
                .map_err(|error| Error::OutOfMemory { bytes: error.bytes })?;
            numbers[..self.panels.len()].copy_from_slice(&self.panels);
            self.panels = numbers;
        }
        self.halves.truncate(self.len.min(len));
        self.halves.resize(len, 0.0);
        self.halves.resize(panels * LANES, f32::NEG_INFINITY);
        self.radii.truncate(len);
        self.radii.resize(panels * LANES, 0.0);
        self.len = len;
        if let Some(coded) = &mut self.coded {
            coded.codes.resize(panels * tile_bytes(self.dimensions), ZERO);
        }
        Ok(())
    }

    /// `[16 * panels]`: half the squared length of each centre, negated.
    pub fn halves(&self) -> &[f32] {
        &self.halves
    }

    /// `[16 * panels]`: the largest distance of a cluster's vectors from its centre.
    pub fn radii(&self) -> &[f32] {
        &self.radii
    }

    /// The nearest centre (by Euclidean distance, whatever the metric) of each of `[n][dimensions]` vectors, which
    /// `vectors(range, out)` gives; into `nearest`, `[n]`.
    pub fn assign(&self, context: &Context, nearest: &mut [u32], vectors: impl Fn(Range<usize>, &mut [f32]) + Sync) {
        const ROWS: usize = 64;
        let d = self.dimensions;
        let step = self.step();
        let parts: Vec<_> = nearest.chunks_mut(ROWS * 16).map(Mutex::new).collect();
        context.pool.for_each(parts.len(), |_, part| {
            let mut guard = parts[part].lock().unwrap_or_else(PoisonError::into_inner);
            let most = guard.len().min(ROWS);
            let mut rows = vec![0.0_f32; most * d];
            let mut products = vec![0.0_f32; most * step * LANES];
            let mut scores = [0.0_f32; ROWS];
            for (chunk, nearest) in guard.chunks_mut(ROWS).enumerate() {
                let first = part * ROWS * 16 + chunk * ROWS;
                let rows = &mut rows[..nearest.len() * d];
                vectors(first..first + nearest.len(), rows);
                let scores = &mut scores[..nearest.len()];
                scores.fill(f32::NEG_INFINITY);
                nearest.fill(0);
                for panel in (0..self.panels()).step_by(step) {
                    let columns = step.min(self.panels() - panel) * LANES;
                    self.multiply_panels(context, rows, panel, columns / LANES, columns, &mut products);
                    let halves = &self.halves[panel * LANES..panel * LANES + columns];
                    let first = (panel * LANES) as u32;
                    context.kernels.nearest_columns(columns, &products, columns, halves, first, nearest, scores);
                }
            }
        });
    }

    /// So many panels that they stay in the cache while all rows of a product pass.
    fn step(&self) -> usize {
        ((64 << 10) / (self.dimensions * LANES * size_of::<f32>())).max(1)
    }

    /// Products of vectors, `[rows][dimensions]`, with `count` panels from `first` on: `[rows][stride]`, of which
    /// `16 * count` are written.
    fn multiply_panels(
        &self,
        context: &Context,
        vectors: &[f32],
        first: usize,
        count: usize,
        stride: usize,
        products: &mut [f32],
    ) {
        let d = self.dimensions;
        let rows = vectors.len() / d;
        assert!(first + count <= self.panels() && count * LANES <= stride);
        assert!(rows == 0 || products.len() >= (rows - 1) * stride + count * LANES);
        // SAFETY: `vectors` is [rows][d], the panels from `first` on are [count][d][16], and `products` has room for
        // [rows][16 * count], `stride` apart.
        unsafe {
            context.kernels.gemm_f32(
                rows,
                d,
                vectors.as_ptr(),
                d,
                self.panels[first * d * LANES..].as_ptr(),
                d * LANES,
                count,
                products.as_mut_ptr(),
                stride,
                false,
            );
        }
    }

    pub fn bytes(&self) -> usize {
        (self.panels.len() + self.halves.capacity() + self.radii.capacity()) * size_of::<f32>()
            + self.coded.as_ref().map_or(0, |coded| coded.codes.capacity() + coded.middle.capacity() * size_of::<f32>())
    }
}

impl Coded {
    /// Codes a centre; false if it is out of reach of the codes.
    fn set(&mut self, index: usize, centre: &[f32]) -> bool {
        let inverse = inverse(self.step);
        let mut fits = true;
        for (i, (x, m)) in centre.iter().zip(&self.middle).enumerate() {
            let code = ((x - m) * inverse).round_ties_even();
            fits &= code.abs() <= 127.0 && (inverse > 0.0 || (x - m).abs() <= 0.0);
            self.codes[place(centre.len(), index, i / 4) + i % 4] = (code.clamp(-127.0, 127.0) as i16 + 128) as u8;
        }
        fits
    }
}
