//! Arrays that live in memory or in a file.

mod buffer;
mod number;

pub(crate) use buffer::Buffer;
pub(crate) use number::Number;
