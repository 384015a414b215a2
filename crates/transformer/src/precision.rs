//! The type that weights are kept in and products are computed from.

/// Storage of packed weights, and of the activations that meet them in a product. Sums are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Single precision.
    F32,
    /// bfloat16: half the memory traffic, 8 bits of mantissa.
    Bf16,
}

impl Precision {
    /// Bytes per element.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}
