//! Which id has which slot.

use std::sync::Arc;

use hashbrown::HashTable;

use crate::chunked::{Chunked, ROWS};
use crate::error::{Error, Result};
use crate::file::{Reader, Writer};
use crate::structure::Bytes;

/// Stands for "no id". Not taken as an id: results use it for places past the last neighbour.
pub(crate) const NO_ID: u64 = u64::MAX;

/// From slots to ids and back. Copies share memory until one of them changes.
///
/// Ids that all lie the same distance from their slot (ids that count up from any start, the default) take one bit
/// per slot. Others take 8 bytes per slot, and 5 to 11 for the way back.
#[derive(Debug, Clone, Default)]
pub(crate) struct IdTable {
    ids: Ids,
    slots: usize,
    len: usize,
    /// The id after the largest ever taken.
    next: u64,
}

/// Which slots are taken, and by which ids.
#[derive(Debug, Clone)]
enum Ids {
    /// Every id is its slot plus `offset`.
    Counting { offset: u64, taken: TakenSlots },
    /// Any ids.
    Listed {
        /// `[slots][1]`; [`NO_ID`] where the slot is free.
        ids: Chunked<u64>,
        /// The way back.
        places: SlotTable,
    },
}

impl Default for Ids {
    fn default() -> Self {
        Self::Counting { offset: 0, taken: TakenSlots::default() }
    }
}

/// The distance of an id from its slot, if it does not lie before it.
fn offset(id: u64, slot: u32) -> Option<u64> {
    id.checked_sub(u64::from(slot))
}

/// Slots that are taken, ascending, with their ids, from the id of each slot.
fn listed(ids: &Chunked<u64>) -> impl Iterator<Item = (u32, u64)> + '_ {
    (0..ids.len() as u32).map(|slot| (slot, ids.row(slot as usize)[0])).filter(|&(_, id)| id != NO_ID)
}

impl IdTable {
    /// Ids taken.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Slots, free ones included.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The id of a slot that is taken.
    #[inline]
    pub fn id(&self, slot: u32) -> u64 {
        match &self.ids {
            Ids::Counting { offset, .. } => offset + u64::from(slot),
            Ids::Listed { ids, .. } => ids.row(slot as usize)[0],
        }
    }

    fn is_taken(&self, slot: u32) -> bool {
        match &self.ids {
            Ids::Counting { taken, .. } => taken.contains(slot),
            Ids::Listed { ids, .. } => ids.row(slot as usize)[0] != NO_ID,
        }
    }

