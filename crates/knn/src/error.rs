//! What can go wrong, with the values that made it go wrong.

use crate::storage::Storage;

/// An error of the index. The index is as it was before the call that returned it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The index was asked for with no dimensions, or more than it supports.
    #[error("dimensions is {dimensions}, it must be between 1 and {max}")]
    Dimensions {
        /// What was asked for.
        dimensions: usize,
        /// The largest supported number.
        max: usize,
    },
    /// A vector, or a flat array of vectors, has the wrong length.
    #[error("{what} has {actual} dimensions, the index has {expected}")]
    DimensionMismatch {
        /// Which argument.
        what: &'static str,
        /// Dimensions of the argument.
        actual: usize,
        /// Dimensions of the index.
        expected: usize,
    },
    /// The length of a flat array is not a whole number of vectors.
    #[error("{what} holds {length} numbers, which is not a multiple of the {dimensions} dimensions of the index")]
    RaggedBatch {
        /// Which argument.
        what: &'static str,
        /// Numbers in the array.
        length: usize,
        /// Dimensions of the index.
        dimensions: usize,
    },
    /// Arrays that describe the same vectors do not have the same number of them.
    #[error("{what} holds {actual} entries, there are {expected} vectors")]
    CountMismatch {
        /// Which argument.
        what: &'static str,
        /// Entries in the argument.
        actual: usize,
        /// Number of vectors.
        expected: usize,
    },
    /// A component is NaN or infinite.
    #[error("{what} {row} has {value} at position {position}, every component must be finite")]
    NotFinite {
        /// Which argument ("vector", "query" or "value").
        what: &'static str,
        /// Which vector of the batch.
        row: usize,
        /// Which component.
        position: usize,
        /// The component.
        value: f32,
    },
    /// A vector is so long that products of its components overflow.
    #[error("{what} {row} has length {length:e}, the largest supported is {max:e}")]
    TooLarge {
        /// Which argument ("vector" or "query").
        what: &'static str,
        /// Which vector of the batch.
        row: usize,
        /// Its Euclidean length.
        length: f64,
        /// The largest supported length.
        max: f64,
    },
    /// A vector of length zero has no direction, so no cosine.
    #[error("{what} {row} is the zero vector, which has no direction to compare by cosine")]
    ZeroVector {
        /// Which argument ("vector" or "query").
        what: &'static str,
        /// Which vector of the batch.
        row: usize,
    },
    /// The id is already taken, by the index or earlier in the same batch.
    #[error("id {id} is already in the index or twice in the batch")]
    DuplicateId {
        /// The id.
        id: u64,
    },
    /// No vector has this id.
    #[error("id {id} is not in the index")]
    UnknownId {
        /// The id.
        id: u64,
    },
    /// The number stands for "no id" in results, so it cannot be one.
    #[error("id {id} cannot be used, ids must be below 18446744073709551615")]
    Id {
        /// The id.
        id: u64,
    },
    /// The largest id is taken, so there is no next one.
    #[error("there is no id after {last}, give ids explicitly")]
    IdsExhausted {
        /// The largest id in the index.
        last: u64,
    },
    /// The number of neighbours asked for is zero or too large.
    #[error("k is {k}, it must be between 1 and {max}")]
    K {
        /// What was asked for.
        k: usize,
        /// The largest supported number.
        max: usize,
    },
    /// The share of clusters to read is not a share.
    #[error("effort is {effort}, it must be above 0 and at most 1")]
    Effort {
        /// What was asked for.
        effort: f32,
    },
    /// The target recall is not a share.
    #[error("recall is {recall}, it must be above 0 and at most 1")]
    Recall {
        /// What was asked for.
        recall: f32,
    },
    /// The radius is NaN, or negative where it is a squared distance.
    #[error("radius is {radius}, it must be a number, and not negative for squared distances")]
    Radius {
        /// What was asked for.
        radius: f32,
    },
    /// An array for results has the wrong length.
    #[error("the array for {what} has {actual} places, the result has {expected}")]
    OutputLength {
        /// Which array ("ids", "scores" or "counts").
        what: &'static str,
        /// Its length.
        actual: usize,
        /// The length it must have.
        expected: usize,
    },
    /// The filter was made for another state of the index, or for another index.
    #[error("the filter was made for another state of the index: make it from the snapshot that is searched")]
    ForeignFilter,
    /// A setting of the soft search is out of range.
    #[error("{what} is {value}, it must be {allowed}")]
    SoftSearch {
        /// Which setting.
        what: &'static str,
        /// What was asked for.
        value: f32,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A group's number of lanes or dimensions is out of range.
    #[error("{what} is {value}, it must be between 1 and {max}")]
    GroupShape {
        /// Which number.
        what: &'static str,
        /// What was asked for.
        value: usize,
        /// The largest supported number.
        max: usize,
    },
    /// Groups cannot store numbers like this.
    #[error("a group stores f32 or bf16, not {storage:?}")]
    GroupStorage {
        /// What was asked for.
        storage: Storage,
    },
    /// A group has no lane of this number.
    #[error("there is no lane {lane}, the group has {lanes}")]
    Lane {
        /// What was asked for.
        lane: usize,
        /// Lanes of the group.
        lanes: usize,
    },
    /// The keys of a lane are in no index, so the nearest cannot be found.
    #[error("the keys of lane {lane} are in no index: ask for one before a search of the nearest keys")]
    KeysNotIndexed {
        /// The lane.
        lane: usize,
    },
    /// A query would see no vector, or vectors that do not exist.
    #[error(
        "the first query sees {visible} vectors and the last {last}, the group holds {len}; each must see at least 1"
    )]
    Visible {
        /// Vectors visible to the first query.
        visible: usize,
        /// Vectors visible to the last query.
        last: usize,
        /// Vectors in the group.
        len: usize,
    },
    /// A query would see only a part of the settled vectors, which have lost their order.
    #[error("the first query sees {visible} vectors, but {settled} have settled and can only be seen together")]
    SettledInPart {
        /// End of the settled vectors.
        settled: usize,
        /// Vectors visible to the first query.
        visible: usize,
    },
    /// Vectors cannot settle as asked.
    #[error(
        "cannot settle from {sinks} to {end} of {len} vectors: multiples of 16 within the vectors, always from the same start"
    )]
    SettleRange {
        /// Vectors that never settle.
        sinks: usize,
        /// End of the vectors to settle.
        end: usize,
        /// Vectors in the group.
        len: usize,
    },
    /// The index keeps values but none came with the vectors.
    #[error("the index keeps a value of {value_dimensions} numbers per vector, but no values were given")]
    ValuesMissing {
        /// Dimensions of a value.
        value_dimensions: usize,
    },
    /// Values were given or asked for, but the index keeps none.
    #[error("the index keeps no values: create it with the dimensions of the values to keep some")]
    NoValues,
    /// The index cannot hold that many vectors.
    #[error("the index holds {size} vectors and cannot take {added} more: the limit is {max}")]
    Full {
        /// Vectors in the index.
        size: usize,
        /// Vectors to be added.
        added: usize,
        /// The largest supported number.
        max: usize,
    },
    /// The memory needed could not be had.
    #[error("{bytes} bytes of memory could not be allocated")]
    OutOfMemory {
        /// Bytes needed at once.
        bytes: usize,
    },
    /// The system could not do something with a file.
    #[error("cannot {action} {file}: {problem}")]
    Io {
        /// What could not be done: "open", "write", …
        action: &'static str,
        /// Path of the file.
        file: String,
        /// What the system says.
        problem: String,
        /// The system's number for it.
        os_code: Option<i32>,
    },
    /// A file, or bytes, that are no index.
    #[error("{file} is not an index: it does not begin with the mark of one")]
    NotAnIndex {
        /// Path of the file, or "the bytes".
        file: String,
    },
    /// An index in a format that this version cannot read.
    #[error("{file} has format version {version}, this version of the library reads {supported}")]
    FileVersion {
        /// Path of the file, or "the bytes".
        file: String,
        /// Version of its format.
        version: u32,
        /// Version that can be read.
        supported: u32,
    },
    /// A damaged index.
    #[error("{file} is damaged in section {section} at byte {offset}: {problem}")]
    FileCorrupt {
        /// Path of the file, or "the bytes".
        file: String,
        /// Part of the file.
        section: &'static str,
        /// Where the damage, or the section it is in, begins.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// The caller asked to stop.
    #[error("the operation was cancelled")]
    Cancelled,
    /// The index was closed.
    #[error("the index is closed")]
    Closed,
}

