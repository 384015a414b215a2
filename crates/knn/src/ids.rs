//! Which id has which slot.

mod slot_table;
mod taken_slots;
#[cfg(test)]
mod tests;

use slot_table::SlotTable;
use taken_slots::TakenSlots;

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
            Ids::Counting { taken, .. } => taken.bytes(self.len),
            Ids::Listed { ids, places } => {
                let (live, reserved) = (self.len * size_of::<u64>(), ids.bytes().1);
                Bytes { live: live + places.bytes(), reserved: reserved + places.bytes() }
            }
        }
    }
}
