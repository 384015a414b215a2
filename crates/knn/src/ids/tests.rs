//! The table of ids beside a plain map.

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
        assert_eq!([start, start + 99_999, start + 100_000].map(|id| table.find(id)), [Some(0), Some(99_999), None]);
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
