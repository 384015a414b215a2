//! Saving an index to a file or to bytes, and opening it again.

use std::path::Path;
use std::sync::Arc;

use iceformer_simd::kernels;
use iceformer_threads::ThreadPool;

use crate::algorithm::{Algorithm, load};
use crate::error::{Error, Result};
use crate::file::{Description, Reader, Writer, replace};
use crate::ids::IdTable;
use crate::index::{Index, IndexOptions};
use crate::limits::{MAX_DIMENSIONS, MAX_VECTORS};
use crate::metric::Metric;
use crate::snapshot::Snapshot;
use crate::storage::Storage;
use crate::structure::{Context, Shape, SlotSet};

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenOptions {
    /// Leaves the vectors in the file and lets the system load them as they are used, instead of copying them into
    /// memory. Changes are kept in memory, the file stays as it is, and may be replaced or removed (not on Windows,
    /// where both fail while it is open).
    ///
    /// Nobody may change it in place or cut it short meanwhile; saving never does. If somebody does, searches find
    /// anything, and reading behind the new end kills the process (`SIGBUS`), as with everything that maps files.
    /// Default: false.
    pub mapped: bool,
    /// Compares every section with its checksum, so that damage of any kind is an error, and checks vectors and values
    /// as if they were added. This reads the whole file once.
    ///
    /// Without it, that is left out: vectors of a damaged file may then be others, or not be found. What keeps the
    /// index safe to use is checked all the same: the header, where sections are, ids, and every number that stands
    /// for a place. Default: true.
    pub verify: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { mapped: false, verify: true }
    }
}

/// Numbers that stand for options in a file: positions in these lists.
const METRICS: [Metric; 3] = [Metric::InnerProduct, Metric::Cosine, Metric::L2];
const STORAGES: [Storage; 4] = [Storage::F32, Storage::F16, Storage::Bf16, Storage::I8];
const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::Auto, Algorithm::Exact, Algorithm::Cluster, Algorithm::Graph, Algorithm::Dci];

/// The number of an option.
fn number<T: PartialEq>(list: &[T], option: &T) -> u32 {
    list.iter().position(|other| other == option).map_or(u32::MAX, |position| position as u32)
}

impl Snapshot {
    /// Saves the vectors and everything that finds them to a file, which replaces an older one as a whole: whatever
    /// happens, the old or the new one is there. Takes no lock, so an index can change while a snapshot is saved.
    ///
    /// Fails with [`crate::Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        replace(path.as_ref(), |sink| self.write(Writer::new(sink)?))
    }

    /// What [`Snapshot::save`] would write.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // What is in use is what is written, give or take a little.
        let expected = self.stats().live_bytes / 16 * 17 + 4096;
        bytes.try_reserve_exact(expected).map_err(|_| Error::OutOfMemory { bytes: expected })?;
        self.write(Writer::new(&mut bytes)?)?;
        bytes.shrink_to_fit();
        Ok(bytes)
    }

    fn write(&self, mut writer: Writer<'_>) -> Result<()> {
        let options = self.options();
        let slots = self.table.slots();
        self.table.save(&mut writer)?;
        self.structure.save(&self.context, &mut writer, slots)?;
        writer.finish(Description {
            dimensions: options.dimensions as u32,
            value_dimensions: options.value_dimensions as u32,
            metric: number(&METRICS, &options.metric),
            storage: number(&STORAGES, &options.storage),
            algorithm: number(&ALGORITHMS, &options.algorithm),
            structure: number(&ALGORITHMS, &self.algorithm()),
            seed: options.seed,
            len: self.len() as u64,
            slots: slots as u64,
        })
    }
}

impl Index {
    /// Saves the index; see [`Snapshot::save`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.now().save(path)
    }

    /// What [`Index::save`] would write.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.now().to_bytes()
    }

    /// Opens a saved index, made on any machine, that works on `pool`.
    ///
    /// Fails with [`crate::Error::Io`], [`crate::Error::NotAnIndex`], [`crate::Error::FileVersion`] or
    /// [`crate::Error::FileCorrupt`].
    pub fn open(path: impl AsRef<Path>, options: OpenOptions, pool: ThreadPool) -> Result<Self> {
        Self::read(Reader::open(path.as_ref(), options.mapped, options.verify)?, pool)
    }

    /// An index from the bytes of [`Index::to_bytes`]. Fails like [`Index::open`].
    pub fn from_bytes(bytes: &[u8], pool: ThreadPool) -> Result<Self> {
        Self::read(Reader::from_bytes(bytes)?, pool)
    }

    fn read(mut reader: Reader<'_>, pool: ThreadPool) -> Result<Self> {
        let description = *reader.description();
        let (options, in_use) = options(&reader, &description)?;
        let (len, slots) = (description.len, description.slots);
        // Each slot has an id of 8 bytes.
        if len > slots || slots > MAX_VECTORS as u64 || slots > reader.length() / 8 {
            return Err(reader.corrupt_at("header", 72, format!("{len} vectors in {slots} slots")));
        }
        let IndexOptions { dimensions, metric, storage, value_dimensions, seed, .. } = options;
        let shape = Shape { dimensions, value_dimensions, metric, storage };
        let context = Context { shape, kernels: kernels(), pool, seed };
        let table = IdTable::load(&mut reader, slots as usize, len as usize)?;
        let mut taken = SlotSet::new(table.slots());
        table.iter().for_each(|(slot, _)| taken.insert(slot));
        let structure = load(options.algorithm, &context, &mut reader, &taken, table.slots())?;
        let mut now = Snapshot::new(options, context, structure);
        if now.algorithm() != in_use {
            return Err(reader.corrupt_at("header", 56, "another algorithm than the sections'".to_owned()));
        }
        reader.finish()?;
        now.table = Arc::new(table);
        Ok(Self::of(now))
    }
}

/// The options that a header describes, and the algorithm in use.
fn options(reader: &Reader<'_>, description: &Description) -> Result<(IndexOptions, Algorithm)> {
    let corrupt = |offset: u64, what: &str, value: u32| {
        reader.corrupt_at("header", offset, format!("{what} {value} is not one of this version"))
    };
    let dimensions = description.dimensions as usize;
    if dimensions == 0 || dimensions > MAX_DIMENSIONS {
        return Err(corrupt(36, "number of dimensions", description.dimensions));
    }
    let value_dimensions = description.value_dimensions as usize;
    if value_dimensions > MAX_DIMENSIONS {
        return Err(corrupt(40, "number of value dimensions", description.value_dimensions));
    }
    let algorithm = |offset: u64, number: u32| {
        ALGORITHMS.get(number as usize).copied().ok_or_else(|| corrupt(offset, "algorithm", number))
    };
    let metric = METRICS.get(description.metric as usize);
    let storage = STORAGES.get(description.storage as usize);
    let options = IndexOptions {
        dimensions,
        metric: *metric.ok_or_else(|| corrupt(44, "metric", description.metric))?,
        storage: *storage.ok_or_else(|| corrupt(48, "storage", description.storage))?,
        algorithm: algorithm(52, description.algorithm)?,
        seed: description.seed,
        value_dimensions,
    };
    Ok((options, algorithm(56, description.structure)?))
}
