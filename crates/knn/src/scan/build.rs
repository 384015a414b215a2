//! Keeping vectors in blocks: filling, clustering, splitting, dissolving, giving memory back.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::chunked::Chunked;
use crate::error::Result;
use crate::random::Random;
use crate::scan::block::{Block, Member};
use crate::scan::centres::Centres;
use crate::scan::train::train;
use crate::scan::{NOWHERE, RUN, Scan};
use crate::structure::Context;

/// Vectors of the training sample per centre.
const SAMPLED: usize = 40;
/// A cluster is split above so many times its target,
const TOO_LARGE: usize = 2;
/// and dissolves below one part in so many.
const TOO_SMALL: usize = 8;
/// Rounds of two-means when a cluster is split.
const SPLIT_ROUNDS: usize = 4;

/// Vectors that a cluster should have among `len`: small clusters leave less to read, but there are more of them to
/// choose from.
fn target(len: usize) -> usize {
    (((len as f64).sqrt() / 2.0 / 16.0).ceil() as usize * 16).clamp(32, 1024)
}

/// The mean of `[n][dimensions]` vectors.
pub(crate) fn mean(dimensions: usize, vectors: &[f32]) -> Arc<[f32]> {
    let mut sums = vec![0.0_f64; dimensions];
    for vector in vectors.chunks_exact(dimensions) {
        sums.iter_mut().zip(vector).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let share = dimensions as f64 / vectors.len().max(1) as f64;
    sums.into_iter().map(|sum| (sum * share) as f32).collect()
}

/// All vectors of the index, and some more, by number.
struct Everything<'a> {
    scan: &'a Scan,
    context: &'a Context,
    /// Number of the first vector of each block.
    starts: Vec<usize>,
    more: &'a [Member<'a>],
}

impl<'a> Everything<'a> {
    fn new(scan: &'a Scan, context: &'a Context, more: &'a [Member<'a>]) -> Self {
        let starts = scan
            .blocks
            .iter()
            .scan(0, |next, block| {
                let start = *next;
                *next += block.len();
                Some(start)
            })
            .collect();
        Self { scan, context, starts, more }
    }

    fn len(&self) -> usize {
        self.scan.len + self.more.len()
    }

    fn member(&self, number: usize) -> Member<'_> {
        if number >= self.scan.len {
            return self.more[number - self.scan.len];
        }
        let block = self.starts.partition_point(|&start| start <= number) - 1;
        self.scan.blocks[block].member(self.context, self.scan.format, number - self.starts[block])
    }

    /// Vectors relative to the origin, `[range][dimensions]`.
    fn vectors(&self, range: Range<usize>, out: &mut [f32]) {
        for (number, vector) in range.zip(out.chunks_exact_mut(self.scan.format.dimensions)) {
            self.scan.vector(self.context, self.member(number).row, vector);
        }
    }
}

impl Scan {
    /// A stored row relative to the origin, `[dimensions]`.
    fn vector(&self, context: &Context, row: &[u32], vector: &mut [f32]) {
        self.format.decode(context.kernels, row, vector);
        vector.iter_mut().zip(self.origin.iter()).for_each(|(x, o)| *x -= o);
    }

