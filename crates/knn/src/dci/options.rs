//! What can be chosen about Prioritized DCI.

/// Parameters of the method. The defaults of indices are those of `IceFormer`'s examples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DciOptions {
    /// Composite indices, at least 1. Each gives candidates by its own simple indices, so more of them make it less
    /// likely that an unlucky direction hides a near vector. Default 2.
    pub composite: usize,
    /// Simple indices (random directions) of each composite index, at least 1. More of them order candidates better
    /// and cost more. Default 4.
    pub simple: usize,
    /// The most levels; 1 is plain Prioritized DCI without cells. Default 16, which is more than there ever are: a
    /// level is added when the highest one has more than [`crate::dci::hierarchy::CROWDED`] cells.
    pub levels: usize,
    /// One in so many vectors of a level is promoted to the next and gets a cell there, at least 2: about the
    /// number of children of a cell. Default 16.
    pub promotion: usize,
    /// Share of the vectors of a visited cell that are retrieved, in the order of their priority; above 0, and not
    /// above 1. Default: 1, where the order only matters in the last cell, in which the candidates run out: on attention
    /// keys, whose queries lie far from them, visiting fewer cells and retrieving all of each finds more than
    /// the reverse.
    pub cell_share: f32,
    /// Field of view: on the way down, this many times the cells that will be visited are compared. Default 4.
    pub view: usize,
}

impl Default for DciOptions {
    fn default() -> Self {
        Self { composite: 2, simple: 4, levels: 16, promotion: 16, cell_share: 1.0, view: 4 }
    }
}
