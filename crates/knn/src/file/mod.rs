//! Index files: arrays that live in memory or in a mapped file, and the format that keeps them.
//!
//! # Format, version 1
//!
//! All numbers are little-endian. A file is a header, sections and the table of the sections:
//!
//! | bytes | header of 128 bytes |
//! | --- | --- |
//! | 0–7 | `89 4b 4e 4e 0d 0a 1a 0a` |
//! | 8–11 | format version, u32 |
//! | 12–15 | number of sections, u32 |
//! | 16–23 | bytes of the file, u64 |
//! | 24–31 | first byte of the table, u64 |
//! | 32–35 | CRC-32 of the table |
//! | 36–59 | dimensions, value dimensions, metric, storage, algorithm asked for, algorithm in use: u32 each |
//! | 60–63 | zeros |
//! | 64–87 | seed, vectors, slots: u64 each |
//! | 88–123 | zeros |
//! | 124–127 | CRC-32 of bytes 0–123 |
//!
//! Each section is one array of numbers. It begins at the next multiple of 64 bytes after the header or the section
//! before; the bytes between are zeros. The table begins at such a multiple too, and ends the file:
//!
//! | bytes | entry of 32 bytes |
//! | --- | --- |
//! | 0–7 | name, ASCII, zeros behind |
//! | 8–11 | kind of its numbers: bytes of each, plus 16 if signed, plus 32 if floating |
//! | 12–15 | CRC-32 of the section |
//! | 16–23 | first byte, u64 |
//! | 24–31 | bytes, u64 |
//!
//! An array in parts has every part begin at the next multiple of 64 bytes within the section, so that each can be a
//! [`Buffer`] over a mapped file.
//!
//! CRC-32 is that of zlib and PNG. Which sections there are, and in which order, follows from the header and the
//! sections before; each structure describes its own.
//!
//! # Guarantees
//!
//! - Every byte of a file is either covered by a checksum or must be zero, so a changed byte is an error. (Checksums
//!   of sections can be left out when a file is opened, see [`Reader::open`]; those of the header and the table
//!   cannot. What was read is then still safe to use: slots, counts and ids are checked in any case.)
//! - Sections can neither overlap nor reach beyond the file, and nothing is allocated by a number that the file's own
//!   size does not bear out.
//! - [`replace`] leaves the old file or the new one, whatever happens.
//!
//! A mapped file must not be changed in place, or cut short, by anyone while it is open: the arrays would change, and
//! reading behind the new end kills the process (`SIGBUS`), as with every reader of mapped files. Replacing or
//! removing it is fine where the system keeps removed files until they are closed (not on Windows, where both fail).

pub(crate) mod accepted;
mod buffer;
mod header;
mod number;
mod reader;
mod replacement;
mod writer;

use std::io::Error as IoError;

pub(crate) use buffer::Buffer;
pub(crate) use header::Description;
pub(crate) use number::Number;
pub(crate) use reader::Reader;
pub(crate) use replacement::replace;
pub(crate) use writer::Writer;

use crate::error::Error;

/// The system could not do something with a file.
fn io_error(action: &'static str, file: &str, error: &IoError) -> Error {
    Error::Io { action, file: file.to_owned(), problem: error.to_string(), os_code: error.raw_os_error() }
}

/// A folder, a device or the like.
fn not_a_file(action: &'static str, file: &str) -> Error {
    Error::Io { action, file: file.to_owned(), problem: "it is not a regular file".to_owned(), os_code: None }
}

#[cfg(test)]
mod tests;
