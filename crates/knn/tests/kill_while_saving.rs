//! A process that is killed while it saves leaves the file of the save before or of this one, never less.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use iceformer_knn::{Index, IndexOptions, OpenOptions};
use iceformer_threads::ThreadPool;

const KILLS: usize = 200;
const DIMENSIONS: usize = 24;
const VECTORS: u64 = 4000;
/// The file that the process to be killed saves to; without it a process is the one that kills.
const FILE: &str = "KNN_TEST_SAVE_TO";

/// The vectors of one save: all of them tell which it was.
fn index(save: u64) -> Index {
    let mut index = Index::new(IndexOptions::new(DIMENSIONS), ThreadPool::new(1)).unwrap();
    let vectors: Vec<f32> = (0..VECTORS as usize * DIMENSIONS).map(|i| (save + i as u64 % 7) as f32).collect();
    let ids: Vec<u64> = (0..VECTORS).map(|i| save * VECTORS + i).collect();
    index.add_batch(&vectors, Some(&ids), None).unwrap();
    index
}

/// Opens a file, checks that it is all of one save, and says which.
fn open(path: &Path, mapped: bool) -> u64 {
    let index = Index::open(path, OpenOptions { mapped, ..OpenOptions::default() }, ThreadPool::new(1)).unwrap();
    let ids = index.ids();
    let save = ids[0] / VECTORS;
    assert!(ids.iter().copied().eq(save * VECTORS..(save + 1) * VECTORS));
    for (i, id) in ids.into_iter().enumerate().step_by(97) {
        let expected = (0..DIMENSIONS).map(|d| (save + (i * DIMENSIONS + d) as u64 % 7) as f32);
        assert!(index.get(id).unwrap().into_iter().eq(expected));
    }
    save
}

/// Saves for ever, and says after each save which it was.
fn save_until_killed(path: &Path) {
    for save in open(path, true) + 1.. {
        index(save).save(path).unwrap();
        // In one piece, so that nothing of it can be missing.
        std::io::stderr().write_all(format!("saved {save}\n").as_bytes()).unwrap();
    }
}

#[test]
fn killed_while_saving() {
    if let Some(path) = std::env::var_os(FILE) {
        return save_until_killed(Path::new(&path));
    }
    let folder = std::env::temp_dir().join(format!("knn-kill-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path: PathBuf = folder.join("index.knn");
    let mut last = 0;
    index(last).save(&path).unwrap();
    let start = Instant::now();
    index(last).save(&path).unwrap();
    let one_save = start.elapsed();
    // Moments that have nothing to do with what a save does when: a multiplicative generator.
    let mut random = 48_271_u64;
    let mut in_the_middle = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["killed_while_saving", "--exact", "--nocapture", "--test-threads=1"])
            .env(FILE, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut said = lines.by_ref().take(kill % 3).last();
        random = random * 48_271 % 0x7fff_ffff;
        std::thread::sleep(one_save.mul_f64((random % 1000) as f64 / 500.0));
        child.kill().unwrap();
        said = lines.last().or(said);
        assert!(!child.wait().unwrap().success(), "it saves until it is killed");
        let said = said.map_or(last, |line| line.strip_prefix("saved ").expect("no panic").parse::<u64>().unwrap());
        let found = open(&path, true);
        assert_eq!(found, open(&path, false));
        assert!(found == said || found == said + 1, "save {found} is there after save {said}");
        last = found;
        let names = std::fs::read_dir(&folder).unwrap().count();
        assert!(names <= 2, "leftovers are removed by the next save");
        in_the_middle += names - 1;
    }
    assert!(last > 0 && in_the_middle > 0, "{last} saves, {in_the_middle} kills while a file was being written");
    index(last).save(&path).unwrap();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    std::fs::remove_dir_all(&folder).unwrap();
}
