//! From a target recall to the effort that reaches it: the index searches a sample of queries exactly and at
//! several efforts, and takes the smallest that finds enough.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::neighbour::Neighbour;
use crate::snapshot::Snapshot;
use crate::structure::{Effort, Request};

/// The target when none is given.
pub(crate) const DEFAULT_RECALL: f32 = 0.95;

/// Queries that are remembered, and the most that a measurement takes.
const SAMPLE: usize = 64;
/// Fewer queries say too little: searches are exact until there are as many.
const SMALLEST_SAMPLE: usize = 16;
/// Efforts that are tried are powers of this; finer would be lost in the sample's error.
const STEP: f32 = 0.8;
/// The smallest effort tried is `STEP` to this, about one in ten thousand.
const STEPS: i32 = 42;
/// Measured efforts that are kept.
const ENTRIES: usize = 64;

/// What the index learnt about its recall.
#[derive(Debug, Default)]
pub(crate) struct Tuning {
    learnt: Mutex<Learnt>,
    /// Held by the search that measures.
    measuring: Mutex<()>,
}

#[derive(Debug, Default)]
struct Learnt {
    /// The latest queries, `[SAMPLE or fewer][dimensions]`, in the form the index compares.
    queries: Vec<f32>,
    /// Where the next query goes once there are enough.
    next: usize,
    measured: HashMap<Target, Measured>,
}

/// What an effort was measured for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Target {
    k: usize,
    /// In thousandths.
    recall: u32,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    effort: Effort,
    /// Queries it was measured with.
    sample: usize,
    /// [`Snapshot::changes`] and size then.
    changes: u64,
    len: usize,
}

impl Tuning {
    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest queries.
    pub fn recent_queries(&self) -> Vec<f32> {
        self.learnt().queries.clone()
    }
}

impl Learnt {
    /// Remembers some of the queries, `[n][dimensions]`.
    fn remember(&mut self, queries: &[f32], dimensions: usize) {
        let n = queries.len() / dimensions;
        for i in 0..n.min(SAMPLE) {
            // Evenly from the whole batch.
            let row = i * n / n.min(SAMPLE);
            let query = &queries[row * dimensions..(row + 1) * dimensions];
            if self.queries.len() < SAMPLE * dimensions {
                self.queries.extend_from_slice(query);
            } else {
                let start = self.next * dimensions;
                self.queries[start..start + dimensions].copy_from_slice(query);
                self.next = (self.next + 1) % SAMPLE;
            }
        }
    }
}

/// The size of lists that stands for `k`: the next number with three significant bits.
fn bucket(k: usize) -> usize {
    let step = 1 << k.ilog2().saturating_sub(2);
    k.next_multiple_of(step)
}

impl Snapshot {
    /// The effort at which searches for the `k` nearest find the share `recall` of them on average.
    /// `queries` are those about to be searched, prepared.
    pub(crate) fn effort_for(
        &self,
        queries: &[f32],
        k: usize,
        recall: f32,
        cancel: Option<&AtomicBool>,
    ) -> Result<Effort> {
        let dimensions = self.context.shape.dimensions;
        let target = Target { k: bucket(k).min(self.len()), recall: (recall * 1000.0).round() as u32 };
        if target.recall >= 1000 {
            return Ok(Effort::Exact);
        }
        let (known, sample) = {
            let mut learnt = self.tuning.learnt();
            learnt.remember(queries, dimensions);
            let sample = learnt.queries.len() / dimensions;
            let known = learnt.measured.get(&target).copied();
            (known.filter(|measured| self.still_true(*measured, sample)), sample)
        };
        if let Some(measured) = known {
            return Ok(measured.effort);
        }
        if sample < SMALLEST_SAMPLE {
            return Ok(Effort::Exact);
        }
        // While another search measures, reading everything is quicker than measuring too, unless there is much.
        let measuring = self.tuning.measuring.try_lock();
        if measuring.is_err() && queries.len() < SAMPLE * dimensions {
            return Ok(Effort::Exact);
        }
        let sample = self.tuning.recent_queries();
        let effort = self.measure(&sample, target, cancel)?;
        let mut learnt = self.tuning.learnt();
        if learnt.measured.len() >= ENTRIES {
            learnt.measured.clear();
        }
        let sample = sample.len() / dimensions;
        learnt.measured.insert(target, Measured { effort, sample, changes: self.changes, len: self.len() });
        Ok(effort)
    }

