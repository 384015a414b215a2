//! Search for the k nearest: checks, effort, and results in flat arrays.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::algorithm::Algorithm;
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::ids::NO_ID;
use crate::input::{self, filled};
use crate::limits::MAX_K;
use crate::metric::Metric;
use crate::neighbour::Neighbour;
use crate::snapshot::Snapshot;
use crate::structure::{Effort, Request, SlotSet};
use crate::tuning::DEFAULT_RECALL;

/// With at most this many vectors to find, all are read: choosing would save nothing.
const FEW: usize = 2048;
/// Factor of the effort when a search found fewer neighbours than there are.
const WIDEN: f32 = 4.0;

/// What to search for.
#[derive(Debug, Clone, Copy)]
pub struct SearchOptions<'a> {
    /// Neighbours per query, 1 to [`MAX_K`].
    pub k: usize,
    /// Finds every neighbour, provably. Overrides `effort` and `recall`.
    pub exact: bool,
    /// Share, above 0 and at most 1, of what the algorithm could read: of the clusters, or of the vectors that
    /// a graph or DCI visits. Overrides `recall`.
    pub effort: Option<f32>,
    /// Share, above 0 and at most 1, of the k nearest that a search finds on average; 0.95 by default. The
    /// index measures itself to find the effort that this takes; 1 is exact.
    pub recall: Option<f32>,
    /// Vectors that may be found; all by default.
    pub filter: Option<&'a Filter>,
    /// Set to true by another thread to make the search return [`Error::Cancelled`].
    pub cancel: Option<&'a AtomicBool>,
}

impl SearchOptions<'_> {
    /// The `k` nearest with the default recall.
    #[must_use]
    pub fn nearest(k: usize) -> Self {
        Self { k, exact: false, effort: None, recall: None, filter: None, cancel: None }
    }

    /// Checks everything that does not depend on queries.
    pub(crate) fn check(&self) -> Result<()> {
        if self.k == 0 || self.k > MAX_K {
            return Err(Error::K { k: self.k, max: MAX_K });
        }
        let is_share = |share: f32| share > 0.0 && share <= 1.0;
        if let Some(effort) = self.effort.filter(|&effort| !is_share(effort)) {
            return Err(Error::Effort { effort });
        }
        if let Some(recall) = self.recall.filter(|&recall| !is_share(recall)) {
            return Err(Error::Recall { recall });
        }
        Ok(())
    }
}

/// The neighbours of a batch of queries, nearest first, equal ones by id.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbours {
    /// Ids, `[queries][k]`; places past a query's count hold `u64::MAX`.
    pub ids: Vec<u64>,
    /// Scores, `[queries][k]`: inner products or cosines (largest first), or squared distances (smallest
    /// first). Places past a query's count hold NaN.
    pub scores: Vec<f32>,
    /// Neighbours found for each query, `[queries]`: k, or the number of vectors that may be found if that is
    /// smaller.
    pub counts: Vec<u32>,
}

impl Snapshot {
    /// The k nearest of each query; `queries` is `[n][dimensions]`.
    ///
    /// Fails if an option is out of range, if the filter is another state's ([`Error::ForeignFilter`]), if
    /// a query is not finite (or zero for cosine), if it is cancelled, and if there is no memory for the result.
    pub fn search(&self, queries: &[f32], options: SearchOptions<'_>) -> Result<Neighbours> {
        options.check()?;
        let count = input::count(&self.context, queries, "queries")?;
        let mut found = Neighbours {
            ids: filled(count.saturating_mul(options.k), NO_ID)?,
            scores: filled(count.saturating_mul(options.k), f32::NAN)?,
            counts: filled(count, 0)?,
        };
        self.search_into(queries, options, &mut found.ids, &mut found.scores, &mut found.counts)?;
        Ok(found)
    }

    /// Like [`Snapshot::search`], into arrays of the caller: `ids` and `scores` are `[n][k]`, `counts` is `[n]`.
    /// After an error they hold anything.
    pub fn search_into(
        &self,
        queries: &[f32],
        options: SearchOptions<'_>,
        ids: &mut [u64],
        scores: &mut [f32],
        counts: &mut [u32],
    ) -> Result<()> {
        options.check()?;
        let n = input::count(&self.context, queries, "queries")?;
        let places = n.saturating_mul(options.k);
        for (what, actual, expected) in
            [("ids", ids.len(), places), ("scores", scores.len(), places), ("counts", counts.len(), n)]
        {
            if actual != expected {
                return Err(Error::OutputLength { what, actual, expected });
            }
        }
        let allowed = self.allowed(options.filter)?;
        let queries = self.prepare_queries(queries)?;
        ids.fill(NO_ID);
        scores.fill(f32::NAN);
        counts.fill(0);
        let possible = options.k.min(allowed.map_or(self.len(), SlotSet::len));
        if n == 0 || possible == 0 {
            return Ok(());
        }
        let mut effort = self.effort(&queries, &options, allowed)?;
        let mut rows = Rows::new(ids, scores, counts, options.k, self.context.shape.metric)?;
        let request = Request { queries: &queries, ..self.request(&options, allowed, effort) };
        self.structure.search(&self.context, &request, &|row, found| rows.write(row, found))?;
        // Some algorithms run out of what they chose to read before they have k: read more then.
        let dimensions = self.context.shape.dimensions;
        loop {
            let short: Vec<usize> = (0..n).filter(|&row| rows.count(row) < possible).collect();
            let Effort::Share(share) = effort else { return Ok(()) };
            if short.is_empty() {
                return Ok(());
            }
            effort = if share * WIDEN < 1.0 { Effort::Share(share * WIDEN) } else { Effort::Exact };
            let mut again = Vec::with_capacity(short.len() * dimensions);
            for &row in &short {
                rows.reopen(row);
                again.extend_from_slice(&queries[row * dimensions..(row + 1) * dimensions]);
            }
            let write = |i: usize, found: &[Neighbour]| rows.write(short[i], found);
            let request = Request { queries: &again, effort, ..request };
            self.structure.search(&self.context, &request, &write)?;
        }
    }

