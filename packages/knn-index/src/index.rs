//! `NativeKnnIndex`: the binding of [`iceformer_knn::SharedIndex`].

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iceformer_knn::{
    Algorithm, AverageOptions, Averages, Error, Index, IndexOptions, Metric, Neighbours, SearchOptions, SharedIndex,
    Snapshot, Storage,
};
use napi::bindgen_prelude::{AsyncTask, Float32Array, Float64Array, ObjectFinalize, Uint32Array};
use napi::{Env, Task};
use napi_derive::napi;

use crate::error::{Result, closed, from_napi, js_error, task_error};
use crate::pool::shared_pool;

/// What an index is made of.
#[napi(object)]
pub struct NativeIndexOptions {
    /// Numbers per vector.
    pub dimensions: u32,
    /// How vectors are compared.
    #[napi(ts_type = "'inner-product' | 'cosine' | 'l2'")]
    pub metric: String,
    /// How numbers are stored.
    #[napi(ts_type = "'f32' | 'bf16'")]
    pub storage: String,
    /// How neighbours are found.
    #[napi(ts_type = "'auto' | 'exact' | 'cluster'")]
    pub algorithm: String,
    /// Makes clusters repeatable.
    pub seed: f64,
    /// Threads to use, the calling one included; all available ones if 0.
    pub threads: u32,
    /// Numbers in the value kept with each vector; 0 keeps none.
    pub value_dimensions: u32,
}

/// How to search.
#[napi(object)]
pub struct NativeSearchOptions {
    /// Neighbours per query.
    pub k: u32,
    /// Reads every vector.
    pub exact: bool,
    /// Share of the clusters to read; absent: the index chooses.
    pub effort: Option<f64>,
}

/// The neighbours of a batch, nearest first.
#[napi(object)]
pub struct NativeNeighbours {
    /// `[queries][k]`, −1 past a query's count.
    pub ids: Float64Array,
    /// `[queries][k]`, NaN past a query's count.
    pub scores: Float32Array,
    /// `[queries]`
    pub counts: Uint32Array,
}

/// What a soft search weighs and reads.
#[napi(object)]
pub struct NativeAverageOptions {
    /// Factor of every score before the softmax.
    pub scale: f64,
    /// Share of the mass to compute exactly.
    pub mass_target: f64,
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

/// What an index holds.
#[napi(object)]
pub struct NativeIndexStats {
    /// Number of vectors.
    pub size: f64,
    /// Bytes held.
    pub bytes: f64,
    /// Vectors that are in clusters.
    pub clustered: f64,
}

/// Stops the work it is handed to.
#[napi]
#[derive(Default)]
pub struct NativeCancel {
    flag: Arc<AtomicBool>,
}

#[napi]
impl NativeCancel {
    /// A token that has not been used.
    #[napi(constructor, catch_unwind)]
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the work within milliseconds.
    #[napi(catch_unwind)]
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }
}

/// An index of vectors.
///
/// All methods borrow it shared: napi keeps the borrow of an asynchronous call until its promise settles.
#[napi(custom_finalize)]
pub struct NativeKnnIndex {
    index: RefCell<Option<Arc<SharedIndex>>>,
    /// Bytes told to V8.
    told: Cell<i64>,
}

impl ObjectFinalize for NativeKnnIndex {
    fn finalize(self, env: Env) -> napi::Result<()> {
        env.adjust_external_memory(-self.told.get()).map(drop)
    }
}

#[napi]
impl NativeKnnIndex {
    /// An empty index.
    #[napi(constructor, catch_unwind)]
    pub fn new(options: NativeIndexOptions) -> Result<Self> {
        let metric = match &*options.metric {
            "cosine" => Metric::Cosine,
            "l2" => Metric::L2,
            _ => Metric::InnerProduct,
        };
        let algorithm = match &*options.algorithm {
            "exact" => Algorithm::Exact,
            "cluster" => Algorithm::Cluster,
            _ => Algorithm::Auto,
        };
        let storage = if options.storage == "bf16" { Storage::Bf16 } else { Storage::F32 };
        let options_of_index = IndexOptions {
            dimensions: options.dimensions as usize,
            metric,
            storage,
            algorithm,
            seed: options.seed as u64,
            value_dimensions: options.value_dimensions as usize,
        };
        let index = Index::new(options_of_index, shared_pool(options.threads)).map_err(js_error)?;
        Ok(Self { index: RefCell::new(Some(Arc::new(SharedIndex::new(index)))), told: Cell::new(0) })
    }

    fn index(&self) -> Result<Arc<SharedIndex>> {
        self.index.borrow().clone().ok_or_else(closed)
    }

