//! Tiles that one search selected, for another to read again: the next step of decoding, or another layer whose
//! vectors settled in the same order.

use super::scratch::Scratch;
use crate::element::Element;
use std::collections::HashMap;

/// The tiles that the blocks of a search read.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// `[lanes]`: range of the lane's settled vectors at the time.
    pub(crate) settled: Vec<(usize, usize)>,
    pub(crate) blocks: HashMap<BlockPlace, BlockTiles>,
}

/// Which block of a search: its lane, its first query, the first of its rows per query, and its number of queries.
pub(crate) type BlockPlace = (usize, usize, usize, usize);

/// What a block read of the tiles behind the sinks.
#[derive(Debug, Clone)]
pub(crate) struct BlockTiles {
    /// Tiles, rising.
    pub tiles: Vec<u32>,
    /// Number of tiles that it chose from.
    pub candidates: usize,
}

impl BlockTiles {
    /// What the block that used `scratch` last has read.
    pub fn of<T: Element>(scratch: &Scratch<T>) -> Self {
        Self { tiles: scratch.ranking.clone(), candidates: scratch.candidates }
    }

    /// Lists the tiles to read of `candidates`: the same again, and those that have come since.
    pub(super) fn list(&self, candidates: usize, ranking: &mut Vec<u32>) {
        ranking.clear();
        ranking.extend(self.tiles.iter().filter(|&&tile| (tile as usize) < candidates));
        ranking.extend(self.candidates as u32..candidates as u32);
    }
}
