//! How the numbers of a vector are stored.

/// How the numbers of a vector are stored. Scores are always those of the stored (rounded) vector and the
/// unrounded query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// Four bytes each, as given.
    F32,
    /// Two bytes each, IEEE half precision: 11 significant bits, up to 65,504.
    F16,
    /// Two bytes each, the upper half of an `f32`: 8 significant bits, the whole range.
    Bf16,
    /// One byte each: whole multiples of a 127th of the vector's largest component.
    I8,
}

impl Storage {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Bf16, Self::I8];

    /// Bytes of one number.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 => 1,
        }
    }
}