    /// Tells V8 how much memory the index holds, so that it knows when to collect.
    fn tell(&self, env: Env) -> Result<()> {
        let bytes = self.index().map_or(0, |index| index.read(Index::bytes) as i64);
        let told = self.told.replace(bytes);
        if bytes != told {
            env.adjust_external_memory(bytes - told).map_err(from_napi)?;
        }
        Ok(())
    }

    /// Size and memory.
    #[napi(getter, catch_unwind)]
    pub fn stats(&self) -> Result<NativeIndexStats> {
        Ok(self.index()?.read(|index| NativeIndexStats {
            size: index.len() as f64,
            bytes: index.bytes() as f64,
            clustered: index.clustered() as f64,
        }))
    }

    /// Number of vectors.
    #[napi(getter, catch_unwind)]
    pub fn size(&self) -> Result<f64> {
        Ok(self.index()?.snapshot().len() as f64)
    }

    /// Adds vectors and returns their ids.
    #[napi(catch_unwind)]
    pub fn add_batch(
        &self,
        env: Env,
        vectors: &[f32],
        ids: Option<&[f64]>,
        values: Option<&[f32]>,
    ) -> Result<Float64Array> {
        let ids = ids.map(whole);
        let added = self.index()?.write(|index| add(index, vectors, ids.as_deref(), values)).map_err(js_error)?;
        self.tell(env)?;
        Ok(Float64Array::new(fractional(&added)))
    }

    /// The same on another thread, on copies of the arrays.
    #[napi(catch_unwind, ts_return_type = "Promise<Float64Array>")]
    pub fn add_batch_async(
        &self,
        vectors: &[f32],
        ids: Option<&[f64]>,
        values: Option<&[f32]>,
    ) -> Result<AsyncTask<AddTask>> {
        Ok(AsyncTask::new(AddTask {
            index: self.index()?,
            vectors: vectors.to_vec(),
            ids: ids.map(whole),
            values: values.map(<[f32]>::to_vec),
        }))
    }

    /// Tells V8 about memory that a finished task took.
    #[napi(catch_unwind)]
    pub fn settle_memory(&self, env: Env) -> Result<()> {
        self.tell(env)
    }

    /// The nearest vectors of each query.
    #[napi(catch_unwind)]
    pub fn search_batch(&self, queries: &[f32], options: NativeSearchOptions) -> Result<NativeNeighbours> {
        let snapshot = self.index()?.snapshot();
        search(&snapshot, queries, &options, None).map(found).map_err(js_error)
    }

    /// The same on another thread, on a copy of the queries and the index as it is now.
    #[napi(catch_unwind, ts_return_type = "Promise<NativeNeighbours>")]
    pub fn search_batch_async(
        &self,
        queries: &[f32],
        options: NativeSearchOptions,
        cancel: &NativeCancel,
    ) -> Result<AsyncTask<SearchTask>> {
        Ok(AsyncTask::new(SearchTask {
            snapshot: self.index()?.snapshot(),
            queries: queries.to_vec(),
            options,
            cancel: Arc::clone(&cancel.flag),
        }))
    }

    /// The average of all values for each query, weighted by the softmax of the scores.
    #[napi(catch_unwind)]
    pub fn soft_search(&self, queries: &[f32], options: NativeAverageOptions) -> Result<NativeAverages> {
        let snapshot = self.index()?.snapshot();
        average(&snapshot, queries, &options, None).map(averaged).map_err(js_error)
    }

    /// The same on another thread, on a copy of the queries and the index as it is now.
    #[napi(catch_unwind, ts_return_type = "Promise<NativeAverages>")]
    pub fn soft_search_async(
        &self,
        queries: &[f32],
        options: NativeAverageOptions,
        cancel: &NativeCancel,
    ) -> Result<AsyncTask<AverageTask>> {
        Ok(AsyncTask::new(AverageTask {
            snapshot: self.index()?.snapshot(),
            queries: queries.to_vec(),
            options,
            cancel: Arc::clone(&cancel.flag),
        }))
    }

    /// True when a vector has this id.
    #[napi(catch_unwind)]
    pub fn has(&self, id: f64) -> Result<bool> {
        Ok(self.index()?.read(|index| index.has(id as u64)))
    }

    /// The vector with this id, as stored.
    #[napi(catch_unwind)]
    pub fn get(&self, id: f64) -> Result<Float32Array> {
        self.index()?.read(|index| index.get(id as u64)).map(Float32Array::new).map_err(js_error)
    }

    /// The value kept with this id.
    #[napi(catch_unwind)]
    pub fn value(&self, id: f64) -> Result<Float32Array> {
        let value = self.index()?.read(|index| index.value(id as u64).map(<[f32]>::to_vec));
        value.map(Float32Array::new).map_err(js_error)
    }

