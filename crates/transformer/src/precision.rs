//! The type that weights are kept in and products are computed from.

/// Storage of packed weights, and of the activations that meet them in a product. Sums are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Single precision.
    F32,
    /// bfloat16: half the memory traffic, 8 bits of mantissa.
    Bf16,
    /// Whole numbers of one byte, -127 to 127, times a scale for each [`GROUP_INPUTS`] inputs of an output or of a row
    /// of activations. Activations are quantized where they are stored.
    Int8,
}

/// Inputs that share a scale in [`Precision::Int8`]; at the end of a row they can be fewer. Scales of weights and of
/// activations are for the same inputs. A multiple of 64, the inputs that one step on tile registers takes.
pub const GROUP_INPUTS: usize = 128;

impl Precision {
    /// Bytes per element, scales not counted.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::Int8 => 1,
        }
    }
}
