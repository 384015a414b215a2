//! Which id has which slot.

use std::sync::Arc;

use hashbrown::HashTable;

use crate::chunked::Chunked;
use crate::error::{Error, Result};
use crate::file::{Reader, Writer};
use crate::structure::Bytes;

/// Stands for "no id". Not taken as an id: results use it for places past the last neighbour.
pub(crate) const NO_ID: u64 = u64::MAX;

/// From slots to ids and back. Copies share memory until one of them changes.
///
/// The way from slot to id takes 8 bytes per slot. The way back takes nothing as long as every id lies the
/// same distance from its slot (ids that count up from any start, the default), otherwise 5 to 11 bytes.
#[derive(Debug, Clone)]
pub(crate) struct IdTable {
    /// `[slots][1]`; [`NO_ID`] where the slot is free.
    ids: Chunked<u64>,
    places: Places,
    len: usize,
    /// The id after the largest ever taken.
    next: u64,
}

/// From ids to slots.
#[derive(Debug, Clone)]
enum Places {
    /// Every id is its slot plus this.
    Offset(u64),
    Hashed(SlotTable),
}

impl Default for IdTable {
    fn default() -> Self {
        Self { ids: Chunked::new(1), places: Places::Offset(0), len: 0, next: 0 }
    }
}

impl IdTable {
    /// Ids taken.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Slots, free ones included.
    pub fn slots(&self) -> usize {
        self.ids.len()
    }

    /// Id of each slot, `[slots][1]`; [`NO_ID`] where the slot is free.
    pub fn ids(&self) -> &Chunked<u64> {
        &self.ids
    }

    /// The id of a slot, [`NO_ID`] if it is free.
    pub fn id(&self, slot: u32) -> u64 {
        self.ids.row(slot as usize)[0]
    }

