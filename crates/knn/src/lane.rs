//! One index of a group: its tiles, which of them have settled, and the summaries of those.
//!
//! In order of insertion, the vectors of a lane are
//!
//! ```text
//! [ sinks: order of insertion | settled: near keys share tiles, one summary per tile | recent: order of insertion ]
//! ```
//!
//! Settling rearranges vectors inside the tiles they already occupy, so nothing moves to other memory.

use crate::arrange::balanced_order;
use crate::sketch::Sketches;
use crate::tiles::{Element, TileStore};
use iceformer_simd::{AlignedBuffer, Kernels, LANES, OutOfMemory};

/// Summaries that lie together, as panels of sixteen.
pub(crate) const SUMMARY_CHUNK: usize = 192;

/// Half of ln 2: turns the variance of keys into bits of score for queries that carry log2(e) (see `soft`).
const HALF_LN_2: f32 = std::f32::consts::LN_2 / 2.0;

/// Summaries of up to [`SUMMARY_CHUNK`] tiles, in the panel layout of a matrix product.
#[derive(Debug)]
pub(crate) struct SummaryChunk<T: Element> {
    /// `[12][dimensions][16]` (bf16: `[12][dimensions / 2][16][2]`): mean key of each tile.
    pub means: AlignedBuffer<T>,
    /// As `means`: variance of the keys of each tile per dimension, times ln 2 / 2.
    pub variances: AlignedBuffer<T>,
    /// `[value_dimensions / 16][192][16]` (bf16: `[..][96][16][2]`): mean value of each tile.
    pub values: AlignedBuffer<T>,
}

#[derive(Debug)]
pub(crate) struct Lane<T: Element> {
    dimensions: usize,
    value_dimensions: usize,
    pub store: TileStore<T>,
    len: usize,
    /// First settled slot; what lies before are the sinks. Meaningful once something has settled.
    settled_start: usize,
    settled_end: usize,
    /// True once it is known which vectors are sinks.
    rooted: bool,
    /// Tiles behind the sinks that have a summary: the settled ones, and whole ones in order of insertion.
    summarized: usize,
    /// Ends of the batches that settled together, rising.
    batches: Vec<usize>,
    /// Number of insertion of the vector at each settled slot.
    order: Vec<u32>,
    summaries: Vec<SummaryChunk<T>>,
    sketches: Sketches,
}

