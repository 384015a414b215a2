//! napi binding of `@iceformer/knn-index`.
