//! A saved index, opened again, is the same index: it finds the same, and stays the same through the same changes.
//! A damaged file is an error.

mod random;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use iceformer_knn::{
    Algorithm, AverageOptions, Index, IndexOptions, Metric, OpenOptions, RadiusOptions, SearchOptions, Storage,
};
use iceformer_threads::ThreadPool;
use proptest::prelude::*;
use random::Random;

const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::Auto, Algorithm::Exact, Algorithm::Cluster, Algorithm::Graph, Algorithm::Dci];
const METRICS: [Metric; 3] = [Metric::InnerProduct, Metric::Cosine, Metric::L2];

/// One for all: tens of thousands of indexes are opened.
fn pool() -> ThreadPool {
    static POOL: LazyLock<ThreadPool> = LazyLock::new(|| ThreadPool::new(2));
    POOL.clone()
}

/// Numbers between −1 and 1, the same for the same seed.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    Random::mixed(seed).vector(len)
}

/// An index of `n` vectors after some churn: ids in no order, freed slots, values.
fn index(options: IndexOptions, n: usize) -> Index {
    let mut index = Index::new(options, pool()).unwrap();
    let values = |seed, n: usize| numbers(seed, n * options.value_dimensions);
    let vectors = |seed, n: usize| numbers(seed, n * options.dimensions);
    let add = |index: &mut Index, ids: &[u64], seed| {
        let values = values(seed, ids.len());
        let values = (options.value_dimensions > 0).then_some(&values[..]);
        index.add_batch(&vectors(seed, ids.len()), Some(ids), values).unwrap();
    };
    let ids: Vec<u64> = (0..n as u64).map(|i| i * 7919 % (1 << 20)).collect();
    add(&mut index, &ids, 1);
    let gone: Vec<u64> = ids.iter().copied().filter(|id| id % 3 == 0).collect();
    index.remove_batch(&gone).unwrap();
    let back: Vec<u64> = gone.iter().take(gone.len() / 2).map(|id| id + (1 << 40)).collect();
    add(&mut index, &back, 2);
    index
}

/// All that can be seen of an index, as bits.
fn seen(index: &Index, seed: u64) -> Vec<u64> {
    let options = *index.options();
    let queries = numbers(seed, 5 * options.dimensions);
    let mut seen = vec![index.len() as u64, index.largest_id().unwrap_or(0), index.stats().clusters as u64];
    for (exact, effort) in [(true, None), (false, Some(0.02)), (false, Some(0.3)), (false, Some(1.0))] {
        let found = index.search(&queries, SearchOptions { exact, effort, ..SearchOptions::nearest(10) }).unwrap();
        seen.extend(found.ids);
        seen.extend(found.scores.iter().map(|score| u64::from(score.to_bits())));
        seen.extend(found.counts.iter().map(|&count| u64::from(count)));
    }
    let near = index.search_radius(&queries, 0.5, RadiusOptions::default()).unwrap();
    seen.extend(near.ids);
    if options.value_dimensions > 0 {
        for mass_target in [0.5, 1.0] {
            let options = AverageOptions { scale: 2.0, mass_target, cancel: None };
            let averages = index.snapshot().soft_search(&queries, options).unwrap();
            let numbers = [averages.values, averages.log_sum_exp, averages.retained_mass].concat();
            seen.extend(numbers.iter().map(|x| u64::from(x.to_bits())));
        }
    }
    for id in index.ids() {
        seen.push(id);
        seen.extend(index.get(id).unwrap().iter().map(|x| u64::from(x.to_bits())));
        if options.value_dimensions > 0 {
            seen.extend(index.value(id).unwrap().iter().map(|x| u64::from(x.to_bits())));
        }
    }
    seen
}

/// The same changes for every index: so many that structures are made anew.
fn change(index: &mut Index) {
    let options = *index.options();
    let gone: Vec<u64> = index.ids().into_iter().step_by(5).collect();
    assert_eq!(index.remove_batch(&gone).unwrap(), gone.len());
    let n = index.len() + gone.len();
    let values = numbers(4, n * options.value_dimensions);
    let values = (options.value_dimensions > 0).then_some(&values[..]);
    index.add_batch(&numbers(3, n * options.dimensions), None, values).unwrap();
}

/// A folder of its own for a test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("knn-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("index.knn")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The index of a file, in every way there is to open it.
fn open_all(path: &Path) -> Vec<Index> {
    let mut opened = vec![Index::from_bytes(&std::fs::read(path).unwrap(), pool()).unwrap()];
    for (mapped, verify) in [(false, true), (true, true), (false, false), (true, false)] {
        opened.push(Index::open(path, OpenOptions { mapped, verify }, pool()).unwrap());
    }
    opened
}

