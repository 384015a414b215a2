//! Whether vectors that were read are such as an index accepts.

use std::sync::{Mutex, PoisonError};

use iceformer_threads::ThreadPool;

use crate::metric::{MAX_LENGTH, Metric};

/// Items of a piece of work.
const PIECE: usize = 1024;

/// Looks at items `0..items`, many at a time, and returns the first with a problem. `problem` has a row of `width`
/// numbers to work with.
pub(crate) fn first_problem(
    pool: &ThreadPool,
    items: usize,
    width: usize,
    problem: impl Fn(usize, &mut [f32]) -> Option<String> + Sync,
) -> Option<(usize, String)> {
    let first = Mutex::new(None::<(usize, String)>);
    pool.for_each(items.div_ceil(PIECE), |_, piece| {
        let mut row = vec![0.0; width];
        let found = (piece * PIECE..items.min((piece + 1) * PIECE))
            .find_map(|item| problem(item, &mut row).map(|problem| (item, problem)));
        if let Some(found) = found {
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            if first.as_ref().is_none_or(|first| found.0 < first.0) {
                *first = Some(found);
            }
        }
    });
    first.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What is wrong with a stored vector, `[dimensions]`.
pub(crate) fn vector_problem(metric: Metric, vector: &[f32]) -> Option<String> {
    // Rounding may have made a vector a little longer than the longest that is taken.
    const LONGEST: f64 = MAX_LENGTH * 1.01;
    let length = crate::metric::squared_length(vector).sqrt();
    if !length.is_finite() {
        return Some("a vector is not finite".to_owned());
    }
    if length > LONGEST {
        return Some(format!("a vector has length {length:e}, the largest supported is {MAX_LENGTH:e}"));
    }
    (metric == Metric::Cosine && length == 0.0).then(|| "a vector has no direction".to_owned())
}

/// What is wrong with a value, `[value_dimensions]`.
pub(crate) fn value_problem(value: &[f32]) -> Option<String> {
    value.iter().any(|x| !x.is_finite()).then(|| "a value is not finite".to_owned())
}
