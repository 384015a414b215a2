//! `NativeKnnIndex`: the binding of [`iceformer_knn::SharedIndex`].

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use iceformer_knn::{Algorithm, FilterKind, Index, IndexOptions, Metric, SharedIndex, Snapshot, Stats, Storage};
use napi::Env;
use napi::bindgen_prelude::{
    BigUint64ArraySlice, Either, Float32Array, Float32ArraySlice, Float64ArraySlice, ObjectFinalize, Uint32ArraySlice,
};
use napi_derive::napi;

use crate::change::{NativeChange, add};
use crate::error::{Fault, Result, closed, from_napi, js_error};
use crate::id::{IdArray, IdKind, IdSlice, OneId, as_number, ids, one_id};
use crate::pool::shared_pool;
use crate::request::NativeRequest;
use crate::search::{self, Allowed, Looking, NativeAverages, NativeRanges};

/// What an index is made of.
#[napi(object)]
pub struct NativeIndexOptions {
    /// Numbers per vector.
    pub dimensions: u32,
    /// How vectors are compared.
    #[napi(ts_type = "'inner-product' | 'cosine' | 'l2'")]
    pub metric: String,
    /// How numbers are stored.
    #[napi(ts_type = "'f32' | 'f16' | 'bf16' | 'i8'")]
    pub storage: String,
    /// How neighbours are found.
    #[napi(ts_type = "'auto' | 'exact' | 'cluster' | 'graph' | 'dci'")]
    pub algorithm: String,
    /// Makes random choices repeatable.
    pub seed: f64,
    /// Numbers in the value kept with each vector; 0 keeps none.
    pub value_dimensions: u32,
}

/// What an index holds.
#[napi(object)]
pub struct NativeIndexStats {
    /// Number of vectors.
    pub size: f64,
    /// Bytes that the vectors there are need.
    pub live_bytes: f64,
    /// Bytes held.
    pub reserved_bytes: f64,
    /// Clusters that a search chooses from.
    pub clusters: f64,
    /// The algorithm in use.
    #[napi(ts_type = "'exact' | 'cluster' | 'graph' | 'dci'")]
    pub algorithm: String,
    /// The SIMD level in use.
    pub simd: String,
}

const METRICS: [(&str, Metric); 3] =
    [("inner-product", Metric::InnerProduct), ("cosine", Metric::Cosine), ("l2", Metric::L2)];
const STORAGES: [(&str, Storage); 4] =
    [("f32", Storage::F32), ("f16", Storage::F16), ("bf16", Storage::Bf16), ("i8", Storage::I8)];
const ALGORITHMS: [(&str, Algorithm); 5] = [
    ("auto", Algorithm::Auto),
    ("exact", Algorithm::Exact),
    ("cluster", Algorithm::Cluster),
    ("graph", Algorithm::Graph),
    ("dci", Algorithm::Dci),
];

/// The value with a name; the TypeScript door let only these through.
fn named<T: Copy>(table: &[(&str, T)], name: &str) -> Result<T> {
    let found = table.iter().find(|(known, _)| *known == name);
    found.map(|&(_, value)| value).ok_or_else(|| Fault::Panic.thrown())
}

/// The algorithm with a name; the TypeScript door let only these through.
pub(crate) fn algorithm_named(name: &str) -> Result<Algorithm> {
    named(&ALGORITHMS, name)
}

/// The name of a value.
fn name_of<T: Copy + PartialEq>(table: &[(&str, T)], value: T) -> String {
    table.iter().find(|(_, known)| *known == value).map_or_else(String::new, |(name, _)| (*name).to_owned())
}

/// An index of vectors.
#[napi(custom_finalize)]
pub struct NativeKnnIndex {
    index: RefCell<Option<Arc<SharedIndex>>>,
    options: IndexOptions,
    kind: IdKind,
    /// Bytes told to V8.
    told: Cell<i64>,
    /// Size of the index then.
    told_size: Cell<usize>,
}

impl ObjectFinalize for NativeKnnIndex {
    fn finalize(self, env: Env) -> napi::Result<()> {
        env.adjust_external_memory(-self.told.get()).map(drop)
    }
}

