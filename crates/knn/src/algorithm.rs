//! The ways of finding neighbours that a user chooses from.

use crate::dci::Dci;
use crate::error::Result;
use crate::file::Reader;
use crate::graph::Graph;
use crate::scan::{Clustering, Scan};
use crate::structure::{Context, SlotSet, Structure};

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
    /// Prioritized Dynamic Continuous Indexing (Li and Malik 2017) with levels, as in `IceFormer`: cells around
    /// promoted vectors, in which random projections decide what is retrieved first.
    Dci,
}

/// An empty structure for an algorithm.
pub(crate) fn make(algorithm: Algorithm, context: &Context) -> Box<dyn Structure> {
    match algorithm {
        Algorithm::Auto | Algorithm::Exact | Algorithm::Cluster => Box::new(Scan::new(context, clustering(algorithm))),
        Algorithm::Graph => Box::new(Graph::new(context)),
        Algorithm::Dci => Box::new(Dci::new(context)),
    }
}

/// Reads the structure of an algorithm, as [`Structure::save`] wrote it. `taken` are the slots in use, of `slots`.
pub(crate) fn load(
    algorithm: Algorithm,
    context: &Context,
    reader: &mut Reader<'_>,
    taken: &SlotSet,
    slots: usize,
) -> Result<Box<dyn Structure>> {
    match algorithm {
        Algorithm::Auto | Algorithm::Exact | Algorithm::Cluster => {
            Ok(Box::new(Scan::load(context, clustering(algorithm), reader, taken, slots)?))
        }
        Algorithm::Graph => Ok(Box::new(Graph::load(context, reader, taken, slots)?)),
        Algorithm::Dci => Ok(Box::new(Dci::load(context, reader, taken, slots)?)),
    }
}

/// When the structure that reads blocks makes clusters of them.
fn clustering(algorithm: Algorithm) -> Clustering {
    match algorithm {
        Algorithm::Cluster => Clustering::Always,
        Algorithm::Auto => Clustering::WhenLarge,
        _ => Clustering::Never,
    }
}
