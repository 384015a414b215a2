//! iceformer-knn
