//! `NativeKnnIndexGroup`: the binding of [`iceformer_knn::IndexGroup`].

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

use iceformer_group_entry::{Arrays, Call, GroupEntry};
use iceformer_knn::{GroupShape, IndexGroup, LaneDetail, Reused, SoftQuery, SoftReport, Storage, Strategy};
use iceformer_simd::kernels;
use napi::Env;
use napi::bindgen_prelude::{BigInt, Float32ArraySlice, Float64ArraySlice, Uint32Array, Uint32ArraySlice};
use napi_derive::napi;

use crate::error::{Result, closed, js_error};
use crate::index::algorithm_named;
use crate::pool::shared_pool;

/// The shape of a group.
#[napi(object)]
pub struct NativeGroupOptions {
    /// Number of independent indexes.
    pub count: u32,
    /// Numbers per key.
    pub dimensions: u32,
    /// Numbers per value.
    pub value_dimensions: u32,
    /// `f32`, `bf16` or `i8`.
    #[napi(ts_type = "'f32' | 'bf16' | 'i8'")]
    pub storage: String,
    /// Threads to use, the calling one included; all available ones if 0.
    pub threads: u32,
}

/// What a soft search asks for.
#[napi(object)]
pub struct NativeSoftQuery {
    /// Number of queries.
    pub queries: u32,
    /// Factor of every score before the softmax.
    pub scale: f64,
    /// Vectors visible to the first query, by order of insertion.
    pub visible: u32,
    /// True if query i sees i vectors more than the first one.
    pub causal: bool,
    /// A query sees only this many of the latest vectors visible to it.
    pub window: Option<u32>,
    /// Share of the mass to keep when settled vectors are selected; absent: every visible vector is read.
    pub mass_target: Option<f64>,
    /// True if each lane is searched as `setStrategies` last said.
    pub by_lane: bool,
    /// True if what this search selects is to be remembered.
    pub remember: bool,
    /// Numbers of the lanes that read what `reused` remembers.
    pub reusing: Vec<u32>,
}

/// How one lane is searched. Numbers that a kind does not need are ignored.
#[napi(object)]
pub struct NativeLaneStrategy {
    /// Which variant of `Strategy`.
    #[napi(ts_type = "'exact' | 'selected' | 'window' | 'skip' | 'top-k'")]
    pub kind: String,
    /// Share of the mass to keep.
    pub mass_target: f64,
    /// Share of the mass from which on a tile is read, instead of the target; 0: the target decides.
    pub least_mass: f64,
    /// Settled tiles to read at least.
    pub least_tiles: u32,
    /// Settled tiles to read at most.
    pub most_tiles: u32,
    /// First vectors that are always read.
    pub sinks: u32,
    /// Latest vectors that are always read.
    pub recent: u32,
    /// Vectors per query.
    pub k: u32,
    /// How the nearest are found.
    #[napi(ts_type = "'auto' | 'exact' | 'cluster' | 'graph' | 'dci'")]
    pub algorithm: String,
    /// Share of the nearest that are found.
    pub recall: f64,
    /// Share of what the algorithm could read, instead of `recall`.
    pub effort: Option<f64>,
}

impl NativeLaneStrategy {
    fn strategy(&self) -> Strategy {
        let Self { mass_target, least_mass, least_tiles, most_tiles, sinks, recent, k, recall, effort, .. } = *self;
        match self.kind.as_str() {
            "selected" => {
                let (mass_target, least_mass) = (mass_target as f32, least_mass as f32);
                Strategy::Selected { mass_target, least_mass, least_tiles, most_tiles }
            }
            "window" => Strategy::Window { sinks, recent },
            "skip" => Strategy::Skip,
            "top-k" => Strategy::TopK { k, recall: recall as f32, effort: effort.map(|effort| effort as f32) },
            _ => Strategy::Exact,
        }
    }
}

/// What a soft search read and kept, summed over query rows.
#[napi(object)]
pub struct NativeSoftReport {
    /// Query rows searched.
    pub rows: f64,
    /// Sum over rows of the share of mass computed exactly.
    pub retained_mass: f64,
    /// Sum over rows of tiles computed exactly.
    pub tiles_read: f64,
    /// Sum over rows of tiles visible.
    pub tiles_visible: f64,
}

