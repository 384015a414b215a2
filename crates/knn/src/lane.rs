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
use crate::element::Element;
use crate::settling::Settling;
use crate::sketch::Sketches;
use crate::summaries::{Summaries, Summary};
use crate::tiles::{StoredVectors, TileStore};
use iceformer_simd::{Kernels, LANES, OutOfMemory};
use std::ops::Range;

/// The order in which the vectors of a lane have settled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrangement {
    /// Number of insertion of the vector at each settled slot.
    order: Vec<u32>,
    /// Ends of the batches that settled together, rising.
    batches: Vec<usize>,
}

impl Arrangement {
    /// Number of insertion of the vector at each settled slot.
    pub fn order(&self) -> &[u32] {
        &self.order
    }
}

#[derive(Debug)]
pub(crate) struct Lane<T: Element> {
    dimensions: usize,
    pub store: TileStore<T>,
    len: usize,
    /// First settled slot; what lies before are the sinks. Meaningful once something has settled.
    settled_start: usize,
    settled_end: usize,
    /// True once it is known which vectors are sinks.
    rooted: bool,
    /// Tiles behind the sinks that have a summary: the settled ones, and whole ones in order of insertion.
    summarized: usize,
    arrangement: Arrangement,
    /// One for each tile behind the sinks.
    summaries: Summaries<T>,
    sketches: Sketches,
}

