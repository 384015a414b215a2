//! How much of what there is to find a search finds.

use crate::error::Result;
use crate::search::SearchOptions;
use crate::snapshot::Snapshot;
use crate::structure::Effort;
use crate::tuning::recall;

impl Snapshot {
    /// The share of the k nearest that searches with these options find, on average over `sample` queries:
    /// the latest ones (up to 64), then stored vectors if those are too few. 1 if the index is empty.
    ///
    /// A stored vector finds itself, which does not count. Filters are not taken into account.
    ///
    /// Fails like [`Snapshot::search`].
    pub fn recall(&self, sample: usize, options: SearchOptions<'_>) -> Result<f32> {
        options.check()?;
        let dimensions = self.context.shape.dimensions;
        let mut queries = self.tuning.recent_queries();
        queries.truncate(sample * dimensions);
        let recent = queries.len() / dimensions;
        let stored = (sample - recent).min(self.len());
        let step = (self.len() / stored.max(1)).max(1);
        for (slot, _) in self.table.iter().step_by(step).take(stored) {
            let start = queries.len();
            queries.resize(start + dimensions, 0.0);
            self.structure.read(&self.context, slot, &mut queries[start..]);
        }
        if queries.is_empty() || self.is_empty() {
            return Ok(1.0);
        }
        // One more for those that find themselves.
        let k = (options.k + usize::from(stored > 0)).min(self.len());
        let effort = self.effort(&queries, &SearchOptions { filter: None, ..options }, None)?;
        let nearest = self.ranks(&queries, k, Effort::Exact, options.cancel)?;
        let found = self.ranks(&queries, k, effort, options.cancel)?;
        let recalls = nearest.iter().zip(&found).enumerate().map(|(row, (nearest, found))| {
            let (skip, take) = (usize::from(row >= recent), options.k);
            let cut = |ranks: &[f32]| ranks.iter().skip(skip).take(take).copied().collect::<Vec<f32>>();
            recall(&cut(nearest), &cut(found))
        });
        Ok((recalls.sum::<f64>() / nearest.len() as f64) as f32)
    }
}