    /// Adds vectors to blocks in no particular order: first where removals left room.
    pub(super) fn join_runs(&mut self, context: &Context, members: &[Member<'_>]) -> Result<()> {
        let before = self.blocks.len();
        let mut plan = Vec::new();
        let mut rest = members;
        for index in 0..before {
            let room = RUN.saturating_sub(self.blocks[index].len());
            if room > 0 && !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(room));
                plan.push((index, now));
                rest = later;
            }
        }
        for now in rest.chunks(RUN) {
            plan.push((self.blocks.len(), now));
            self.blocks.push(Arc::new(Block::empty(self.format.dimensions)));
        }
        let result = self.join(context, &plan);
        if result.is_err() {
            self.blocks.truncate(before);
        }
        result
    }

    /// Adds vectors to blocks as planned. On an error no vector was added.
    fn join(&mut self, context: &Context, plan: &[(usize, &[Member<'_>])]) -> Result<()> {
        for &(index, members) in plan {
            let block = Arc::make_mut(&mut self.blocks[index]);
            block.reserve(context, self.format, members.len(), block.len() + members.len() < RUN)?;
            block.unshare()?;
            for member in members {
                self.places.unshare(member.slot as usize)?;
            }
        }
        for &(index, members) in plan {
            let block = Arc::make_mut(&mut self.blocks[index]);
            block.extend(context, self.format, &self.origin, members.iter().copied(), false)?;
            for member in members {
                self.places.row_mut(member.slot as usize)[0] = index as u32;
            }
            self.len += members.len();
            self.note_centre(index);
        }
        Ok(())
    }

    /// Adds vectors to the clusters whose centres are nearest, and splits those that become too large.
    pub(super) fn join_clusters(&mut self, context: &Context, members: &[Member<'_>]) -> Result<()> {
        let nearest = self.nearest_clusters(context, members);
        let mut order: Vec<u32> = (0..members.len() as u32).collect();
        order.sort_by_key(|&i| nearest[i as usize]);
        let sorted: Vec<Member<'_>> = order.iter().map(|&i| members[i as usize]).collect();
        let mut plan: Vec<(usize, &[Member<'_>])> = Vec::new();
        let mut rest = &sorted[..];
        for run in order.chunk_by(|&a, &b| nearest[a as usize] == nearest[b as usize]) {
            let (now, later) = rest.split_at(run.len());
            plan.push((nearest[run[0] as usize] as usize, now));
            rest = later;
        }
        if let Some(centres) = &mut self.centres {
            Arc::make_mut(centres);
        }
        self.join(context, &plan)?;
        let grown: Vec<usize> = plan.iter().map(|&(index, _)| index).collect();
        for index in grown {
            if self.blocks[index].len() > TOO_LARGE * self.target {
                // Without the memory to split it the cluster stays large: slower to read, not lost.
                let _ = self.split(context, index);
            }
        }
        Ok(())
    }

    /// The nearest cluster of each vector.
    fn nearest_clusters(&self, context: &Context, members: &[Member<'_>]) -> Vec<u32> {
        let mut nearest = vec![0_u32; members.len()];
        if let Some(centres) = &self.centres {
            let d = self.format.dimensions;
            centres.assign(context, &mut nearest, |range, out| {
                for (member, vector) in members[range].iter().zip(out.chunks_exact_mut(d)) {
                    self.vector(context, member.row, vector);
                }
            });
        }
        nearest
    }

    /// Makes clusters of all vectors there are and some more.
    pub(super) fn cluster_all(&mut self, context: &Context, more: &[Member<'_>]) -> Result<()> {
        let d = self.format.dimensions;
        let everything = Everything::new(self, context, more);
        let n = everything.len();
        let target = target(n);
        let count = (n / target).max(1);
        let mut random = Random::new(context.seed ^ n as u64);
        let sampled = random.choose(n, n.min(count * SAMPLED));
        let mut sample = vec![0.0_f32; sampled.len() * d];
        for (&number, vector) in sampled.iter().zip(sample.chunks_exact_mut(d)) {
            self.vector(context, everything.member(number).row, vector);
        }
        let centres = train(context, &sample, count)?;
        drop(sample);
        let mut nearest = vec![0_u32; n];
        centres.assign(context, &mut nearest, |range, out| everything.vectors(range, out));
        let mut groups: Vec<Vec<u32>> = vec![Vec::new(); centres.len()];
        for (number, &index) in nearest.iter().enumerate() {
            groups[index as usize].push(number as u32);
        }
        drop(nearest);
        // What is in clusters too small to be worth choosing joins the next nearest.
        let kept: Vec<usize> = (0..groups.len()).filter(|&index| groups[index].len() >= target / TOO_SMALL).collect();
        if !kept.is_empty() && kept.len() < groups.len() {
            let mut others = Centres::new(d, kept.len())?;
            let mut centre = vec![0.0; d];
            for (to, &from) in kept.iter().enumerate() {
                centres.get(from, &mut centre);
                others.set(to, &centre, 0.0);
            }
            let mut strays: Vec<u32> = Vec::new();
            let mut keeping = Vec::with_capacity(kept.len());
            for group in groups {
                if group.len() >= target / TOO_SMALL { keeping.push(group) } else { strays.extend(group) }
            }
            let mut homes = vec![0_u32; strays.len()];
            others.assign(context, &mut homes, |range, out| {
                for (&number, vector) in strays[range].iter().zip(out.chunks_exact_mut(d)) {
                    self.vector(context, everything.member(number as usize).row, vector);
                }
            });
            strays.iter().zip(homes).for_each(|(&number, home)| keeping[home as usize].push(number));
            groups = keeping;
        }
        // What is too large is cut until it is not.
        let cut: Vec<Mutex<Vec<Vec<u32>>>> = groups.into_iter().map(|group| Mutex::new(vec![group])).collect();
        context.pool.for_each(cut.len(), |_, index| {
            let mut pieces = cut[index].lock().unwrap_or_else(PoisonError::into_inner);
            let mut at = 0;
            while at < pieces.len() {
                if pieces[at].len() <= TOO_LARGE * target {
                    at += 1;
                    continue;
                }
                let piece = std::mem::take(&mut pieces[at]);
                let mut vectors = vec![0.0_f32; piece.len() * d];
                for (&number, vector) in piece.iter().zip(vectors.chunks_exact_mut(d)) {
                    self.vector(context, everything.member(number as usize).row, vector);
                }
                let first = halve(context, &vectors);
                let (one, other): (Vec<_>, Vec<_>) = piece.iter().zip(&first).partition(|(_, first)| **first);
                pieces[at] = one.into_iter().map(|(&number, _)| number).collect();
                pieces.push(other.into_iter().map(|(&number, _)| number).collect());
            }
        });
        let groups: Vec<Vec<u32>> =
            cut.into_iter().flat_map(|pieces| pieces.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
        let made: Vec<Mutex<Result<Block>>> = groups.iter().map(|_| Mutex::new(Ok(Block::empty(d)))).collect();
        context.pool.for_each(groups.len(), |_, index| {
            let mut made = made[index].lock().unwrap_or_else(PoisonError::into_inner);
            let members = groups[index].iter().map(|&number| everything.member(number as usize));
            let mut block = Block::empty(d);
            *made = block.extend(context, self.format, &self.origin, members, false).map(|()| block);
        });
        drop(groups);
        let blocks: Vec<Arc<Block>> = made
            .into_iter()
            .map(|block| block.into_inner().unwrap_or_else(PoisonError::into_inner).map(Arc::new))
            .collect::<Result<_>>()?;
        let mut places = Chunked::new(1);
        places.resize(self.places.len(), NOWHERE)?;
        let mut centres = Centres::new(d, blocks.len())?;
        for (index, block) in blocks.iter().enumerate() {
            centres.set(index, block.centre(), block.radius());
            for &slot in block.slots() {
                places.row_mut(slot as usize)[0] = index as u32;
            }
        }
        centres.code();
        self.blocks = blocks;
        self.places = places;
        self.centres = Some(Arc::new(centres));
        self.len = n;
        self.target = target;
        self.clustered_at = n;
        self.changes = 0;
        Ok(())
    }

    /// Cuts a cluster in two.
    fn split(&mut self, context: &Context, index: usize) -> Result<()> {
        let d = self.format.dimensions;
        let block = Arc::clone(&self.blocks[index]);
        let mut vectors = vec![0.0_f32; block.len() * d];
        for (row, vector) in block.rows().chunks_exact(self.format.words()).zip(vectors.chunks_exact_mut(d)) {
            self.vector(context, row, vector);
        }
        let first = halve(context, &vectors);
        let half = |which: bool| -> Result<Block> {
            let members: Vec<Member<'_>> = (0..block.len())
                .filter(|&position| first[position] == which)
                .map(|position| block.member(context, self.format, position))
                .collect();
            let mut half = Block::empty(d);
            half.extend(context, self.format, &self.origin, members.into_iter(), true)?;
            Ok(half)
        };
        let (one, other) = (Arc::new(half(true)?), Arc::new(half(false)?));
        let next = self.blocks.len();
        for &slot in other.slots() {
            self.places.unshare(slot as usize)?;
        }
        if let Some(centres) = &mut self.centres {
            Arc::make_mut(centres).resize(next + 1)?;
        }
        for &slot in other.slots() {
            self.places.row_mut(slot as usize)[0] = next as u32;
        }
        self.blocks[index] = one;
        self.blocks.push(other);
        self.note_centre(index);
        self.note_centre(next);
        Ok(())
    }

    /// Takes vectors out; the clusters that are left with few dissolve.
    pub(super) fn take(&mut self, context: &Context, slots: &[u32]) -> Result<()> {
        for &slot in slots {
            let Some(index) = self.place(slot) else { continue };
            Arc::make_mut(&mut self.blocks[index as usize]).unshare()?;
            self.places.unshare(slot as usize)?;
        }
        let mut touched = Vec::new();
        for &slot in slots {
            let Some(index) = self.place(slot) else { continue };
            let block = Arc::make_mut(&mut self.blocks[index as usize]);
            let Some(position) = block.position(slot) else { continue };
            block.remove(context, self.format, &self.origin, position)?;
            self.places.row_mut(slot as usize)[0] = NOWHERE;
            self.len -= 1;
            touched.push(index as usize);
        }
        touched.sort_unstable();
        touched.dedup();
        // From the last on: dropping a block moves the last one to its number.
        for &index in touched.iter().rev() {
            let len = self.blocks[index].len();
            if len == 0 {
                self.drop_block(index)?;
            } else if self.centres.is_some() && self.blocks.len() > 1 && len < self.target / TOO_SMALL {
                let block = Arc::clone(&self.blocks[index]);
                let members: Vec<Member<'_>> =
                    (0..len).map(|position| block.member(context, self.format, position)).collect();
                self.drop_block(index)?;
                self.len -= len;
                self.join_clusters(context, &members)?;
            } else if self.blocks[index].is_stale() {
                let origin = Arc::clone(&self.origin);
                let block = Arc::make_mut(&mut self.blocks[index]);
                block.recentre(context, self.format, &origin)?;
                self.note_centre(index);
            }
        }
        Ok(())
    }

    /// Takes a block out; the last one takes its number.
    fn drop_block(&mut self, index: usize) -> Result<()> {
        if let Some(last) = self.blocks.last() {
            for &slot in last.slots() {
                self.places.unshare(slot as usize)?;
            }
        }
        self.blocks.swap_remove(index);
        if index < self.blocks.len() {
            let moved = Arc::clone(&self.blocks[index]);
            for &slot in moved.slots() {
                self.places.row_mut(slot as usize)[0] = index as u32;
            }
            self.note_centre(index);
        }
        if self.blocks.is_empty() {
            self.centres = None;
            self.clustered_at = 0;
        } else if let Some(centres) = &mut self.centres {
            Arc::make_mut(centres).resize(self.blocks.len())?;
        }
        Ok(())
    }

    /// Gives memory back, with new numbers for slots; clusters anew if much has changed.
    pub(super) fn tidy(&mut self, context: &Context, renumber: &[u32]) -> Result<()> {
        let mut changed = self.clone();
        changed.places = Chunked::new(1);
        changed.places.resize(renumber.iter().filter(|&&slot| slot != NOWHERE).count(), NOWHERE)?;
        for (index, shared) in changed.blocks.iter_mut().enumerate() {
            let block = Arc::make_mut(shared);
            block.renumber(renumber)?;
            for &slot in block.slots() {
                changed.places.row_mut(slot as usize)[0] = index as u32;
            }
        }
        let clusters = changed.clusters_at(changed.len);
        if clusters && (changed.centres.is_none() || changed.changes > changed.len / 4) {
            changed.cluster_all(context, &[])?;
        } else if !clusters {
            changed.merge_runs(context)?;
        }
        changed.blocks.shrink_to_fit();
        changed.places.shrink();
        *self = changed;
        // Only now: buffers that the two copies shared could not be moved to smaller memory. Without the memory for a
        // smaller copy the larger one stays.
        for block in &mut self.blocks {
            let _ = Arc::make_mut(block).shrink();
        }
        Ok(())
    }

    /// Fills up the blocks of an index without clusters.
    fn merge_runs(&mut self, context: &Context) -> Result<()> {
        if self.centres.is_none() && self.blocks.iter().rev().skip(1).all(|block| block.len() == RUN) {
            return Ok(());
        }
        let old = std::mem::take(&mut self.blocks);
        self.centres = None;
        self.clustered_at = 0;
        self.len = 0;
        self.target = RUN;
        for block in old {
            let members: Vec<Member<'_>> =
                (0..block.len()).map(|position| block.member(context, self.format, position)).collect();
            self.join_runs(context, &members)?;
        }
        Ok(())
    }
}

/// Cuts `[n][dimensions]` vectors in two by two-means; true for the first half. Neither is smaller than a fifth.
fn halve(context: &Context, vectors: &[f32]) -> Vec<bool> {
    let d = context.shape.dimensions;
    let n = vectors.len() / d;
    let row = |i: usize| &vectors[i * d..(i + 1) * d];
    let farthest = |from: &[f32]| {
        let distance = |i: &usize| context.kernels.squared_distance(from, row(*i));
        (0..n).max_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
    };
    let mut one = row(farthest(&mean(d, vectors))).to_vec();
    let mut other = row(farthest(&one)).to_vec();
    let mut along = vec![0.0_f32; n];
    let mut cut = 0.0;
    for round in 0..SPLIT_ROUNDS {
        let line: Vec<f32> = one.iter().zip(&other).map(|(one, other)| one - other).collect();
        for (i, along) in along.iter_mut().enumerate() {
            *along = context.kernels.dot(&line, row(i));
        }
        cut = 0.5 * (context.kernels.dot(&line, &one) + context.kernels.dot(&line, &other));
        if round + 1 == SPLIT_ROUNDS {
            break;
        }
        let mut sums = [vec![0.0_f64; d], vec![0.0_f64; d]];
        let mut counts = [0_usize; 2];
        for (i, &along) in along.iter().enumerate() {
            let side = usize::from(along <= cut);
            counts[side] += 1;
            sums[side].iter_mut().zip(row(i)).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        if counts.contains(&0) {
            break;
        }
        for (centre, (sum, count)) in [&mut one, &mut other].into_iter().zip(sums.iter().zip(counts)) {
            centre.iter_mut().zip(sum).for_each(|(x, sum)| *x = (sum / count as f64) as f32);
        }
    }
    let mut first: Vec<bool> = along.iter().map(|&along| along > cut).collect();
    let larger = first.iter().filter(|first| **first).count();
    let least = n / 5;
    if larger < least || n - larger < least {
        // Lopsided (outliers, or equal vectors): cut in the middle.
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_unstable_by(|&a, &b| along[b].total_cmp(&along[a]).then(a.cmp(&b)));
        first.fill(false);
        order[..n / 2].iter().for_each(|&i| first[i] = true);
    }
    first
}
