//! The first bytes of a file: what it is, and what kind of index it holds.

use crate::error::{Error, Result};

/// What a file begins with. As in PNG, a byte that is no ASCII and both kinds of line ends: a transfer as text
/// destroys it.
pub(crate) const MAGIC: [u8; 8] = *b"\x89KNN\r\n\x1a\n";

/// The version that is written, and the only one that is read.
pub(crate) const VERSION: u32 = 1;

/// Bytes of the header; the first section follows it.
pub(crate) const HEADER: usize = 128;

/// Bytes of an entry in the section table.
pub(crate) const ENTRY: usize = 32;

/// The kind of an index. The file keeps these numbers; what they mean is up to the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Description {
    pub dimensions: u32,
    pub value_dimensions: u32,
    pub metric: u32,
    pub storage: u32,
    /// What was asked for.
    pub algorithm: u32,
    /// The algorithm whose sections follow.
    pub structure: u32,
    pub seed: u64,
    /// Vectors.
    pub len: u64,
    /// Slots, free ones included.
    pub slots: u64,
}

/// Where everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of the whole file.
    pub length: u64,
    /// First byte of the section table, which ends the file.
    pub table: u64,
    pub sections: u32,
    /// Checksum of the section table.
    pub table_checksum: u32,
    pub description: Description,
}

impl Header {
    /// The header as the file keeps it, its checksum included.
    pub fn encode(&self) -> [u8; HEADER] {
        let d = &self.description;
        let mut bytes = [0; HEADER];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&MAGIC);
        put(&VERSION.to_le_bytes());
        put(&self.sections.to_le_bytes());
        put(&self.length.to_le_bytes());
        put(&self.table.to_le_bytes());
        put(&self.table_checksum.to_le_bytes());
        for number in [d.dimensions, d.value_dimensions, d.metric, d.storage, d.algorithm, d.structure] {
            put(&number.to_le_bytes());
        }
        put(&[0; 4]);
        for number in [d.seed, d.len, d.slots] {
            put(&number.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes[..HEADER - 4]);
        bytes[HEADER - 4..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header off the first bytes of a file of `length` bytes: `HEADER` of them, or all if the file is
    /// shorter.
    pub fn decode(bytes: &[u8], length: u64, file: &str) -> Result<Self> {
        let corrupt = |offset: u64, problem: String| Error::FileCorrupt {
            file: file.to_owned(),
            section: "header",
            offset,
            problem,
        };
        if !bytes.starts_with(&MAGIC) {
            return Err(Error::NotAnIndex { file: file.to_owned() });
        }
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if bytes.len() >= 12 && number(8) != VERSION {
            return Err(Error::FileVersion { file: file.to_owned(), version: number(8), supported: VERSION });
        }
        if bytes.len() < HEADER {
            return Err(corrupt(length, format!("it ends after {length} bytes, within the header of {HEADER}")));
        }
        let checksum = crc32fast::hash(&bytes[..HEADER - 4]);
        if checksum != number(HEADER - 4) {
            return Err(corrupt(0, format!("checksum {checksum:08x}, stored is {:08x}", number(HEADER - 4))));
        }
        let header = Self {
            sections: number(12),
            length: long(16),
            table: long(24),
            table_checksum: number(32),
            description: Description {
                dimensions: number(36),
                value_dimensions: number(40),
                metric: number(44),
                storage: number(48),
                algorithm: number(52),
                structure: number(56),
                seed: long(64),
                len: long(72),
                slots: long(80),
            },
        };
        if header.length != length {
            return Err(corrupt(16, format!("it has {length} bytes, should have {}", header.length)));
        }
        let table = u64::from(header.sections) * ENTRY as u64;
        if header.table < HEADER as u64 || header.table.checked_add(table) != Some(length) {
            return Err(corrupt(
                24,
                format!("a table of {} sections at byte {} does not end the file", header.sections, header.table),
            ));
        }
        Ok(header)
    }
}

/// One array in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Section {
    /// ASCII, zeros behind.
    pub name: [u8; 8],
    /// [`crate::file::Number::KIND`] of its numbers.
    pub kind: u32,
    /// CRC-32 of its bytes.
    pub checksum: u32,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Section {
    /// The name as the table keeps it.
    pub fn pack(name: &'static str) -> [u8; 8] {
        assert!(name.len() <= 8 && name.is_ascii(), "the name of a section has at most 8 ASCII letters");
        let mut packed = [0; 8];
        packed[..name.len()].copy_from_slice(name.as_bytes());
        packed
    }

    /// The entry of the table.
    pub fn encode(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.name);
        bytes[8..12].copy_from_slice(&self.kind.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_le_bytes());
        bytes[24..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    /// Reads an entry of the table, `[ENTRY]`.
    pub fn decode(bytes: &[u8]) -> Self {
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Self {
            name: bytes[..8].try_into().expect("eight bytes"),
            kind: number(8),
            checksum: number(12),
            offset: long(16),
            bytes: long(24),
        }
    }
}

/// The first byte at or after `position` where a section may begin.
pub(crate) const fn aligned(position: u64) -> Option<u64> {
    position.checked_next_multiple_of(super::buffer::ALIGNMENT as u64)
}
