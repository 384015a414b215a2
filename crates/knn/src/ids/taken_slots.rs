//! Which slots are taken.

use crate::chunked::Chunked;
use crate::error::Result;
use crate::structure::Bytes;

/// Slots that are taken, one bit each. Copies share memory until one of them changes.
#[derive(Debug, Clone)]
pub(super) struct TakenSlots {
    /// `[slots / 64, rounded up][1]`; bits past the slots are 0.
    words: Chunked<u64>,
}

/// Slots of a word.
const SLOTS: usize = u64::BITS as usize;

impl Default for TakenSlots {
    fn default() -> Self {
        Self { words: Chunked::new(1) }
    }
}

impl TakenSlots {
    /// None of `slots`.
    pub fn new(slots: usize) -> Result<Self> {
        let mut taken = Self::default();
        taken.resize(slots)?;
        Ok(taken)
    }

    /// Lengthens with free slots, or shortens by free ones.
    pub fn resize(&mut self, slots: usize) -> Result<()> {
        self.words.resize(slots.div_ceil(SLOTS), 0)
    }

    /// Makes sure that a slot can be taken or made free without more memory.
    pub fn unshare(&mut self, slot: u32) -> Result<()> {
        self.words.unshare(slot as usize / SLOTS)
    }

    /// Whether a slot is taken.
    pub fn contains(&self, slot: u32) -> bool {
        let slot = slot as usize;
        self.words.row(slot / SLOTS)[0] >> (slot % SLOTS) & 1 == 1
    }

    /// Takes a slot or makes it free.
    pub fn set(&mut self, slot: u32, taken: bool) {
        let slot = slot as usize;
        let word = &mut self.words.row_mut(slot / SLOTS)[0];
        *word = *word & !(1 << (slot % SLOTS)) | u64::from(taken) << (slot % SLOTS);
    }

    /// Memory, of which that for `len` slots is live.
    pub fn bytes(&self, len: usize) -> Bytes {
        Bytes { live: len.div_ceil(SLOTS) * size_of::<u64>(), reserved: self.words.bytes().1 }
    }
}
