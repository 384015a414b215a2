//! Reading a file, array after array, in the order they were written.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use crc32fast::Hasher;
use memmap2::Mmap;

use super::buffer::{ALIGNMENT, Buffer};
use super::header::{Description, ENTRY, HEADER, Header, Section, aligned};
use super::number::{Number, bytes_of, bytes_of_mut};
use crate::error::{Error, Result};

/// Where the bytes are.
enum Source<'a> {
    Bytes(&'a [u8]),
    Mapped(Arc<Mmap>),
    File(File),
}

/// Reads the sections of a file one after another.
///
/// Whatever the file says, no more memory is asked for than the file has bytes.
pub(crate) struct Reader<'a> {
    source: Source<'a>,
    file: String,
    header: Header,
    sections: Vec<Section>,
    /// The next section to be read.
    next: usize,
    /// Whether sections are compared with their checksums.
    verify: bool,
}

impl<'a> Reader<'a> {
    /// Reads from bytes in memory, always with checksums.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self> {
        Self::new(Source::Bytes(bytes), "the bytes".to_owned(), bytes.len() as u64, true)
    }

    /// Reads from a file: with `mapped`, arrays refer to the file and are loaded by the system as they are used;
    /// without, they are copied into memory. With `verify`, sections are compared with their checksums, which
    /// reads all of them once.
    pub fn open(path: &Path, mapped: bool, verify: bool) -> Result<Self> {
        let name = path.display().to_string();
        let failed = |action: &'static str| {
            let name = name.clone();
            move |error: std::io::Error| super::io_error(action, &name, &error)
        };
        let file = File::open(path).map_err(failed("open"))?;
        let metadata = file.metadata().map_err(failed("open"))?;
        if !metadata.is_file() {
            return Err(super::not_a_file("open", &name));
        }
        let length = metadata.len();
        // An empty file cannot be mapped; nor is it an index.
        let source = if mapped && length > 0 {
            // SAFETY: the documentation of opening forbids to change the file meanwhile. Saving never does, it
            // replaces the file as a whole.
            Source::Mapped(Arc::new(unsafe { Mmap::map(&file) }.map_err(failed("map"))?))
        } else {
            Source::File(file)
        };
        let length = if let Source::Mapped(map) = &source { map.len() as u64 } else { length };
        Self::new(source, name, length, verify)
    }

    fn new(source: Source<'a>, file: String, length: u64, verify: bool) -> Result<Self> {
        let start = Header { length, table: 0, sections: 0, table_checksum: 0, description: Description::default() };
        let mut reader = Self { source, file, header: start, sections: Vec::new(), next: 0, verify };
        let mut first = [0; HEADER];
        let first = &mut first[..length.min(HEADER as u64) as usize];
        reader.copy(0, first, "header")?;
        reader.header = Header::decode(first, length, &reader.file)?;
        reader.read_table()?;
        Ok(reader)
    }

    /// What kind of index the file holds; to be checked before use.
    pub fn description(&self) -> &Description {
        &self.header.description
    }

    /// Bytes of the file: no number of things in it can be larger.
    pub fn length(&self) -> u64 {
        self.header.length
    }

    /// Whether everything read is checked, and not only what keeps it safe to use.
    pub fn verifies(&self) -> bool {
        self.verify
    }

    /// The next section, which must have this name and consist of such numbers.
    pub fn section<T: Number>(&mut self, name: &'static str) -> Result<Buffer<T>> {
        let len = self.peek::<T>(name)?;
        self.section_of(name, len)
    }

    /// The next section, which must also have this many numbers.
    pub fn section_of<T: Number>(&mut self, name: &'static str, len: usize) -> Result<Buffer<T>> {
        let mut parts = self.parts(name, std::iter::once(len))?;
        Ok(parts.pop().unwrap_or_default())
    }

    /// The next section in the parts it was written in, see [`super::writer::Part::begin`]: their numbers of numbers.
    pub fn parts<T: Number>(
        &mut self,
        name: &'static str,
        lengths: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<Buffer<T>>> {
        self.peek::<T>(name)?;
        let section = self.sections[self.next];
        let mut hasher = Hasher::new();
        let mut parts = Vec::new();
        // Bytes of the section that have been read.
        let mut position = 0;
        for len in lengths {
            let start = aligned(position);
            let end = (len as u64).checked_mul(size_of::<T>() as u64).zip(start).and_then(|(n, at)| at.checked_add(n));
            let (Some(start), Some(end)) = (start, end.filter(|&end| end <= section.bytes)) else {
                return Err(self.corrupt(name, format!("{} bytes, there should be more", section.bytes)));
            };
            if self.verify {
                self.hash_gap(section.offset + position, start - position, name, &mut hasher)?;
            }
            let buffer = self.buffer::<T>(section.offset + start, len, name)?;
            if self.verify {
                hasher.update(bytes_of(&buffer));
            }
            parts.try_reserve(1).map_err(|_| Error::OutOfMemory { bytes: size_of_val(&parts[..]) })?;
            parts.push(buffer);
            position = end;
        }
        if position != section.bytes {
            return Err(self.corrupt(name, format!("{} bytes, there should be {position}", section.bytes)));
        }
        if self.verify {
            let checksum = hasher.finalize();
            if checksum != section.checksum {
                let problem = format!("checksum {checksum:08x}, stored is {:08x}", section.checksum);
                return Err(self.corrupt(name, problem));
            }
            self.check_padding(&section, name)?;
        }
        self.next += 1;
        Ok(parts)
    }

    /// All sections must have been read.
    pub fn finish(self) -> Result<()> {
        if self.next < self.sections.len() {
            return Err(self.corrupt("table", format!("{} sections too many", self.sections.len() - self.next)));
        }
        Ok(())
    }

    /// An error about the section to be read next.
    pub fn corrupt(&self, section: &'static str, problem: String) -> Error {
        self.corrupt_at(section, self.sections.get(self.next).map_or(self.header.table, |next| next.offset), problem)
    }

    /// An error about a number of the section read last.
    pub fn invalid<T: Number>(&self, section: &'static str, position: usize, problem: String) -> Error {
        let start = self.next.checked_sub(1).map_or(0, |last| self.sections[last].offset);
        self.corrupt_at(section, start + (position * size_of::<T>()) as u64, problem)
    }

    /// An error at a byte of the file.
    pub fn corrupt_at(&self, section: &'static str, offset: u64, problem: String) -> Error {
        Error::FileCorrupt { file: self.file.clone(), section, offset, problem }
    }

    /// Numbers in the next section, whose name and kind are checked.
    fn peek<T: Number>(&self, name: &'static str) -> Result<usize> {
        let Some(section) = self.sections.get(self.next) else {
            return Err(self.corrupt("table", format!("section {name} is missing")));
        };
        if section.name != Section::pack(name) {
            let found = section.name.escape_ascii();
            return Err(self.corrupt("table", format!("section {found} where {name} should be")));
        }
        let size = size_of::<T>() as u64;
        if section.kind != T::KIND || section.bytes % size != 0 {
            let problem = format!(
                "{} bytes of numbers of kind {}, there should be whole ones of kind {}",
                section.bytes,
                section.kind,
                T::KIND
            );
            return Err(self.corrupt(name, problem));
        }
        usize::try_from(section.bytes / size).map_err(|_| Error::OutOfMemory { bytes: usize::MAX })
    }

    fn read_table(&mut self) -> Result<()> {
        let Header { table, sections, .. } = self.header;
        let mut entries = Buffer::<u8>::try_zeroed(sections as usize * ENTRY)?;
        let bytes = entries.make_mut()?;
        self.copy(table, bytes, "table")?;
        let checksum = crc32fast::hash(bytes);
        let corrupt = |reader: &Self, problem: String| Err(reader.corrupt_at("table", table, problem));
        if checksum != self.header.table_checksum {
            let problem = format!("checksum {checksum:08x}, stored is {:08x}", self.header.table_checksum);
            return corrupt(self, problem);
        }
        // Sections follow one another without a gap, up to the table: none can overlap another.
        let mut position = HEADER as u64;
        for (i, entry) in bytes.chunks_exact(ENTRY).enumerate() {
            let section = Section::decode(entry);
            let end = section.offset.checked_add(section.bytes).and_then(aligned);
            if section.offset != position || end.is_none_or(|end| end > table) {
                let Section { offset, bytes, .. } = section;
                return corrupt(self, format!("section {i} has {bytes} bytes from {offset}, expected from {position}"));
            }
            position = end.unwrap_or(position);
            self.sections.push(section);
        }
        if position != table {
            return corrupt(self, format!("the sections end at {position}, not at the table"));
        }
        Ok(())
    }

    /// `len` numbers from a byte of the file; within a section.
    fn buffer<T: Number>(&mut self, offset: u64, len: usize, name: &'static str) -> Result<Buffer<T>> {
        if let Source::Mapped(map) = &self.source {
            // SAFETY: every byte pattern is a number, and nobody changes the file (see `open`).
            return Ok(unsafe { Buffer::mapped(map, offset as usize, len) });
        }
        let mut buffer = Buffer::try_zeroed(len)?;
        self.copy(offset, bytes_of_mut(buffer.make_mut()?), name)?;
        Ok(buffer)
    }

    /// Hashes the fewer than 64 bytes between two parts.
    fn hash_gap(&mut self, offset: u64, len: u64, name: &'static str, hasher: &mut Hasher) -> Result<()> {
        let mut gap = [0; ALIGNMENT];
        let gap = &mut gap[..len as usize];
        self.copy(offset, gap, name)?;
        hasher.update(gap);
        Ok(())
    }

    fn check_padding(&mut self, section: &Section, name: &'static str) -> Result<()> {
        let end = section.offset + section.bytes;
        let mut padding = [0; ALIGNMENT];
        let padding = &mut padding[..(aligned(end).unwrap_or(end) - end) as usize];
        self.copy(end, padding, name)?;
        match padding.iter().position(|&byte| byte != 0) {
            Some(at) => Err(self.corrupt_at(name, end + at as u64, "bytes after the section are not zero".to_owned())),
            None => Ok(()),
        }
    }

    /// Copies bytes of the file, which has them unless it became shorter since it was opened.
    fn copy(&mut self, offset: u64, bytes: &mut [u8], section: &'static str) -> Result<()> {
        let start = offset as usize;
        match &mut self.source {
            Source::Bytes(all) => bytes.copy_from_slice(&all[start..start + bytes.len()]),
            Source::Mapped(map) => bytes.copy_from_slice(&map[start..start + bytes.len()]),
            Source::File(file) => {
                let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(bytes));
                if let Err(error) = read {
                    return Err(if error.kind() == ErrorKind::UnexpectedEof {
                        self.corrupt_at(section, offset, "the file became shorter while it was read".to_owned())
                    } else {
                        super::io_error("read", &self.file, &error)
                    });
                }
            }
        }
        Ok(())
    }
}
