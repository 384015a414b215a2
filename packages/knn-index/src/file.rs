//! Saving and opening, beside the event loop and on it.

use std::cell::RefCell;

use iceformer_knn::{Index, OpenOptions};
use napi::Env;
use napi::bindgen_prelude::{Buffer, Object};
use napi_derive::napi;

use crate::background::{NativeCancel, promise};
use crate::change::{push, room};
use crate::error::{Fault, MAX_SAFE_INTEGER, Result, js_error};
use crate::id::IdKind;
use crate::index::NativeKnnIndex;
use crate::pool::shared_pool;
use crate::request::NativeRequest;

/// Bytes that are copied in parts.
#[napi]
pub struct NativeBytes {
    bytes: RefCell<Vec<u8>>,
}

#[napi]
impl NativeBytes {
    /// Room for `length` bytes.
    #[napi(constructor, catch_unwind)]
    pub fn new(length: f64) -> Result<Self> {
        Ok(Self { bytes: RefCell::new(room(length as usize).map_err(js_error)?) })
    }

    /// The next bytes.
    #[napi(catch_unwind)]
    pub fn push(&self, part: &[u8]) -> Result<()> {
        push(&mut self.bytes.borrow_mut(), part).map_err(js_error)
    }
}

/// Refuses an index whose ids its kind cannot hold.
fn checked(index: Index, kind: IdKind) -> std::result::Result<Index, Fault> {
    match index.largest_id() {
        Some(largest) if kind == IdKind::Number && largest > MAX_SAFE_INTEGER => Err(Fault::WideIds { largest }),
        _ => Ok(index),
    }
}

fn open(path: &str, options: OpenOptions, kind: IdKind, threads: u32) -> std::result::Result<Index, Fault> {
    checked(Index::open(path, options, shared_pool(threads))?, kind)
}

fn from_bytes(bytes: &[u8], kind: IdKind, threads: u32) -> std::result::Result<Index, Fault> {
    checked(Index::from_bytes(bytes, shared_pool(threads))?, kind)
}

#[napi]
impl NativeKnnIndex {
    /// Opens a saved index.
    #[napi(catch_unwind)]
    pub fn open_sync(
        env: Env,
        path: String,
        mapped: bool,
        verify: bool,
        bigint_ids: bool,
        threads: u32,
    ) -> Result<Self> {
        let kind = IdKind::new(bigint_ids);
        let index = open(&path, OpenOptions { mapped, verify }, kind, threads).map_err(js_error)?;
        Self::telling(index, kind, env)
    }

    /// The same on another thread.
    #[napi(catch_unwind, ts_return_type = "Promise<NativeKnnIndex>")]
    pub fn open<'env>(
        env: &'env Env,
        path: String,
        mapped: bool,
        verify: bool,
        bigint_ids: bool,
        threads: u32,
        cancel: &NativeCancel,
    ) -> Result<Object<'env>> {
        let kind = IdKind::new(bigint_ids);
        let compute = move || open(&path, OpenOptions { mapped, verify }, kind, threads);
        promise(env, Some(cancel.flag()), compute, move |index| Self::with(index, kind))
    }

    /// An index from the bytes of `toBuffer`.
    #[napi(catch_unwind)]
    pub fn from_buffer(env: Env, bytes: &[u8], bigint_ids: bool, threads: u32) -> Result<Self> {
        let kind = IdKind::new(bigint_ids);
        Self::telling(from_bytes(bytes, kind, threads).map_err(js_error)?, kind, env)
    }

    /// The same on another thread; takes the bytes.
    #[napi(catch_unwind, ts_return_type = "Promise<NativeKnnIndex>")]
    pub fn from_buffer_async<'env>(
        env: &'env Env,
        bytes: &NativeBytes,
        bigint_ids: bool,
        threads: u32,
        cancel: &NativeCancel,
    ) -> Result<Object<'env>> {
        let kind = IdKind::new(bigint_ids);
        let bytes = bytes.bytes.take();
        let compute = move || from_bytes(&bytes, kind, threads);
        promise(env, Some(cancel.flag()), compute, move |index| Self::with(index, kind))
    }

    /// Writes the index to a file.
    #[napi(catch_unwind)]
    pub fn save_sync(&self, path: String) -> Result<()> {
        self.snapshot()?.save(&path).map_err(js_error)
    }

    /// What `saveSync` writes.
    #[napi(catch_unwind)]
    pub fn to_buffer(&self) -> Result<Buffer> {
        self.snapshot()?.to_bytes().map(Buffer::from).map_err(js_error)
    }
}

#[napi]
impl NativeRequest {
    /// Writes the index to a file on another thread.
    #[napi(catch_unwind, ts_return_type = "Promise<void>")]
    pub fn save<'env>(&self, env: &'env Env, path: String) -> Result<Object<'env>> {
        let snapshot = self.take_snapshot()?;
        promise(env, None, move || Ok(snapshot.save(&path)?), |()| ())
    }

    /// What `save` writes.
    #[napi(catch_unwind, ts_return_type = "Promise<Buffer>")]
    pub fn to_buffer<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let snapshot = self.take_snapshot()?;
        promise(env, None, move || Ok(snapshot.to_bytes()?), Buffer::from)
    }
}