fn round_trip(algorithm: Algorithm, metric: Metric, storage: Storage, value_dimensions: usize, n: usize) {
    let name = format!("{algorithm:?}-{metric:?}-{storage:?}-{value_dimensions}-{n}");
    let options = IndexOptions { metric, storage, algorithm, seed: 5, value_dimensions, ..IndexOptions::new(9) };
    let mut original = index(options, n);
    let folder = Folder::new(&name);
    original.save(folder.file()).unwrap();
    assert!(original.to_bytes().unwrap() == std::fs::read(folder.file()).unwrap(), "{name}: bytes");
    let mut opened = open_all(&folder.file());
    // The file may go, and be replaced, under a mapped index.
    std::fs::remove_file(folder.file()).unwrap();
    let before = seen(&original, 6);
    change(&mut original);
    let after = seen(&original, 7);
    original.compact().unwrap();
    let compacted = seen(&original, 8);
    for (way, index) in opened.iter_mut().enumerate() {
        assert_eq!(index.options(), original.options());
        assert!(seen(index, 6) == before, "{name}: opened in way {way}");
        change(index);
        assert!(seen(index, 7) == after, "{name}: changed, opened in way {way}");
        index.compact().unwrap();
        assert!(seen(index, 8) == compacted, "{name}: compacted, opened in way {way}");
        index.save(folder.file()).unwrap();
        let again = Index::open(folder.file(), OpenOptions::default(), pool()).unwrap();
        assert!(seen(&again, 8) == compacted, "{name}: saved again, opened in way {way}");
    }
}

#[test]
fn every_kind_of_index_comes_back_the_same() {
    for algorithm in ALGORITHMS {
        for metric in METRICS {
            for storage in Storage::ALL {
                round_trip(algorithm, metric, storage, if metric == Metric::L2 { 3 } else { 0 }, 400);
            }
        }
    }
}

#[test]
fn large_and_empty_ones_too() {
    for algorithm in ALGORITHMS {
        round_trip(algorithm, Metric::L2, Storage::F32, 0, 3000);
        round_trip(algorithm, Metric::InnerProduct, Storage::I8, 2, 3000);
        let empty = Index::new(IndexOptions { algorithm, ..IndexOptions::new(4) }, pool()).unwrap();
        let mut opened = Index::from_bytes(&empty.to_bytes().unwrap(), pool()).unwrap();
        assert!(opened.is_empty() && opened.largest_id().is_none());
        assert_eq!(opened.add(&[1.0; 4], None, None).unwrap(), 0);
    }
}

#[test]
fn a_mapped_index_holds_little_memory_until_it_changes() {
    let options = IndexOptions { algorithm: Algorithm::Exact, ..IndexOptions::new(64) };
    let folder = Folder::new("mapped");
    let mut saved = Index::new(options, pool()).unwrap();
    saved.add_batch(&numbers(1, 4096 * 64), None, None).unwrap();
    saved.save(folder.file()).unwrap();
    let mut mapped = Index::open(folder.file(), OpenOptions { mapped: true, verify: true }, pool()).unwrap();
    let stats = mapped.stats();
    assert!(stats.reserved_bytes * 8 < stats.live_bytes, "{stats:?}");
    assert!(stats.live_bytes >= 4096 * 64 * 4);
    mapped.remove_batch(&[17]).unwrap();
    let bytes = std::fs::read(folder.file()).unwrap();
    assert!(bytes == saved.to_bytes().unwrap(), "changes do not reach the file");
}

/// A small index of every structure.
fn small(algorithm: Algorithm) -> Vec<u8> {
    let options = IndexOptions { metric: Metric::L2, algorithm, value_dimensions: 1, seed: 3, ..IndexOptions::new(3) };
    index(options, 12).to_bytes().unwrap()
}

/// One with clusters, which takes more vectors.
fn clustered() -> Vec<u8> {
    let options = IndexOptions { storage: Storage::I8, algorithm: Algorithm::Cluster, ..IndexOptions::new(4) };
    let index = index(options, 2000);
    assert!(index.stats().clusters > 1);
    index.to_bytes().unwrap()
}

fn code(bytes: &[u8]) -> &'static str {
    Index::from_bytes(bytes, pool()).map_or_else(|error| error.code(), |_| "none")
}

#[test]
fn every_truncation_of_an_index_is_an_error() {
    for algorithm in ALGORITHMS {
        let bytes = small(algorithm);
        assert_eq!(code(&bytes), "none");
        for length in 0..bytes.len() {
            let expected = if length < 8 { "ERR_NOT_AN_INDEX" } else { "ERR_FILE_CORRUPT" };
            assert_eq!(code(&bytes[..length]), expected, "{algorithm:?}: {length} bytes");
        }
    }
}

