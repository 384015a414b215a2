//! What settling works in, kept between calls.

use crate::element::Element;
use crate::stock::Lendable;
use crate::tiles::StoredVectors;

/// A worker's memory while it settles a batch of a lane.
#[derive(Debug, Default)]
pub(crate) struct Settling<T: Element> {
    /// The batch, in the order of insertion.
    pub vectors: StoredVectors<T>,
    /// `[batch][dimensions]`: its keys.
    pub keys: Vec<f32>,
}

impl<T: Element> Lendable for Settling<T> {
    fn bytes(&self) -> usize {
        self.vectors.bytes() + self.keys.capacity() * size_of::<f32>()
    }
}