impl NativeKnnIndex {
    pub(crate) fn with(index: Index, kind: IdKind) -> Self {
        let options = *index.options();
        let index = RefCell::new(Some(Arc::new(SharedIndex::new(index))));
        Self { index, options, kind, told: Cell::new(0), told_size: Cell::new(0) }
    }

    /// An index whose memory V8 knows of.
    pub(crate) fn telling(index: Index, kind: IdKind, env: Env) -> Result<Self> {
        let index = Self::with(index, kind);
        index.tell(env)?;
        Ok(index)
    }

    fn index(&self) -> Result<Arc<SharedIndex>> {
        self.index.borrow().clone().ok_or_else(closed)
    }

    pub(crate) fn snapshot(&self) -> Result<Arc<Snapshot>> {
        Ok(self.index()?.snapshot())
    }

    /// Tells V8 how much memory the index holds, so that it knows when to collect.
    fn tell(&self, env: Env) -> Result<()> {
        let (bytes, size) =
            self.snapshot().map_or((0, 0), |snapshot| (snapshot.stats().reserved_bytes as i64, snapshot.len()));
        self.told_size.set(size);
        let told = self.told.replace(bytes);
        if bytes != told {
            env.adjust_external_memory(bytes - told).map_err(from_napi)?;
        }
        Ok(())
    }

    /// Tells V8 if a change was large enough for it to matter: adding up what an index holds takes longer than
    /// adding one vector.
    fn tell_if_much(&self, env: Env) -> Result<()> {
        let IndexOptions { dimensions, value_dimensions, .. } = self.options;
        let changed = self.snapshot()?.len().abs_diff(self.told_size.get());
        let bytes = (changed * (dimensions + value_dimensions) * size_of::<f32>()) as i64;
        if bytes > (1 << 20).max(self.told.get() / 16) { self.tell(env) } else { Ok(()) }
    }

    /// Changes the index at once.
    fn write<T>(&self, env: Env, change: impl FnOnce(&mut Index) -> iceformer_knn::Result<T>) -> Result<T> {
        let changed = self.index()?.write(change).map_err(js_error)?;
        self.tell_if_much(env)?;
        Ok(changed)
    }
}

#[napi]
impl NativeKnnIndex {
    /// An empty index; `threads` to use, the calling one included, all available ones if 0.
    #[napi(constructor, catch_unwind)]
    pub fn new(options: NativeIndexOptions, bigint_ids: bool, threads: u32) -> Result<Self> {
        let options = IndexOptions {
            dimensions: options.dimensions as usize,
            metric: named(&METRICS, &options.metric)?,
            storage: named(&STORAGES, &options.storage)?,
            algorithm: named(&ALGORITHMS, &options.algorithm)?,
            seed: options.seed as u64,
            value_dimensions: options.value_dimensions as usize,
        };
        let index = Index::new(options, shared_pool(threads)).map_err(js_error)?;
        Ok(Self::with(index, IdKind::new(bigint_ids)))
    }

    /// What the index was made with.
    #[napi(getter, catch_unwind)]
    pub fn options(&self) -> NativeIndexOptions {
        NativeIndexOptions {
            dimensions: self.options.dimensions as u32,
            metric: name_of(&METRICS, self.options.metric),
            storage: name_of(&STORAGES, self.options.storage),
            algorithm: name_of(&ALGORITHMS, self.options.algorithm),
            seed: self.options.seed as f64,
            value_dimensions: self.options.value_dimensions as u32,
        }
    }

    /// Size and memory.
    #[napi(catch_unwind)]
    pub fn stats(&self) -> Result<NativeIndexStats> {
        let stats: Stats = self.snapshot()?.stats();
        Ok(NativeIndexStats {
            size: stats.size as f64,
            live_bytes: stats.live_bytes as f64,
            reserved_bytes: stats.reserved_bytes as f64,
            clusters: stats.clusters as f64,
            algorithm: name_of(&ALGORITHMS, stats.algorithm),
            simd: stats.simd.to_owned(),
        })
    }

    /// Number of vectors.
    #[napi(getter, catch_unwind)]
    pub fn size(&self) -> Result<f64> {
        Ok(self.snapshot()?.len() as f64)
    }

    /// True when a vector has this id.
    #[napi(catch_unwind, ts_args_type = "id: number | bigint")]
    pub fn has(&self, id: OneId) -> Result<bool> {
        Ok(self.snapshot()?.has(one_id(&id)))
    }