/// The result of an index operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A stable code for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Dimensions { .. } => "ERR_DIMENSIONS",
            Self::DimensionMismatch { .. } | Self::RaggedBatch { .. } => "ERR_DIMENSION_MISMATCH",
            Self::CountMismatch { .. } => "ERR_COUNT_MISMATCH",
            Self::NotFinite { .. } => "ERR_NOT_FINITE",
            Self::TooLarge { .. } => "ERR_TOO_LARGE",
            Self::ZeroVector { .. } => "ERR_ZERO_VECTOR",
            Self::DuplicateId { .. } => "ERR_DUPLICATE_ID",
            Self::UnknownId { .. } => "ERR_UNKNOWN_ID",
            Self::Id { .. } => "ERR_ID",
            Self::IdsExhausted { .. } => "ERR_IDS_EXHAUSTED",
            Self::K { .. } => "ERR_K",
            Self::Effort { .. } => "ERR_EFFORT",
            Self::Recall { .. } => "ERR_RECALL",
            Self::Radius { .. } => "ERR_RADIUS",
            Self::OutputLength { .. } => "ERR_OUTPUT_LENGTH",
            Self::ForeignFilter => "ERR_FILTER",
            Self::SoftSearch { .. } => "ERR_SOFT_SEARCH",
            Self::GroupShape { .. } | Self::GroupStorage { .. } => "ERR_GROUP_SHAPE",
            Self::Lane { .. } => "ERR_LANE",
            Self::KeysNotIndexed { .. } => "ERR_KEYS_NOT_INDEXED",
            Self::Visible { .. } => "ERR_VISIBLE",
            Self::SettledInPart { .. } => "ERR_SETTLED_IN_PART",
            Self::SettleRange { .. } => "ERR_SETTLE_RANGE",
            Self::ValuesMissing { .. } => "ERR_VALUES_MISSING",
            Self::NoValues => "ERR_NO_VALUES",
            Self::Full { .. } => "ERR_FULL",
            Self::OutOfMemory { .. } => "ERR_OUT_OF_MEMORY",
            Self::Io { .. } => "ERR_IO",
            Self::NotAnIndex { .. } => "ERR_NOT_AN_INDEX",
            Self::FileVersion { .. } => "ERR_FILE_VERSION",
            Self::FileCorrupt { .. } => "ERR_FILE_CORRUPT",
            Self::Cancelled => "ERR_CANCELLED",
            Self::Closed => "ERR_CLOSED",
        }
    }

    /// The offending values by name, as numbers or text, in a fixed order.
    #[must_use]
    pub fn details(&self) -> Vec<(&'static str, Detail)> {
        use Detail::{Number, Text};
        let count = |value: usize| Number(value as f64);
        match *self {
            Self::Dimensions { dimensions, max } => vec![("dimensions", count(dimensions)), ("max", count(max))],
            Self::DimensionMismatch { what, actual, expected }
            | Self::CountMismatch { what, actual, expected }
            | Self::OutputLength { what, actual, expected } => {
                vec![("what", Text(what)), ("actual", count(actual)), ("expected", count(expected))]
            }
            Self::RaggedBatch { what, length, dimensions } => {
                vec![("what", Text(what)), ("length", count(length)), ("dimensions", count(dimensions))]
            }
            Self::GroupShape { what, value, max } => {
                vec![("what", Text(what)), ("value", count(value)), ("max", count(max))]
            }
            Self::KeysNotIndexed { lane } => vec![("lane", count(lane))],
            Self::Lane { lane, lanes } => vec![("lane", count(lane)), ("lanes", count(lanes))],
            Self::Visible { visible, last, len } => {
                vec![("visible", count(visible)), ("last", count(last)), ("length", count(len))]
            }
            Self::SettledInPart { settled, visible } => {
                vec![("settled", count(settled)), ("visible", count(visible))]
            }
            Self::SettleRange { sinks, end, len } => {
                vec![("sinks", count(sinks)), ("end", count(end)), ("length", count(len))]
            }
            Self::NotFinite { what, row, position, value } => vec![
                ("what", Text(what)),
                ("row", count(row)),
                ("position", count(position)),
                ("value", Number(f64::from(value))),
            ],
            Self::TooLarge { what, row, length, max } => {
                vec![("what", Text(what)), ("row", count(row)), ("length", Number(length)), ("max", Number(max))]
            }
            Self::ZeroVector { what, row } => vec![("what", Text(what)), ("row", count(row))],
            Self::Id { id } | Self::DuplicateId { id } | Self::UnknownId { id } => vec![("id", Number(id as f64))],
            Self::IdsExhausted { last } => vec![("last", Number(last as f64))],
            Self::K { k, max } => vec![("k", count(k)), ("max", count(max))],
            Self::Effort { effort } => vec![("effort", Number(f64::from(effort)))],
            Self::Recall { recall } => vec![("recall", Number(f64::from(recall)))],
            Self::Radius { radius } => vec![("radius", Number(f64::from(radius)))],
            Self::SoftSearch { what, value, allowed } => {
                vec![("what", Text(what)), ("value", Number(f64::from(value))), ("allowed", Text(allowed))]
            }
            Self::ValuesMissing { value_dimensions } => vec![("valueDimensions", count(value_dimensions))],
            Self::Full { size, added, max } => {
                vec![("size", count(size)), ("added", count(added)), ("max", count(max))]
            }
            Self::OutOfMemory { bytes } => vec![("bytes", count(bytes))],
            Self::Io { action, os_code, .. } => [("action", Text(action))]
                .into_iter()
                .chain(os_code.map(|code| ("osCode", Number(f64::from(code)))))
                .collect(),
            Self::FileVersion { version, supported, .. } => {
                vec![("version", count(version as usize)), ("supported", count(supported as usize))]
            }
            Self::FileCorrupt { section, offset, .. } => {
                vec![("section", Text(section)), ("offset", Number(offset as f64))]
            }
            Self::NotAnIndex { .. }
            | Self::ForeignFilter
            | Self::GroupStorage { .. }
            | Self::NoValues
            | Self::Cancelled
            | Self::Closed => Vec::new(),
        }
    }
}

/// One offending value of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Detail {
    /// A number (ids above 2^53 lose their last digits here, not in the message).
    Number(f64),
    /// A word.
    Text(&'static str),
}