    /// Checks queries and brings them into the form the index compares.
    pub(crate) fn prepare_queries<'a>(&self, queries: &'a [f32]) -> Result<Cow<'a, [f32]>> {
        input::prepare(&self.context, queries, "query")
    }

    /// A request for no queries yet.
    pub(crate) fn request<'a>(
        &'a self,
        options: &SearchOptions<'a>,
        allowed: Option<&'a SlotSet>,
        effort: Effort,
    ) -> Request<'a> {
        Request {
            queries: &[],
            k: options.k,
            effort,
            floor: f32::NEG_INFINITY,
            allowed,
            ids: &self.table,
            cancel: options.cancel,
        }
    }

    /// How hard to look for what the options ask. `queries` are prepared.
    pub(crate) fn effort(
        &self,
        queries: &[f32],
        options: &SearchOptions<'_>,
        allowed: Option<&SlotSet>,
    ) -> Result<Effort> {
        let len = self.len();
        let candidates = allowed.map_or(len, SlotSet::len);
        if options.exact || options.k >= candidates {
            return Ok(Effort::Exact);
        }
        if self.algorithm() == Algorithm::Exact {
            // Everything is read anyway. Who asks for less than certainty is spared its price: ranking what only the
            // worst rounding could have hidden.
            let asked = options.effort.or(options.recall).is_some_and(|share| share < 1.0);
            let asked = asked || (self.options().algorithm == Algorithm::Auto && options.recall.is_none());
            return Ok(if asked { Effort::Share(1.0) } else { Effort::Exact });
        }
        let few = candidates <= FEW;
        let share = match options.effort {
            Some(_) if allowed.is_some() && few => return Ok(Effort::Exact),
            Some(effort) => effort,
            None if few => return Ok(Effort::Exact),
            None => {
                // The k nearest of the allowed are spread over more of all vectors.
                let spread = (options.k as u64 * len as u64).div_ceil(candidates as u64) as usize;
                let recall = options.recall.unwrap_or(DEFAULT_RECALL);
                match self.effort_for(queries, spread.min(len), recall, options.cancel)? {
                    Effort::Exact => return Ok(Effort::Exact),
                    Effort::Share(share) => share,
                }
            }
        };
        // Reading the allowed ones costs no more than reading that share of all.
        if allowed.is_some() && candidates as f64 <= f64::from(share) * len as f64 {
            return Ok(Effort::Exact);
        }
        Ok(Effort::Share(share))
    }
}

/// Where the neighbours of each query go, from any thread.
struct Rows<'a> {
    /// `[queries][k]`
    ids: *mut u64,
    /// `[queries][k]`
    scores: *mut f32,
    /// `[queries]`
    counts: *mut u32,
    k: usize,
    metric: Metric,
    /// True once a row has been written, `[queries]`.
    written: Vec<AtomicBool>,
    arrays: std::marker::PhantomData<&'a mut [u64]>,
}

// SAFETY: a row of the arrays is written by the one thread that turned its `written` from false to true, and
// read only after the search that wrote it has returned.
unsafe impl Sync for Rows<'_> {}

impl<'a> Rows<'a> {
    /// `ids` and `scores` are `[counts.len()][k]`.
    fn new(ids: &'a mut [u64], scores: &'a mut [f32], counts: &'a mut [u32], k: usize, metric: Metric) -> Result<Self> {
        assert!(ids.len() == counts.len() * k && scores.len() == ids.len());
        let mut written = Vec::new();
        let bytes = counts.len();
        written.try_reserve_exact(counts.len()).map_err(|_| Error::OutOfMemory { bytes })?;
        written.resize_with(counts.len(), AtomicBool::default);
        Ok(Self {
            ids: ids.as_mut_ptr(),
            scores: scores.as_mut_ptr(),
            counts: counts.as_mut_ptr(),
            k,
            metric,
            written,
            arrays: std::marker::PhantomData,
        })
    }

    /// Writes a row, the first time only.
    fn write(&self, row: usize, found: &[Neighbour]) {
        if self.written[row].swap(true, Ordering::AcqRel) {
            debug_assert!(false, "row {row} twice");
            return;
        }
        let count = found.len().min(self.k);
        // SAFETY: `written` has one entry per row, so the row lies within the arrays, and we alone write it.
        let (ids, scores) = unsafe {
            *self.counts.add(row) = count as u32;
            let ids = std::slice::from_raw_parts_mut(self.ids.add(row * self.k), count);
            (ids, std::slice::from_raw_parts_mut(self.scores.add(row * self.k), count))
        };
        for ((id, score), neighbour) in ids.iter_mut().zip(scores).zip(found) {
            *id = neighbour.id;
            *score = self.metric.score(neighbour.rank);
        }
    }

    /// Neighbours of a row.
    fn count(&mut self, row: usize) -> usize {
        assert!(row < self.written.len());
        // SAFETY: within the array, and nobody else has the rows.
        unsafe { *self.counts.add(row) as usize }
    }

    /// Lets a row be written again.
    fn reopen(&mut self, row: usize) {
        *self.written[row].get_mut() = false;
    }
}
