//! Vectors that are read together: a cluster, or a run of vectors in no particular order.

use iceformer_simd::{Kernels, LANES};

use crate::error::Result;
use crate::file::Buffer;
use crate::metric::Metric;
use crate::quantization::{inverse, reach, step_for};
use crate::row::RowFormat;
use crate::scan::code_tiles::{ZERO, place, quads, tile_bytes};
use crate::structure::{Bytes, Context, Outline};

/// One stored vector on its way into a block.
#[derive(Clone, Copy)]
pub(crate) struct Member<'a> {
    /// `[words]`, see [`RowFormat`].
    pub row: &'a [u32],
    /// `[value_dimensions]`
    pub value: &'a [f32],
    pub slot: u32,
}

/// Vectors at positions `0..len`, each stored twice: as it is, for exact scores, and as one byte per number,
/// for scanning.
///
/// A code is `round((x - centre) / step) + 128`, 1 to 255. Scores of codes are off by no more than a bound that
/// [`Block::radius`] and [`Block::error`] give, so that a scan knows what it need not look at.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    slots: Buffer<u32>,
    /// `[len][words]`
    rows: Buffer<u32>,
    /// `[len][value_dimensions]`
    values: Buffer<f32>,
    /// `[tiles][quads][16][4]`, see [`crate::scan::code_tiles`].
    codes: Buffer<u8>,
    /// `[tiles][16]`, L2 only: what a vector's score has besides its product with the query.
    offsets: Buffer<f32>,
    /// `[dimensions]`, relative to the origin of the index.
    centre: Vec<f32>,
    step: f32,
    radius: f32,
    error: f32,
    /// Sum of the squared lengths of `x - centre`.
    scatter: f64,
    /// Sum of the values, `[value_dimensions]`; empty until there are some.
    value_sums: Vec<f64>,
    /// Vectors when the centre was last made their mean.
    centred: usize,
}

/// What a block knows of its vectors as a whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measures {
    pub step: f32,
    pub radius: f32,
    pub error: f32,
    pub scatter: f64,
    pub centred: usize,
}

impl Block {
    pub fn empty(dimensions: usize) -> Self {
        Self {
            slots: Buffer::new(),
            rows: Buffer::new(),
            values: Buffer::new(),
            codes: Buffer::new(),
            offsets: Buffer::new(),
            centre: vec![0.0; dimensions],
            step: 0.0,
            radius: 0.0,
            error: 0.0,
            scatter: 0.0,
            value_sums: Vec::new(),
            centred: 0,
        }
    }

    /// A block that was taken apart; the lengths must agree.
    pub fn from_parts(
        slots: Buffer<u32>,
        rows: Buffer<u32>,
        values: Buffer<f32>,
        codes: Buffer<u8>,
        offsets: Buffer<f32>,
        centre: Vec<f32>,
        value_sums: Vec<f64>,
        measures: Measures,
    ) -> Self {
        let Measures { step, radius, error, scatter, centred } = measures;
        Self { slots, rows, values, codes, offsets, centre, step, radius, error, scatter, value_sums, centred }
    }

    pub fn measures(&self) -> Measures {
        let Self { step, radius, error, scatter, centred, .. } = *self;
        Measures { step, radius, error, scatter, centred }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn tiles(&self) -> usize {
        self.len().div_ceil(LANES)
    }

    /// `[len]`
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// `[tiles][quads][16][4]`
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// `[16 * tiles]`, or nothing.
    pub fn offsets(&self) -> &[f32] {
        &self.offsets
    }

    /// `[dimensions]`, relative to the origin.
    pub fn centre(&self) -> &[f32] {
        &self.centre
    }

    /// Sum of the values, `[value_dimensions]`.
    pub fn value_sums(&self) -> &[f64] {
        &self.value_sums
    }

    pub fn outline(&self) -> Outline<'_> {
        let numbers = (self.len() * self.centre.len()).max(1);
        let spread = (self.scatter.max(0.0) / numbers as f64).sqrt() as f32;
        Outline { len: self.len(), centre: &self.centre, spread, values: &self.value_sums }
    }

    /// What one step of a code stands for.
    pub fn step(&self) -> f32 {
        self.step
    }

    /// The largest distance of a vector from the centre.
    pub fn radius(&self) -> f32 {
        self.radius
    }

    /// The largest distance of a vector from what its code stands for.
    pub fn error(&self) -> f32 {
        self.error
    }

    pub fn row(&self, words: usize, position: usize) -> &[u32] {
        &self.rows[position * words..(position + 1) * words]
    }

    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    pub fn value(&self, width: usize, position: usize) -> &[f32] {
        &self.values[position * width..(position + 1) * width]
    }

    pub fn values(&self) -> &[f32] {
        &self.values
    }

