//! iceformer-simd
