//! A dynamic nearest-neighbour index on SIMD tiles, with hard search (the k nearest) and soft search (the
//! softmax-weighted sum of the values of the near).
//!
//! ```
//! use iceformer_knn::{FilterKind, Index, IndexOptions, Metric, RadiusOptions, SearchOptions};
//! use iceformer_threads::ThreadPool;
//!
//! let options = IndexOptions { metric: Metric::L2, ..IndexOptions::new(2) };
//! let mut index = Index::new(options, ThreadPool::new(1))?;
//! index.add_batch(&[0.0, 0.0, 3.0, 4.0], None, None)?;
//! let found = index.search(&[3.0, 3.0], SearchOptions::nearest(2))?;
//! assert_eq!(found.ids, [1, 0]);
//! assert_eq!(found.scores, [1.0, 18.0]);
//!
//! // A snapshot stays as it is while the index changes.
//! let before = index.snapshot();
//! index.upsert_batch(&[3.0, 3.0, 9.0, 9.0], &[0, 7], None)?;
//! index.remove_batch(&[1])?;
//! assert_eq!((before.ids(), index.ids()), (vec![0, 1], vec![0, 7]));
//!
//! // Filters belong to a snapshot; everything within a squared distance of 80 but vector 0:
//! let now = index.snapshot();
//! let filter = now.filter(FilterKind::Ids(&[0]), true);
//! let options = RadiusOptions { filter: Some(&filter), ..RadiusOptions::default() };
//! assert_eq!(now.search_radius(&[3.0, 3.0], 80.0, options)?.ids, [7]);
//!
//! index.compact()?;
//! let copy = Index::from_bytes(&index.to_bytes()?, ThreadPool::new(1))?;
//! assert_eq!(copy.get(7)?, [9.0, 9.0]);
//! # Ok::<(), iceformer_knn::Error>(())
//! ```

mod algorithm;
mod arrange;
mod ascending;
mod average;
mod chunked;
mod dci;
mod element;
mod error;
mod file;
mod filter;
mod free_slots;
mod graph;
mod group;
mod ids;
mod index;
mod input;
mod lane;
mod limits;
mod metric;
mod neighbour;
mod persistence;
mod publication;
mod quantization;
mod radius;
mod random;
mod recall;
mod row;
mod scan;
mod search;
mod settling;
mod shared;
mod sketch;
mod snapshot;
mod soft;
mod stock;
mod storage;
mod structure;
mod summaries;
mod tile_codes;
mod tile_rows;
mod tiles;
mod tuning;
mod vectors;

/// Locks and shared pointers of [`publication`].
mod sync {
    pub use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
}

pub use algorithm::Algorithm;
pub use average::{AverageOptions, Averages};
pub use error::{Detail, Error, Result};
pub use filter::{Filter, FilterKind};
pub use group::{GroupShape, IndexGroup, LaneDetail, Reused};
pub use index::{Index, IndexOptions};
pub use limits::{MAX_DIMENSIONS, MAX_K, MAX_VECTORS};
pub use metric::{MAX_LENGTH, Metric};
pub use persistence::OpenOptions;
pub use radius::{RadiusOptions, Ranges};
pub use search::{Neighbours, SearchOptions};
pub use shared::SharedIndex;
pub use snapshot::{Snapshot, Stats};
pub use soft::{Selection, SoftQuery, SoftReport, Strategy};
pub use storage::Storage;
pub use structure::Bytes;
