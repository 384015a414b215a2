//! Writing a file, array after array.

use std::marker::PhantomData;

use crc32fast::Hasher;

use super::buffer::ALIGNMENT;
use super::header::{Description, HEADER, Header, Section, aligned};
use super::number::{Number, bytes_of};
use crate::error::{Error, Result};

/// Where a file is written to: forward, and at the end its first bytes once more.
pub(crate) trait Sink {
    /// Appends.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Replaces the first bytes, all written before.
    fn replace_start(&mut self, bytes: &[u8]) -> Result<()>;
}

impl Sink for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.try_reserve(bytes.len()).map_err(|_| Error::OutOfMemory { bytes: self.len() + bytes.len() })?;
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn replace_start(&mut self, bytes: &[u8]) -> Result<()> {
        self[..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// Writes the sections of a file one after another.
pub(crate) struct Writer<'a> {
    sink: &'a mut dyn Sink,
    position: u64,
    sections: Vec<Section>,
}

/// A section being written.
pub(crate) struct Part<'a, 'b, T> {
    writer: &'a mut Writer<'b>,
    hasher: Hasher,
    /// Bytes written.
    bytes: u64,
    numbers: PhantomData<T>,
}

impl<T: Number> Part<'_, '_, T> {
    /// Appends numbers.
    pub fn push(&mut self, values: &[T]) -> Result<()> {
        self.append(bytes_of(values))
    }

    /// Begins the next part, which can be read as a buffer of its own.
    pub fn begin(&mut self) -> Result<()> {
        let next = aligned(self.bytes).unwrap_or(self.bytes);
        self.append(&[0; ALIGNMENT][..(next - self.bytes) as usize])
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.writer.append(bytes)
    }
}

impl<'a> Writer<'a> {
    pub fn new(sink: &'a mut dyn Sink) -> Result<Self> {
        let mut writer = Self { sink, position: 0, sections: Vec::new() };
        // Overwritten at the end: until then the file does not begin as an index does.
        writer.append(&[0; HEADER])?;
        Ok(writer)
    }

    /// Writes one array.
    pub fn section<T: Number>(&mut self, name: &'static str, values: &[T]) -> Result<()> {
        self.section_with(name, |part| part.push(values))
    }

    /// Writes one array in parts, as many as `write` pushes.
    pub fn section_with<T: Number>(
        &mut self,
        name: &'static str,
        write: impl FnOnce(&mut Part<'_, 'a, T>) -> Result<()>,
    ) -> Result<()> {
        let offset = self.align()?;
        let mut part = Part { writer: self, hasher: Hasher::new(), bytes: 0, numbers: PhantomData };
        write(&mut part)?;
        let (checksum, bytes) = (part.hasher.finalize(), part.bytes);
        self.sections.push(Section { name: Section::pack(name), kind: T::KIND, checksum, offset, bytes });
        Ok(())
    }

    /// Writes the section table and the header.
    pub fn finish(mut self, description: Description) -> Result<()> {
        let table = self.align()?;
        let entries: Vec<u8> = self.sections.iter().flat_map(Section::encode).collect();
        self.append(&entries)?;
        let header = Header {
            length: self.position,
            table,
            sections: self.sections.len() as u32,
            table_checksum: crc32fast::hash(&entries),
            description,
        };
        self.sink.replace_start(&header.encode())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.append(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Pads with zeros to where a section may begin.
    fn align(&mut self) -> Result<u64> {
        let next = aligned(self.position).ok_or(Error::OutOfMemory { bytes: usize::MAX })?;
        self.append(&[0; ALIGNMENT][..(next - self.position) as usize])?;
        Ok(next)
    }
}
