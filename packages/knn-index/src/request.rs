//! `NativeRequest`: the arrays of an asynchronous search, copied in parts, and the search itself on another thread.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use iceformer_knn::{FilterKind, Snapshot};
use napi::Env;
use napi::bindgen_prelude::{Object, ToNapiValue};
use napi_derive::napi;

use crate::background::{NativeCancel, promise};
use crate::change::{push, room};
use crate::error::{Fault, Result, closed, js_error};
use crate::id::{IdKind, IdSlice, RawIds, read_ids};
use crate::search::{self, Allowed, Looking};

/// Ids or bits of a filter.
enum FilterArray {
    Ids(Vec<u64>),
    Bits(Vec<u8>),
}

/// Copies of the arrays of a search, and the index as it was when the search was called.
struct Arrays {
    snapshot: Arc<Snapshot>,
    queries: Vec<f32>,
    filter: Option<(FilterArray, bool)>,
}

impl Arrays {
    fn allowed(&self) -> Option<Allowed<'_>> {
        self.filter.as_ref().map(|(array, exclude)| {
            let kind = match array {
                FilterArray::Ids(ids) => FilterKind::Ids(ids),
                FilterArray::Bits(bits) => FilterKind::Bitset(bits),
            };
            Allowed { kind, exclude: *exclude }
        })
    }
}

/// A search in the making.
#[napi]
pub struct NativeRequest {
    kind: IdKind,
    /// `None` once the search began or was given up.
    arrays: RefCell<Option<Arrays>>,
}

impl NativeRequest {
    /// Room for `queries` numbers.
    pub(crate) fn new(snapshot: Arc<Snapshot>, kind: IdKind, queries: f64) -> std::result::Result<Self, Fault> {
        let arrays = Arrays { snapshot, queries: room(queries as usize)?, filter: None };
        Ok(Self { kind, arrays: RefCell::new(Some(arrays)) })
    }

    fn with<T>(&self, run: impl FnOnce(&mut Arrays) -> std::result::Result<T, Fault>) -> Result<T> {
        self.arrays.borrow_mut().as_mut().ok_or_else(closed).and_then(|arrays| run(arrays).map_err(js_error))
    }

    /// The index, for a request without arrays.
    pub(crate) fn take_snapshot(&self) -> Result<Arc<Snapshot>> {
        self.arrays.take().map(|arrays| arrays.snapshot).ok_or_else(closed)
    }

    /// Runs the search on another thread. What `compute` leaves of the arrays is freed there, too.
    fn run<'env, T: Send + 'static, J: ToNapiValue + 'static>(
        &self,
        env: &'env Env,
        cancel: &NativeCancel,
        compute: impl FnOnce(&Arrays, &AtomicBool) -> std::result::Result<T, Fault> + Send + 'static,
        resolve: impl FnOnce(T) -> J + Send + 'static,
    ) -> Result<Object<'env>> {
        let arrays = self.arrays.take().ok_or_else(closed)?;
        let flag = cancel.flag();
        promise(env, Some(cancel.flag()), move || compute(&arrays, &flag), resolve)
    }
}

#[napi]
impl NativeRequest {
    /// The next queries.
    #[napi(catch_unwind)]
    pub fn push_queries(&self, part: &[f32]) -> Result<()> {
        self.with(|arrays| push(&mut arrays.queries, part))
    }

    /// Says that a filter follows, of bits or of ids.
    #[napi(catch_unwind)]
    pub fn begin_filter(&self, bitset: bool, exclude: bool) -> Result<()> {
        self.with(|arrays| {
            let array = if bitset { FilterArray::Bits(Vec::new()) } else { FilterArray::Ids(Vec::new()) };
            arrays.filter = Some((array, exclude));
            Ok(())
        })
    }

