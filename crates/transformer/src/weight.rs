//! A tensor in a safetensors file, read by position.
//!
//! Weights are read once, on the way into their packed form. Positioned reads are used instead of a memory map: a
//! file that is truncated while it is read gives an error, where a map would end the process with SIGBUS, and the
//! file's pages never count as this process's memory.

use std::fs::File;
use std::path::PathBuf;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::error::{Result, TransformerError};
use crate::memory::{out_of_memory, try_zeroed};

/// The element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
}

impl StoredType {
    /// Bytes per element.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The type of a safetensors name (`F32`, `F16`, `BF16`), if weights can be read from it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::Bf16),
            _ => None,
        }
    }
}

/// Where a tensor lies and what it holds. Making one reads nothing.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// The tensor's role in messages, for example `layers.3.q`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Element type.
    pub dtype: StoredType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Where the first element lies in the file, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

impl StoredTensor {
    /// Checks the shape against what the model needs, and the length against the shape.
    pub fn expect_shape(&self, expected: &[usize]) -> Result<()> {
        if self.shape != expected {
            return Err(TransformerError::TensorShape {
                name: self.name.clone(),
                found: self.shape.clone(),
                expected: expected.to_vec(),
            });
        }
        let needed = expected.iter().try_fold(self.dtype.bytes() as u64, |bytes, &size| bytes.checked_mul(size as u64));
        if needed != Some(self.length) {
            return Err(TransformerError::TensorLength {
                name: self.name.clone(),
                found: self.length,
                expected: needed.unwrap_or(u64::MAX),
            });
        }
        if self.offset.checked_add(self.length).is_none() {
            return Err(self.file_error(format!("offset {} plus length {} overflows", self.offset, self.length)));
        }
        Ok(())
    }

    /// Opens the file for reading rows; fails if it is too short to hold the tensor.
    pub fn open(&self) -> Result<TensorReader<'_>> {
        let file = File::open(&self.path).map_err(|error| self.file_error(error.to_string()))?;
        let found = file.metadata().map_err(|error| self.file_error(error.to_string()))?.len();
        let end = self.offset.saturating_add(self.length);
        if found < end {
            return Err(self.file_error(format!("the file has {found} bytes, the tensor ends at byte {end}")));
        }
        Ok(TensorReader { tensor: self, file })
    }

    /// Reads the whole tensor as f32. For vectors: norm weights and biases.
    pub fn read_vector(&self) -> Result<Vec<f32>> {
        let reader = self.open()?;
        let length = self.shape.iter().product();
        let mut values = try_zeroed(length, &self.name)?;
        reader.read(0, &mut Vec::new(), &mut values)?;
        Ok(values)
    }

    fn file_error(&self, reason: String) -> TransformerError {
        TransformerError::TensorFile { name: self.name.clone(), path: self.path.clone(), reason }
    }
}

/// An open tensor; may be shared by several threads.
#[derive(Debug)]
pub struct TensorReader<'a> {
    tensor: &'a StoredTensor,
    file: File,
}

impl TensorReader<'_> {
    /// Reads `out.len()` elements from element `start` on as f32. `bytes` is room to read into, grown as needed and
    /// kept by the caller for the next call.
    pub fn read(&self, start: usize, bytes: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
        let size = self.tensor.dtype.bytes();
        let needed = out.len() * size;
        if bytes.len() < needed {
            bytes.try_reserve_exact(needed - bytes.len()).map_err(|_| out_of_memory(needed, &self.tensor.name))?;
            bytes.resize(needed, 0);
        }
        let bytes = &mut bytes[..needed];
        let first = (start * size) as u64;
        if first + needed as u64 > self.tensor.length {
            return Err(self
                .tensor
                .file_error(format!("elements {start} to {} lie outside the tensor", start + out.len())));
        }
        read_exact_at(&self.file, bytes, self.tensor.offset + first)
            .map_err(|error| self.tensor.file_error(error.to_string()))?;
        decode(self.tensor.dtype, bytes, out);
        Ok(())
    }
}

/// Turns little-endian elements of a stored type into f32, exactly.
fn decode(dtype: StoredType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        StoredType::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        StoredType::F16 => {
            // Through a small block, since the bytes need not be aligned for u16.
            let mut block = [f16::ZERO; 256];
            for (out, bytes) in out.chunks_mut(256).zip(bytes.chunks(512)) {
                for (half, bytes) in block.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *half = f16::from_le_bytes(*bytes);
                }
                block[..out.len()].convert_to_f32_slice(out);
            }
        }
        StoredType::Bf16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        let read = file.seek_read(bytes, offset)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[read..];
        offset += read as u64;
    }
    Ok(())
}
