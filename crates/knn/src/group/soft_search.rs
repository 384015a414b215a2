//! Soft search of a group: what it is given is checked here, then the lanes are searched.

use super::lanes::check_rows;
use super::search::LaneSearch;
use super::top_k::{LaneRows, Reach, Search};
use super::{IndexGroup, LaneDetail, Lanes, MAX_KEY_LENGTH};
use crate::error::{Error, Result};
use crate::limits::MAX_K;
use crate::soft::{SoftQuery, SoftReport, Strategy};
use std::sync::PoisonError;

impl IndexGroup {
    /// Soft search of all lanes: `queries` is `[n][lanes * group][dimensions]` (row `lane * group + g` of a query
    /// searches `lane`), `output` is `[n][lanes * group][value_dimensions]`, `lse`, if asked for, `[n][lanes * group]`
    /// takes the natural logarithm of the sum of exponentials. n is `query.queries`, `group` follows from the lengths.
    ///
    /// # Errors
    /// Wrong lengths, a setting of the strategy out of range, a query that would see nothing or more than there is, or
    /// settled vectors that a query sees only in part (they have lost their order).
    pub fn soft_search(
        &self,
        queries: &[f32],
        output: &mut [f32],
        lse: Option<&mut [f32]>,
        query: &SoftQuery,
    ) -> Result<SoftReport> {
        let reports = self.soft_search_lanes(queries, output, lse, query, LaneDetail::default())?;
        let mut sum = SoftReport::default();
        for report in &reports {
            sum.add(report);
        }
        Ok(sum)
    }

    /// As [`IndexGroup::soft_search`], where lanes or queries differ from each other. Returns one report per lane.
    ///
    /// # Errors
    /// As [`IndexGroup::soft_search`]; with `sights` a query may see nothing.
    pub fn soft_search_lanes(
        &self,
        queries: &[f32],
        output: &mut [f32],
        lse: Option<&mut [f32]>,
        query: &SoftQuery,
        detail: LaneDetail<'_>,
    ) -> Result<Vec<SoftReport>> {
        let shape = &self.shape;
        let row = query.queries * shape.lanes * shape.dimensions;
        if row == 0 || queries.is_empty() || !queries.len().is_multiple_of(row) {
            return Err(Error::RaggedBatch { what: "queries", length: queries.len(), dimensions: row });
        }
        let rows = queries.len() / shape.dimensions;
        if output.len() != rows * shape.value_dimensions {
            let expected = rows * shape.value_dimensions;
            return Err(Error::CountMismatch { what: "output", actual: output.len(), expected });
        }
        if let Some(lse) = &lse
            && lse.len() != rows
        {
            return Err(Error::CountMismatch { what: "lse", actual: lse.len(), expected: rows });
        }
        if !query.scale.is_finite() {
            return Err(Error::SoftSearch { what: "scale", value: query.scale, allowed: "finite" });
        }
        let lanes: Vec<SoftQuery> = match detail.strategies {
            None => vec![*query; shape.lanes],
            Some(strategies) if strategies.len() == shape.lanes => {
                strategies.iter().map(|&strategy| SoftQuery { strategy, ..*query }).collect()
            }
            Some(strategies) => {
                let (actual, expected) = (strategies.len(), shape.lanes);
                return Err(Error::CountMismatch { what: "strategies", actual, expected });
            }
        };
        lanes.iter().try_for_each(|lane| check_strategy(lane.strategy, query.scale))?;
        let sight = self.check_sights(query, detail.sights)?;
        for (number, lane) in lanes.iter().enumerate() {
            let (start, end) = self.settled_lane(number);
            let cut = sight.least_to < end || sight.most_from > start;
            let in_order = matches!(lane.strategy, Strategy::Window { .. } | Strategy::TopK { .. });
            if end > start && (cut || in_order) {
                return Err(Error::SettledInPart { settled: end, visible: sight.least_to });
            }
        }
        each!(&self.lanes, lanes => {
            check_rows(lanes.kernels, &lanes.pool, "query", queries, shape.dimensions, MAX_KEY_LENGTH)
        })?;
        let mut lse = lse;
        let mut reports = each!(&self.lanes, own => {
            let search = LaneSearch::new(own, shape, queries, output, lse.as_deref_mut(), &lanes, detail);
            search.run(&self.selection)
        });
        for (lane, own_query) in lanes.iter().enumerate() {
            let Strategy::TopK { k, recall, effort } = own_query.strategy else { continue };
            let Some(indexed) = &self.nearest[lane] else { return Err(Error::KeysNotIndexed { lane }) };
            let mut keys = indexed.keys.lock().unwrap_or_else(PoisonError::into_inner);
            let reach = Reach { k: k as usize, recall, effort };
            let group = rows / (query.queries * shape.lanes);
            let mut rows = LaneRows { lane, group, queries, output, lse: lse.as_deref_mut() };
            let search = Search { kernels: self.kernels, shape, query: own_query, sights: detail.sights, reach };
            reports[lane] = each!(&self.lanes, own => keys.search(&own.read(lane), &search, &mut rows))?;
        }
        Ok(reports)
    }