    /// The next ids of the filter.
    #[napi(catch_unwind, ts_args_type = "part: Float64Array | BigUint64Array")]
    pub fn push_ids(&self, part: IdSlice<'_>) -> Result<()> {
        self.with(|arrays| match &mut arrays.filter {
            Some((FilterArray::Ids(ids), _)) => read_ids(&part, ids),
            _ => Err(Fault::Panic),
        })
    }

    /// The next bits of the filter.
    #[napi(catch_unwind)]
    pub fn push_bitset(&self, part: &[u8]) -> Result<()> {
        self.with(|arrays| match &mut arrays.filter {
            Some((FilterArray::Bits(bits), _)) => push(bits, part),
            _ => Err(Fault::Panic),
        })
    }

    /// All ids of the index.
    #[napi(catch_unwind, ts_return_type = "Promise<Float64Array | BigUint64Array>")]
    pub fn ids<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let kind = self.kind;
        let snapshot = self.with(|arrays| Ok(arrays.snapshot.clone()))?;
        promise(env, None, move || Ok(kind.array(snapshot.ids())), RawIds::into_array)
    }

    /// The nearest vectors of each query.
    #[napi(catch_unwind, ts_return_type = "Promise<NativeNeighbours>")]
    pub fn search<'env>(
        &self,
        env: &'env Env,
        k: u32,
        exact: bool,
        effort: Option<f64>,
        recall: Option<f64>,
        cancel: &NativeCancel,
    ) -> Result<Object<'env>> {
        let (kind, looking) = (self.kind, Looking::new(k, exact, effort, recall));
        let compute = move |arrays: &Arrays, cancel: &AtomicBool| {
            let found = search::nearest(&arrays.snapshot, &arrays.queries, &looking, arrays.allowed(), cancel)?;
            Ok((kind.array(found.ids), found.scores, found.counts))
        };
        self.run(env, cancel, compute, search::neighbours)
    }

    /// All vectors within a radius of each query.
    #[napi(catch_unwind, ts_return_type = "Promise<NativeRanges>")]
    pub fn search_radius<'env>(
        &self,
        env: &'env Env,
        radius: f64,
        limit: Option<u32>,
        cancel: &NativeCancel,
    ) -> Result<Object<'env>> {
        let kind = self.kind;
        let compute = move |arrays: &Arrays, cancel: &AtomicBool| {
            let (snapshot, queries) = (&arrays.snapshot, &arrays.queries);
            search::within(snapshot, queries, radius, limit, arrays.allowed(), Some(cancel), kind)
        };
        self.run(env, cancel, compute, search::ranges)
    }

    /// The average of all values for each query, weighted by the softmax of the scores.
    #[napi(catch_unwind, ts_return_type = "Promise<NativeAverages>")]
    pub fn soft_search<'env>(
        &self,
        env: &'env Env,
        scale: f64,
        mass_target: f64,
        cancel: &NativeCancel,
    ) -> Result<Object<'env>> {
        let compute = move |arrays: &Arrays, cancel: &AtomicBool| {
            search::average(&arrays.snapshot, &arrays.queries, scale, mass_target, Some(cancel))
        };
        self.run(env, cancel, compute, search::averages)
    }

    /// The share of true neighbours that such searches find.
    #[napi(catch_unwind, ts_return_type = "Promise<number>")]
    pub fn measure_recall<'env>(
        &self,
        env: &'env Env,
        sample: u32,
        k: u32,
        effort: Option<f64>,
        recall: Option<f64>,
        cancel: &NativeCancel,
    ) -> Result<Object<'env>> {
        let looking = Looking::new(k, false, effort, recall);
        let compute = move |arrays: &Arrays, cancel: &AtomicBool| {
            search::measure(&arrays.snapshot, sample, &looking, Some(cancel))
        };
        self.run(env, cancel, compute, f64::from)
    }

    /// Lets go of the index and the copies, if the search has not begun.
    #[napi(catch_unwind)]
    pub fn release(&self) {
        self.arrays.take();
    }
}