    /// True until a fifth of the index has changed, or there are many more queries to measure with.
    fn still_true(&self, measured: Measured, sample: usize) -> bool {
        let changed = self.changes.abs_diff(measured.changes);
        changed <= measured.len as u64 / 5 && (measured.sample >= SAMPLE || sample < 4 * measured.sample)
    }

    /// The smallest effort that reaches the target for the sample.
    fn measure(&self, sample: &[f32], target: Target, cancel: Option<&AtomicBool>) -> Result<Effort> {
        let exact = self.ranks(sample, target.k, Effort::Exact, cancel)?;
        let reaches = |step: i32| -> Result<bool> {
            let found = self.ranks(sample, target.k, Effort::Share(STEP.powi(step)), cancel)?;
            let recalls: Vec<f64> = exact.iter().zip(&found).map(|(exact, found)| recall(exact, found)).collect();
            Ok(lower_mean(&recalls) >= f64::from(target.recall) / 1000.0)
        };
        // The largest number of steps down that still reaches it; −1 stands for exact search.
        let (mut good, mut bad) = (-1, STEPS + 1);
        while bad - good > 1 {
            let middle = i32::midpoint(good, bad);
            if reaches(middle)? {
                good = middle;
            } else {
                bad = middle;
            }
        }
        Ok(if good < 0 { Effort::Exact } else { Effort::Share(STEP.powi(good)) })
    }

    /// The ranks of the neighbours found for each query, prepared.
    pub(crate) fn ranks(
        &self,
        queries: &[f32],
        k: usize,
        effort: Effort,
        cancel: Option<&AtomicBool>,
    ) -> Result<Vec<Vec<f32>>> {
        let rows = queries.len() / self.context.shape.dimensions;
        let found: Vec<Mutex<Vec<f32>>> = (0..rows).map(|_| Mutex::default()).collect();
        let request = Request { queries, k, effort, floor: f32::NEG_INFINITY, allowed: None, ids: &self.table, cancel };
        self.structure.search(&self.context, &request, &|row: usize, near: &[Neighbour]| {
            *found[row].lock().unwrap_or_else(PoisonError::into_inner) =
                near.iter().map(|neighbour| neighbour.rank).collect();
        })?;
        Ok(found.into_iter().map(|ranks| ranks.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
    }
}

/// Share of the nearest that was found, given the ranks of the nearest and of the found, both descending.
/// By rank, not by id: of equally near ones any will do.
pub(crate) fn recall(nearest: &[f32], found: &[f32]) -> f64 {
    let Some(&last) = nearest.last() else { return 1.0 };
    found.iter().take_while(|&&rank| rank >= last).count().min(nearest.len()) as f64 / nearest.len() as f64
}

/// The mean less its standard error: what the mean of all queries is likely to reach, given a sample.
fn lower_mean(sample: &[f64]) -> f64 {
    let n = sample.len() as f64;
    let mean = sample.iter().sum::<f64>() / n;
    let variance = sample.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0).max(1.0);
    mean - (variance / n).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_bucketed_to_three_bits() {
        assert_eq!([1, 2, 3, 7, 8, 9, 10, 17, 100, 128, 129].map(bucket), [1, 2, 3, 7, 8, 10, 10, 20, 112, 128, 160]);
    }

    #[test]
    fn recall_counts_equal_ranks_as_found() {
        assert_eq!(recall(&[3.0, 2.0, 2.0, 1.0], &[3.0, 2.0, 1.0, 1.0]).to_bits(), 1.0_f64.to_bits());
        assert_eq!(recall(&[3.0, 2.0, 2.0, 1.0], &[2.0, 0.5]).to_bits(), 0.25_f64.to_bits());
        assert_eq!(recall(&[], &[]).to_bits(), 1.0_f64.to_bits());
    }

    #[test]
    fn the_latest_queries_are_remembered() {
        let mut learnt = Learnt::default();
        let batch: Vec<f32> = (0..128_u8).map(f32::from).collect();
        learnt.remember(&batch, 1);
        assert_eq!(learnt.queries, (0..128_u8).step_by(2).map(f32::from).collect::<Vec<_>>());
        learnt.remember(&[500.0, 501.0], 1);
        assert_eq!(learnt.queries[..3], [500.0, 501.0, 4.0]);
    }
}
