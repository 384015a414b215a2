//! `NativeChange`: the arrays of an asynchronous change, copied in parts, and the change itself on another thread.

use std::cell::RefCell;
use std::sync::Arc;

use iceformer_knn::{Error, Index, SharedIndex};
use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;

use crate::background::{NativeCancel, promise};
use crate::error::{Fault, MAX_SAFE_INTEGER, Result, js_error};
use crate::id::{IdKind, IdSlice, RawIds, read_ids};

/// Appends to a copy that may become large.
pub fn push<T: Copy>(to: &mut Vec<T>, part: &[T]) -> std::result::Result<(), Fault> {
    let bytes = size_of_val(part);
    to.try_reserve(part.len()).map_err(|_| Error::OutOfMemory { bytes })?;
    to.extend_from_slice(part);
    Ok(())
}

/// An empty copy with room for `length` elements. Memory that is not written to is not taken from the system.
pub fn room<T>(length: usize) -> std::result::Result<Vec<T>, Fault> {
    let mut copy = Vec::new();
    let bytes = length.saturating_mul(size_of::<T>());
    copy.try_reserve_exact(length).map_err(|_| Error::OutOfMemory { bytes })?;
    Ok(copy)
}

/// Adds vectors whose default ids, too, stay numbers that JavaScript holds exactly.
pub fn add(
    index: &mut Index,
    kind: IdKind,
    vectors: &[f32],
    ids: Option<&[u64]>,
    values: Option<&[f32]>,
) -> iceformer_knn::Result<Vec<u64>> {
    let added = (vectors.len() / index.options().dimensions) as u64;
    match index.largest_id() {
        Some(last) if ids.is_none() && kind == IdKind::Number && last + added > MAX_SAFE_INTEGER => {
            Err(Error::IdsExhausted { last })
        }
        _ => index.add_batch(vectors, ids, values),
    }
}

/// Copies of the arrays of a change; what was not given is `None`.
#[derive(Default)]
struct Arrays {
    vectors: Vec<f32>,
    ids: Option<Vec<u64>>,
    values: Option<Vec<f32>>,
}

/// A change in the making.
#[napi]
pub struct NativeChange {
    index: Arc<SharedIndex>,
    kind: IdKind,
    arrays: RefCell<Arrays>,
}

impl NativeChange {
    /// Room for arrays of these lengths; values and ids may be left out.
    pub(crate) fn new(
        index: Arc<SharedIndex>,
        kind: IdKind,
        vectors: f64,
        ids: Option<f64>,
        values: Option<f64>,
    ) -> std::result::Result<Self, Fault> {
        let arrays = Arrays {
            vectors: room(vectors as usize)?,
            ids: ids.map(|length| room(length as usize)).transpose()?,
            values: values.map(|length| room(length as usize)).transpose()?,
        };
        Ok(Self { index, kind, arrays: RefCell::new(arrays) })
    }
}

#[napi]
impl NativeChange {
    /// The next vectors.
    #[napi(catch_unwind)]
    pub fn push_vectors(&self, part: &[f32]) -> Result<()> {
        push(&mut self.arrays.borrow_mut().vectors, part).map_err(js_error)
    }

    /// The next values.
    #[napi(catch_unwind)]
    pub fn push_values(&self, part: &[f32]) -> Result<()> {
        push(self.arrays.borrow_mut().values.get_or_insert_default(), part).map_err(js_error)
    }

    /// The next ids.
    #[napi(catch_unwind, ts_args_type = "part: Float64Array | BigUint64Array")]
    pub fn push_ids(&self, part: IdSlice<'_>) -> Result<()> {
        read_ids(&part, self.arrays.borrow_mut().ids.get_or_insert_default()).map_err(js_error)
    }

    /// Adds the vectors and gives their ids.
    #[napi(catch_unwind, ts_return_type = "Promise<Float64Array | BigUint64Array>")]
    pub fn add<'env>(&self, env: &'env Env, cancel: &NativeCancel) -> Result<Object<'env>> {
        let kind = self.kind;
        let change = move |index: &mut Index, arrays: Arrays| {
            add(index, kind, &arrays.vectors, arrays.ids.as_deref(), arrays.values.as_deref())
        };
        self.make(env, cancel, change, move |ids| kind.array(ids), RawIds::into_array)
    }

    /// Adds or replaces the vectors and gives how many were replaced.
    #[napi(catch_unwind, ts_return_type = "Promise<number>")]
    pub fn upsert<'env>(&self, env: &'env Env, cancel: &NativeCancel) -> Result<Object<'env>> {
        let change = |index: &mut Index, arrays: Arrays| {
            index.upsert_batch(&arrays.vectors, &arrays.ids.unwrap_or_default(), arrays.values.as_deref())
        };
        self.make(env, cancel, change, |replaced| replaced, |replaced| replaced as f64)
    }

    /// Removes the vectors with the ids and gives how many there were.
    #[napi(catch_unwind, ts_return_type = "Promise<number>")]
    pub fn remove<'env>(&self, env: &'env Env, cancel: &NativeCancel) -> Result<Object<'env>> {
        let change = |index: &mut Index, arrays: Arrays| index.remove_batch(&arrays.ids.unwrap_or_default());
        self.make(env, cancel, change, |removed| removed, |removed| removed as f64)
    }

    /// Gives memory back.
    #[napi(catch_unwind, ts_return_type = "Promise<void>")]
    pub fn compact<'env>(&self, env: &'env Env, cancel: &NativeCancel) -> Result<Object<'env>> {
        self.make(env, cancel, |index: &mut Index, _| index.compact(), |()| (), |()| ())
    }

    /// Makes the change on another thread, while searches go on with the state before it.
    fn make<'env, T, U: Send + 'static, J: napi::bindgen_prelude::ToNapiValue + 'static>(
        &self,
        env: &'env Env,
        cancel: &NativeCancel,
        change: impl FnOnce(&mut Index, Arrays) -> iceformer_knn::Result<T> + Send + 'static,
        convert: impl FnOnce(T) -> U + Send + 'static,
        resolve: impl FnOnce(U) -> J + Send + 'static,
    ) -> Result<Object<'env>> {
        let index = Arc::clone(&self.index);
        let arrays = self.arrays.take();
        let compute = move || index.write_beside(|index| change(index, arrays)).map(convert).map_err(Fault::from);
        promise(env, Some(cancel.flag()), compute, resolve)
    }
}