    /// Frees everything; later calls are errors, closing again is not. Work that runs goes on with what
    /// it holds.
    #[napi(catch_unwind)]
    pub fn close(&self, env: Env) -> Result<()> {
        self.index.replace(None);
        self.tell(env)
    }
}

/// A search on libuv's threads.
pub struct SearchTask {
    snapshot: Arc<Snapshot>,
    queries: Vec<f32>,
    options: NativeSearchOptions,
    cancel: Arc<AtomicBool>,
}

impl Task for SearchTask {
    type Output = std::result::Result<Neighbours, Error>;
    type JsValue = NativeNeighbours;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        guarded(|| search(&self.snapshot, &self.queries, &self.options, Some(&self.cancel)))
    }

    fn resolve(&mut self, _env: Env, output: Self::Output) -> napi::Result<NativeNeighbours> {
        output.map(found).map_err(|error| task_error(&error))
    }
}

/// A soft search on libuv's threads.
pub struct AverageTask {
    snapshot: Arc<Snapshot>,
    queries: Vec<f32>,
    options: NativeAverageOptions,
    cancel: Arc<AtomicBool>,
}

impl Task for AverageTask {
    type Output = std::result::Result<Averages, Error>;
    type JsValue = NativeAverages;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        guarded(|| average(&self.snapshot, &self.queries, &self.options, Some(&self.cancel)))
    }

    fn resolve(&mut self, _env: Env, output: Self::Output) -> napi::Result<NativeAverages> {
        output.map(averaged).map_err(|error| task_error(&error))
    }
}

/// An addition on libuv's threads.
pub struct AddTask {
    index: Arc<SharedIndex>,
    vectors: Vec<f32>,
    ids: Option<Vec<u64>>,
    values: Option<Vec<f32>>,
}

impl Task for AddTask {
    type Output = std::result::Result<Vec<u64>, Error>;
    type JsValue = Float64Array;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        guarded(|| {
            self.index.write_beside(|index| add(index, &self.vectors, self.ids.as_deref(), self.values.as_deref()))
        })
    }

    fn resolve(&mut self, _env: Env, output: Self::Output) -> napi::Result<Float64Array> {
        output.map(|ids| Float64Array::new(fractional(&ids))).map_err(|error| task_error(&error))
    }
}

/// Turns a panic into an error: it must not leave a libuv thread.
fn guarded<T>(work: impl FnOnce() -> T) -> napi::Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .map_err(|_| napi::Error::from_reason("the native index failed"))
}

/// Adds vectors whose default ids, too, stay numbers that JavaScript holds exactly.
fn add(
    index: &mut Index,
    vectors: &[f32],
    ids: Option<&[u64]>,
    values: Option<&[f32]>,
) -> std::result::Result<Vec<u64>, Error> {
    const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;
    let added = (vectors.len() / index.options().dimensions) as u64;
    match index.largest_id() {
        Some(last) if ids.is_none() && last + added > MAX_SAFE_INTEGER => Err(Error::IdsExhausted { last }),
        _ => index.add_batch(vectors, ids, values),
    }
}

fn search(
    snapshot: &Snapshot,
    queries: &[f32],
    options: &NativeSearchOptions,
    cancel: Option<&AtomicBool>,
) -> std::result::Result<Neighbours, Error> {
    snapshot.search(
        queries,
        SearchOptions {
            k: options.k as usize,
            exact: options.exact,
            effort: options.effort.map(|effort| effort as f32),
            cancel,
        },
    )
}

fn average(
    snapshot: &Snapshot,
    queries: &[f32],
    options: &NativeAverageOptions,
    cancel: Option<&AtomicBool>,
) -> std::result::Result<Averages, Error> {
    let (scale, mass_target) = (options.scale as f32, options.mass_target as f32);
    snapshot.soft_search(queries, AverageOptions { scale, mass_target, cancel })
}

fn averaged(averages: Averages) -> NativeAverages {
    NativeAverages {
        values: Float32Array::new(averages.values),
        log_sum_exp: Float32Array::new(averages.log_sum_exp),
        retained_mass: Float32Array::new(averages.retained_mass),
    }
}

fn found(neighbours: Neighbours) -> NativeNeighbours {
    let ids = neighbours.ids.iter().map(|&id| if id == u64::MAX { -1.0 } else { id as f64 }).collect::<Vec<_>>();
    NativeNeighbours {
        ids: Float64Array::new(ids),
        scores: Float32Array::new(neighbours.scores),
        counts: Uint32Array::new(neighbours.counts),
    }
}

/// Ids that the TypeScript door checked to be safe integers.
fn whole(ids: &[f64]) -> Vec<u64> {
    ids.iter().map(|&id| id as u64).collect()
}

fn fractional(ids: &[u64]) -> Vec<f64> {
    ids.iter().map(|&id| id as f64).collect()
}
