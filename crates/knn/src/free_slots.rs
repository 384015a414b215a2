//! Slots that can be given again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::error::{Error, Result};

/// Free slots below the first one never given. The lowest are given first, so that the used ones stay together.
#[derive(Debug, Default)]
pub(crate) struct FreeSlots {
    slots: BinaryHeap<Reverse<u32>>,
}

impl FreeSlots {
    /// Takes `n` slots, where `slots` have been given so far: freed ones, then new ones.
    pub fn take(&mut self, n: usize, slots: usize) -> Vec<u32> {
        let mut taken = Vec::with_capacity(n);
        while taken.len() < n
            && let Some(Reverse(slot)) = self.slots.pop()
        {
            taken.push(slot);
        }
        let new = (n - taken.len()) as u32;
        taken.extend(slots as u32..slots as u32 + new);
        taken
    }

    /// Takes the last [`Self::take`] back, before which `slots` had been given.
    pub fn untake(&mut self, taken: &[u32], slots: usize) {
        self.slots.extend(taken.iter().filter(|&&slot| (slot as usize) < slots).map(|&slot| Reverse(slot)));
    }

    /// Makes room for `n` more, so that [`Self::give`] cannot fail.
    pub fn reserve(&mut self, n: usize) -> Result<()> {
        self.slots.try_reserve(n).map_err(|_| Error::OutOfMemory { bytes: n * size_of::<u32>() })
    }

    /// Gives slots back.
    pub fn give(&mut self, slots: &[u32]) {
        self.slots.extend(slots.iter().map(|&slot| Reverse(slot)));
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
    }
}