    /// Slots that are taken, ascending, with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        (0..self.slots as u32).filter(|&slot| self.is_taken(slot)).map(|slot| (slot, self.id(slot)))
    }

    /// The slot of an id.
    pub fn find(&self, id: u64) -> Option<u32> {
        match &self.ids {
            Ids::Counting { offset, taken } => {
                let slot = id.checked_sub(*offset).filter(|&slot| slot < self.slots as u64)? as u32;
                taken.contains(slot).then_some(slot)
            }
            Ids::Listed { ids, places } => places.find(id, ids),
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
        let before = self.slots;
        let end = slots.iter().max().map_or(0, |&slot| slot as usize + 1).max(before);
        let reserved =
            self.suit(ids, slots).and_then(|()| self.resize(end)).and_then(|()| self.unshare(slots)).and_then(|()| {
                match &mut self.ids {
                    Ids::Counting { .. } => Ok(()),
                    Ids::Listed { ids: list, places } => places.reserve(self.len, ids, list),
                }
            });
        if reserved.is_err() {
            self.forget(before);
        }
        reserved
    }

    /// Changes to a list of ids if those to come do not fit the ones that count up, or from it if there are none yet.
    fn suit(&mut self, ids: &[u64], slots: &[u32]) -> Result<()> {
        let (Some(&id), Some(&slot)) = (ids.first(), slots.first()) else { return Ok(()) };
        let common = offset(id, slot)
            .filter(|&common| ids.iter().zip(slots).all(|(&id, &slot)| offset(id, slot) == Some(common)));
        match (&mut self.ids, common) {
            (Ids::Counting { offset, .. }, Some(common)) if self.len == 0 || *offset == common => *offset = common,
            (Ids::Listed { .. }, Some(offset)) if self.len == 0 => {
                self.ids = Ids::Counting { offset, taken: TakenSlots::new(self.slots)? };
            }
            (Ids::Counting { .. }, _) => {
                let mut list = Chunked::new(1);
                list.resize(self.slots, NO_ID)?;
                self.iter().for_each(|(slot, id)| list.row_mut(slot as usize)[0] = id);
                let places = SlotTable::of(&list, self.len + ids.len())?;
                self.ids = Ids::Listed { ids: list, places };
            }
            (Ids::Listed { .. }, _) => {}
        }
        Ok(())
    }

    fn resize(&mut self, slots: usize) -> Result<()> {
        match &mut self.ids {
            Ids::Counting { taken, .. } => taken.resize(slots)?,
            Ids::Listed { ids, .. } => ids.resize(slots, NO_ID)?,
        }
        self.slots = slots;
        Ok(())
    }

    /// Makes sure that the ids of slots can be changed without more memory.
    pub fn unshare(&mut self, slots: &[u32]) -> Result<()> {
        match &mut self.ids {
            Ids::Counting { taken, .. } => slots.iter().try_for_each(|&slot| taken.unshare(slot)),
            Ids::Listed { ids, .. } => slots.iter().try_for_each(|&slot| ids.unshare(slot as usize)),
        }
    }

    /// Drops the free slots from `slots` on: takes [`Self::reserve`] back.
    pub fn forget(&mut self, slots: usize) {
        if slots <= self.slots {
            // Cannot fail: shortening takes no memory.
            let _ = self.resize(slots);
        }
    }

    /// Gives ids to free slots. They must be new, checked and reserved.
    pub fn take(&mut self, ids: &[u64], slots: &[u32]) {
        for (&id, &slot) in ids.iter().zip(slots) {
            match &mut self.ids {
                Ids::Counting { taken, .. } => taken.set(slot, true),
                Ids::Listed { ids, places } => {
                    ids.row_mut(slot as usize)[0] = id;
                    places.insert(id, slot, ids);
                }
            }
            self.next = self.next.max(id + 1);
        }
        self.len += ids.len();
    }

    /// Makes slots free that are taken.
    pub fn free(&mut self, slots: &[u32]) {
        for &slot in slots {
            match &mut self.ids {
                Ids::Counting { taken, .. } => taken.set(slot, false),
                Ids::Listed { ids, places } => {
                    let id = std::mem::replace(&mut ids.row_mut(slot as usize)[0], NO_ID);
                    places.remove(id, slot);
                }
            }
        }
        self.len -= slots.len();
    }

    /// The new slot of every old one, in the same order without gaps; `u32::MAX` for free ones.
    pub fn renumber(&self) -> Vec<u32> {
        let mut next = 0;
        let number = |slot| {
            if !self.is_taken(slot) {
                return u32::MAX;
            }
            next += 1;
            next - 1
        };
        (0..self.slots as u32).map(number).collect()
    }

    /// The same ids without gaps between slots.
    pub fn compacted(&self) -> Result<Self> {
        let places = || (0_u32..).zip(self.iter().map(|(_, id)| id));
        if let Some(table) = Self::counting(places, self.len, self.next)? {
            return Ok(table);
        }
        let mut ids = Chunked::new(1);
        ids.resize(self.len, NO_ID)?;
        places().for_each(|(slot, id)| ids.row_mut(slot as usize)[0] = id);
        ids.shrink();
        Self::of(ids, self.next)
    }

    /// The table of ids by slot, `[slots][1]`, all different.
    pub fn of(ids: Chunked<u64>, next: u64) -> Result<Self> {
        if let Some(table) = Self::counting(|| listed(&ids), ids.len(), next)? {
            return Ok(table);
        }
        let (slots, len) = (ids.len(), listed(&ids).count());
        let places = SlotTable::of(&ids, len)?;
        Ok(Self { ids: Ids::Listed { ids, places }, slots, len, next })
    }

    /// The table of the ids at `places`, if all lie the same distance from their slot.
    fn counting<I: Iterator<Item = (u32, u64)>>(
        places: impl Fn() -> I,
        slots: usize,
        next: u64,
    ) -> Result<Option<Self>> {
        let common = match places().next() {
            None => Some(0),
            Some((slot, id)) => {
                offset(id, slot).filter(|&common| places().all(|(slot, id)| offset(id, slot) == Some(common)))
            }
        };
        let Some(offset) = common else { return Ok(None) };
        let mut taken = TakenSlots::new(slots)?;
        let mut len = 0;
        for (slot, _) in places() {
            taken.set(slot, true);
            len += 1;
        }
        Ok(Some(Self { ids: Ids::Counting { offset, taken }, slots, len, next }))
    }

    /// Slots without an id, ascending.
    pub fn free_slots(&self) -> Vec<u32> {
        (0..self.slots as u32).filter(|&slot| !self.is_taken(slot)).collect()
    }

    /// Writes `next`, u64 `[1]`: the id after the largest ever taken, and `ids`, u64 `[slots]`: the id of each slot,
    /// 2⁶⁴ − 1 if it is free.
    pub fn save(&self, writer: &mut Writer<'_>) -> Result<()> {
        writer.section("next", &[self.next])?;
        if let Ids::Listed { ids, .. } = &self.ids {
            return ids.save("ids", writer, self.slots);
        }
        let id = |slot: usize| if self.is_taken(slot as u32) { self.id(slot as u32) } else { NO_ID };
        writer.section_with("ids", |section| {
            (0..self.slots).step_by(ROWS).try_for_each(|first| {
                let ids: Vec<u64> = (first..self.slots.min(first + ROWS)).map(id).collect();
                section.begin()?;
                section.push(&ids)
            })
        })
    }

    /// Reads what [`Self::save`] wrote, `len` ids in `slots` slots.
    pub fn load(reader: &mut Reader<'_>, slots: usize, len: usize) -> Result<Self> {
        let next = reader.section_of::<u64>("next", 1)?[0];
        let ids = Chunked::load("ids", reader, slots, 1)?;
        let taken: Vec<u64> = listed(&ids).map(|(_, id)| id).collect();
        if taken.len() != len {
            return Err(reader.invalid::<u64>("ids", 0, format!("{} ids, there should be {len}", taken.len())));
        }
        if let Some((slot, id)) = listed(&ids).find(|&(_, id)| id >= next) {
            return Err(reader.invalid::<u64>("ids", slot as usize, format!("id {id} is not below {next}")));
        }
        if let Err(error) = Self::check(&taken) {
            return Err(reader.invalid::<u64>("ids", 0, error.to_string()));
        }
        Self::of(ids, next)
    }

    pub fn bytes(&self) -> Bytes {
        match &self.ids {
            Ids::Counting { taken, .. } => {
                Bytes { live: self.len.div_ceil(SLOTS) * size_of::<u64>(), reserved: taken.words.bytes().1 }
            }
            Ids::Listed { ids, places } => {
                let (live, reserved) = (self.len * size_of::<u64>(), ids.bytes().1);
                Bytes { live: live + places.bytes(), reserved: reserved + places.bytes() }
            }
        }
    }
}

