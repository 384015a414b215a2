//! The container, damaged in every way.

use std::path::{Path, PathBuf};

use super::header::{ENTRY, HEADER, VERSION};
use super::writer::Sink;
use super::*;
use crate::error::Result;

/// A folder of its own for a test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("knn-file-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const DESCRIPTION: Description = Description {
    dimensions: 3,
    value_dimensions: 0,
    metric: 1,
    storage: 2,
    algorithm: 0,
    structure: 2,
    seed: 0x0123_4567_89ab_cdef,
    len: 77,
    slots: 80,
};

/// Sections of all kinds, one empty, one in parts.
fn write(writer: &mut Writer<'_>) -> Result<()> {
    writer.section("bytes", &[1_u8, 2, 3])?;
    writer.section::<u32>("empty", &[])?;
    writer.section_with("parts", |part| {
        (1..30).try_for_each(|n| {
            part.begin()?;
            (0..n).try_for_each(|_| part.push(&[n as f32]))
        })
    })?;
    writer.section("long", &[u64::MAX, 7])
}

fn read(reader: &mut Reader<'_>) -> Result<()> {
    assert_eq!(reader.description(), &DESCRIPTION);
    assert_eq!(reader.section::<u8>("bytes")?[..], [1, 2, 3]);
    assert!(reader.section::<u32>("empty")?.is_empty());
    let parts = reader.parts::<f32>("parts", 1..30)?;
    for (part, n) in parts.iter().zip(1..30) {
        assert_eq!(part[..], vec![n as f32; n]);
        assert_eq!(part.as_ptr() as usize % 64, 0);
    }
    assert_eq!(reader.section_of::<u64>("long", 2)?[..], [u64::MAX, 7]);
    Ok(())
}

fn example() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes).unwrap();
    write(&mut writer).unwrap();
    writer.finish(DESCRIPTION).unwrap();
    bytes
}

fn read_all(mut reader: Reader<'_>) -> Result<()> {
    read(&mut reader)?;
    reader.finish()
}

fn code(result: Result<()>) -> &'static str {
    result.expect_err("damage is an error").code()
}

/// Opens a file in both ways.
fn open_both(path: &Path) -> [Result<()>; 2] {
    [true, false].map(|mapped| Reader::open(path, mapped, true).and_then(read_all))
}