impl<T: Element> Lane<T> {
    /// An empty lane; keys and values are codes of one byte if `coded`.
    pub fn new(dimensions: usize, value_dimensions: usize, coded: bool) -> Self {
        Self {
            dimensions,
            value_dimensions,
            store: TileStore::new(dimensions, value_dimensions, coded),
            len: 0,
            settled_start: 0,
            settled_end: 0,
            rooted: false,
            summarized: 0,
            batches: Vec::new(),
            order: Vec::new(),
            summaries: Vec::new(),
            sketches: Sketches::new(dimensions),
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Slots `settled().0 .. settled().1` have settled; both are multiples of 16, and 0 before anything has.
    pub fn settled(&self) -> (usize, usize) {
        if self.batches.is_empty() { (0, 0) } else { (self.settled_start, self.settled_end) }
    }

    /// Number of vectors that never settle before those that do, 0 if that is not known yet; a multiple of 16.
    pub fn sinks(&self) -> usize {
        self.settled_start
    }

    pub fn settled_tiles(&self) -> usize {
        (self.settled_end - self.settled_start) / LANES
    }

    pub fn summaries(&self) -> &[SummaryChunk<T>] {
        &self.summaries
    }

    pub fn sketches(&self) -> &Sketches {
        &self.sketches
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        let summary = |c: &SummaryChunk<T>| (c.means.len() + c.variances.len() + c.values.len()) * size_of::<T>();
        self.store.bytes()
            + self.sketches.bytes()
            + self.order.capacity() * 4
            + self.summaries.iter().map(summary).sum::<usize>()
    }

    /// Adds a vector; room must be reserved.
    pub fn push(&mut self, key: &[f32], value: &[f32]) {
        self.store.write(self.len, key, value);
        self.len += 1;
    }

    /// Settles what lies before `end` and has not settled; the first `sinks` vectors never do. Both are
    /// multiples of 16, `end` at most the number of vectors.
    pub fn settle(&mut self, kernels: &Kernels, sinks: usize, end: usize) -> Result<(), OutOfMemory> {
        self.root(sinks);
        let start = self.settled_end;
        if end <= start {
            return Ok(());
        }
        self.reserve_summaries((end - self.settled_start) / LANES)?;
        self.sketches.reserve((end - self.settled_start) / LANES)?;
        let (keys, values) = self.read_slots(start, end);
        let order = balanced_order(kernels, &keys, self.dimensions);
        self.settle_slots(kernels, start, &order, &keys, &values);
        self.order.extend(order.iter().map(|&from| start as u32 + from));
        self.settled_end = end;
        self.batches.push(end);
        self.summarized = self.summarized.max(self.settled_tiles());
        Ok(())
    }

    /// Takes note of how many vectors are sinks, unless some have settled behind others.
    fn root(&mut self, sinks: usize) {
        if self.batches.is_empty() && !(self.rooted && self.settled_start == sinks) {
            (self.settled_start, self.settled_end) = (sinks, sinks);
            (self.rooted, self.summarized) = (true, 0);
        }
    }

    /// Writes `members` of the keys and values (`[n][dimensions]`, `[n][value_dimensions]`), in this order, to the slots
    /// from `start` on, and summarises and sketches their tiles.
    fn settle_slots(&mut self, kernels: &Kernels, start: usize, members: &[u32], keys: &[f32], values: &[f32]) {
        let (d, dv) = (self.dimensions, self.value_dimensions);
        let first = (start - self.settled_start) / LANES;
        for (slot, &from) in members.iter().enumerate() {
            let from = from as usize;
            self.store.write(start + slot, &keys[from * d..][..d], &values[from * dv..][..dv]);
        }
        for (tile, members) in members.chunks(LANES).enumerate() {
            self.summarize(first + tile, members, keys, values);
        }
        self.sketches.write(kernels, first, members, keys);
    }

    /// Summarises the whole tiles of vectors before `end` that have no summary yet, as they lie: in order of
    /// insertion. Does nothing before sinks are known, see [`Lane::settle`].
    pub fn summarize_recent(&mut self, end: usize) -> Result<(), OutOfMemory> {
        let tiles = (end.min(self.len).saturating_sub(self.settled_start)) / LANES;
        if !self.rooted || tiles <= self.summarized {
            return Ok(());
        }
        self.reserve_summaries(tiles)?;
        let first = self.settled_start + self.summarized * LANES;
        let (keys, values) = self.read_slots(first, self.settled_start + tiles * LANES);
        let all: Vec<u32> = (0..((tiles - self.summarized) * LANES) as u32).collect();
        for (tile, members) in all.chunks(LANES).enumerate() {
            self.summarize(self.summarized + tile, members, &keys, &values);
        }
        self.summarized = tiles;
        Ok(())
    }

    /// The settled slots' numbers of insertion, and the ends of the batches that settled together.
    pub fn arrangement(&self) -> (&[u32], &[usize]) {
        (&self.order, &self.batches)
    }

    /// Settles like another lane, in its order instead of one of its own, so that tiles of the same number hold vectors
    /// of the same numbers of insertion. `order` and `batches` are the other's [`Lane::arrangement`] and `sinks` the
    /// vectors that it never settles; all that settled here so far must have settled like this.
    pub fn settle_like(
        &mut self,
        kernels: &Kernels,
        order: &[u32],
        batches: &[usize],
        sinks: usize,
    ) -> Result<(), OutOfMemory> {
        self.root(sinks);
        let end = sinks + order.len();
        // The other may have arranged anew what had settled before.
        let same = self.order.iter().zip(order).take_while(|(own, other)| own == other).count() / LANES * LANES;
        let start = sinks + same;
        if order.len() <= same {
            return Ok(());
        }
        self.reserve_summaries(order.len() / LANES)?;
        self.sketches.reserve(order.len() / LANES)?;
        let (keys, values) = self.read_slots(start, end);
        // Where the vectors that settle or move are now, by number of insertion.
        let mut now = vec![0; end - sinks];
        let inserted = self.order[same..].iter().copied().chain(self.settled_end as u32..end as u32);
        for (at, number) in inserted.enumerate() {
            now[number as usize - sinks] = at as u32;
        }
        let members: Vec<u32> = order[same..].iter().map(|&number| now[number as usize - sinks]).collect();
        self.settle_slots(kernels, start, &members, &keys, &values);
        self.order.truncate(same);
        self.order.extend_from_slice(&order[same..]);
        self.settled_end = end;
        self.batches = batches.to_vec();
        self.summarized = self.summarized.max(self.settled_tiles());
        Ok(())
    }

    /// Tiles behind the sinks that have a summary.
    pub fn summarized_tiles(&self) -> usize {
        self.summarized
    }

    /// `[end - start][dimensions]` keys and `[end - start][value_dimensions]` values by slot.
    fn read_slots(&self, start: usize, end: usize) -> (Vec<f32>, Vec<f32>) {
        let (d, dv) = (self.dimensions, self.value_dimensions);
        let mut keys = vec![0.0; (end - start) * d];
        let mut values = vec![0.0; (end - start) * dv];
        for (i, (key, value)) in keys.chunks_mut(d).zip(values.chunks_mut(dv)).enumerate() {
            self.store.read(start + i, key, value);
        }
        (keys, values)
    }

    fn reserve_summaries(&mut self, tiles: usize) -> Result<(), OutOfMemory> {
        let (d, dv) = (self.dimensions.next_multiple_of(2), self.value_dimensions.next_multiple_of(LANES));
        while self.summaries.len() * SUMMARY_CHUNK < tiles {
            self.summaries.push(SummaryChunk {
                means: AlignedBuffer::try_new(SUMMARY_CHUNK * d)?,
                variances: AlignedBuffer::try_new(SUMMARY_CHUNK * d)?,
                values: AlignedBuffer::try_new(SUMMARY_CHUNK * dv)?,
            });
        }
        Ok(())
    }

    /// Writes the summary of tile `tile` behind the sinks, whose keys are `members` of `keys` (`[n][dimensions]`).
    fn summarize(&mut self, tile: usize, members: &[u32], keys: &[f32], values: &[f32]) {
        let (d, dv) = (self.dimensions, self.value_dimensions);
        let padded = d.next_multiple_of(2);
        let share = 1.0 / members.len() as f32;
        let (mut mean, mut variance, mut value) = (vec![0.0; d], vec![0.0; d], vec![0.0; dv]);
        for &m in members {
            for (sum, x) in mean.iter_mut().zip(&keys[m as usize * d..][..d]) {
                *sum += x * share;
            }
            for (sum, x) in value.iter_mut().zip(&values[m as usize * dv..][..dv]) {
                *sum += x * share;
            }
        }
        for &m in members {
            for ((sum, mean), x) in variance.iter_mut().zip(&mean).zip(&keys[m as usize * d..][..d]) {
                *sum += (x - mean) * (x - mean) * (share * HALF_LN_2);
            }
        }
        let chunk = &mut self.summaries[tile / SUMMARY_CHUNK];
        let tile = tile % SUMMARY_CHUNK;
        let step = T::STEP;
        let panel = tile / LANES * padded * LANES;
        for i in 0..d {
            let at = panel + (i / step * LANES + tile % LANES) * step + i % step;
            chunk.means[at] = T::from_f32(mean[i]);
            chunk.variances[at] = T::from_f32(variance[i]);
        }
        for (i, &mean) in value.iter().enumerate() {
            let row = i / LANES * SUMMARY_CHUNK * LANES + tile / step * LANES * step;
            chunk.values[row + i % LANES * step + tile % step] = T::from_f32(mean);
        }
    }

    /// Forgets the vectors from `len` on. A batch that settled with some of them goes back to the order of
    /// insertion.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        let (d, dv) = (self.dimensions, self.value_dimensions);
        let mut unsettled = false;
        while let Some(&end) = self.batches.last() {
            if end <= len {
                break;
            }
            unsettled = true;
            self.batches.pop();
            let start = self.batches.last().copied().unwrap_or(self.settled_start);
            let (keys, values) = self.read_slots(start, end);
            let first = start - self.settled_start;
            for (slot, &inserted) in self.order[first..].iter().enumerate() {
                self.store.write(inserted as usize, &keys[slot * d..][..d], &values[slot * dv..][..dv]);
            }
            self.order.truncate(first);
            self.settled_end = start;
        }
        if self.batches.is_empty() && len < self.settled_start {
            (self.settled_start, self.settled_end) = (0, 0);
            self.rooted = false;
        }
        // Tiles that went back to the order of insertion, or lost a vector, are summarised anew.
        let whole = len.saturating_sub(self.settled_start) / LANES;
        self.summarized = if unsettled { self.settled_tiles() } else { self.summarized.min(whole) };
        self.summaries.truncate(self.summarized.div_ceil(SUMMARY_CHUNK));
        self.sketches.truncate(self.settled_tiles());
        self.len = len;
        self.store.shrink(len);
        // A kernel reads whole tiles: what follows the last vector must be numbers.
        let zero = vec![0.0; d.max(dv)];
        for slot in len..len.next_multiple_of(LANES) {
            self.store.write(slot, &zero[..d], &zero[..dv]);
        }
    }
}