    /// Checks which vectors queries see.
    fn check_sights(&self, query: &SoftQuery, sights: Option<&[[u32; 2]]>) -> Result<Sight> {
        let len = self.len();
        let Some(sights) = sights else {
            let last = query.visible + if query.causal { query.queries - 1 } else { 0 };
            if query.visible == 0 || last > len || query.window == Some(0) {
                return Err(Error::Visible { visible: query.visible, last, len });
            }
            let most_from = query.window.map_or(0, |window| last.saturating_sub(window));
            return Ok(Sight { least_to: query.visible, most_from });
        };
        if sights.len() != query.queries {
            let (actual, expected) = (sights.len(), query.queries);
            return Err(Error::CountMismatch { what: "sights", actual, expected });
        }
        let rising = sights.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1]);
        let (first, last) = (sights[0], sights[query.queries - 1]);
        if !rising || sights.iter().any(|[from, to]| from > to) || last[1] as usize > len {
            return Err(Error::Visible { visible: first[1] as usize, last: last[1] as usize, len });
        }
        Ok(Sight { least_to: first[1] as usize, most_from: last[0] as usize })
    }
}

/// What all queries of a search see at least.
struct Sight {
    /// Smallest after-last vector.
    least_to: usize,
    /// Largest first vector.
    most_from: usize,
}

fn check_strategy(strategy: Strategy, scale: f32) -> Result<()> {
    match strategy {
        Strategy::Selected { mass_target, .. } if !(mass_target > 0.0 && mass_target <= 1.0) => {
            Err(Error::SoftSearch { what: "massTarget", value: mass_target, allowed: "above 0 and at most 1" })
        }
        Strategy::Selected { least_mass, .. } if !(0.0..=1.0).contains(&least_mass) => {
            Err(Error::SoftSearch { what: "leastMass", value: least_mass, allowed: "at least 0 and at most 1" })
        }
        Strategy::Selected { least_tiles, most_tiles, .. } if least_tiles > most_tiles => {
            let allowed = "at least as large as the least number of tiles";
            Err(Error::SoftSearch { what: "mostTiles", value: most_tiles as f32, allowed })
        }
        Strategy::Window { recent: 0, .. } => {
            Err(Error::SoftSearch { what: "recent", value: 0.0, allowed: "at least 1" })
        }
        Strategy::TopK { k, .. } if k == 0 || k as usize > MAX_K => Err(Error::K { k: k as usize, max: MAX_K }),
        Strategy::TopK { .. } if scale <= 0.0 => {
            Err(Error::SoftSearch { what: "scale", value: scale, allowed: "above 0 where the nearest keys are sought" })
        }
        _ => Ok(()),
    }
}
