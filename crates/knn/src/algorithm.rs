//! The ways of finding neighbours that a user chooses from.

use crate::error::Result;
use crate::flat::Flat;
use crate::structure::{Context, Structure};

/// How an index finds neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Reads all vectors while there are few, and clusters once there are many.
    Auto,
    /// Reads all vectors, always.
    Exact,
    /// Groups vectors in clusters and reads the best for each query.
    Cluster,
    /// Walks a graph of near neighbours.
    Graph,
    /// Prioritized Dynamic Continuous Indexing (Li and Malik 2017): visits projections onto random directions.
    Dci,
}

/// An empty structure for an algorithm.
pub(crate) fn make(algorithm: Algorithm, context: &Context) -> Result<Box<dyn Structure>> {
    match algorithm {
        Algorithm::Auto | Algorithm::Exact | Algorithm::Cluster | Algorithm::Graph | Algorithm::Dci => {
            Ok(Box::new(Flat::new(context)))
        }
    }
}
