//! napi binding of `@iceformer/transformer`.