impl<T: Element> Lane<T> {
    /// An empty lane; keys and values are codes of one byte if `coded`.
    pub fn new(dimensions: usize, value_dimensions: usize, coded: bool) -> Self {
        Self {
            dimensions,
            store: TileStore::new(dimensions, value_dimensions, coded),
            len: 0,
            settled_start: 0,
            settled_end: 0,
            rooted: false,
            summarized: 0,
            arrangement: Arrangement::default(),
            summaries: Summaries::new(dimensions, value_dimensions),
            sketches: Sketches::new(dimensions),
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Slots `settled().0 .. settled().1` have settled; both are multiples of 16, and 0 before anything has.
    pub fn settled(&self) -> (usize, usize) {
        if self.arrangement.batches.is_empty() { (0, 0) } else { (self.settled_start, self.settled_end) }
    }

    /// Number of vectors that never settle before those that do, 0 if that is not known yet; a multiple of 16.
    pub fn sinks(&self) -> usize {
        self.settled_start
    }

    /// [`Lane::sinks`], if it is known yet.
    pub fn rooted(&self) -> Option<usize> {
        self.rooted.then_some(self.settled_start)
    }

    pub fn settled_tiles(&self) -> usize {
        (self.settled_end - self.settled_start) / LANES
    }

    /// Of the tiles behind the sinks, as many as [`Lane::summarized_tiles`] says.
    pub fn summaries(&self) -> &Summaries<T> {
        &self.summaries
    }

    pub fn sketches(&self) -> &Sketches {
        &self.sketches
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        let order = self.arrangement.order.capacity() * size_of::<u32>();
        self.store.bytes() + self.summaries.bytes() + self.sketches.bytes() + order
    }

    /// Adds `count` vectors, for which room must be reserved: `vector(i)` is a key and its value.
    pub fn append<'v>(&mut self, kernels: &Kernels, count: usize, vector: impl Fn(usize) -> (&'v [f32], &'v [f32])) {
        self.store.write(kernels, self.len, count, vector);
        self.len += count;
    }

    /// Settles what lies before `end` and has not settled; the first `sinks` vectors never do. Both are
    /// multiples of 16, `end` at most the number of vectors.
    pub fn settle(
        &mut self,
        kernels: &Kernels,
        settling: &mut Settling<T>,
        sinks: usize,
        end: usize,
    ) -> Result<(), OutOfMemory> {
        self.root(sinks);
        let start = self.settled_end;
        if end <= start {
            return Ok(());
        }
        self.summaries.reserve((end - self.settled_start) / LANES)?;
        self.sketches.reserve((end - self.settled_start) / LANES)?;
        self.take(kernels, start..end, settling);
        let order = balanced_order(kernels, &settling.keys, self.dimensions, LANES);
        self.settle_slots(kernels, start, &order, settling);
        self.arrangement.order.extend(order.iter().map(|&from| start as u32 + from));
        self.settled_end = end;
        self.arrangement.batches.push(end);
        self.summarized = self.summarized.max(self.settled_tiles());
        Ok(())
    }

    /// Takes note of how many vectors are sinks, unless some have settled behind others.
    fn root(&mut self, sinks: usize) {
        if self.arrangement.batches.is_empty() && !(self.rooted && self.settled_start == sinks) {
            (self.settled_start, self.settled_end) = (sinks, sinks);
            (self.rooted, self.summarized) = (true, 0);
        }
    }

    /// Takes the vectors of some slots, whole tiles, out.
    fn take(&self, kernels: &Kernels, slots: Range<usize>, settling: &mut Settling<T>) {
        self.store.take(slots.start / LANES..slots.end / LANES, &mut settling.vectors);
        self.store.keys(kernels, &settling.vectors, self.dimensions, &mut settling.keys);
    }

    /// Writes `members` of the vectors that were taken out, in this order, to the slots from `start` on, and summarises
    /// and sketches their tiles.
    fn settle_slots(&mut self, kernels: &Kernels, start: usize, members: &[u32], settling: &Settling<T>) {
        let first = (start - self.settled_start) / LANES;
        self.store.put(start / LANES, members, &settling.vectors);
        self.summarize(kernels, first..first + members.len() / LANES);
        self.sketches.write(kernels, first, members, &settling.keys);
    }

    /// Summarises the whole tiles of vectors before `end` that have no summary yet, as they lie: in order of
    /// insertion. Does nothing before sinks are known, see [`Lane::settle`].
    pub fn summarize_recent(&mut self, kernels: &Kernels, end: usize) -> Result<(), OutOfMemory> {
        let tiles = (end.min(self.len).saturating_sub(self.settled_start)) / LANES;
        if !self.rooted || tiles <= self.summarized {
            return Ok(());
        }
        self.summaries.reserve(tiles)?;
        self.summarize(kernels, self.summarized..tiles);
        self.summarized = tiles;
        Ok(())
    }

    /// How its vectors have settled.
    pub fn arrangement(&self) -> &Arrangement {
        &self.arrangement
    }

    /// Settles like another lane, in its order instead of one of its own, so that tiles of the same number hold vectors
    /// of the same numbers of insertion. `like` is the other's [`Lane::arrangement`] and `sinks` the
    /// vectors that it never settles; all that settled here so far must have settled like this.
    pub fn settle_like(
        &mut self,
        kernels: &Kernels,
        settling: &mut Settling<T>,
        like: &Arrangement,
        sinks: usize,
    ) -> Result<(), OutOfMemory> {
        self.root(sinks);
        let order = &like.order;
        let end = sinks + order.len();
        let same = self.arrangement.order.len();
        let start = sinks + same;
        if order.len() <= same {
            return Ok(());
        }
        self.summaries.reserve(order.len() / LANES)?;
        self.sketches.reserve(order.len() / LANES)?;
        self.take(kernels, start..end, settling);
        let members: Vec<u32> = order[same..].iter().map(|&number| number - start as u32).collect();
        self.settle_slots(kernels, start, &members, settling);
        self.arrangement.clone_from(like);
        self.settled_end = end;
        self.summarized = self.summarized.max(self.settled_tiles());
        Ok(())
    }

    /// Tiles behind the sinks that have a summary.
    pub fn summarized_tiles(&self) -> usize {
        self.summarized
    }

    /// Writes the summaries of some tiles behind the sinks.
    fn summarize(&mut self, kernels: &Kernels, tiles: Range<usize>) {
        let mut summary = Summary::default();
        for tile in tiles.clone() {
            self.store.summarize(kernels, self.settled_start / LANES + tile, &mut summary);
            self.summaries.write(kernels, tile, &summary);
        }
        let whole = self.summarized.max(tiles.end) / LANES;
        for panel in tiles.start / LANES..whole.min(tiles.end.div_ceil(LANES)) {
            self.summaries.join(kernels, panel);
        }
    }

    /// Forgets the vectors from `len` on. A batch that settled with some of them goes back to the order of
    /// insertion.
    pub fn truncate(&mut self, kernels: &Kernels, len: usize) {
        if len >= self.len {
            return;
        }
        let unsettled = len < self.settled().1;
        self.unsettle(len);
        if self.arrangement.batches.is_empty() && len < self.settled_start {
            (self.settled_start, self.settled_end) = (0, 0);
            self.rooted = false;
        }
        // Tiles that went back to the order of insertion, or lost a vector, are summarised anew.
        let whole = len.saturating_sub(self.settled_start) / LANES;
        self.summarized = if unsettled { self.settled_tiles() } else { self.summarized.min(whole) };
        self.summaries.truncate(self.summarized);
        self.sketches.truncate(self.settled_tiles());
        self.len = len;
        self.store.shrink(len);
        // A kernel reads whole tiles: what follows the last vector must be numbers.
        self.store.write(kernels, len, len.next_multiple_of(LANES) - len, |_| (&[], &[]));
    }

    /// Brings the batches that settled with a vector from `len` on back to the order of insertion.
    fn unsettle(&mut self, len: usize) {
        while let [before @ .., end] = &self.arrangement.batches[..]
            && *end > len
        {
            let (start, end) = (before.last().copied().unwrap_or(self.settled_start), *end);
            let first = start - self.settled_start;
            self.arrangement.batches.pop();
            let mut vectors = StoredVectors::default();
            self.store.take(start / LANES..end / LANES, &mut vectors);
            // Where the vectors are now, by number of insertion.
            let mut now = vec![0; end - start];
            for (at, &inserted) in self.arrangement.order[first..].iter().enumerate() {
                now[inserted as usize - start] = at as u32;
            }
            self.store.put(start / LANES, &now, &vectors);
            self.arrangement.order.truncate(first);
            self.settled_end = start;
        }
    }
}
