//! Reading all vectors, exactly.

use std::sync::{Mutex, PoisonError};

use super::Graph;
use crate::error::{Error, Result};
use crate::neighbour::{Neighbour, keep_nearest};
use crate::structure::{Context, Emit, Request};

/// Queries that go through the vectors together.
const QUERIES: usize = 16;
/// Vectors that one item of parallel work reads.
const VECTORS: usize = 8192;
/// Vectors that stay in the cache while the queries of an item are compared with them.
const BLOCK: usize = 256;

impl Graph {
    /// The nearest of all vectors, provably: every rank is computed.
    pub(super) fn search_exactly(&self, context: &Context, request: &Request<'_>, emit: Emit<'_>) -> Result<()> {
        let d = context.shape.dimensions;
        let n = request.queries.len() / d;
        let ranges = self.taken.len().div_ceil(VECTORS).max(1);
        // Enough queries at once for all threads, few enough that what they found takes little memory.
        let together = QUERIES * 2 * context.pool.threads();
        for first in (0..n).step_by(together) {
            let count = together.min(n - first);
            let nearest: Vec<Mutex<Vec<Neighbour>>> = (0..count).map(|_| Mutex::default()).collect();
            let blocks = count.div_ceil(QUERIES);
            context.pool.for_each(blocks * ranges, |_, item| {
                let (range, block) = (item / blocks, item % blocks);
                let rows = block * QUERIES..count.min((block + 1) * QUERIES);
                let mut near: Vec<Vec<Neighbour>> = rows.clone().map(|_| Vec::new()).collect();
                let mut floors = vec![request.floor; rows.len()];
                let end = self.taken.len().min((range + 1) * VECTORS);
                for start in (range * VECTORS..end).step_by(BLOCK) {
                    if request.cancelled() {
                        return;
                    }
                    for (row, (near, floor)) in rows.clone().zip(near.iter_mut().zip(&mut floors)) {
                        let query = &request.queries[(first + row) * d..(first + row + 1) * d];
                        for slot in start as u32..end.min(start + BLOCK) as u32 {
                            if !self.found(request, slot) {
                                continue;
                            }
                            let rank = self.vectors.rank(context.kernels, query, slot);
                            if rank >= *floor {
                                near.push(Neighbour { rank, id: request.ids.id(slot) });
                            }
                        }
                        if near.len() / 2 > request.k {
                            keep_nearest(near, request.k);
                            *floor = near[request.k - 1].rank;
                        }
                    }
                }
                for (row, mut near) in rows.zip(near) {
                    let mut all = nearest[row].lock().unwrap_or_else(PoisonError::into_inner);
                    all.append(&mut near);
                    keep_nearest(&mut all, request.k);
                }
            });
            if request.cancelled() {
                return Err(Error::Cancelled);
            }
            context.pool.for_each(count, |_, row| {
                emit(first + row, &nearest[row].lock().unwrap_or_else(PoisonError::into_inner));
            });
        }
        Ok(())
    }

    /// Whether a search may find a slot.
    #[inline]
    pub(super) fn found(&self, request: &Request<'_>, slot: u32) -> bool {
        self.taken.row(slot as usize)[0] && request.allowed.is_none_or(|allowed| allowed.contains(slot))
    }
}
