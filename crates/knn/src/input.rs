//! Vectors that come in: checked, and brought into the form the index compares.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::metric::{Metric, check_finite};
use crate::structure::Context;

/// Numbers that one thread checks at a time.
const SHARE: usize = 1 << 16;

/// Number of vectors in a flat array.
pub(crate) fn count(context: &Context, vectors: &[f32], what: &'static str) -> Result<usize> {
    let dimensions = context.shape.dimensions;
    if vectors.len().is_multiple_of(dimensions) {
        Ok(vectors.len() / dimensions)
    } else {
        Err(Error::RaggedBatch { what, length: vectors.len(), dimensions })
    }
}

/// Checks vectors, `[n][dimensions]`; `what` names one in an error, which is about the first bad one. Those
/// for cosine come back with length 1.
pub(crate) fn prepare<'a>(context: &Context, vectors: &'a [f32], what: &'static str) -> Result<Cow<'a, [f32]>> {
    let (dimensions, metric) = (context.shape.dimensions, context.shape.metric);
    if metric != Metric::Cosine {
        let check = |row: usize| metric.check(&vectors[row * dimensions..(row + 1) * dimensions], what, row).map(drop);
        each_row(context, vectors.len() / dimensions, dimensions, check)?;
        return Ok(Cow::Borrowed(vectors));
    }
    let mut prepared = zeros(vectors.len())?;
    let rows_of_share = (SHARE / dimensions).max(1);
    let shares: Vec<Mutex<&mut [f32]>> = prepared.chunks_mut(rows_of_share * dimensions).map(Mutex::new).collect();
    first_error(context, shares.len(), |share| {
        let mut to = shares[share].lock().unwrap_or_else(PoisonError::into_inner);
        let from = vectors[share * rows_of_share * dimensions..].chunks_exact(dimensions);
        for (row, (to, from)) in to.chunks_exact_mut(dimensions).zip(from).enumerate() {
            metric.prepare(from, to, what, share * rows_of_share + row)?;
        }
        Ok(())
    })?;
    drop(shares);
    Ok(Cow::Owned(prepared))
}

/// Checks the values of `n` vectors, `[n][value_dimensions]`.
pub(crate) fn values<'a>(context: &Context, values: Option<&'a [f32]>, n: usize) -> Result<&'a [f32]> {
    let value_dimensions = context.shape.value_dimensions;
    match values {
        None if value_dimensions == 0 => Ok(&[]),
        None => Err(Error::ValuesMissing { value_dimensions }),
        Some(_) if value_dimensions == 0 => Err(Error::NoValues),
        Some(values) if !values.len().is_multiple_of(value_dimensions) => {
            Err(Error::RaggedBatch { what: "values", length: values.len(), dimensions: value_dimensions })
        }
        Some(values) if values.len() != n * value_dimensions => {
            Err(Error::CountMismatch { what: "values", actual: values.len() / value_dimensions, expected: n })
        }
        Some(values) => {
            let row = |row: usize| &values[row * value_dimensions..(row + 1) * value_dimensions];
            each_row(context, n, value_dimensions, |i| check_finite(row(i), "value", i))?;
            Ok(values)
        }
    }
}

/// Runs `check` for every row and returns the error of the first that fails.
fn each_row(context: &Context, rows: usize, width: usize, check: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let rows_of_share = (SHARE / width).max(1);
    first_error(context, rows.div_ceil(rows_of_share), |share| {
        (share * rows_of_share..((share + 1) * rows_of_share).min(rows)).try_for_each(&check)
    })
}

fn first_error(context: &Context, shares: usize, check: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let first: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    context.pool.for_each(shares, |_, share| {
        if let Err(error) = check(share) {
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            if first.as_ref().is_none_or(|(before, _)| share < *before) {
                *first = Some((share, error));
            }
        }
    });
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// `n` zeros, or an error if there is no memory for them.
pub(crate) fn zeros(n: usize) -> Result<Vec<f32>> {
    filled(n, 0.0)
}

/// `n` times `value`, or an error if there is no memory for them.
pub(crate) fn filled<T: Copy>(n: usize, value: T) -> Result<Vec<T>> {
    let mut array = Vec::new();
    array.try_reserve_exact(n).map_err(|_| Error::OutOfMemory { bytes: n.saturating_mul(size_of::<T>()) })?;
    array.resize(n, value);
    Ok(array)
}
