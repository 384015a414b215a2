//! napi binding of `@iceformer/knn-index`: conversion of arguments and errors, and dispatch. The
//! TypeScript door validates what only JavaScript can get wrong; everything else is checked in
//! `iceformer_knn`.

#![expect(clippy::needless_pass_by_value, reason = "napi hands over options by value")]

pub mod background;
pub mod change;
mod error;
pub mod file;
pub mod group;
mod id;
pub mod index;
pub mod pool;
pub mod request;
mod search;