    /// Slots that are taken, ascending, with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        (0..self.ids.len() as u32).map(|slot| (slot, self.id(slot))).filter(|&(_, id)| id != NO_ID)
    }

    /// The slot of an id.
    pub fn find(&self, id: u64) -> Option<u32> {
        match &self.places {
            Places::Offset(offset) => {
                let slot = id.checked_sub(*offset).filter(|&slot| slot < self.ids.len() as u64)? as u32;
                (self.id(slot) == id).then_some(slot)
            }
            Places::Hashed(table) => table.find(id, &self.ids),
        }
    }

    /// The largest id ever taken.
    pub fn largest(&self) -> Option<u64> {
        self.next.checked_sub(1)
    }

    /// The ids that `n` vectors get when none are given: those after the largest so far.
    pub fn following(&self, n: usize) -> Result<Vec<u64>> {
        // NO_ID is the end of the range, so it is never given.
        let Some(end) = self.next.checked_add(n as u64) else {
            return Err(Error::IdsExhausted { last: self.next - 1 });
        };
        Ok((self.next..end).collect())
    }

    /// Fails if an id cannot be an id or occurs twice.
    pub fn check(ids: &[u64]) -> Result<()> {
        if ids.contains(&NO_ID) {
            return Err(Error::Id { id: NO_ID });
        }
        if ids.is_sorted_by(|a, b| a < b) {
            return Ok(());
        }
        let mut sorted = ids.to_vec();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::DuplicateId { id: pair[0] }),
            None => Ok(()),
        }
    }

    /// Makes room for ids in free slots, so that [`Self::take`] cannot fail. Changes nothing that can be seen.
    pub fn reserve(&mut self, ids: &[u64], slots: &[u32]) -> Result<()> {
        let end = slots.iter().max().map_or(0, |&slot| slot as usize + 1);
        let before = self.ids.len();
        if end > before {
            self.ids.resize(end, NO_ID)?;
        }
        let reserved = self.unshare(slots).and_then(|()| self.reserve_places(ids, slots));
        if reserved.is_err() {
            self.forget(before);
        }
        reserved
    }

    fn reserve_places(&mut self, ids: &[u64], slots: &[u32]) -> Result<()> {
        if self.len == 0
            && let (Some(id), Some(&slot)) = (ids.first(), slots.first())
            && let Some(offset) = id.checked_sub(u64::from(slot))
        {
            self.places = Places::Offset(offset);
        }
        if let Places::Offset(offset) = self.places {
            if ids.iter().zip(slots).all(|(&id, &slot)| id.checked_sub(u64::from(slot)) == Some(offset)) {
                return Ok(());
            }
            self.places = Places::Hashed(SlotTable::of(&self.ids, self.len + ids.len())?);
        }
        match &mut self.places {
            Places::Hashed(table) => table.reserve(self.len, ids, &self.ids),
            Places::Offset(_) => Ok(()),
        }
    }

    /// Makes sure that the ids of slots can be changed without more memory.
    pub fn unshare(&mut self, slots: &[u32]) -> Result<()> {
        slots.iter().try_for_each(|&slot| self.ids.unshare(slot as usize))
    }

    /// Drops the free slots from `slots` on: takes [`Self::reserve`] back.
    pub fn forget(&mut self, slots: usize) {
        if slots < self.ids.len() {
            // Cannot fail: shortening takes no memory.
            let _ = self.ids.resize(slots, NO_ID);
        }
    }

    /// Gives ids to free slots. They must be new, checked and reserved.
    pub fn take(&mut self, ids: &[u64], slots: &[u32]) {
        for (&id, &slot) in ids.iter().zip(slots) {
            self.ids.row_mut(slot as usize)[0] = id;
            if let Places::Hashed(table) = &mut self.places {
                table.insert(id, slot, &self.ids);
            }
            self.next = self.next.max(id + 1);
        }
        self.len += ids.len();
    }

    /// Makes slots free.
    pub fn free(&mut self, slots: &[u32]) {
        for &slot in slots {
            let id = std::mem::replace(&mut self.ids.row_mut(slot as usize)[0], NO_ID);
            if let Places::Hashed(table) = &mut self.places {
                table.remove(id, slot);
            }
        }
        self.len -= slots.len();
    }

    /// The new slot of every old one, in the same order without gaps; `u32::MAX` for free ones.
    pub fn renumber(&self) -> Vec<u32> {
        let mut next = 0;
        let number = |slot| {
            if self.id(slot) == NO_ID {
                return u32::MAX;
            }
            next += 1;
            next - 1
        };
        (0..self.slots() as u32).map(number).collect()
    }

    /// The same ids without gaps between slots.
    pub fn compacted(&self) -> Result<Self> {
        let mut ids = Chunked::new(1);
        ids.resize(self.len, NO_ID)?;
        for (slot, (_, id)) in self.iter().enumerate() {
            ids.row_mut(slot)[0] = id;
        }
        ids.shrink();
        Self::of(ids, self.next)
    }

    /// The table of ids by slot, `[slots][1]`, all different.
    fn of(ids: Chunked<u64>, next: u64) -> Result<Self> {
        let mut table = Self { ids, places: Places::Offset(0), len: 0, next };
        table.len = table.iter().count();
        let offset = table.iter().next().map(|(slot, id)| id.checked_sub(u64::from(slot)));
        table.places = match offset {
            None => Places::Offset(0),
            Some(Some(offset)) if table.iter().all(|(slot, id)| id.checked_sub(u64::from(slot)) == Some(offset)) => {
                Places::Offset(offset)
            }
            Some(_) => Places::Hashed(SlotTable::of(&table.ids, table.len)?),
        };
        Ok(table)
    }

    /// Slots without an id, ascending.
    pub fn free_slots(&self) -> Vec<u32> {
        (0..self.slots() as u32).filter(|&slot| self.id(slot) == NO_ID).collect()
    }

    /// Writes `next`, u64 `[1]`: the id after the largest ever taken, and `ids`, u64 `[slots]`: the id of each slot,
    /// 2⁶⁴ − 1 if it is free.
    pub fn save(&self, writer: &mut Writer<'_>) -> Result<()> {
        writer.section("next", &[self.next])?;
        self.ids.save("ids", writer, self.slots())
    }

    /// Reads what [`Self::save`] wrote, `len` ids in `slots` slots.
    pub fn load(reader: &mut Reader<'_>, slots: usize, len: usize) -> Result<Self> {
        let next = reader.section_of::<u64>("next", 1)?[0];
        let ids = Chunked::load("ids", reader, slots, 1)?;
        let table = Self { ids, places: Places::Offset(0), len, next };
        let taken: Vec<u64> = table.iter().map(|(_, id)| id).collect();
        if taken.len() != len {
            return Err(reader.invalid::<u64>("ids", 0, format!("{} ids, there should be {len}", taken.len())));
        }
        if let Some((slot, id)) = table.iter().find(|&(_, id)| id >= next) {
            return Err(reader.invalid::<u64>("ids", slot as usize, format!("id {id} is not below {next}")));
        }
        if let Err(error) = Self::check(&taken) {
            return Err(reader.invalid::<u64>("ids", 0, error.to_string()));
        }
        Self::of(table.ids, next)
    }

    pub fn bytes(&self) -> Bytes {
        let (live, reserved) = self.ids.bytes();
        let slots = live / self.slots().max(1);
        let table = match &self.places {
            Places::Offset(_) => 0,
            Places::Hashed(table) => table.bytes(),
        };
        Bytes { live: slots * self.len + table, reserved: reserved + table }
    }
}

/// Slots found by the hash of their id, in shards, so that a change copies little of what a reader holds.
#[derive(Debug, Clone)]
struct SlotTable {
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
    fn of(ids: &Chunked<u64>, len: usize) -> Result<Self> {
        let count = (len / SHARD).next_power_of_two();
        let mut counts = vec![0_usize; count];
        let taken = || (0..ids.len() as u32).map(|slot| (slot, ids.row(slot as usize)[0])).filter(|e| e.1 != NO_ID);
        taken().for_each(|(_, id)| counts[shard(id, count)] += 1);
        let mut tables: Vec<HashTable<u32>> = Vec::with_capacity(count);
        for count in counts {
            let mut table = HashTable::new();
            let bytes = count * size_of::<u32>();
            table.try_reserve(count, |_| 0).map_err(|_| Error::OutOfMemory { bytes })?;
            tables.push(table);
        }
        for (slot, id) in taken() {
            tables[shard(id, count)].insert_unique(hash(id), slot, |&slot| hash(ids.row(slot as usize)[0]));
        }
        Ok(Self { shards: tables.into_iter().map(Arc::new).collect() })
    }

