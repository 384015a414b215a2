//! What an index takes.

/// The most dimensions of a vector or a value.
pub const MAX_DIMENSIONS: usize = 1 << 16;
/// The most vectors in an index.
pub const MAX_VECTORS: usize = u32::MAX as usize - 1024;
/// The largest k of a search.
pub const MAX_K: usize = 1 << 24;
