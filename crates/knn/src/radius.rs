//! Search for everything within a radius.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::input;
use crate::limits::MAX_K;
use crate::metric::Metric;
use crate::neighbour::Neighbour;
use crate::search::SearchOptions;
use crate::snapshot::Snapshot;
use crate::structure::{Effort, Request, SlotSet};

/// How to search within a radius.
#[derive(Debug, Clone, Copy, Default)]
pub struct RadiusOptions<'a> {
    /// The most neighbours per query, the nearest ones, 1 to [`MAX_K`]; by default all within the radius.
    pub limit: Option<usize>,
    /// Vectors that may be found; all by default.
    pub filter: Option<&'a Filter>,
    /// Set to true by another thread to make the search return [`Error::Cancelled`].
    pub cancel: Option<&'a AtomicBool>,
}

/// The vectors within a radius of each query of a batch, nearest first, equal ones by id.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranges {
    /// Ids, those of query i at `offsets[i]..offsets[i + 1]`.
    pub ids: Vec<u64>,
    /// Scores, in the same places.
    pub scores: Vec<f32>,
    /// Where each query's neighbours begin, and the end, `[queries + 1]`.
    pub offsets: Vec<usize>,
}

impl Snapshot {
    /// All vectors within a radius of each query, exactly; `queries` is `[n][dimensions]`.
    ///
    /// Within means a score (inner product or cosine) of at least `radius`, or for L2 a squared distance of at
    /// most `radius`. Fails if the radius is NaN, or negative for L2 ([`Error::Radius`]), and like
    /// [`Snapshot::search`].
    pub fn search_radius(&self, queries: &[f32], radius: f32, options: RadiusOptions<'_>) -> Result<Ranges> {
        let metric = self.context.shape.metric;
        if radius.is_nan() || (metric == Metric::L2 && radius < 0.0) {
            return Err(Error::Radius { radius });
        }
        if let Some(k) = options.limit.filter(|&limit| limit == 0 || limit > MAX_K) {
            return Err(Error::K { k, max: MAX_K });
        }
        let n = input::count(&self.context, queries, "queries")?;
        let allowed = self.allowed(options.filter)?;
        let queries = self.prepare_queries(queries)?;
        let possible = allowed.map_or(self.len(), SlotSet::len);
        let found: Vec<Mutex<Vec<Neighbour>>> = (0..n).map(|_| Mutex::default()).collect();
        if n > 0 && possible > 0 {
            let search = SearchOptions {
                cancel: options.cancel,
                ..SearchOptions::nearest(options.limit.unwrap_or(possible).min(possible))
            };
            let request = Request {
                queries: &queries,
                floor: metric.rank(radius),
                ..self.request(&search, allowed, Effort::Exact)
            };
            self.structure.search(&self.context, &request, &|row, near| {
                *found[row].lock().unwrap_or_else(PoisonError::into_inner) = near.to_vec();
            })?;
        }
        let mut ranges = Ranges { ids: Vec::new(), scores: Vec::new(), offsets: Vec::with_capacity(n + 1) };
        ranges.offsets.push(0);
        for near in found {
            let near = near.into_inner().unwrap_or_else(PoisonError::into_inner);
            ranges.ids.extend(near.iter().map(|neighbour| neighbour.id));
            ranges.scores.extend(near.iter().map(|neighbour| metric.score(neighbour.rank)));
            ranges.offsets.push(ranges.ids.len());
        }
        Ok(ranges)
    }
}
