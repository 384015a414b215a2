//! The `NativeDecoder` class.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use iceformer_group_entry::{Arrays, GroupEntry, REPORT};
use iceformer_threads::{Descriptor, ThreadPool};
use iceformer_transformer::Decoder;
use napi::bindgen_prelude::{BigInt, BigUint64ArraySlice, Env, Float32ArraySlice, Float64ArraySlice, ObjectFinalize};
use napi_derive::napi;

use crate::error::{Result, fail, to_js};
use crate::options::NativeDecoderOptions;

/// A decoder without its attention. One chunk goes: `embed`, `rotation`, for each layer `project`, attention by the
/// caller, `finish`, or `finish` alone where the attention sublayer is left out; then `logits`.
#[napi(custom_finalize)]
pub struct NativeDecoder {
    /// None once closed.
    decoder: Option<Decoder>,
    /// Bytes that V8 was told about.
    reported: i64,
    /// Queries, keys, values and attended values of a `step`.
    step: [Vec<f32>; 4],
}

/// Parts that the time of a step is divided into.
const PARTS: usize = 5;

/// A stopwatch that counts the time since the last look for a part.
struct Clock<'a> {
    /// Milliseconds of each part.
    times: &'a mut [f64],
    last: Instant,
}

impl Clock<'_> {
    fn lap(&mut self, part: usize) {
        self.split(part, part, 1.0);
    }

    /// What was done since the last look was `first` to a share of 0 to 1, and `second` to the rest.
    fn split(&mut self, first: usize, second: usize, share: f64) {
        let now = Instant::now();
        let time = (now - self.last).as_secs_f64() * 1e3;
        self.times[first] += share * time;
        self.times[second] += (1.0 - share) * time;
        self.last = now;
    }
}

#[napi]
impl NativeDecoder {
    /// Checks sizes and shapes and allocates the working memory. Weights are read by `load`. `pool` is the address of
    /// a thread pool's descriptor; absent or 0 the addon uses its own.
    #[napi(constructor, catch_unwind)]
    pub fn new(env: Env, options: NativeDecoderOptions, pool: Option<BigInt>) -> Result<Self> {
        let threads = options.threads as usize;
        let (config, tensors) = options.convert()?;
        let pool = match pool {
            None => own_pool(threads),
            Some(address) => shared_pool(&address, threads)?,
        };
        let decoder = Decoder::new(config, tensors, pool).map_err(to_js)?;
        let bytes = decoder.working_bytes() as i64;
        let mut made = Self { decoder: Some(decoder), reported: 0, step: [const { Vec::new() }; 4] };
        made.report(env, bytes);
        Ok(made)
    }

    /// Reads and packs the weights of one step, on all threads: step 0 is embedding, head and final norm, step i the
    /// layer i - 1.
    #[napi(catch_unwind)]
    pub fn load(&mut self, env: Env, step: u32) -> Result<()> {
        let decoder = self.open()?;
        let loaded = decoder.load(step as usize);
        let bytes = (decoder.weight_bytes() + decoder.working_bytes()) as i64;
        self.report(env, bytes);
        loaded.map_err(to_js)
    }

    /// Number of load steps: layers + 1.
    #[napi(getter, catch_unwind)]
    pub fn steps(&mut self) -> Result<u32> {
        Ok(self.open()?.steps() as u32)
    }

    /// Bytes of the weights loaded so far.
    #[napi(getter, catch_unwind)]
    pub fn weight_bytes(&mut self) -> Result<f64> {
        Ok(self.open()?.weight_bytes() as f64)
    }

    /// Starts a chunk of at most `maxChunk` tokens.
    #[napi(catch_unwind)]
    pub fn embed(&mut self, tokens: &[u32]) -> Result<()> {
        self.open()?.embed(tokens).map_err(to_js)
    }

    /// Sets the rotary tables of the chunk's positions: `[tokens, headDim / 2]` each.
    #[napi(catch_unwind)]
    pub fn rotation(&mut self, cos: &[f32], sin: &[f32]) -> Result<()> {
        self.open()?.rotation(cos, sin).map_err(to_js)
    }