    fn find(&self, id: u64, ids: &Chunked<u64>) -> Option<u32> {
        let table = &self.shards[shard(id, self.shards.len())];
        table.find(hash(id), |&slot| ids.row(slot as usize)[0] == id).copied()
    }

    /// Makes room for more ids, beside the `len` there are.
    fn reserve(&mut self, len: usize, more: &[u64], ids: &Chunked<u64>) -> Result<()> {
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

    fn insert(&mut self, id: u64, slot: u32, ids: &Chunked<u64>) {
        let count = self.shards.len();
        let table = Arc::make_mut(&mut self.shards[shard(id, count)]);
        table.insert_unique(hash(id), slot, |&slot| hash(ids.row(slot as usize)[0]));
    }

    fn remove(&mut self, id: u64, slot: u32) {
        let count = self.shards.len();
        let table = Arc::make_mut(&mut self.shards[shard(id, count)]);
        if let Ok(entry) = table.find_entry(hash(id), |&other| other == slot) {
            entry.remove();
        }
    }

    fn bytes(&self) -> usize {
        self.shards.iter().map(|table| table.allocation_size() + size_of::<HashTable<u32>>()).sum()
    }
}

/// The shard of an id: bits of the hash that the tables do not use much.
fn shard(id: u64, count: usize) -> usize {
    (hash(id) >> 32) as usize & (count - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(table: &mut IdTable, ids: &[u64], slots: &[u32]) {
        IdTable::check(ids).unwrap();
        table.reserve(ids, slots).unwrap();
        table.take(ids, slots);
    }

    #[test]
    fn ids_that_count_up_take_eight_bytes() {
        for start in [0, 1, 1 << 40] {
            let mut table = IdTable::default();
            let ids: Vec<u64> = (start..start + 100_000).collect();
            let slots: Vec<u32> = (0..100_000).collect();
            for (ids, slots) in ids.chunks(999).zip(slots.chunks(999)) {
                take(&mut table, ids, slots);
            }
            assert_eq!(table.bytes().live, 800_000);
            assert_eq!(
                [start, start + 99_999, start + 100_000].map(|id| table.find(id)),
                [Some(0), Some(99_999), None]
            );
            assert_eq!(table.following(2).unwrap(), [start + 100_000, start + 100_001]);
            // A gap changes nothing, the same id in its old slot neither.
            table.free(&[7]);
            assert_eq!((table.find(start + 7), table.len()), (None, 99_999));
            take(&mut table, &[start + 7], &[7]);
            assert_eq!((table.find(start + 7), table.bytes().live), (Some(7), 800_000));
            // Another id in it does.
            table.free(&[7]);
            take(&mut table, &[start + 500_000], &[7]);
            assert_eq!([start + 7, start + 500_000, start + 8].map(|id| table.find(id)), [None, Some(7), Some(8)]);
            assert!(table.bytes().live < 2_000_000, "{}", table.bytes().live);
        }
    }

    #[test]
    fn ids_in_any_order_are_found_and_renumbered() {
        let mut table = IdTable::default();
        let ids: Vec<u64> = (0..50_000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1).collect();
        let slots: Vec<u32> = (0..50_000).collect();
        take(&mut table, &ids[..3], &slots[..3]);
        take(&mut table, &ids[3..], &slots[3..]);
        assert!(table.bytes().reserved < 50_000 * 20, "{}", table.bytes().reserved);
        let before = table.clone();
        let gone: Vec<u32> = slots.iter().copied().filter(|slot| slot % 3 == 1).collect();
        table.free(&gone);
        let renumber = table.renumber();
        let compact = table.compacted().unwrap();
        for (slot, &id) in ids.iter().enumerate() {
            let kept = slot % 3 != 1;
            assert_eq!(before.find(id), Some(slot as u32));
            assert_eq!(table.find(id), kept.then_some(slot as u32));
            assert_eq!(compact.find(id), kept.then_some(renumber[slot]));
        }
        assert_eq!((compact.slots(), compact.len()), (table.len(), table.len()));
        assert_eq!(compact.largest(), before.largest());
    }

    #[test]
    fn an_id_twice_and_the_last_number_are_refused() {
        assert_eq!(IdTable::check(&[3, 4, 3]), Err(Error::DuplicateId { id: 3 }));
        assert_eq!(IdTable::check(&[3, 3]), Err(Error::DuplicateId { id: 3 }));
        assert_eq!(IdTable::check(&[1, u64::MAX]), Err(Error::Id { id: u64::MAX }));
        let mut table = IdTable::default();
        take(&mut table, &[u64::MAX - 1], &[0]);
        assert_eq!(table.following(0), Ok(vec![]));
        assert_eq!(table.following(1), Err(Error::IdsExhausted { last: u64::MAX - 1 }));
    }
}
