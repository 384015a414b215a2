//! iceformer-threads
