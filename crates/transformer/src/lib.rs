//! iceformer-transformer
