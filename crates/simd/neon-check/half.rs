//! What the tests need of the `half` crate, for compilers that are too old for it.

/// A number of which f32 keeps the upper half.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(non_camel_case_types)]
pub struct bf16(u16);

impl bf16 {
    pub fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        if x.is_nan() {
            return Self((bits >> 16) as u16 | 0x40);
        }
        Self(((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16)
    }
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }
    pub fn to_bits(self) -> u16 {
        self.0
    }
    pub fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
    pub fn to_f64(self) -> f64 {
        f64::from(self.to_f32())
    }
    pub fn is_nan(self) -> bool {
        self.to_f32().is_nan()
    }
}
