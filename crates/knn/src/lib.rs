//! A dynamic nearest-neighbour index on SIMD tiles, with hard search (the k nearest) and soft search (the
//! softmax-weighted sum of the values of the near).

mod arrange;
mod chunked;
mod error;
mod file;
mod group;
mod lane;
mod limits;
mod metric;
mod neighbour;
mod row;
mod soft;
mod storage;
mod structure;
mod tiles;
mod vectors;

pub use error::{Detail, Error, Result};
pub use group::{GroupShape, IndexGroup};
pub use limits::{MAX_DIMENSIONS, MAX_K, MAX_VECTORS};
pub use metric::{MAX_LENGTH, Metric};
pub use soft::{SoftQuery, SoftReport, Strategy};
pub use storage::Storage;
pub use structure::Bytes;
