//! Functions of the standard library that are younger than the compiler of this check.

pub use std::mem::{align_of, size_of};

pub trait Multiple: Copy {
    fn is_multiple_of(self, of: Self) -> bool;
    fn div_ceil(self, by: Self) -> Self;
    fn next_multiple_of(self, of: Self) -> Self;
}

macro_rules! multiple {
    ($($t:ty)*) => {$(
        impl Multiple for $t {
            fn is_multiple_of(self, of: Self) -> bool {
                self % of == 0
            }
            fn div_ceil(self, by: Self) -> Self {
                (self + by - 1) / by
            }
            fn next_multiple_of(self, of: Self) -> Self {
                Multiple::div_ceil(self, of) * of
            }
        }
    )*};
}
multiple!(usize u64);

pub trait Round {
    fn round_ties_even(self) -> Self;
}

impl Round for f32 {
    fn round_ties_even(self) -> Self {
        let away = self.round();
        if (self - self.trunc()).abs() == 0.5 && away % 2.0 != 0.0 { away - self.signum() } else { away }
    }
}