/// Slots that are taken, one bit each. Copies share memory until one of them changes.
#[derive(Debug, Clone)]
struct TakenSlots {
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
    fn new(slots: usize) -> Result<Self> {
        let mut taken = Self::default();
        taken.resize(slots)?;
        Ok(taken)
    }

    /// Lengthens with free slots, or shortens by free ones.
    fn resize(&mut self, slots: usize) -> Result<()> {
        self.words.resize(slots.div_ceil(SLOTS), 0)
    }

    /// Makes sure that a slot can be taken or made free without more memory.
    fn unshare(&mut self, slot: u32) -> Result<()> {
        self.words.unshare(slot as usize / SLOTS)
    }

    fn contains(&self, slot: u32) -> bool {
        let slot = slot as usize;
        self.words.row(slot / SLOTS)[0] >> (slot % SLOTS) & 1 == 1
    }

    fn set(&mut self, slot: u32, taken: bool) {
        let slot = slot as usize;
        let word = &mut self.words.row_mut(slot / SLOTS)[0];
        *word = *word & !(1 << (slot % SLOTS)) | u64::from(taken) << (slot % SLOTS);
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
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::file::Description;

    fn take(table: &mut IdTable, ids: &[u64], slots: &[u32]) {
        IdTable::check(ids).unwrap();
        table.reserve(ids, slots).unwrap();
        table.take(ids, slots);
    }

    #[test]
    fn ids_that_count_up_take_a_bit() {
        for start in [0, 1, 1 << 40] {
            let mut table = IdTable::default();
            let ids: Vec<u64> = (start..start + 100_000).collect();
            let slots: Vec<u32> = (0..100_000).collect();
            for (ids, slots) in ids.chunks(999).zip(slots.chunks(999)) {
                take(&mut table, ids, slots);
            }
            assert_eq!(table.bytes().live, 12_504);
            assert!(table.bytes().reserved < 30_000, "{}", table.bytes().reserved);
            assert_eq!(
                [start, start + 99_999, start + 100_000].map(|id| table.find(id)),
                [Some(0), Some(99_999), None]
            );
            assert_eq!(table.following(2).unwrap(), [start + 100_000, start + 100_001]);
            // A gap changes nothing, the same id in its old slot neither.
            table.free(&[7]);
            assert_eq!((table.find(start + 7), table.len()), (None, 99_999));
            take(&mut table, &[start + 7], &[7]);
            assert_eq!((table.find(start + 7), table.bytes().live), (Some(7), 12_504));
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

    /// Every answer of a table is a map's.
    fn assert_same(table: &IdTable, expected: &BTreeMap<u32, u64>, next: u64) {
        let pairs: Vec<(u32, u64)> = expected.iter().map(|(&slot, &id)| (slot, id)).collect();
        assert_eq!(table.iter().collect::<Vec<_>>(), pairs);
        assert_eq!((table.len(), table.largest()), (pairs.len(), next.checked_sub(1)));
        let free: Vec<u32> = (0..table.slots() as u32).filter(|slot| !expected.contains_key(slot)).collect();
        assert_eq!(table.free_slots(), free);
        for &(slot, id) in &pairs {
            assert_eq!((table.find(id), table.id(slot)), (Some(slot), id));
            for near in [id.wrapping_sub(1), id + 1] {
                let slot = pairs.iter().find(|pair| pair.1 == near).map(|pair| pair.0);
                assert_eq!(table.find(near), slot);
            }
        }
        let bytes = table.bytes();
        assert!(bytes.live <= bytes.reserved, "{bytes:?}");
    }

    proptest! {
        /// Behaves as a map does, however ids are given; copies stay as they were, and what is taken back leaves nothing.
        #[test]
        fn like_a_map(
            start in prop_oneof![Just(0), Just(1), Just(1_u64 << 40)],
            steps in proptest::collection::vec((0..7_u8, 1..200_usize, any::<u32>()), 1..25),
        ) {
            let (mut table, mut expected, mut next) = (IdTable::default(), BTreeMap::new(), 0);
            for (step, n, random) in steps {
                let (copy, before) = (table.clone(), expected.clone());
                match step {
                    // Free slots or new ones; ids that count up, have gaps, or are those of their slots.
                    0..=3 => {
                        let mut slots = table.free_slots();
                        slots.truncate(if step == 0 { 0 } else { n });
                        let end = table.slots() as u32;
                        slots.extend(end..end + (n - slots.len()) as u32);
                        let first = if next == 0 { start } else { next };
                        let ids: Vec<u64> = match step {
                            0 | 1 => (first..first + n as u64).collect(),
                            2 => (0..n as u64).map(|i| first + i * (1 + u64::from(random % 3))).rev().collect(),
                            _ => slots.iter().map(|&slot| start + u64::from(slot)).collect(),
                        };
                        if ids.iter().any(|&id| table.find(id).is_some()) {
                            continue;
                        }
                        table.reserve(&ids, &slots).unwrap();
                        if random % 4 == 0 {
                            table.forget(end as usize);
                        } else {
                            table.take(&ids, &slots);
                            expected.extend(slots.iter().copied().zip(ids.iter().copied()));
                            next = next.max(ids.iter().max().unwrap() + 1);
                        }
                    }
                    4 | 5 => {
                        let mut gone: Vec<u32> = expected.keys().copied().collect();
                        if step == 4 {
                            gone.retain(|slot| (slot ^ random) % 3 == 0);
                        }
                        table.unshare(&gone).unwrap();
                        table.free(&gone);
                        for slot in &gone {
                            assert!(expected.remove(slot).is_some());
                        }
                    }
                    _ => {
                        let renumber = table.renumber();
                        table = table.compacted().unwrap();
                        expected = expected.iter().map(|(&slot, &id)| (renumber[slot as usize], id)).collect();
                        assert_eq!(table.slots(), table.len());
                    }
                }
                assert_same(&table, &expected, next);
                assert_eq!(copy.iter().collect::<Vec<_>>(), before.into_iter().collect::<Vec<_>>());
            }
            let description = Description::default();
            let mut bytes = Vec::new();
            let mut writer = Writer::new(&mut bytes).unwrap();
            table.save(&mut writer).unwrap();
            writer.finish(description).unwrap();
            let mut reader = Reader::from_bytes(&bytes).unwrap();
            let loaded = IdTable::load(&mut reader, table.slots(), table.len()).unwrap();
            reader.finish().unwrap();
            assert_same(&loaded, &expected, next);
            assert_eq!(loaded.slots(), table.slots());
        }
    }

    #[test]
    fn ids_that_count_up_again_take_a_bit_again() {
        let mut table = IdTable::default();
        take(&mut table, &[9, 8, 7], &[0, 1, 2]);
        assert!(table.bytes().live > 3 * 8);
        let copy = table.clone();
        table.free(&[0, 1, 2]);
        take(&mut table, &[12, 11, 10], &[2, 1, 0]);
        assert_eq!((table.bytes().live, table.find(7), table.find(12)), (8, None, Some(2)));
        assert_eq!((copy.find(7), copy.find(12), copy.len()), (Some(2), None, 3));
        // Without the first, those that are left still count up.
        take(&mut table, &[13], &[3]);
        table.free(&[0]);
        assert_eq!(table.compacted().unwrap().bytes().live, 8);
        table.free(&[2]);
        assert!(table.compacted().unwrap().bytes().live > 2 * 8);
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