#[test]
fn what_is_written_is_read() {
    let bytes = example();
    read_all(Reader::from_bytes(&bytes).unwrap()).unwrap();
    let folder = Folder::new("round-trip");
    let path = folder.0.join("a.knn");
    replace(&path, |sink| {
        let mut writer = Writer::new(sink)?;
        write(&mut writer)?;
        writer.finish(DESCRIPTION)
    })
    .unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(open_both(&path), [Ok(()), Ok(())]);
    Reader::open(&path, true, false).and_then(read_all).unwrap();
    assert_eq!(folder.names(), ["a.knn"]);
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = example();
    let folder = Folder::new("truncation");
    let path = folder.0.join("a.knn");
    for length in 0..bytes.len() {
        let expected = if length < 8 { "ERR_NOT_AN_INDEX" } else { "ERR_FILE_CORRUPT" };
        assert_eq!(code(Reader::from_bytes(&bytes[..length]).map(|_| ())), expected, "{length} bytes");
        if length % 97 == 0 {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert_eq!(open_both(&path).map(code), [expected; 2], "{length} bytes");
        }
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(code(Reader::from_bytes(&longer).map(|_| ())), "ERR_FILE_CORRUPT");
}

#[test]
fn every_flipped_bit_is_an_error() {
    let mut bytes = example();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let code = code(Reader::from_bytes(&bytes).and_then(read_all));
        let expected = match bit / 8 {
            0..8 => "ERR_NOT_AN_INDEX",
            8..12 => "ERR_FILE_VERSION",
            _ => "ERR_FILE_CORRUPT",
        };
        assert_eq!(code, expected, "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    read_all(Reader::from_bytes(&bytes).unwrap()).unwrap();
}

/// Numbers that no writer writes, under checksums that are right.
#[test]
fn checksums_are_not_trusted() {
    let bytes = example();
    let table = u64::from_le_bytes(bytes[24..32].try_into().unwrap()) as usize;
    let sections = (bytes.len() - table) / ENTRY;
    for value in [0, 1, 63, 64, 127, 1 << 20, u64::from(u32::MAX), 1 << 40, 1 << 61, u64::MAX / 2, u64::MAX] {
        for field in [16, 24] {
            for at in (0..sections).map(|section| table + section * ENTRY + field) {
                let mut bytes = bytes.clone();
                if bytes[at..at + 8] == value.to_le_bytes() {
                    continue;
                }
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
                let checksum = crc32fast::hash(&bytes[table..]).to_le_bytes();
                bytes[32..36].copy_from_slice(&checksum);
                sign(&mut bytes);
                assert_eq!(code(Reader::from_bytes(&bytes).and_then(read_all)), "ERR_FILE_CORRUPT", "{value} at {at}");
            }
            let mut bytes = bytes.clone();
            bytes[field..field + 8].copy_from_slice(&value.to_le_bytes());
            sign(&mut bytes);
            assert_eq!(code(Reader::from_bytes(&bytes).map(|_| ())), "ERR_FILE_CORRUPT");
        }
        let mut bytes = bytes.clone();
        bytes[12..16].copy_from_slice(&(value as u32).to_le_bytes());
        sign(&mut bytes);
        assert_eq!(code(Reader::from_bytes(&bytes).map(|_| ())), "ERR_FILE_CORRUPT");
    }
}

/// Puts the right checksum under a header.
fn sign(bytes: &mut [u8]) {
    let checksum = crc32fast::hash(&bytes[..HEADER - 4]).to_le_bytes();
    bytes[HEADER - 4..HEADER].copy_from_slice(&checksum);
}

#[test]
fn the_wrong_section_is_an_error() {
    let bytes = example();
    let mut reader = Reader::from_bytes(&bytes).unwrap();
    assert_eq!(reader.section::<u8>("other").unwrap_err().code(), "ERR_FILE_CORRUPT");
    assert_eq!(reader.section::<i8>("bytes").unwrap_err().code(), "ERR_FILE_CORRUPT");
    assert_eq!(reader.section_of::<u8>("bytes", 4).unwrap_err().code(), "ERR_FILE_CORRUPT");
    assert_eq!(reader.section::<u8>("bytes").unwrap()[..], [1, 2, 3]);
    assert!(
        reader.invalid::<u8>("bytes", 2, "bad".to_owned()).to_string().ends_with("in section bytes at byte 130: bad")
    );
    assert_eq!(code(reader.finish()), "ERR_FILE_CORRUPT");
}

#[test]
fn another_version_says_which() {
    let mut bytes = example();
    bytes[8] = 9;
    let error = Reader::from_bytes(&bytes).err().unwrap();
    assert_eq!(error, Error::FileVersion { file: "the bytes".into(), version: 9, supported: VERSION });
}

#[test]
fn the_system_s_errors_name_the_file() {
    let folder = Folder::new("errors");
    let missing = folder.0.join("missing.knn");
    for mapped in [true, false] {
        let error = Reader::open(&missing, mapped, true).err().unwrap();
        assert_eq!(error.code(), "ERR_IO");
        assert!(error.to_string().starts_with(&format!("cannot open {}: ", missing.display())), "{error}");
        let error = Reader::open(&folder.0, mapped, true).err().unwrap();
        assert!(error.to_string().ends_with("it is not a regular file"), "{error}");
    }
    for path in [folder.0.clone(), missing.join("below.knn"), PathBuf::from("/")] {
        assert_eq!(replace(&path, |_| Ok(())).unwrap_err().code(), "ERR_IO", "{}", path.display());
    }
    std::fs::write(&missing, []).unwrap();
    assert_eq!(open_both(&missing).map(code), ["ERR_NOT_AN_INDEX"; 2]);
}

#[test]
fn a_failed_replacement_leaves_the_old_file() {
    let folder = Folder::new("failure");
    let path = folder.0.join("a.knn");
    std::fs::write(&path, "old").unwrap();
    let fail = |sink: &mut replacement::FileSink| {
        let mut writer = Writer::new(sink)?;
        writer.section("bytes", &[1_u8; 1000])?;
        Err(Error::Cancelled)
    };
    assert_eq!(replace(&path, fail), Err(Error::Cancelled));
    let panicked = std::panic::catch_unwind(|| replace(&path, |_| panic!("in the middle")));
    assert!(panicked.is_err());
    assert_eq!((folder.names(), std::fs::read(&path).unwrap()), (vec!["a.knn".to_owned()], b"old".to_vec()));
}

#[test]
fn leftovers_are_removed_but_not_what_is_being_written() {
    let folder = Folder::new("leftovers");
    let path = folder.0.join("a.knn");
    let leftover = format!("{}{:08x}-1-2-3", replacement::TEMPORARY, crc32fast::hash(b"a.knn"));
    let other = format!("{}{:08x}-1-2-3", replacement::TEMPORARY, crc32fast::hash(b"b.knn"));
    for name in [&leftover, &other] {
        std::fs::write(folder.0.join(name), "half").unwrap();
    }

    replace(&path, |sink| {
        sink.append(b"one")?;
        // Another one of the same path, while this one is being written.
        replace(&path, |sink| sink.append(b"two"))?;
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        Ok(())
    })
    .unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"one");
    assert_eq!(folder.names(), [other, "a.knn".to_owned()]);
}

#[cfg(unix)]
#[test]
fn links_and_permissions_stay() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = Folder::new("links");
    let (target, link) = (folder.0.join("target.knn"), folder.0.join("link.knn"));
    std::fs::write(&target, "old").unwrap();
    std::fs::set_permissions(&target, PermissionsExt::from_mode(0o640)).unwrap();
    symlink("target.knn", &link).unwrap();
    replace(&link, |sink| sink.append(b"new")).unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::read(&target).unwrap(), b"new");
    assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
}
