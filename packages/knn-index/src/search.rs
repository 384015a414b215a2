//! Searches: what the synchronous and the asynchronous doors share.

use std::sync::atomic::AtomicBool;

use iceformer_knn::{AverageOptions, Averages, Filter, FilterKind, Neighbours, RadiusOptions, SearchOptions, Snapshot};
use napi::bindgen_prelude::{Float32Array, Float64Array, Uint32Array};
use napi_derive::napi;

use crate::error::Fault;
use crate::id::{IdArray, IdKind, RawIds};

/// The neighbours of a batch, nearest first.
#[napi(object)]
pub struct NativeNeighbours {
    /// `[queries][k]`, −1 (or 2⁶⁴ − 1 as a bigint) past a query's count.
    #[napi(ts_type = "Float64Array | BigUint64Array")]
    pub ids: IdArray,
    /// `[queries][k]`, NaN past a query's count.
    pub scores: Float32Array,
    /// `[queries]`
    pub counts: Uint32Array,
}

/// What lies within a radius, per query nearest first.
#[napi(object)]
pub struct NativeRanges {
    /// Of all queries, one after another.
    #[napi(ts_type = "Float64Array | BigUint64Array")]
    pub ids: IdArray,
    /// Of each id.
    pub scores: Float32Array,
    /// `[queries + 1]`
    pub offsets: Float64Array,
}

/// Weighted averages of values.
#[napi(object)]
pub struct NativeAverages {
    /// `[queries][valueDimensions]`
    pub values: Float32Array,
    /// `[queries]`
    pub log_sum_exp: Float32Array,
    /// `[queries]`
    pub retained_mass: Float32Array,
}

/// How many neighbours, and how hard to look.
#[derive(Debug, Clone, Copy)]
pub struct Looking {
    k: usize,
    exact: bool,
    effort: Option<f32>,
    recall: Option<f32>,
}

impl Looking {
    /// From JavaScript's numbers.
    pub fn new(k: u32, exact: bool, effort: Option<f64>, recall: Option<f64>) -> Self {
        let [effort, recall] = [effort, recall].map(|share| share.map(|share| share as f32));
        Self { k: k as usize, exact, effort, recall }
    }

    /// As the index takes it.
    pub fn options<'a>(&self, filter: Option<&'a Filter>, cancel: Option<&'a AtomicBool>) -> SearchOptions<'a> {
        let Self { k, exact, effort, recall } = *self;
        SearchOptions { k, exact, effort, recall, filter, cancel }
    }
}

/// Which vectors may be found.
#[derive(Debug, Clone, Copy)]
pub struct Allowed<'a> {
    /// Those named.
    pub kind: FilterKind<'a>,
    /// Or all but those.
    pub exclude: bool,
}

/// The filter for a snapshot.
pub fn filter(snapshot: &Snapshot, allowed: Option<Allowed<'_>>) -> Option<Filter> {
    allowed.map(|Allowed { kind, exclude }| snapshot.filter(kind, exclude))
}

/// The k nearest of each query, in new arrays.
pub fn nearest(
    snapshot: &Snapshot,
    queries: &[f32],
    looking: &Looking,
    allowed: Option<Allowed<'_>>,
    cancel: &AtomicBool,
) -> Result<Neighbours, Fault> {
    let filter = filter(snapshot, allowed);
    Ok(snapshot.search(queries, looking.options(filter.as_ref(), Some(cancel)))?)
}

/// Ids, scores, and where those of each query begin.
pub type Ranged = (RawIds, Vec<f32>, Vec<f64>);

/// All within a radius of each query.
pub fn within(
    snapshot: &Snapshot,
    queries: &[f32],
    radius: f64,
    limit: Option<u32>,
    allowed: Option<Allowed<'_>>,
    cancel: Option<&AtomicBool>,
    kind: IdKind,
) -> Result<Ranged, Fault> {
    let filter = filter(snapshot, allowed);
    let limit = limit.map(|limit| limit as usize);
    let options = RadiusOptions { limit, filter: filter.as_ref(), cancel };
    let found = snapshot.search_radius(queries, radius as f32, options)?;
    let offsets = found.offsets.into_iter().map(|offset| offset as f64).collect();
    Ok((kind.array(found.ids), found.scores, offsets))
}

/// Averages of values.
pub fn average(
    snapshot: &Snapshot,
    queries: &[f32],
    scale: f64,
    mass_target: f64,
    cancel: Option<&AtomicBool>,
) -> Result<Averages, Fault> {
    let (scale, mass_target) = (scale as f32, mass_target as f32);
    Ok(snapshot.soft_search(queries, AverageOptions { scale, mass_target, cancel })?)
}

/// The measured recall of searches.
pub fn measure(snapshot: &Snapshot, sample: u32, looking: &Looking, cancel: Option<&AtomicBool>) -> Result<f32, Fault> {
    Ok(snapshot.recall(sample as usize, looking.options(None, cancel))?)
}

/// For JavaScript, on its thread; nothing is copied.
pub fn neighbours((ids, scores, counts): (RawIds, Vec<f32>, Vec<u32>)) -> NativeNeighbours {
    NativeNeighbours { ids: ids.into_array(), scores: Float32Array::new(scores), counts: Uint32Array::new(counts) }
}

/// For JavaScript, on its thread; nothing is copied.
pub fn ranges((ids, scores, offsets): Ranged) -> NativeRanges {
    NativeRanges { ids: ids.into_array(), scores: Float32Array::new(scores), offsets: Float64Array::new(offsets) }
}

/// For JavaScript, on its thread; nothing is copied.
pub fn averages(averages: Averages) -> NativeAverages {
    NativeAverages {
        values: Float32Array::new(averages.values),
        log_sum_exp: Float32Array::new(averages.log_sum_exp),
        retained_mass: Float32Array::new(averages.retained_mass),
    }
}