fn shape(options: &NativeGroupOptions) -> GroupShape {
    GroupShape {
        lanes: options.count as usize,
        dimensions: options.dimensions as usize,
        value_dimensions: options.value_dimensions as usize,
        storage: match options.storage.as_str() {
            "bf16" => Storage::Bf16,
            "i8" => Storage::I8,
            _ => Storage::F32,
        },
    }
}

/// Several indexes of one shape that grow and are searched together.
#[napi]
pub struct NativeKnnIndexGroup {
    group: Option<IndexGroup>,
    /// `[lanes]`, or empty before they are set.
    strategies: Vec<Strategy>,
    /// Bytes told to V8.
    told: i64,
    /// What other addons call, and how they search.
    entry: Option<(Causal, Box<GroupEntry>)>,
}

/// A search in which each query sees what was appended up to its own vector.
#[derive(Clone, Copy)]
struct Causal {
    scale: f32,
    /// Latest vectors that a query sees; all if absent.
    window: Option<usize>,
}

/// Serves a call of another addon.
///
/// # Safety
/// `context` is a live [`NativeKnnIndexGroup`] that nobody uses meanwhile, `call` as [`GroupEntry`] makes it.
unsafe extern "C" fn serve(context: *mut c_void, call: *const Call) -> bool {
    // SAFETY: by contract.
    let (group, arrays) = unsafe { (&mut *context.cast::<NativeKnnIndexGroup>(), (*call).arrays()) };
    let Some((causal, _)) = &group.entry else { return false };
    let causal = *causal;
    // A panic must not unwind through the C border; what it leaves behind is as after a panic in any other call.
    catch_unwind(AssertUnwindSafe(|| group.serve(causal, arrays).is_ok())).unwrap_or(false)
}

impl NativeKnnIndexGroup {
    fn serve(&mut self, causal: Causal, arrays: Arrays<'_>) -> Result<()> {
        let Self { group, strategies, .. } = self;
        let group = group.as_mut().ok_or_else(closed)?;
        let Arrays { keys, values, queries, output, reports } = arrays;
        let before = group.len();
        group.append(keys, values).map_err(js_error)?;
        let soft = SoftQuery {
            queries: group.len() - before,
            scale: causal.scale,
            visible: before + 1,
            causal: true,
            window: causal.window,
            strategy: Strategy::Exact,
        };
        let detail = LaneDetail { strategies: Some(strategies), ..LaneDetail::default() };
        match group.soft_search_lanes(queries, output, None, &soft, detail) {
            Ok(found) => {
                write_reports(&found, reports);
                Ok(())
            }
            Err(error) => {
                group.truncate(before);
                Err(js_error(error))
            }
        }
    }
}

#[napi]
impl NativeKnnIndexGroup {
    /// An empty group.
    #[napi(constructor, catch_unwind)]
    pub fn new(options: NativeGroupOptions) -> Result<Self> {
        let pool = shared_pool(options.threads);
        let group = IndexGroup::new(shape(&options), kernels(), pool).map_err(js_error)?;
        Ok(Self { group: Some(group), strategies: Vec::new(), told: 0, entry: None })
    }

    fn group(&self) -> Result<&IndexGroup> {
        self.group.as_ref().ok_or_else(closed)
    }

    fn group_mut(&mut self) -> Result<&mut IndexGroup> {
        self.group.as_mut().ok_or_else(closed)
    }

    /// Tells V8 how much native memory the group holds, so that it knows when to collect.
    fn tell(&mut self, env: Env) -> Result<()> {
        let bytes = self.group.as_ref().map_or(0, |group| group.bytes() as i64);
        if bytes != self.told {
            env.adjust_external_memory(bytes - self.told).map_err(crate::error::from_napi)?;
            self.told = bytes;
        }
        Ok(())
    }

    /// Vectors per index.
    #[napi(getter, catch_unwind)]
    pub fn length(&self) -> Result<u32> {
        Ok(self.group()?.len() as u32)
    }

    /// End of the vectors that have settled, 0 if none have.
    #[napi(getter, catch_unwind)]
    pub fn settled(&self) -> Result<u32> {
        Ok(self.group()?.settled().1 as u32)
    }

    /// Bytes allocated.
    #[napi(getter, catch_unwind)]
    pub fn bytes(&self) -> Result<f64> {
        Ok(self.group()?.bytes() as f64)
    }

