//! The lanes of a group: each behind a lock of its own, changed in parallel.

use super::{GroupShape, MAX_KEY_LENGTH};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::lane::{Arrangement, Lane};
use crate::soft::{SoftQuery, Stocks, Strategy};
use crate::storage::Storage;
use iceformer_simd::{Kernels, LANES, OutOfMemory};
use iceformer_threads::ThreadPool;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

/// Longest value: sums over all vectors stay far from where `f32` ends.
const MAX_VALUE_LENGTH: f32 = 1e18;

/// So few vectors are appended by one thread, lane by lane.
const ONE_BY_ONE: usize = 16;

/// Fewer numbers are not worth a thread of their own to check.
const LEAST_CHECKED: usize = 1 << 15;

#[derive(Debug)]
pub(super) struct LanesOf<T: Element> {
    pub(super) kernels: &'static Kernels,
    pub(super) pool: ThreadPool,
    pub(super) lanes: Vec<RwLock<Lane<T>>>,
    pub(super) stocks: Arc<Stocks<T>>,
}

impl<T: Element> LanesOf<T> {
    pub(super) fn new(shape: &GroupShape, kernels: &'static Kernels, pool: ThreadPool) -> Self {
        let coded = shape.storage == Storage::I8;
        let lane = |_| RwLock::new(Lane::new(shape.dimensions, shape.value_dimensions, coded));
        Self { kernels, pool, lanes: (0..shape.lanes).map(lane).collect(), stocks: Stocks::shared() }
    }

    pub(super) fn read(&self, lane: usize) -> RwLockReadGuard<'_, Lane<T>> {
        self.lanes[lane].read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` on every lane, in parallel if `parallel`.
    pub(super) fn change(&self, parallel: bool, f: impl Fn(usize, &mut Lane<T>) + Sync) {
        let one = |lane: usize| self.change_one(lane, &f);
        if parallel {
            self.pool.for_each(self.lanes.len(), |_, lane| one(lane));
        } else {
            (0..self.lanes.len()).for_each(one);
        }
    }

    pub(super) fn change_one(&self, lane: usize, f: impl Fn(usize, &mut Lane<T>)) {
        f(lane, &mut self.lanes[lane].write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn reserve(&mut self, vectors: usize) -> Result<()> {
        for lane in &mut self.lanes {
            let lane = lane.get_mut().unwrap_or_else(PoisonError::into_inner);
            lane.store.reserve(vectors).map_err(out_of_memory)?;
        }
        Ok(())
    }

    pub(super) fn append(&mut self, shape: &GroupShape, keys: &[f32], values: &[f32], n: usize) -> Result<()> {
        if n <= ONE_BY_ONE {
            for lane in &mut self.lanes {
                let lane = lane.get_mut().unwrap_or_else(PoisonError::into_inner);
                lane.store.ask_for(lane.len() / LANES);
            }
        }
        check_rows(self.kernels, &self.pool, "key", keys, shape.dimensions, MAX_KEY_LENGTH)?;
        check_rows(self.kernels, &self.pool, "value", values, shape.value_dimensions, MAX_VALUE_LENGTH)?;
        let len = self.read(0).len();
        self.reserve(len + n)?;
        self.change(n > ONE_BY_ONE, |number, lane| {
            lane.append(self.kernels, n, |i| {
                let row = i * shape.lanes + number;
                let key = &keys[row * shape.dimensions..][..shape.dimensions];
                (key, &values[row * shape.value_dimensions..][..shape.value_dimensions])
            });
        });
        Ok(())
    }

    pub(super) fn settle(&mut self, lanes: &[usize], sinks: usize, end: usize) -> Result<()> {
        let failed = Mutex::new(None);
        self.pool.for_each(lanes.len(), |_, item| {
            self.change_one(lanes[item], |_, lane| {
                let settling = &mut self.stocks.settling.lend();
                if let Err(error) = lane.settle(self.kernels, settling, sinks, end) {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            });
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), |error| Err(out_of_memory(error)))
    }

    pub(super) fn settle_like(&mut self, lane: usize, like: &Arrangement, sinks: usize) -> Result<()> {
        let (kernels, settling) = (self.kernels, &mut self.stocks.settling.lend());
        let lane = self.lanes[lane].get_mut().unwrap_or_else(PoisonError::into_inner);
        lane.settle_like(kernels, settling, like, sinks).map_err(out_of_memory)
    }

    /// Summarises what queries that select may see and that has no summary yet.
    pub(super) fn summarize_recent(&self, by_lane: &[SoftQuery], sights: Option<&[[u32; 2]]>) {
        self.change(true, |number, lane| {
            let query = &by_lane[number];
            if matches!(query.strategy, Strategy::Selected { .. }) {
                let (_, end) = query.sight(sights, query.queries - 1);
                // Without memory for summaries the tiles stay without: they are read then.
                let _ = lane.summarize_recent(self.kernels, end);
            }
        });
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.change(true, |_, lane| lane.truncate(self.kernels, len));
    }
}

/// Checks that all numbers are finite and every row (`[dimensions]`) is at most `longest` long.
pub(super) fn check_rows(
    kernels: &Kernels,
    pool: &ThreadPool,
    what: &'static str,
    rows: &[f32],
    dimensions: usize,
    longest: f32,
) -> Result<()> {
    // One quick pass for both: the sum is not finite if a number is not.
    let short = |numbers: &[f32]| kernels.dot(numbers, numbers) <= longest * longest;
    // Mostly many rows together are not longer than one may be.
    let part = rows.len().div_ceil(pool.threads()).max(LEAST_CHECKED);
    let all_short = AtomicBool::new(true);
    pool.for_each(rows.len().div_ceil(part), |_, number| {
        let numbers = &rows[number * part..];
        if !short(&numbers[..part.min(numbers.len())]) {
            all_short.store(false, Ordering::Relaxed);
        }
    });
    if all_short.into_inner() {
        return Ok(());
    }
    for (row, numbers) in rows.chunks(dimensions).enumerate() {
        if short(numbers) {
            continue;
        }
        if let Some(position) = numbers.iter().position(|x| !x.is_finite()) {
            return Err(Error::NotFinite { what, row, position, value: numbers[position] });
        }
        let length = numbers.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        return Err(Error::TooLarge { what, row, length, max: f64::from(longest) });
    }
    Ok(())
}

fn out_of_memory(error: OutOfMemory) -> Error {
    Error::OutOfMemory { bytes: error.bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceformer_simd::kernels;

    #[test]
    fn the_row_at_fault_is_found_among_many() {
        let pool = ThreadPool::new(2);
        let check = |rows: &[f32]| check_rows(kernels(), &pool, "key", rows, 8, 10.0);
        assert_eq!(check(&[]), Ok(()));
        // Each of length 9: together they are longer than one may be.
        let mut rows = vec![0.0; 8 * 20_000];
        rows.iter_mut().step_by(8).for_each(|x| *x = 9.0);
        assert_eq!(check(&rows), Ok(()));
        assert_eq!(check(&vec![1e-3; 8 * 20_000]), Ok(()));
        rows[8 * 19_999 + 7] = 12.0;
        assert_eq!(check(&rows), Err(Error::TooLarge { what: "key", row: 19_999, length: 15.0, max: 10.0 }));
        rows[8 * 12_345 + 3] = f32::INFINITY;
        let error = Error::NotFinite { what: "key", row: 12_345, position: 3, value: f32::INFINITY };
        assert_eq!(check(&rows), Err(error));
    }
}
