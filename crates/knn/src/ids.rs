//! Which ids are taken, and by which vector.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// From ids to numbers of insertion. Ids that count up from zero, the default, take no memory.
#[derive(Debug, Default)]
pub(crate) struct IdTable {
    /// Ids `0..running` belong to the vectors of the same number of insertion.
    running: u64,
    others: HashMap<u64, u64>,
    largest: Option<u64>,
}

impl IdTable {
    /// The number of insertion of the vector with `id`.
    pub fn find(&self, id: u64) -> Option<u64> {
        if id < self.running { Some(id) } else { self.others.get(&id).copied() }
    }

    /// The largest id taken.
    pub fn largest(&self) -> Option<u64> {
        self.largest
    }

    /// The ids that `n` vectors get when none are given: those after the largest so far.
    pub fn following(&self, n: usize) -> Result<Vec<u64>> {
        let Some(largest) = self.largest else { return Ok((0..n as u64).collect()) };
        let last = largest.checked_add(n as u64).ok_or(Error::IdsExhausted { last: largest })?;
        Ok((largest + 1..=last).collect())
    }

    /// Takes ids for vectors with the numbers from `first` on. Takes none if one is taken already.
    pub fn insert(&mut self, ids: &[u64], first: u64) -> Result<()> {
        let running = self.running;
        let beyond = if first == running {
            // Ids that continue the run need no entry.
            ids.iter().zip(running..).take_while(|(id, number)| **id == *number).count()
        } else {
            0
        };
        if let Some(id) = (running..running + beyond as u64).find(|id| self.others.contains_key(id)) {
            return Err(Error::DuplicateId { id });
        }
        self.running += beyond as u64;
        let rest = &ids[beyond..];
        let bytes = rest.len().saturating_mul(size_of::<(u64, u64)>());
        if self.others.try_reserve(rest.len()).is_err() {
            self.running = running;
            return Err(Error::OutOfMemory { bytes });
        }
        for (i, &id) in rest.iter().enumerate() {
            if self.find(id).is_some() {
                for id in &rest[..i] {
                    self.others.remove(id);
                }
                self.running = running;
                return Err(Error::DuplicateId { id });
            }
            self.others.insert(id, first + (beyond + i) as u64);
        }
        self.largest = self.largest.max(ids.iter().copied().max());
        Ok(())
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        // One control byte per place, and a place for every 7/8 of capacity.
        self.others.capacity() * 8 / 7 * (size_of::<(u64, u64)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_ids_take_no_memory() {
        let mut table = IdTable::default();
        let ids = table.following(100).unwrap();
        table.insert(&ids, 0).unwrap();
        assert_eq!(table.bytes(), 0);
        assert_eq!(table.find(99), Some(99));
        assert_eq!(table.find(100), None);
    }

    #[test]
    fn a_refused_batch_takes_nothing() {
        let mut table = IdTable::default();
        table.insert(&[0, 1, 7], 0).unwrap();
        for batch in [&[3, 4, 7][..], &[3, 3], &[0], &[9, 1]] {
            assert!(matches!(table.insert(batch, 3), Err(Error::DuplicateId { .. })));
            assert_eq!([3, 4, 9].map(|id| table.find(id)), [None; 3]);
        }
        assert_eq!(table.following(2).unwrap(), [8, 9]);
        table.insert(&[3, 2], 3).unwrap();
        assert_eq!([0, 1, 7, 3, 2].map(|id| table.find(id)), [Some(0), Some(1), Some(2), Some(3), Some(4)]);
    }

    #[test]
    fn a_run_that_meets_a_taken_id_is_refused() {
        let mut table = IdTable::default();
        table.insert(&[0], 0).unwrap();
        table.insert(&[2], 1).unwrap();
        assert_eq!(table.insert(&[2], 2), Err(Error::DuplicateId { id: 2 }));
        assert_eq!(table.insert(&[1, 2], 2), Err(Error::DuplicateId { id: 2 }));
        table.insert(&[1, 3], 2).unwrap();
        assert_eq!([0, 1, 2, 3].map(|id| table.find(id)), [Some(0), Some(2), Some(1), Some(3)]);
    }

    #[test]
    fn the_last_id_has_no_successor() {
        let mut table = IdTable::default();
        table.insert(&[u64::MAX], 0).unwrap();
        assert_eq!(table.following(1), Err(Error::IdsExhausted { last: u64::MAX }));
    }
}