    /// Makes room for `vectors` vectors per index in all.
    #[napi(catch_unwind)]
    pub fn reserve(&mut self, env: Env, vectors: u32) -> Result<()> {
        self.group_mut()?.reserve(vectors as usize).map_err(js_error)?;
        self.tell(env)
    }

    /// Appends `[n][count][dimensions]` keys and `[n][count][valueDimensions]` values.
    #[napi(catch_unwind)]
    pub fn append(&mut self, env: Env, keys: &[f32], values: &[f32]) -> Result<()> {
        self.group_mut()?.append(keys, values).map_err(js_error)?;
        self.tell(env)
    }

    /// Settles vectors before `end` of these lanes, except the first `sinks`.
    #[napi(catch_unwind)]
    pub fn settle(&mut self, env: Env, lanes: Vec<u32>, sinks: u32, end: u32) -> Result<()> {
        let lanes: Vec<usize> = lanes.into_iter().map(|lane| lane as usize).collect();
        self.group_mut()?.settle_lanes(&lanes, sinks as usize, end as usize).map_err(js_error)?;
        self.tell(env)
    }

    /// Settles vectors of these lanes as those of another group have settled.
    #[napi(catch_unwind)]
    pub fn settle_like(&mut self, env: Env, source: &NativeKnnIndexGroup, lanes: Vec<u32>) -> Result<()> {
        let lanes: Vec<usize> = lanes.into_iter().map(|lane| lane as usize).collect();
        let source = source.group()?;
        self.group_mut()?.settle_like(source, &lanes).map_err(js_error)?;
        self.tell(env)
    }

    /// End of the vectors of a lane that have settled, 0 if none have or there is no such lane.
    #[napi(catch_unwind)]
    pub fn settled_lane(&self, lane: u32) -> Result<u32> {
        let (group, lane) = (self.group()?, lane as usize);
        Ok(if lane < group.shape().lanes { group.settled_lane(lane).1 as u32 } else { 0 })
    }

    /// Numbers of the vectors of a lane that have settled, in the order in which they stand: each sixteen share a tile.
    /// Empty if none have or there is no such lane.
    #[napi(catch_unwind)]
    pub fn settled_order(&self, lane: u32) -> Result<Uint32Array> {
        let (group, lane) = (self.group()?, lane as usize);
        let order = if lane < group.shape().lanes { group.settled_order(lane) } else { Vec::new() };
        Ok(Uint32Array::new(order))
    }

    /// Says how each lane is searched by the queries that ask for it.
    #[napi(catch_unwind)]
    pub fn set_strategies(&mut self, strategies: Vec<NativeLaneStrategy>) -> Result<()> {
        let group = self.group_mut()?;
        for (lane, strategy) in strategies.iter().enumerate().filter(|(_, strategy)| strategy.kind == "top-k") {
            group.index_keys(lane, algorithm_named(&strategy.algorithm)?, 0).map_err(js_error)?;
        }
        self.strategies = strategies.iter().map(NativeLaneStrategy::strategy).collect();
        Ok(())
    }

    /// Forgets vectors from number `length` on.
    #[napi(catch_unwind)]
    pub fn truncate(&mut self, env: Env, length: u32) -> Result<()> {
        self.group_mut()?.truncate(length as usize);
        self.tell(env)
    }