    /// Writes a layer's queries `[tokens, heads, headDim]`, keys and values `[tokens, kvHeads, headDim]`.
    #[napi(catch_unwind)]
    pub fn project(
        &mut self,
        layer: u32,
        mut q: Float32ArraySlice<'_>,
        mut k: Float32ArraySlice<'_>,
        mut v: Float32ArraySlice<'_>,
    ) -> Result<()> {
        for (first, second, names) in [(&q, &k, "q and k"), (&q, &v, "q and v"), (&k, &v, "k and v")] {
            let (first, second) = (first.as_ptr_range(), second.as_ptr_range());
            if first.start < second.end && second.start < first.end {
                return fail("ERR_BUFFER_OVERLAP", format!("{names} share memory, each needs its own"));
            }
        }
        // SAFETY: the three do not overlap, and JavaScript cannot touch them during a synchronous call. A buffer that is
        // shared with another thread must not be written by that thread meanwhile, as with any such buffer.
        let (q, k, v) = unsafe { (q.as_mut(), k.as_mut(), v.as_mut()) };
        self.open()?.project(layer as usize, q, k, v).map_err(to_js)
    }

    /// Takes a layer's attended values, `[tokens, heads, headDim]`, through the rest of the layer. Without them the
    /// attention sublayer is left out, as if it had answered zero, and the layer need not have been projected.
    #[napi(catch_unwind)]
    pub fn finish(&mut self, layer: u32, attended: Option<Float32ArraySlice<'_>>) -> Result<()> {
        self.open()?.finish(layer as usize, attended.as_deref()).map_err(to_js)
    }

    /// Takes a chunk of few tokens through all layers, attention included: what `embed`, `rotation` and for each layer
    /// `project`, `appendAndSearch` of its group and `finish` do. `groups` are the addresses that the `entry` of each
    /// layer's group gave, 0 for a layer whose attention sublayer is left out. `reports` takes `[layers, kvHeads, 4]`, what each lane's search reports, and `times` the
    /// milliseconds of each part: embedding, projections, attention, output product, MLP. False: a group could not do its
    /// part; layers before it keep what was appended.
    #[napi(catch_unwind)]
    pub fn step(
        &mut self,
        tokens: &[u32],
        cos: &[f32],
        sin: &[f32],
        groups: BigUint64ArraySlice<'_>,
        mut reports: Float64ArraySlice<'_>,
        mut times: Float64ArraySlice<'_>,
    ) -> Result<bool> {
        let Self { decoder, step, .. } = self;
        let Some(decoder) = decoder else { return closed() };
        let (query, key) = (decoder.config().query_width(), decoder.config().key_width());
        let (layers, lanes) = (decoder.layers(), decoder.config().kv_heads);
        let (n, numbers) = (tokens.len(), layers * lanes * REPORT);
        for (name, found, expected) in
            [("groups", groups.len(), layers), ("reports", reports.len(), numbers), ("times", times.len(), PARTS)]
        {
            if found != expected {
                return fail("ERR_BUFFER_LENGTH", format!("{name} has {found} numbers, it must have {expected}"));
            }
        }
        let (first, second) = (reports.as_ptr_range(), times.as_ptr_range());
        if first.start < second.end && second.start < first.end {
            return fail("ERR_BUFFER_OVERLAP", "reports and times share memory, each needs its own");
        }
        // SAFETY: the two do not overlap, and JavaScript cannot touch them during a synchronous call.
        let (reports, times) = unsafe { (reports.as_mut(), times.as_mut()) };
        let [q, k, v, attended] = step;
        for (buffer, width) in [(&mut *q, query), (k, key), (v, key), (attended, query)] {
            buffer.resize(n * width, 0.0);
        }
        let mut clock = Clock { times, last: Instant::now() };
        clock.times.fill(0.0);
        decoder.embed(tokens).map_err(to_js)?;
        decoder.rotation(cos, sin).map_err(to_js)?;
        clock.lap(0);
        for ((layer, &address), reports) in groups.iter().enumerate().zip(reports.chunks_exact_mut(lanes * REPORT)) {
            if address == 0 {
                reports.fill(0.0);
                decoder.finish(layer, None).map_err(to_js)?;
                clock.split(3, 4, decoder.output_share());
                continue;
            }
            decoder.project(layer, q, k, v).map_err(to_js)?;
            clock.lap(1);
            let address = std::ptr::with_exposed_provenance::<GroupEntry>(address as usize);
            // SAFETY: JavaScript passes on what `entry` of a group returned that it holds for the whole call.
            let group = match unsafe { GroupEntry::at(address) } {
                Ok(group) => group,
                Err(error) => return fail("ERR_GROUP", error.to_string()),
            };
            let arrays = Arrays { keys: k, values: v, queries: q, output: attended, reports };
            // SAFETY: the group is alive as above, and this thread, the only one that uses it, is here.
            if !unsafe { group.append_and_search(arrays) } {
                return Ok(false);
            }
            clock.lap(2);
            decoder.finish(layer, Some(attended)).map_err(to_js)?;
            clock.split(3, 4, decoder.output_share());
        }
        Ok(true)
    }

