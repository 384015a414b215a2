//! Replacing a file as a whole: whatever happens, there is the old file or the new one.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::io_error;
use super::writer::Sink;
use crate::error::Result;

/// Names of files that are not complete begin with this, the checksum of the name they are to get, and `-`.
pub(crate) const TEMPORARY: &str = ".knn-save-";

/// Bytes gathered before they are written.
const GATHERED: usize = 1 << 18;

/// Writes a file of the same folder, syncs it and gives it the name `path`.
///
/// On an error the old file is as it was, and the temporary file is gone. If the process or the machine dies, the
/// temporary file may stay: the next replacement of the same path removes it. It knows that nobody is writing it
/// any more because the lock on it is gone.
///
/// A symbolic link stays, what it points to is replaced. The new file has the old one's permissions.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut FileSink) -> Result<()>) -> Result<()> {
    let shown = path.display().to_string();
    let failed = |action: &'static str| {
        let shown = &shown;
        move |error: std::io::Error| io_error(action, shown, &error)
    };
    let target = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => fs::canonicalize(path).map_err(failed("replace"))?,
        _ => path.to_path_buf(),
    };
    let old = match fs::metadata(&target) {
        Ok(metadata) if metadata.is_file() => Some(metadata),
        Ok(_) => return Err(super::not_a_file("replace", &shown)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(failed("replace")(error)),
    };
    let Some(name) = target.file_name() else { return Err(super::not_a_file("replace", &shown)) };
    let folder = match target.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let prefix = format!("{TEMPORARY}{:08x}-", crc32fast::hash(name.as_encoded_bytes()));
    remove_leftovers(folder, &prefix);

    let (file, temporary) = create(folder, &prefix).map_err(failed("create"))?;
    if let Some(old) = old {
        file.set_permissions(old.permissions()).map_err(failed("create"))?;
    }
    let mut sink = FileSink { file: BufWriter::with_capacity(GATHERED, file), shown: shown.clone() };
    write(&mut sink)?;
    let FileSink { file, .. } = sink;
    let file = file.into_inner().map_err(|error| failed("write")(error.into_error()))?;
    file.sync_all().map_err(failed("sync"))?;
    fs::rename(&temporary.path, &target).map_err(failed("replace"))?;
    temporary.renamed();
    sync_folder(folder).map_err(failed("sync"))
}

/// A file being written.
pub(crate) struct FileSink {
    file: BufWriter<File>,
    /// The path in errors.
    shown: String,
}

impl Sink for FileSink {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| io_error("write", &self.shown, &error))
    }

    fn replace_start(&mut self, bytes: &[u8]) -> Result<()> {
        let mut write = || {
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(bytes)?;
            self.file.seek(SeekFrom::End(0)).map(|_| ())
        };
        write().map_err(|error| io_error("write", &self.shown, &error))
    }
}

/// A file to be removed unless it gets its name.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn renamed(mut self) {
        self.renamed = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // There is nobody to tell; what stays is removed by the next replacement.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Creates a file that nobody else has, and locks it as long as it is open.
fn create(folder: &Path, prefix: &str) -> std::io::Result<(File, Temporary)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    loop {
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        let path = folder.join(format!("{prefix}{:x}-{count:x}-{time:x}", std::process::id()));
        let file = match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        };
        let temporary = Temporary { path, renamed: false };
        // Between its creation and its lock the file looks like a leftover, and another process may remove it.
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => continue,
            // Where files cannot be locked, leftovers are not removed either.
            Ok(()) | Err(fs::TryLockError::Error(_)) => {}
        }
        if temporary.path.exists() {
            return Ok((file, temporary));
        }
    }
}

/// Removes what replacements that never ended have left. Does what it can: it is not what was asked for.
fn remove_leftovers(folder: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().filter(|entry| starts_with(&entry.file_name(), prefix)).map(|entry| entry.path()) {
        // Open for writing, as some systems want it for an exclusive lock.
        let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { continue };
        if file.try_lock().is_ok() {
            let _ = fs::remove_file(&path);
        }
    }
}

fn starts_with(name: &OsString, prefix: &str) -> bool {
    name.as_encoded_bytes().starts_with(prefix.as_bytes())
}

/// Makes the new name survive a loss of power.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems cannot sync a folder.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

/// Windows writes names through.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> std::io::Result<()> {
    Ok(())
}