    /// The vector with this id, as stored.
    #[napi(catch_unwind, ts_args_type = "id: number | bigint")]
    pub fn get(&self, id: OneId) -> Result<Float32Array> {
        self.snapshot()?.get(one_id(&id)).map(Float32Array::new).map_err(js_error)
    }

    /// The value kept with this id.
    #[napi(catch_unwind, ts_args_type = "id: number | bigint")]
    pub fn value(&self, id: OneId) -> Result<Float32Array> {
        self.snapshot()?.value(one_id(&id)).map(Float32Array::new).map_err(js_error)
    }

    /// All ids, ascending.
    #[napi(catch_unwind, ts_return_type = "Float64Array | BigUint64Array")]
    pub fn ids(&self) -> Result<IdArray> {
        Ok(self.kind.array(self.snapshot()?.ids()).into_array())
    }

    /// Adds vectors and returns their ids.
    #[napi(
        catch_unwind,
        ts_args_type = "vectors: Float32Array, ids: Float64Array | BigUint64Array | undefined, values: Float32Array | undefined",
        ts_return_type = "Float64Array | BigUint64Array"
    )]
    pub fn add_batch(
        &self,
        env: Env,
        vectors: &[f32],
        given: Option<IdSlice<'_>>,
        values: Option<&[f32]>,
    ) -> Result<IdArray> {
        let given = given.map(|given| ids(&given)).transpose().map_err(js_error)?;
        let added = self.write(env, |index| add(index, self.kind, vectors, given.as_deref(), values))?;
        Ok(self.kind.array(added).into_array())
    }

    /// Adds or replaces vectors and returns how many were replaced.
    #[napi(
        catch_unwind,
        ts_args_type = "vectors: Float32Array, ids: Float64Array | BigUint64Array, values: Float32Array | undefined"
    )]
    pub fn upsert_batch(&self, env: Env, vectors: &[f32], given: IdSlice<'_>, values: Option<&[f32]>) -> Result<f64> {
        let given = ids(&given).map_err(js_error)?;
        Ok(self.write(env, |index| index.upsert_batch(vectors, &given, values))? as f64)
    }

    /// Removes vectors and returns how many.
    #[napi(catch_unwind, ts_args_type = "ids: Float64Array | BigUint64Array")]
    pub fn remove_batch(&self, env: Env, given: IdSlice<'_>) -> Result<f64> {
        let given = ids(&given).map_err(js_error)?;
        Ok(self.write(env, |index| index.remove_batch(&given))? as f64)
    }

    /// Removes everything.
    #[napi(catch_unwind)]
    pub fn clear(&self, env: Env) -> Result<()> {
        self.write(env, |index| {
            index.clear();
            Ok(())
        })?;
        self.tell(env)
    }

    /// Gives memory back.
    #[napi(catch_unwind)]
    pub fn compact(&self, env: Env) -> Result<()> {
        self.write(env, Index::compact)?;
        self.tell(env)
    }

    /// A change of arrays of these lengths, to make on another thread.
    #[napi(catch_unwind)]
    pub fn change(&self, vectors: f64, ids: Option<f64>, values: Option<f64>) -> Result<NativeChange> {
        NativeChange::new(self.index()?, self.kind, vectors, ids, values).map_err(js_error)
    }

    /// A search of the index as it is now, to make on another thread, with `queries` numbers.
    #[napi(catch_unwind)]
    pub fn request(&self, queries: f64) -> Result<NativeRequest> {
        NativeRequest::new(self.snapshot()?, self.kind, queries).map_err(js_error)
    }

    /// Tells V8 about memory that a change on another thread took or gave back.
    #[napi(catch_unwind)]
    pub fn settle_memory(&self, env: Env) -> Result<()> {
        self.tell(env)
    }

    /// The nearest vectors of each query, into the last three arrays: `[queries][k]` twice, and `[queries]`.
    #[napi(
        catch_unwind,
        ts_args_type = "queries: Float32Array, k: number, exact: boolean, effort: number | undefined, recall: number | undefined, filterIds: Float64Array | BigUint64Array | undefined, filterBits: Uint8Array | undefined, exclude: boolean, ids: Float64Array | BigUint64Array, scores: Float32Array, counts: Uint32Array"
    )]
    pub fn search_into(
        &self,
        queries: &[f32],
        k: u32,
        exact: bool,
        effort: Option<f64>,
        recall: Option<f64>,
        filter_ids: Option<IdSlice<'_>>,
        filter_bits: Option<&[u8]>,
        exclude: bool,
        mut into_ids: Either<Float64ArraySlice<'_>, BigUint64ArraySlice<'_>>,
        mut scores: Float32ArraySlice<'_>,
        mut counts: Uint32ArraySlice<'_>,
    ) -> Result<()> {
        let snapshot = self.snapshot()?;
        let filter_ids = filter_ids.map(|given| ids(&given)).transpose().map_err(js_error)?;
        let filter = search::filter(&snapshot, allowed(filter_ids.as_deref(), filter_bits, exclude));
        let options = Looking::new(k, exact, effort, recall).options(filter.as_ref(), None);
        // SAFETY: the call is synchronous, so JavaScript cannot touch the arrays meanwhile, and the TypeScript
        // door refuses arrays that share memory with each other, the queries, or other threads.
        let (scores, counts) = unsafe { (scores.as_mut(), counts.as_mut()) };
        match &mut into_ids {
            Either::A(numbers) => {
                // SAFETY: as above.
                let numbers = unsafe { numbers.as_mut() };
                // SAFETY: f64 and u64 have the same size and alignment, and every bit pattern is a value of either.
                let raw = unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast::<u64>(), numbers.len()) };
                let searched = snapshot.search_into(queries, options, raw, scores, counts);
                for id in numbers.iter_mut() {
                    *id = as_number(id.to_bits());
                }
                searched.map_err(js_error)
            }
            Either::B(bigints) => {
                // SAFETY: as above.
                let bigints = unsafe { bigints.as_mut() };
                snapshot.search_into(queries, options, bigints, scores, counts).map_err(js_error)
            }
        }
    }

    /// All vectors within a radius of each query.
    #[napi(
        catch_unwind,
        ts_args_type = "queries: Float32Array, radius: number, limit: number | undefined, filterIds: Float64Array | BigUint64Array | undefined, filterBits: Uint8Array | undefined, exclude: boolean"
    )]
    pub fn search_radius(
        &self,
        queries: &[f32],
        radius: f64,
        limit: Option<u32>,
        filter_ids: Option<IdSlice<'_>>,
        filter_bits: Option<&[u8]>,
        exclude: bool,
    ) -> Result<NativeRanges> {
        let filter_ids = filter_ids.map(|given| ids(&given)).transpose().map_err(js_error)?;
        let allowed = allowed(filter_ids.as_deref(), filter_bits, exclude);
        let snapshot = self.snapshot()?;
        let found = search::within(&snapshot, queries, radius, limit, allowed, None, self.kind);
        found.map(search::ranges).map_err(js_error)
    }

    /// The average of all values for each query, weighted by the softmax of the scores.
    #[napi(catch_unwind)]
    pub fn soft_search(&self, queries: &[f32], scale: f64, mass_target: f64) -> Result<NativeAverages> {
        let snapshot = self.snapshot()?;
        let found = search::average(&snapshot, queries, scale, mass_target, None);
        found.map(search::averages).map_err(js_error)
    }

    /// The share of true neighbours that such searches find.
    #[napi(catch_unwind)]
    pub fn measure_recall(&self, sample: u32, k: u32, effort: Option<f64>, recall: Option<f64>) -> Result<f64> {
        let looking = Looking::new(k, false, effort, recall);
        let snapshot = self.snapshot()?;
        search::measure(&snapshot, sample, &looking, None).map(f64::from).map_err(js_error)
    }

    /// Frees everything; later calls are errors, closing again is not. Work that runs goes on with what it holds.
    #[napi(catch_unwind)]
    pub fn close(&self, env: Env) -> Result<()> {
        self.index.replace(None);
        self.tell(env)
    }
}

/// A filter of ids or bits, if there is one.
fn allowed<'a>(ids: Option<&'a [u64]>, bits: Option<&'a [u8]>, exclude: bool) -> Option<Allowed<'a>> {
    let kind = ids.map(FilterKind::Ids).or(bits.map(FilterKind::Bitset));
    kind.map(|kind| Allowed { kind, exclude })
}