    /// Soft search, see `IndexGroup::soft_search_lanes`. `sights` is `[queries][2]`; `lane_reports` takes
    /// `[lanes][4]`: the numbers of a report for each lane. `reused` is a group whose remembered selection is read again.
    #[napi(catch_unwind)]
    pub fn soft_search(
        &self,
        queries: &[f32],
        mut output: Float32ArraySlice<'_>,
        query: NativeSoftQuery,
        mut lse: Option<Float32ArraySlice<'_>>,
        sights: Option<Uint32ArraySlice<'_>>,
        mut lane_reports: Option<Float64ArraySlice<'_>>,
        reused: Option<&NativeKnnIndexGroup>,
    ) -> Result<NativeSoftReport> {
        let selection = match reused {
            Some(group) => Some(group.group()?.selection()),
            None => None,
        };
        let mut lanes = vec![false; self.group()?.shape().lanes];
        for &lane in &query.reusing {
            if let Some(place) = lanes.get_mut(lane as usize) {
                *place = true;
            }
        }
        let strategy = query.mass_target.map_or(Strategy::Exact, |mass_target| Strategy::selected(mass_target as f32));
        let soft = SoftQuery {
            queries: query.queries as usize,
            scale: query.scale as f32,
            visible: query.visible as usize,
            causal: query.causal,
            window: query.window.map(|window| window as usize),
            strategy,
        };
        let detail = LaneDetail {
            strategies: query.by_lane.then_some(self.strategies.as_slice()),
            sights: sights.as_ref().map(|sights| sights.as_chunks().0),
            reused: selection.as_ref().map(|selection| Reused { selection, lanes: &lanes }),
            remember: query.remember,
        };
        // SAFETY: the call is synchronous, so JavaScript cannot touch the arrays meanwhile, and the TypeScript
        // door refuses arrays that share memory.
        let (output, lse) = unsafe { (output.as_mut(), lse.as_mut().map(|lse| lse.as_mut())) };
        let reports = self.group()?.soft_search_lanes(queries, output, lse, &soft, detail).map_err(js_error)?;
        if let Some(lane_reports) = &mut lane_reports {
            // SAFETY: as above.
            write_reports(&reports, unsafe { lane_reports.as_mut() });
        }
        let sum = |of: fn(&SoftReport) -> f64| reports.iter().map(of).sum();
        Ok(NativeSoftReport {
            rows: sum(|report| report.rows),
            retained_mass: sum(|report| report.retained_mass),
            tiles_read: sum(|report| report.tiles_read),
            tiles_visible: sum(|report| report.tiles_visible),
        })
    }

    /// Appends `[n][count][dimensions]` keys and `[n][count][valueDimensions]` values and searches with n queries, each
    /// of which sees what was appended before it and with it, the lanes as `setStrategies` last said. `lane_reports` as
    /// in `soft_search`. Where the search fails nothing stays appended.
    #[napi(catch_unwind)]
    pub fn append_and_search(
        &mut self,
        env: Env,
        keys: &[f32],
        values: &[f32],
        queries: &[f32],
        mut output: Float32ArraySlice<'_>,
        mut lane_reports: Float64ArraySlice<'_>,
        scale: f64,
        window: Option<u32>,
    ) -> Result<()> {
        // SAFETY: the call is synchronous, so JavaScript cannot touch the arrays meanwhile, and the TypeScript
        // door refuses arrays that share memory.
        let (output, reports) = unsafe { (output.as_mut(), lane_reports.as_mut()) };
        let causal = Causal { scale: scale as f32, window: window.map(|window| window as usize) };
        self.serve(causal, Arrays { keys, values, queries, output, reports })?;
        self.tell(env)
    }

    /// The address of an entry through which another addon of this process does what `appendAndSearch` does, with this
    /// scale and window. It is valid until the next call of this method, and as long as this object is.
    #[napi(catch_unwind)]
    pub fn entry(&mut self, scale: f64, window: Option<u32>) -> BigInt {
        let causal = Causal { scale: scale as f32, window: window.map(|window| window as usize) };
        // The object itself lies at the same address as long as JavaScript holds it.
        let context = std::ptr::from_mut(self).cast();
        let entry = self.entry.insert((causal, Box::new(GroupEntry::new(context, serve))));
        BigInt::from(std::ptr::from_ref(&*entry.1).expose_provenance() as u64)
    }

    /// Frees everything; later calls are errors, closing again is not.
    #[napi(catch_unwind)]
    pub fn close(&mut self, env: Env) -> Result<()> {
        self.group = None;
        self.tell(env)
    }
}

/// Writes the numbers of each lane's report, `[lanes][4]`.
fn write_reports(reports: &[SoftReport], to: &mut [f64]) {
    for (place, report) in to.chunks_exact_mut(4).zip(reports) {
        let SoftReport { rows, retained_mass, tiles_read, tiles_visible } = *report;
        place.copy_from_slice(&[rows, retained_mass, tiles_read, tiles_visible]);
    }
}

/// Bytes that a group needs for `vectors` vectors per index.
#[napi(catch_unwind)]
#[must_use]
pub fn estimate_group_bytes(options: NativeGroupOptions, vectors: f64) -> f64 {
    IndexGroup::estimate_bytes(&shape(&options), vectors as usize) as f64
}
