//! What of a soft search may differ from lane to lane or from query to query.

use crate::soft::{BlockPlace, BlockTiles, Selection, Strategy};

/// Where the lanes or the queries of one soft search differ from each other.
#[derive(Debug, Clone, Copy, Default)]
pub struct LaneDetail<'a> {
    /// `[lanes]`: how each lane is searched, instead of the query's `strategy`.
    pub strategies: Option<&'a [Strategy]>,
    /// `[queries][2]`: first and after-last vector, by order of insertion, that each query sees, instead of what
    /// `visible`, `causal` and `window` say. Neither bound may fall from one query to the next. Equal bounds: the query
    /// sees nothing, its output is zero and its `lse` minus infinity.
    pub sights: Option<&'a [[u32; 2]]>,
    /// Tiles that an earlier search selected, of this group or of one that settled in the same order. Selecting lanes
    /// read these again where it has the same blocks and nothing has settled since, and else select.
    pub reused: Option<Reused<'a>>,
    /// True if [`crate::IndexGroup::selection`] is to be what this search selects.
    pub remember: bool,
}

/// What a search reads again.
#[derive(Debug, Clone, Copy)]
pub struct Reused<'a> {
    /// The tiles.
    pub selection: &'a Selection,
    /// `[lanes]`: true for the lanes that reuse them.
    pub lanes: &'a [bool],
}

impl Reused<'_> {
    /// The tiles of a block, if the lane reuses some and has settled as it had then.
    pub(super) fn tiles(&self, place: BlockPlace, settled: (usize, usize)) -> Option<&BlockTiles> {
        let lane = place.0;
        let same = self.lanes.get(lane) == Some(&true) && self.selection.settled.get(lane) == Some(&settled);
        if same { self.selection.blocks.get(&place) } else { None }
    }
}
