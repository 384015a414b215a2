//! Vectors as one byte per number, which is what a walk compares.
//!
//! A number x of dimension i is `round((x - centre[i]) / step) + 128`, 1 to 255. One step serves all dimensions, so
//! that squared distances are sums of products of codes.

use iceformer_simd::{BYTE_ROW, Kernels};

use crate::chunked::Chunked;
use crate::error::Result;
use crate::file::{Reader, Writer};
use crate::limits::MAX_VECTORS;
use crate::metric::Metric;
use crate::structure::{Bytes, Context};
use crate::vectors::Vectors;

/// Vectors that the centre and the step are computed from.
const SAMPLE: usize = 16_384;
/// The largest distance to the centre that has a code is at most this many times the one that only a thousandth
/// of the numbers exceed: single outliers must not make the codes of all others alike.
const REACH: f32 = 4.0;
/// See [`Codes::detour`].
const DETOUR: f32 = 1.2;
/// Codes are made anew when the vectors are this many times as many as when they were made last ...
const GROWTH: usize = 2;
/// ... or when one in this many was clipped since.
const CLIPPED: usize = 64;

/// Codes by slot. A copy shares memory until one of the two changes.
#[derive(Debug, Clone)]
pub(super) struct Codes {
    /// `[slots][width]`, padded with 128.
    rows: Chunked<u8>,
    /// `[slots][1]`: what a code adds to its separations, see [`Codes::separation`].
    norms: Chunked<f32>,
    metric: Metric,
    /// What every separation has in common.
    base: f32,
    /// `[dimensions]`
    centre: Vec<f32>,
    step: f32,
    /// Vectors there were when centre and step were computed.
    made_for: usize,
    /// Vectors since then with numbers too far from the centre.
    clipped: usize,
}

/// A query as signed bytes. The score of a slot is `gain * (query · code - shift) - weight * norm`; larger is nearer.
#[derive(Debug, Clone)]
pub(super) struct CodedQuery {
    /// `[width]`
    pub bytes: Vec<i8>,
    /// What codes being 128 too large adds to every product.
    pub shift: i32,
    pub gain: f32,
    /// 0 if lengths do not matter.
    pub weight: f32,
}

impl CodedQuery {
    /// To be filled by [`Codes::query_of`].
    pub fn empty() -> Self {
        Self { bytes: Vec::new(), shift: 0, gain: 0.0, weight: 0.0 }
    }

    #[inline]
    pub fn score(&self, product: i32, norm: f32) -> f32 {
        (product - self.shift) as f32 * self.gain - self.weight * norm
    }

    fn shift(bytes: &[i8]) -> i32 {
        128 * bytes.iter().map(|&byte| i32::from(byte)).sum::<i32>()
    }
}

impl Codes {
    pub fn new(dimensions: usize, metric: Metric) -> Self {
        Self {
            rows: Chunked::new(dimensions.next_multiple_of(BYTE_ROW)),
            norms: Chunked::new(1),
            metric,
            base: 0.0,
            centre: vec![0.0; dimensions],
            step: 1.0,
            made_for: 0,
            clipped: 0,
        }
    }

    /// Bytes of a code.
    pub fn width(&self) -> usize {
        self.centre.len().next_multiple_of(BYTE_ROW)
    }

    pub fn reserve(&mut self, slots: usize) -> Result<()> {
        if slots > self.rows.len() {
            self.rows.resize(slots, 128)?;
            self.norms.resize(slots, 0.0)?;
        }
        Ok(())
    }

    /// Makes sure that writing these slots needs no memory.
    pub fn unshare(&mut self, slots: impl Iterator<Item = u32>) -> Result<()> {
        for slot in slots {
            self.rows.unshare(slot as usize)?;
            self.norms.unshare(slot as usize)?;
        }
        Ok(())
    }

    #[inline]
    pub fn row(&self, slot: u32) -> &[u8] {
        self.rows.row(slot as usize)
    }

    #[inline]
    pub fn norm(&self, slot: u32) -> f32 {
        self.norms.row(slot as usize)[0]
    }

    /// Where [`Self::norm`] is.
    #[inline]
    pub fn norm_address(&self, slot: u32) -> *const f32 {
        self.norms.row(slot as usize).as_ptr()
    }

    /// Whether codes should be made anew before there are `len` vectors.
    pub fn stale(&self, len: usize) -> bool {
        len >= GROWTH * self.made_for.max(1) || self.clipped * CLIPPED > len
    }