#[test]
fn every_flipped_bit_of_an_index_is_an_error() {
    let files = ALGORITHMS.map(|algorithm| (small(algorithm), 1)).into_iter().chain([(clustered(), 997)]);
    for (mut bytes, step) in files {
        for bit in (0..bytes.len() * 8).step_by(step) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let expected = match bit / 8 {
                0..8 => "ERR_NOT_AN_INDEX",
                8..12 => "ERR_FILE_VERSION",
                _ => "ERR_FILE_CORRUPT",
            };
            assert_eq!(code(&bytes), expected, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(code(&bytes), "none");
    }
}

/// Puts the right checksums under changed bytes, as the format describes them.
fn sign(bytes: &mut [u8]) {
    let long = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let table = long(bytes, 24);
    for entry in (table..bytes.len()).step_by(32) {
        let (start, len) = (long(bytes, entry + 16), long(bytes, entry + 24));
        let checksum = crc32fast::hash(&bytes[start..start + len]);
        bytes[entry + 12..entry + 16].copy_from_slice(&checksum.to_le_bytes());
    }
    let checksum = crc32fast::hash(&bytes[table..]);
    bytes[32..36].copy_from_slice(&checksum.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..124]);
    bytes[124..128].copy_from_slice(&checksum.to_le_bytes());
}

/// Uses everything of an index that may hold anything.
fn use_all(index: &mut Index) {
    let options = *index.options();
    let queries = numbers(1, 3 * options.dimensions);
    for (exact, effort) in [(true, None), (false, Some(0.1)), (false, Some(1.0)), (false, None)] {
        let found = index.search(&queries, SearchOptions { exact, effort, ..SearchOptions::nearest(5) }).unwrap();
        assert!(found.counts.iter().all(|&count| count as usize <= index.len()));
    }
    index.search_radius(&queries, 0.5, RadiusOptions::default()).unwrap();
    if options.value_dimensions > 0 {
        let options = AverageOptions { scale: 2.0, mass_target: 0.5, cancel: None };
        // Vectors may have become as long as vectors can be, and then there are no weights.
        if let Err(error) = index.snapshot().soft_search(&queries, options) {
            assert_eq!(error.code(), "ERR_SOFT_SEARCH");
        }
    }
    let ids = index.ids();
    for &id in &ids {
        index.get(id).unwrap();
    }
    index.remove_batch(&ids.iter().copied().step_by(2).collect::<Vec<_>>()).unwrap();
    let values = numbers(2, 40 * options.value_dimensions);
    let added: Vec<u64> = (0..40).map(|id| id + (1 << 50)).collect();
    let values = (options.value_dimensions > 0).then_some(&values[..]);
    index.add_batch(&numbers(3, 40 * options.dimensions), Some(&added), values).unwrap();
    index.compact().unwrap();
    index.search(&queries, SearchOptions::nearest(5)).unwrap();
    index.to_bytes().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Checksums are no protection against who makes a file on purpose: whatever is in it, opening it is an error or
    /// gives an index that works, if not one that finds the nearest.
    #[test]
    fn numbers_under_right_checksums_are_not_trusted(
        which in 0..6_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0..8_usize, any::<u64>()), 1..4),
        verify in any::<bool>(),
    ) {
        let mut bytes = if which < 5 { small(ALGORITHMS[which]) } else { clustered() };
        let table = u64::from_le_bytes(bytes[24..32].try_into().unwrap()) as usize;
        for (place, kind, value) in changes {
            // Anything but what says where the sections are, which the tests of the container change.
            let at = 36 + place.index(table - 36);
            let word = at / 4 * 4;
            match kind {
                0 | 1 => bytes[at] ^= 1 << (value % 8),
                2 => bytes[word..word + 4].fill(0),
                3 => bytes[word..word + 4].fill(0xff),
                4 => bytes[word..word + 4].copy_from_slice(&((value % 64) as u32).to_le_bytes()),
                5 => bytes[word..word + 4].copy_from_slice(&f32::NAN.to_le_bytes()),
                6 => bytes[word..word + 4].copy_from_slice(&f32::MAX.to_le_bytes()),
                _ => bytes[word..word + 4].copy_from_slice(&(value as u32).to_le_bytes()),
            }
        }
        sign(&mut bytes);
        let folder = Folder::new("crafted");
        std::fs::write(folder.file(), &bytes).unwrap();
        match Index::open(folder.file(), OpenOptions { mapped: true, verify }, pool()) {
            Ok(mut index) => use_all(&mut index),
            Err(error) => prop_assert_eq!(error.code(), "ERR_FILE_CORRUPT"),
        }
    }

    #[test]
    fn garbage_is_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000), marked in any::<bool>()) {
        if marked && bytes.len() >= 12 {
            bytes[..8].copy_from_slice(b"\x89KNN\r\n\x1a\n");
            bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
            prop_assert_eq!(code(&bytes), "ERR_FILE_CORRUPT");
        } else {
            prop_assert_eq!(code(&bytes), "ERR_NOT_AN_INDEX");
        }
    }
}