    /// Share of the time of the last `finish` that went into the output product and the norm behind it, 0 to 1; the rest
    /// went into the MLP. 0 before.
    #[napi(getter, catch_unwind)]
    pub fn output_share(&mut self) -> Result<f64> {
        Ok(self.open()?.output_share())
    }

    /// Writes the logits of the given rows of the chunk, `[rows, vocabSize]`.
    #[napi(catch_unwind)]
    pub fn logits(&mut self, rows: &[u32], mut out: Float32ArraySlice<'_>) -> Result<()> {
        let (first, second) = (rows.as_ptr_range(), out.as_ptr_range());
        if first.start.cast() < second.end && second.start < first.end.cast() {
            return fail("ERR_BUFFER_OVERLAP", "rows and out share memory, each needs its own");
        }
        // SAFETY: as in `project`.
        let out = unsafe { out.as_mut() };
        self.open()?.logits(rows, out).map_err(to_js)
    }

    /// Frees the weights and the working memory. Later calls, other than `close`, throw `ERR_CLOSED`.
    #[napi(catch_unwind)]
    pub fn close(&mut self, env: Env) {
        self.decoder = None;
        self.report(env, 0);
    }
}

impl NativeDecoder {
    fn open(&mut self) -> Result<&mut Decoder> {
        match &mut self.decoder {
            Some(decoder) => Ok(decoder),
            None => closed(),
        }
    }

    /// Tells V8 how much memory the object holds, so that it collects forgotten decoders in time.
    fn report(&mut self, env: Env, bytes: i64) {
        // It is a hint: where V8 does not take it, nothing is lost but the hint.
        if env.adjust_external_memory(bytes - self.reported).is_ok() {
            self.reported = bytes;
        }
    }
}

fn closed<T>() -> Result<T> {
    fail("ERR_CLOSED", "the decoder is closed")
}

impl ObjectFinalize for NativeDecoder {
    fn finalize(mut self, env: Env) -> napi::Result<()> {
        self.decoder = None;
        self.report(env, 0);
        Ok(())
    }
}

/// The addon's own pool of that many threads. Pools live as long as the process: a decoder that is never closed then
/// keeps memory until it is collected, but no threads.
fn own_pool(threads: usize) -> ThreadPool {
    static POOLS: Mutex<BTreeMap<usize, ThreadPool>> = Mutex::new(BTreeMap::new());
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    pools.entry(threads).or_insert_with(|| ThreadPool::new(threads)).clone()
}

/// The pool at an address that another addon gave, or an own one for address 0.
fn shared_pool(address: &BigInt, threads: usize) -> Result<ThreadPool> {
    let (negative, value, lossless) = address.get_u64();
    if negative || !lossless {
        return fail("ERR_POOL", "the thread pool's address does not fit 64 bits");
    }
    if value == 0 {
        return Ok(own_pool(threads));
    }
    let descriptor = std::ptr::with_exposed_provenance::<Descriptor>(value as usize);
    // SAFETY: JavaScript passes on what `threadPool()` of @iceformer/knn-index returned: the address of a descriptor
    // that lives as long as the process.
    match unsafe { ThreadPool::from_descriptor(descriptor) } {
        Ok(pool) => Ok(pool),
        Err(error) => fail("ERR_POOL", error.to_string()),
    }
}
