//! The memory that soft searches and settling work in: one stock for all groups of a process, since a model has a group for each layer
//! and uses one at a time. It goes back to the system with the last group.

use super::few::Part;
use super::scratch::Scratch;
use crate::element::Element;
use crate::settling::Settling;
use crate::stock::Stock;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Most bytes that a stock keeps: about what the blocks of 64 threads work in where lanes hold 65,536 vectors.
const MOST_BYTES: usize = 256 << 20;

/// Most bytes that the stock of settling keeps: what batches of 512 vectors of 128 numbers take on 64 threads.
const MOST_SETTLING_BYTES: usize = 64 << 20;

/// The stocks of one type of numbers.
#[derive(Debug)]
pub(crate) struct Stocks<T: Element> {
    /// For blocks of queries.
    pub blocks: Stock<Scratch<T>>,
    /// For parts of a search of few rows.
    pub parts: Stock<Part<T>>,
    /// For batches that settle.
    pub settling: Stock<Settling<T>>,
}

impl<T: Element> Stocks<T> {
    /// Those that the groups of this process share, as long as there are any.
    pub fn shared() -> Arc<Self> {
        let mut shared = T::shared_stocks().lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let stocks = Arc::new(Self {
                blocks: Stock::new(MOST_BYTES),
                parts: Stock::new(MOST_BYTES),
                settling: Stock::new(MOST_SETTLING_BYTES),
            });
            *shared = Arc::downgrade(&stocks);
            stocks
        })
    }
}

/// Where the stocks of one type of numbers are found while a group uses them.
pub(crate) type SharedStocks<T> = Mutex<Weak<Stocks<T>>>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stock::Lendable;
    use crate::tiles::TileStore;

    #[test]
    fn memory_goes_back_with_the_last_group() {
        let first = Stocks::<f32>::shared();
        first.blocks.lend().output.reserve(100);
        let second = Stocks::<f32>::shared();
        assert!(Arc::ptr_eq(&first, &second) && second.blocks.bytes() >= 400);
        let left = Arc::downgrade(&first);
        drop((first, second));
        assert!(left.upgrade().is_none());
        assert_eq!(Stocks::<f32>::shared().blocks.bytes(), 0);
    }

    #[test]
    fn all_memory_of_a_piece_counts() {
        let mut part = Part::<u16>::default();
        assert_eq!(part.bytes(), 0);
        part.scratch.output.reserve_exact(10);
        part.scratch.weights.at_least(4096);
        part.scratch.scores.at_least(1);
        assert_eq!(part.bytes(), 40 + 2 * 4096 + 4 * 4096);
        let mut store = TileStore::<u16>::new(4, 16, false);
        store.reserve(16).unwrap();
        let mut settling = Settling::default();
        store.take(0..1, &mut settling.vectors);
        settling.keys.reserve_exact(100);
        assert_eq!(settling.bytes(), 2 * 16 * 20 + 400);
    }
}
