//! The `NativeDecoder` class.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use iceformer_threads::{Descriptor, ThreadPool};
use iceformer_transformer::Decoder;
use napi::bindgen_prelude::{BigInt, Env, Float32ArraySlice, ObjectFinalize};
use napi_derive::napi;

use crate::error::{Result, fail, to_js};
use crate::options::NativeDecoderOptions;

/// A decoder without its attention. One chunk goes: `embed`, `rotation`, for each layer `project`, attention by the
/// caller, `finish`; then `logits`.
#[napi(custom_finalize)]
pub struct NativeDecoder {
    /// None once closed.
    decoder: Option<Decoder>,
    /// Bytes that V8 was told about.
    reported: i64,
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
        let mut made = Self { decoder: Some(decoder), reported: 0 };
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

    /// Takes a layer's attended values, `[tokens, heads, headDim]`, through the rest of the layer.
    #[napi(catch_unwind)]
    pub fn finish(&mut self, layer: u32, attended: &[f32]) -> Result<()> {
        self.open()?.finish(layer as usize, attended).map_err(to_js)
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
            None => fail("ERR_CLOSED", "the decoder is closed"),
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
