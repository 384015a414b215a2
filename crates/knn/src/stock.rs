//! Memory that searches work in, kept between them: a bounded stock of pieces that are lent and given back.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a stock lends. A new one has no memory yet.
pub(crate) trait Lendable: Default {
    /// Bytes allocated.
    fn bytes(&self) -> usize;
}

/// Pieces of memory that nobody uses now, of `most_bytes` at most: what is given back beyond goes back to the system.
#[derive(Debug)]
pub(crate) struct Stock<P> {
    kept: Mutex<Kept<P>>,
    most_bytes: usize,
}

#[derive(Debug)]
struct Kept<P> {
    pieces: Vec<P>,
    /// Bytes of all of them.
    bytes: usize,
}

impl<P: Lendable> Stock<P> {
    /// An empty stock that keeps at most `most_bytes`.
    pub fn new(most_bytes: usize) -> Self {
        Self { kept: Mutex::new(Kept { pieces: Vec::new(), bytes: 0 }), most_bytes }
    }

    /// A piece as its last user left it, or a new one.
    pub fn lend(&self) -> Loan<'_, P> {
        let mut kept = self.kept();
        let piece = kept.pieces.pop().unwrap_or_default();
        kept.bytes -= piece.bytes();
        Loan { stock: self, piece }
    }

    /// Bytes of the pieces that nobody uses now.
    pub fn bytes(&self) -> usize {
        self.kept().bytes
    }

    /// Gives back to the system what nobody uses now.
    pub fn clear(&self) {
        *self.kept() = Kept { pieces: Vec::new(), bytes: 0 };
    }

    fn take_back(&self, piece: P) {
        let bytes = piece.bytes();
        let mut kept = self.kept();
        if kept.bytes + bytes <= self.most_bytes {
            kept.bytes += bytes;
            kept.pieces.push(piece);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept<P>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A piece on loan.
#[derive(Debug)]
pub(crate) struct Loan<'a, P: Lendable> {
    stock: &'a Stock<P>,
    piece: P,
}

impl<P: Lendable> Drop for Loan<'_, P> {
    fn drop(&mut self) {
        self.stock.take_back(std::mem::take(&mut self.piece));
    }
}

impl<P: Lendable> Deref for Loan<'_, P> {
    type Target = P;
    fn deref(&self) -> &P {
        &self.piece
    }
}

impl<P: Lendable> DerefMut for Loan<'_, P> {
    fn deref_mut(&mut self) -> &mut P {
        &mut self.piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces and bytes kept.
    fn kept(stock: &Stock<Vec<u8>>) -> (usize, usize) {
        let kept = stock.kept();
        (kept.pieces.len(), kept.bytes)
    }

    impl Lendable for Vec<u8> {
        fn bytes(&self) -> usize {
            self.capacity()
        }
    }

    #[test]
    fn keeps_what_is_given_back_up_to_a_number_of_bytes() {
        let stock = Stock::<Vec<u8>>::new(1000);
        let mut loans: Vec<_> = (0..5).map(|_| stock.lend()).collect();
        for loan in &mut loans {
            loan.reserve_exact(300);
        }
        drop(loans);
        assert_eq!(kept(&stock), (3, 900));
        // A piece that grew beyond what fits does not come back, smaller ones do.
        let mut grown = stock.lend();
        assert_eq!((grown.capacity(), stock.bytes()), (300, 600));
        grown.reserve_exact(401);
        drop(grown);
        assert_eq!(stock.bytes(), 600);
        drop([stock.lend(), stock.lend(), stock.lend()]);
        assert_eq!(kept(&stock), (3, 600));
    }

    #[test]
    fn a_piece_comes_back_as_it_was_left() {
        let stock = Stock::<Vec<u8>>::new(1000);
        stock.lend().extend([1, 2, 3]);
        assert_eq!(**stock.lend(), [1, 2, 3]);
        stock.clear();
        assert_eq!((stock.lend().capacity(), stock.bytes()), (0, 0));
    }
}
