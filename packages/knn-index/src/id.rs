//! Ids as they cross the border: numbers in `Float64Array`s, or bigints in `BigUint64Array`s.

use napi::bindgen_prelude::{BigInt, BigUint64Array, BigUint64ArraySlice, Either, Float64Array, Float64ArraySlice};

use crate::error::{Fault, MAX_SAFE_INTEGER};

/// Ids that JavaScript gave.
pub type IdSlice<'a> = Either<Float64ArraySlice<'a>, BigUint64ArraySlice<'a>>;
/// Ids for JavaScript.
pub type IdArray = Either<Float64Array, BigUint64Array>;
/// One id that JavaScript gave, checked by the TypeScript door.
pub type OneId = Either<f64, BigInt>;

/// What the ids of an index are in JavaScript.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// Safe integers.
    Number,
    /// Any `u64`.
    Bigint,
}

impl IdKind {
    /// The kind of an index that was made with bigints or not.
    pub const fn new(bigint: bool) -> Self {
        if bigint { Self::Bigint } else { Self::Number }
    }

    /// Ids as JavaScript sees them; `u64::MAX` becomes −1 as a number. Does not copy.
    pub fn array(self, ids: Vec<u64>) -> RawIds {
        match self {
            // The same allocation is used again: both are eight bytes.
            Self::Number => RawIds::Numbers(ids.into_iter().map(as_number).collect()),
            Self::Bigint => RawIds::Bigints(ids),
        }
    }
}

/// Ids in the form that an [`IdArray`] takes without copying; made on any thread.
pub enum RawIds {
    /// Of numbers.
    Numbers(Vec<f64>),
    /// Of bigints.
    Bigints(Vec<u64>),
}

impl RawIds {
    /// The array, on JavaScript's thread.
    pub fn into_array(self) -> IdArray {
        match self {
            Self::Numbers(ids) => Either::A(Float64Array::new(ids)),
            Self::Bigints(ids) => Either::B(BigUint64Array::new(ids)),
        }
    }
}

/// An id as a number; −1 for no id.
pub fn as_number(id: u64) -> f64 {
    if id == u64::MAX { -1.0 } else { id as f64 }
}

/// Appends checked ids to `to`.
pub fn read_ids(ids: &IdSlice<'_>, to: &mut Vec<u64>) -> Result<(), Fault> {
    let count = match ids {
        Either::A(numbers) => numbers.len(),
        Either::B(bigints) => bigints.len(),
    };
    let bytes = count * size_of::<u64>();
    to.try_reserve(count).map_err(|_| iceformer_knn::Error::OutOfMemory { bytes })?;
    match ids {
        Either::A(numbers) => {
            for &id in numbers.iter() {
                // Also false for NaN.
                if !(id >= 0.0 && id <= MAX_SAFE_INTEGER as f64 && id.fract() == 0.0) {
                    return Err(Fault::Id { id, position: to.len() });
                }
                to.push(id as u64);
            }
        }
        Either::B(bigints) => to.extend_from_slice(bigints),
    }
    Ok(())
}

/// The ids of one array.
pub fn ids(ids: &IdSlice<'_>) -> Result<Vec<u64>, Fault> {
    let mut read = Vec::new();
    read_ids(ids, &mut read)?;
    Ok(read)
}

/// One id.
pub fn one_id(id: &OneId) -> u64 {
    match id {
        Either::A(number) => *number as u64,
        Either::B(bigint) => bigint.get_u64().1,
    }
}
