//! A dynamic nearest-neighbour index on SIMD tiles, with hard search (the k nearest) and soft search (the
//! softmax-weighted sum of the values of the near).
//!
//! ```
//! use iceformer_knn::{Index, IndexOptions, Metric, SearchOptions};
//! use iceformer_threads::ThreadPool;
//!
//! let options = IndexOptions { metric: Metric::L2, ..IndexOptions::new(2) };
//! let mut index = Index::new(options, ThreadPool::new(1))?;
//! index.add_batch(&[0.0, 0.0, 3.0, 4.0], None, None)?;
//! let found = index.search(&[3.0, 3.0], SearchOptions::nearest(2))?;
//! assert_eq!(found.ids, [1, 0]);
//! assert_eq!(found.scores, [1.0, 18.0]);
//! # Ok::<(), iceformer_knn::Error>(())
//! ```

mod arrange;
mod average;
mod cluster;
mod error;
mod group;
mod ids;
mod index;
mod keys;
mod lane;
mod metric;
mod reading;
mod search;
mod segment;
mod shared;
mod sift;
mod soft;
mod tiles;
mod topk;

pub use average::{AverageOptions, Averages};
pub use error::{Detail, Error, Result};
pub use group::{GroupShape, IndexGroup};
pub use index::{AUTO_CLUSTERS, Algorithm, Index, IndexOptions, MAX_DIMENSIONS, MAX_VECTORS};
pub use keys::Storage;
pub use metric::{MAX_LENGTH, Metric};
pub use search::{MAX_K, Neighbours, SearchOptions, Snapshot};
pub use shared::SharedIndex;
pub use soft::{SoftQuery, SoftReport, Strategy};
