//! Taking vectors out: whoever was linked to them is linked to their neighbours instead.

use std::sync::Arc;

use super::entries::Entries;
use super::link::in_blocks;
use super::prune::Pruning;
use super::walk::{DEGREE, NONE};
use super::{Graph, slots_of};
use crate::chunked::Chunked;
use crate::error::Result;
use crate::random::counted;
use crate::structure::Context;

/// If one vector in this many was taken out since, all links are looked at; otherwise only those nearby, where nearly
/// all links to a vector come from. (What is missed leads to a free slot or to a vector elsewhere: it costs a little
/// time and never a wrong result.)
const SWEEP: usize = 32;
/// If at least one vector in this many of those left is taken out at once, all links are made anew: repairs would have
/// little left to begin with.
const MANY: usize = 4;
/// Candidates from which the links of a vector are chosen again, at most: the nearest.
const CANDIDATES: usize = 96;

impl Graph {
    /// Links all vectors anew. On an error nothing has changed.
    fn relink(&mut self, context: &Context) -> Result<()> {
        let slots: Vec<u32> = slots_of(&self.taken).collect();
        let mut other = self.clone();
        other.links = Chunked::new(DEGREE);
        other.links.resize(self.links.len(), NONE)?;
        other.taken = Chunked::new(1);
        other.taken.resize(self.taken.len(), false)?;
        other.entries = Arc::new(Entries::new(self.codes.width()));
        (other.len, other.unswept) = (0, 0);
        other.link(context, &slots)?;
        *self = other;
        Ok(())
    }

    /// Repairs the links around slots that are no longer taken. Fails only before anything has changed.
    pub(super) fn unlink(&mut self, context: &Context, slots: &[u32]) -> Result<()> {
        if slots.len() * MANY >= self.len {
            return self.relink(context);
        }
        let sweep = (self.unswept + slots.len()) * SWEEP > self.len;
        let around = if sweep { (0..self.links.len() as u32).collect() } else { self.around(slots) };
        let repaired: Vec<(u32, [u32; DEGREE])> =
            in_blocks(context, around.len(), |i| self.repaired(context, around[i]).map(|row| (around[i], row)))
                .into_iter()
                .flatten()
                .collect();
        // New links are made both ways: those to a vector may all have come from the ones taken out.
        let mut back: Vec<(u32, u32)> = Vec::new();
        for (slot, row) in &repaired {
            let old = self.links.row(*slot as usize);
            back.extend(row.iter().filter(|&&to| to != NONE && !old.contains(&to)).map(|&to| (to, *slot)));
        }
        back.sort_unstable();
        let changed = repaired.iter().map(|(slot, _)| slot).chain(back.iter().map(|(to, _)| to));
        for &slot in slots.iter().chain(changed) {
            self.links.unshare(slot as usize)?;
        }
        let mut entries = (*self.entries).clone();
        let (taken, end) = (&self.taken, self.taken.len() as u64);
        let mut turn = self.added << 20;
        entries.replace(
            &self.codes,
            self.len,
            |slot| taken.row(slot as usize)[0],
            || loop {
                turn += 1;
                let slot = counted(context.seed, turn) % end;
                if taken.row(slot as usize)[0] {
                    return slot as u32;
                }
            },
        )?;
        self.entries = Arc::new(entries);
        for (slot, row) in &repaired {
            self.links.row_mut(*slot as usize).copy_from_slice(row);
        }
        for &slot in slots {
            self.links.row_mut(slot as usize).fill(NONE);
        }
        self.link_back(context, &back);
        self.unswept = if sweep { 0 } else { self.unswept + slots.len() };
        Ok(())
    }

    /// The vectors that slots link to, and those that these link to: ascending.
    fn around(&self, slots: &[u32]) -> Vec<u32> {
        let links = |slot: u32| self.links.row(slot as usize).iter().copied().take_while(|&to| to != NONE);
        let mut around: Vec<u32> =
            slots.iter().flat_map(|&slot| links(slot)).flat_map(|to| std::iter::once(to).chain(links(to))).collect();
        around.sort_unstable();
        around.dedup();
        around
    }

    /// The links that a vector should have, if some lead to slots that are free.
    fn repaired(&self, context: &Context, slot: u32) -> Option<[u32; DEGREE]> {
        let taken = |slot: u32| self.taken.row(slot as usize)[0];
        let links = |slot: u32| self.links.row(slot as usize).iter().copied().take_while(|&to| to != NONE);
        if !taken(slot) || links(slot).all(taken) {
            return None;
        }
        let (mut near, mut pruning) = (Vec::new(), Pruning::default());
        for to in links(slot) {
            if taken(to) {
                near.push(to);
            } else {
                near.extend(links(to).filter(|&next| taken(next) && next != slot));
            }
        }
        near.sort_unstable();
        near.dedup();
        pruning.measure(context.kernels, &self.codes, slot, near.iter().copied());
        pruning.keep_nearest(CANDIDATES);
        let mut row = [NONE; DEGREE];
        pruning.choose(context.kernels, &self.codes, DEGREE, &mut row);
        Some(row)
    }
}
