//! Which vectors may be found.

use crate::snapshot::Snapshot;
use crate::structure::SlotSet;

/// How the vectors of a filter are named.
#[derive(Debug, Clone, Copy)]
pub enum FilterKind<'a> {
    /// By id, in any order. Ids that are not in the index are skipped.
    Ids(&'a [u64]),
    /// By bits: bit i % 8 of byte i / 8 stands for id i, ids past the end have a zero.
    Bitset(&'a [u8]),
}

/// Vectors of one [`Snapshot`] that a search may find. Clones of the snapshot take it too, no other state of
/// the index does.
#[derive(Debug, Clone)]
pub struct Filter {
    state: u64,
    allowed: SlotSet,
}

impl Filter {
    /// Number of vectors that may be found.
    #[must_use]
    pub fn len(&self) -> usize {
        self.allowed.len()
    }

    /// True when no vector may be found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Snapshot {
    /// A filter that lets the named vectors be found, or with `exclude` all but them.
    #[must_use]
    pub fn filter(&self, kind: FilterKind<'_>, exclude: bool) -> Filter {
        let slots = self.table.slots();
        let mut named = SlotSet::new(slots);
        match kind {
            FilterKind::Ids(ids) => {
                ids.iter().filter_map(|&id| self.table.find(id)).for_each(|slot| named.insert(slot));
            }
            FilterKind::Bitset(bits) => {
                let has = |id: u64| bits.get((id / 8) as usize).is_some_and(|byte| byte >> (id % 8) & 1 == 1);
                self.table.iter().filter(|&(_, id)| has(id)).for_each(|(slot, _)| named.insert(slot));
            }
        }
        let allowed = if exclude {
            let mut others = SlotSet::new(slots);
            self.table.iter().filter(|&(slot, _)| !named.contains(slot)).for_each(|(slot, _)| others.insert(slot));
            others
        } else {
            named
        };
        Filter { state: self.state, allowed }
    }

    /// The slots of a filter, if it is one of this snapshot's.
    pub(crate) fn allowed<'a>(&self, filter: Option<&'a Filter>) -> crate::Result<Option<&'a SlotSet>> {
        match filter {
            Some(filter) if filter.state != self.state => Err(crate::Error::ForeignFilter),
            _ => Ok(filter.map(|filter| &filter.allowed)),
        }
    }
}