    pub fn member(&self, context: &Context, format: RowFormat, position: usize) -> Member<'_> {
        Member {
            row: self.row(format.words(), position),
            value: self.value(context.shape.value_dimensions, position),
            slot: self.slots[position],
        }
    }

    pub fn position(&self, slot: u32) -> Option<usize> {
        self.slots.iter().position(|&other| other == slot)
    }

    /// Makes room for `more` vectors, to the vector or with a reserve for those to come.
    pub fn reserve(&mut self, context: &Context, format: RowFormat, more: usize, spare: bool) -> Result<()> {
        let wanted = self.len() + more;
        if wanted <= self.slots.capacity() && self.slots.get_mut().is_some() {
            return Ok(());
        }
        let room = if spare { wanted.max(self.len() + self.len() / 8 + LANES) } else { wanted };
        let additional = room - self.len();
        let tiles = room.div_ceil(LANES);
        self.slots.try_reserve_exact(additional)?;
        self.rows.try_reserve_exact(additional * format.words())?;
        self.values.try_reserve_exact(additional * context.shape.value_dimensions)?;
        let bytes = tiles * tile_bytes(format.dimensions);
        self.codes.try_reserve_exact(bytes - self.codes.len())?;
        if context.shape.metric == Metric::L2 {
            self.offsets.try_reserve_exact(tiles * LANES - self.offsets.len())?;
        }
        Ok(())
    }

    /// Makes sure that what a change writes to is not shared, so that the change cannot run out of memory.
    pub fn unshare(&mut self) -> Result<()> {
        self.slots.make_mut()?;
        self.rows.make_mut()?;
        self.values.make_mut()?;
        self.codes.make_mut()?;
        self.offsets.make_mut().map(|_| ())
    }

    /// Adds vectors.
    pub fn extend<'a>(
        &mut self,
        context: &Context,
        format: RowFormat,
        origin: &[f32],
        members: impl ExactSizeIterator<Item = Member<'a>>,
        spare: bool,
    ) -> Result<()> {
        let first = self.len();
        self.reserve(context, format, members.len(), spare)?;
        for member in members {
            self.slots.push_slice(&[member.slot])?;
            self.rows.push_slice(member.row)?;
            self.values.push_slice(member.value)?;
            add_values(&mut self.value_sums, member.value, member.value.len());
        }
        let tiles = self.tiles();
        self.codes.resize(tiles * tile_bytes(format.dimensions), ZERO)?;
        if context.shape.metric == Metric::L2 {
            self.offsets.resize(tiles * LANES, 0.0)?;
        }
        if self.len() >= 2 * self.centred {
            return self.recentre(context, format, origin);
        }
        let reach = self.reach(context.kernels, format, origin, first);
        if reach > self.step * 127.0 {
            self.encode_all(context, format, origin, step_for(reach * 1.125))
        } else {
            self.encode(context, format, origin, first)
        }
    }

    /// `x - origin - centre` of a position, `[dimensions]`.
    fn residual(&self, kernels: &Kernels, format: RowFormat, origin: &[f32], position: usize, out: &mut [f32]) {
        format.decode(kernels, self.row(format.words(), position), out);
        if origin.is_empty() {
            out.iter_mut().zip(&self.centre).for_each(|(x, c)| *x -= c);
        } else {
            out.iter_mut().zip(origin).zip(&self.centre).for_each(|((x, o), c)| *x = (*x - o) - c);
        }
    }

    /// The largest absolute value in the residuals from position `first` on.
    fn reach(&self, kernels: &Kernels, format: RowFormat, origin: &[f32], first: usize) -> f32 {
        let mut vector = vec![0.0; format.dimensions];
        (first..self.len()).fold(0.0, |most, position| {
            self.residual(kernels, format, origin, position, &mut vector);
            reach(&vector).max(most)
        })
    }

    /// Makes the centre the mean and codes all vectors anew.
    pub fn recentre(&mut self, context: &Context, format: RowFormat, origin: &[f32]) -> Result<()> {
        let len = self.len();
        self.centred = len;
        if len == 0 {
            return Ok(());
        }
        let mut vector = vec![0.0; format.dimensions];
        let mut sums = vec![0.0_f64; format.dimensions];
        for row in self.rows.chunks_exact(format.words()) {
            format.decode(context.kernels, row, &mut vector);
            sums.iter_mut().zip(&vector).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let share = 1.0 / len as f64;
        for (i, (centre, sum)) in self.centre.iter_mut().zip(&sums).enumerate() {
            *centre = (sum * share - f64::from(origin.get(i).copied().unwrap_or(0.0))) as f32;
        }
        let reach = self.reach(context.kernels, format, origin, 0);
        self.encode_all(context, format, origin, step_for(reach))
    }

    /// Codes all vectors, with a new step.
    fn encode_all(&mut self, context: &Context, format: RowFormat, origin: &[f32], step: f32) -> Result<()> {
        self.step = step;
        (self.radius, self.error, self.scatter) = (0.0, 0.0, 0.0);
        self.encode(context, format, origin, 0)
    }

    /// Codes the vectors from position `first` on.
    fn encode(&mut self, context: &Context, format: RowFormat, origin: &[f32], first: usize) -> Result<()> {
        let dimensions = format.dimensions;
        let zeros = vec![0.0_f32; dimensions];
        let mut vector = vec![0.0_f32; dimensions];
        let mut coded = vec![ZERO; quads(dimensions) * 4];
        let inverse = inverse(self.step);
        for position in first..self.len() {
            self.residual(context.kernels, format, origin, position, &mut vector);
            context.kernels.to_codes(&vector, &zeros, inverse, &mut coded);
            let codes = self.codes.make_mut()?;
            for (quad, four) in coded.as_chunks::<4>().0.iter().enumerate() {
                let at = place(dimensions, position, quad);
                codes[at..at + 4].copy_from_slice(four);
            }
            let (mut squared, mut missed) = (0.0_f64, 0.0_f64);
            for (&x, &code) in vector.iter().zip(&coded) {
                let left = f64::from(x) - f64::from(self.step) * (f64::from(code) - 128.0);
                squared += f64::from(x) * f64::from(x);
                missed += left * left;
            }
            self.radius = self.radius.max(up(squared.sqrt()));
            self.error = self.error.max(up(missed.sqrt()));
            self.scatter += squared;
            if context.shape.metric == Metric::L2 {
                let along = context.kernels.exact_dot(&self.centre, &vector);
                self.offsets.make_mut()?[position] = (-along - 0.5 * squared) as f32;
            }
        }
        Ok(())
    }

    /// Takes a vector out; the last one takes its place.
    pub fn remove(&mut self, context: &Context, format: RowFormat, origin: &[f32], position: usize) -> Result<()> {
        let (words, width, last) = (format.words(), context.shape.value_dimensions, self.len() - 1);
        let mut vector = vec![0.0_f32; format.dimensions];
        self.residual(context.kernels, format, origin, position, &mut vector);
        self.scatter -= vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        let value = &self.values[position * width..(position + 1) * width];
        self.value_sums.iter_mut().zip(value).for_each(|(sum, &x)| *sum -= f64::from(x));
        if position != last {
            let slots = self.slots.make_mut()?;
            slots[position] = slots[last];
            self.rows.make_mut()?.copy_within(last * words..(last + 1) * words, position * words);
            self.values.make_mut()?.copy_within(last * width..(last + 1) * width, position * width);
            let codes = self.codes.make_mut()?;
            for quad in 0..quads(format.dimensions) {
                let from = place(format.dimensions, last, quad);
                codes.copy_within(from..from + 4, place(format.dimensions, position, quad));
            }
            if !self.offsets.is_empty() {
                self.offsets.make_mut()?.copy_within(last..=last, position);
            }
        }
        self.slots.truncate(last);
        self.rows.truncate(last * words);
        self.values.truncate(last * width);
        let tiles = last.div_ceil(LANES);
        self.codes.truncate(tiles * tile_bytes(format.dimensions));
        if !self.offsets.is_empty() {
            self.offsets.truncate(tiles * LANES);
        }
        Ok(())
    }

    /// True when so many vectors have gone that centre, step and bounds describe others.
    pub fn is_stale(&self) -> bool {
        self.len() * 2 < self.centred
    }

    /// Gives reserves back.
    pub fn shrink(&mut self) -> Result<()> {
        self.slots.shrink()?;
        self.rows.shrink()?;
        self.values.shrink()?;
        self.codes.shrink()?;
        self.offsets.shrink()
    }

    /// New slot numbers.
    pub fn renumber(&mut self, renumber: &[u32]) -> Result<()> {
        self.slots.make_mut()?.iter_mut().for_each(|slot| *slot = renumber[*slot as usize]);
        Ok(())
    }

    pub fn bytes(&self) -> Bytes {
        let fixed = size_of::<Self>()
            + self.centre.capacity() * size_of::<f32>()
            + self.value_sums.capacity() * size_of::<f64>();
        Bytes {
            live: fixed
                + self.slots.live_bytes()
                + self.rows.live_bytes()
                + self.values.live_bytes()
                + self.codes.live_bytes()
                + self.offsets.live_bytes(),
            reserved: fixed
                + self.slots.reserved_bytes()
                + self.rows.reserved_bytes()
                + self.values.reserved_bytes()
                + self.codes.reserved_bytes()
                + self.offsets.reserved_bytes(),
        }
    }
}

/// Adds `[n][width]` values to their sum, `[width]` (empty stands for zeros).
fn add_values(sums: &mut Vec<f64>, values: &[f32], width: usize) {
    if width > 0 {
        sums.resize(width, 0.0);
        for value in values.chunks_exact(width) {
            sums.iter_mut().zip(value).for_each(|(sum, &x)| *sum += f64::from(x));
        }
    }
}

/// The next larger `f32`: bounds must not be rounded down.
fn up(x: f64) -> f32 {
    (x as f32).next_up()
}
