//! napi binding of `@iceformer/knn-index`: conversion of arguments and errors, and dispatch. The
//! TypeScript door validates what only JavaScript can get wrong; everything else is checked in
//! `iceformer_knn`.

mod error;
mod group;
mod index;
mod pool;