    /// Computes centre and step from vectors, `[n][dimensions]`, at least one; codes made before are void.
    pub fn fit(&mut self, vectors: &[f32], len: usize) {
        let d = self.centre.len();
        let n = vectors.len() / d;
        let mut sums = vec![0.0_f64; d];
        for vector in vectors.chunks_exact(d) {
            sums.iter_mut().zip(vector).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        self.centre.iter_mut().zip(&sums).for_each(|(centre, sum)| *centre = (sum / n as f64) as f32);
        let mut far: Vec<f32> = vectors
            .chunks_exact(d)
            .flat_map(|vector| vector.iter().zip(&self.centre).map(|(x, centre)| (x - centre).abs()))
            .collect();
        let largest = far.iter().fold(0.0_f32, |largest, &x| largest.max(x));
        let rank = far.len() - 1 - far.len() / 1000;
        let common = *far.select_nth_unstable_by(rank, f32::total_cmp).1;
        // A little more, for the vectors that are not in the sample.
        let reach = if common > 0.0 { largest.min(REACH * common) } else { largest } * 1.1;
        self.step = if reach / 127.0 >= f32::MIN_POSITIVE { reach / 127.0 } else { 1.0 };
        self.set_base();
        self.made_for = len;
        self.clipped = 0;
    }

    fn set_base(&mut self) {
        self.base = match self.metric {
            Metric::InnerProduct => {
                let squares: f64 = self.centre.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                (-2.0 * squares / (f64::from(self.step) * f64::from(self.step))) as f32
            }
            Metric::Cosine | Metric::L2 => 0.0,
        };
    }

    /// How far apart two vectors are for the choice of links, in squared steps: the squared distance, or, for inner
    /// products, twice the inner product with its sign changed. `score` is that of one vector as a query
    /// ([`Self::query_of`]) and the other, `norm` the first's.
    #[inline]
    pub fn separation(&self, score: f32, norm: f32) -> f32 {
        self.base + norm - score
    }

    /// A link to a vector is left out if another link is this many times less apart from that vector than the one the
    /// links belong to. Above 1 more long links stay, which helps walks by distance; separations that are inner
    /// products have no zero that such a factor could be relative to.
    pub fn detour(&self) -> f32 {
        match self.metric {
            Metric::InnerProduct => 1.0,
            Metric::Cosine | Metric::L2 => DETOUR,
        }
    }

    /// At most [`SAMPLE`] of `n` vectors, evenly.
    pub fn sample(n: usize) -> impl Iterator<Item = usize> {
        let count = n.min(SAMPLE);
        (0..count).map(move |i| (i as u64 * n as u64 / count as u64) as usize)
    }

    /// Writes the code of a vector, `[dimensions]`.
    pub fn store(&mut self, slot: u32, vector: &[f32]) {
        let inverse = self.step.recip();
        let row = self.rows.row_mut(slot as usize);
        let mut clipped = false;
        let (mut length, mut along) = (0_u32, 0.0_f64);
        for ((to, x), centre) in row.iter_mut().zip(vector).zip(&self.centre) {
            let code = ((x - centre) * inverse).round_ties_even();
            clipped |= code.abs() > 127.0;
            let code = code.clamp(-127.0, 127.0) as i32;
            length += (code * code) as u32;
            along += f64::from(code) * f64::from(*centre);
            *to = (code + 128) as u8;
        }
        self.clipped += usize::from(clipped);
        self.norms.row_mut(slot as usize)[0] = match self.metric {
            Metric::InnerProduct => (-2.0 * along / f64::from(self.step)) as f32,
            Metric::Cosine | Metric::L2 => length as f32,
        };
    }

    /// Takes the codes of other slots: `renumber` has the new slot of every old one, `u32::MAX` for those that go.
    pub fn renumbered(&self, renumber: &[u32], len: usize) -> Result<Self> {
        let mut other = Self { rows: Chunked::new(self.width()), norms: Chunked::new(1), ..self.clone() };
        other.reserve(len)?;
        for (old, &new) in renumber.iter().enumerate().filter(|(_, new)| **new != u32::MAX) {
            other.rows.row_mut(new as usize).copy_from_slice(self.rows.row(old));
            other.norms.row_mut(new as usize).copy_from_slice(self.norms.row(old));
        }
        other.rows.shrink();
        other.norms.shrink();
        Ok(other)
    }

    /// Makes all codes anew. `taken` has a vector for each slot that is in use.
    pub fn refill(&mut self, context: &Context, vectors: &Vectors, taken: impl Iterator<Item = u32>) {
        let mut vector = vec![0.0; self.centre.len()];
        for slot in taken {
            vectors.read(context.kernels, slot, &mut vector);
            self.store(slot, &vector);
        }
        self.clipped = 0;
    }

    /// A query of the index, `[dimensions]`.
    pub fn query(&self, metric: Metric, query: &[f32]) -> CodedQuery {
        let squared = metric == Metric::L2;
        // An inner product with the centre is the same for all vectors.
        let number = |i: usize| if squared { query[i] - self.centre[i] } else { query[i] };
        let largest = (0..query.len()).fold(0.0_f32, |largest, i| largest.max(number(i).abs()));
        let step = if largest / 127.0 >= f32::MIN_POSITIVE { largest / 127.0 } else { 1.0 };
        let mut bytes = vec![0; self.width()];
        for (i, byte) in bytes.iter_mut().take(query.len()).enumerate() {
            *byte = (number(i) / step).round_ties_even() as i8;
        }
        let shift = CodedQuery::shift(&bytes);
        // -|q - x|² is 2 q·x - |x|² and something that does not depend on x.
        let (gain, weight) = if squared { (2.0 * (step / self.step), 1.0) } else { (1.0, 0.0) };
        CodedQuery { bytes, shift, gain, weight }
    }

    /// The vector of a slot as a query for those that it is least apart from.
    pub fn query_of(&self, slot: u32, query: &mut CodedQuery) {
        query.bytes.clear();
        query.bytes.extend(self.row(slot).iter().map(|&code| (code ^ 128) as i8));
        query.shift = CodedQuery::shift(&query.bytes);
        (query.gain, query.weight) = (2.0, 1.0);
    }

    /// Products of a query and the rows of some slots.
    pub fn products(
        &self,
        kernels: &Kernels,
        query: &[i8],
        slots: &[u32],
        rows: &mut Vec<*const u8>,
        out: &mut Vec<i32>,
    ) {
        rows.clear();
        rows.extend(slots.iter().map(|&slot| self.row(slot).as_ptr()));
        out.resize(slots.len().max(out.len()), 0);
        // SAFETY: each row has `width` bytes, as the query does.
        unsafe { kernels.byte_dots(query, rows, out) };
    }

    pub fn bytes(&self) -> Bytes {
        let (rows, norms) = (self.rows.bytes(), self.norms.bytes());
        Bytes { live: rows.0 + norms.0, reserved: rows.1 + norms.1 }
    }

    /// Writes `codes`, u8 `[slots][width]`, `norms`, f32 `[slots]`, `centre`, f32 `[dimensions]`, `coding`, f32:
    /// the step, and `coded`, u64 `[2]`: vectors that the step was computed for, and clipped ones since.
    pub fn save(&self, writer: &mut Writer<'_>, slots: usize) -> Result<()> {
        self.rows.save("codes", writer, slots)?;
        self.norms.save("norms", writer, slots)?;
        writer.section("centre", &self.centre)?;
        writer.section("coding", &[self.step])?;
        writer.section("coded", &[self.made_for as u64, self.clipped as u64])
    }

    /// Reads what [`Self::save`] wrote.
    pub fn load(context: &Context, reader: &mut Reader<'_>, slots: usize) -> Result<Self> {
        let mut codes = Self::new(context.shape.dimensions, context.shape.metric);
        codes.rows = Chunked::load("codes", reader, slots, codes.width())?;
        codes.norms = Chunked::load("norms", reader, slots, 1)?;
        if reader.verifies()
            && let Some(slot) = (0..slots).find(|&slot| !codes.norms.row(slot)[0].is_finite())
        {
            return Err(reader.invalid::<f32>("norms", slot, "a squared length is not finite".to_owned()));
        }
        let centre = reader.section_of::<f32>("centre", context.shape.dimensions)?;
        if let Some(i) = centre.iter().position(|x| !x.is_finite()) {
            return Err(reader.invalid::<f32>("centre", i, "the centre is not finite".to_owned()));
        }
        codes.centre.copy_from_slice(&centre);
        let coding = reader.section_of::<f32>("coding", 1)?;
        if !(coding[0].is_finite() && coding[0] > 0.0) {
            return Err(reader.invalid::<f32>("coding", 0, format!("the step is {}, it must be above 0", coding[0])));
        }
        codes.step = coding[0];
        codes.set_base();
        let coded = reader.section_of::<u64>("coded", 2)?;
        if let Some(i) = coded.iter().position(|&count| count > MAX_VECTORS as u64) {
            return Err(reader.invalid::<u64>("coded", i, format!("{} vectors are too many", coded[i])));
        }
        (codes.made_for, codes.clipped) = (coded[0] as usize, coded[1] as usize);
        Ok(codes)
    }
}
