//! The slots of ids.

use std::sync::Arc;

use hashbrown::HashTable;

use super::listed;
use crate::chunked::Chunked;
use crate::error::{Error, Result};

/// Slots found by the hash of their id, in shards, so that a change copies little of what a reader holds.
#[derive(Debug, Clone)]
pub(super) struct SlotTable {
    /// A power of two of them.
    shards: Vec<Arc<HashTable<u32>>>,
}

/// Ids in a shard, about.
const SHARD: usize = 4096;

/// Spreads ids that count in any step.
fn hash(id: u64) -> u64 {
    let product = u128::from(id ^ 0x243f_6a88_85a3_08d3) * 0x9e37_79b9_7f4a_7c15;
    (product >> 64) as u64 ^ product as u64
}

impl SlotTable {
    /// A table of the ids there are, with room for `len` in all.
    pub fn of(ids: &Chunked<u64>, len: usize) -> Result<Self> {
        let count = (len / SHARD).next_power_of_two();
        let mut counts = vec![0_usize; count];
        listed(ids).for_each(|(_, id)| counts[shard(id, count)] += 1);
        let mut tables: Vec<HashTable<u32>> = Vec::with_capacity(count);
        for count in counts {
            let mut table = HashTable::new();
            let bytes = count * size_of::<u32>();
            table.try_reserve(count, |_| 0).map_err(|_| Error::OutOfMemory { bytes })?;
            tables.push(table);
        }
        for (slot, id) in listed(ids) {
            tables[shard(id, count)].insert_unique(hash(id), slot, |&slot| hash(ids.row(slot as usize)[0]));
        }
        Ok(Self { shards: tables.into_iter().map(Arc::new).collect() })
    }

    /// The slot of an id, where `ids` are the ids of all slots, `[slots][1]`.
    pub fn find(&self, id: u64, ids: &Chunked<u64>) -> Option<u32> {
        let table = &self.shards[shard(id, self.shards.len())];
        table.find(hash(id), |&slot| ids.row(slot as usize)[0] == id).copied()
    }

    /// Makes room for more ids, beside the `len` there are.
    pub fn reserve(&mut self, len: usize, more: &[u64], ids: &Chunked<u64>) -> Result<()> {
        if len + more.len() > self.shards.len() * SHARD * 2 {
            *self = Self::of(ids, len + more.len())?;
        }
        let mut counts = vec![0_usize; self.shards.len()];
        for &id in more {
            counts[shard(id, self.shards.len())] += 1;
        }
        for (table, count) in self.shards.iter_mut().zip(counts).filter(|(_, count)| *count > 0) {
            let bytes = count * size_of::<u32>();
            Arc::make_mut(table)
                .try_reserve(count, |&slot| hash(ids.row(slot as usize)[0]))
                .map_err(|_| Error::OutOfMemory { bytes })?;
        }
        Ok(())
    }

    /// Notes the slot of an id that is new. Room for it was reserved.
    pub fn insert(&mut self, id: u64, slot: u32, ids: &Chunked<u64>) {
        let count = self.shards.len();
        let table = Arc::make_mut(&mut self.shards[shard(id, count)]);
        table.insert_unique(hash(id), slot, |&slot| hash(ids.row(slot as usize)[0]));
    }

    /// Forgets the slot of an id.
    pub fn remove(&mut self, id: u64, slot: u32) {
        let count = self.shards.len();
        let table = Arc::make_mut(&mut self.shards[shard(id, count)]);
        if let Ok(entry) = table.find_entry(hash(id), |&other| other == slot) {
            entry.remove();
        }
    }

    /// Memory of the tables.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|table| table.allocation_size() + size_of::<HashTable<u32>>()).sum()
    }
}

/// The shard of an id: bits of the hash that the tables do not use much.
fn shard(id: u64, count: usize) -> usize {
    (hash(id) >> 32) as usize & (count - 1)
}
