//! Local copies of compacted files, so that the next level is merged from disk
//! and nothing is read back from the store.
//!
//! ```text
//! <meta>/compacted/<level>/<min>-<max>.ltx
//! ```
//!
//! A cache, no state: whatever is missing or damaged is read from the store. It
//! stands beside `ltx/` because upstream sweeps that. Files go when the next
//! level has taken them in, the oldest when there is too much, and at each start
//! those that the store does not hold.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use litestream_replica::{FileId, FileInfo, Inventory, Level};
use ltx::FileName;

use crate::disk::Disk;

/// The copies of one database.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    root: PathBuf,
    disk: Disk,
}

impl Staged {
    /// The copies below a state directory; nothing is made yet.
    pub(crate) fn new(meta: &Path, disk: Disk) -> Self {
        Self { root: meta.join("compacted"), disk }
    }

    /// The directory of all copies.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the copies of one level are, whether the directory exists or not.
    pub(crate) fn level_dir(&self, level: Level) -> PathBuf {
        self.root.join(level.to_string())
    }

    /// Where the copy of a file is, whether it exists or not.
    pub(crate) fn path(&self, id: FileId) -> PathBuf {
        self.level_dir(id.level).join(id.name().to_string())
    }

    /// The copy of a stored file, if there is one of its size.
    pub(crate) fn find(&self, info: &FileInfo) -> Option<PathBuf> {
        let path = self.path(info.id);
        fs::metadata(&path).is_ok_and(|file| file.len() == info.size).then_some(path)
    }

    /// Bytes of all copies.
    pub(crate) fn len(&self) -> io::Result<u64> {
        let mut total = 0;
        for level in Level::all() {
            let entries = match fs::read_dir(self.level_dir(level)) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                match entry?.metadata() {
                    Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                    metadata => total += metadata?.len(),
                }
            }
        }
        Ok(total)
    }

    /// Deletes one copy; absent counts as deleted.
    pub(crate) fn remove(&self, id: FileId) -> io::Result<()> {
        absent_is_fine(self.disk.remove(&self.path(id)))
    }

    /// Deletes what is no copy of a stored file, then the oldest copies until
    /// `budget` bytes are left.
    pub(crate) fn trim(&self, stored: &Inventory, budget: u64) -> io::Result<()> {
        let mut kept = Vec::new();
        for level in Level::all() {
            let entries = match fs::read_dir(self.level_dir(level)) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let len = entry.metadata()?.len();
                let id = entry.file_name().to_str().and_then(FileName::parse).map(|FileName { min, max }| FileId {
                    level,
                    min,
                    max,
                });
                let is_copy = |id: &FileId| stored.level(level).iter().any(|file| file.id == *id && file.size == len);
                match id.filter(is_copy) {
                    Some(id) => kept.push((id, len)),
                    None => absent_is_fine(self.disk.remove(&entry.path()))?,
                }
            }
        }
        kept.sort_by_key(|(id, _)| std::cmp::Reverse(id.max));
        let mut total = 0;
        for (id, len) in kept {
            total += len;
            if total > budget {
                self.remove(id)?;
            }
        }
        Ok(())
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Inputs of a merge whose result is worth a local copy, in bytes.
pub(crate) const MAX_INPUT_LEN: u64 = 64 << 20;
/// Bytes of copies kept for one database.
pub(crate) const BUDGET: u64 = 128 << 20;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
mod tests {
    use jiff::Timestamp;
    use ltx::Txid;

    use super::*;

    fn file(level: u8, min: u64, max: u64, size: u64) -> FileInfo {
        let id = FileId { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) };
        FileInfo { id, size, created_at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn copies_of_nothing_stored_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let staged = Staged::new(dir.path(), Disk::default());
        staged.trim(&Inventory::default(), 0).unwrap();
        let stored = [file(1, 1, 2, 10), file(1, 3, 4, 10), file(2, 1, 6, 10)];
        for info in stored.iter().chain(&[file(1, 5, 6, 10)]) {
            fs::create_dir_all(staged.level_dir(info.id.level)).unwrap();
            fs::write(staged.path(info.id), [0; 10]).unwrap();
        }
        let inventory = Inventory::new(stored);
        staged.trim(&inventory, 20).unwrap();
        let left: Vec<bool> = stored.iter().map(|info| staged.find(info).is_some()).collect();
        assert_eq!(left, [false, true, true], "newest first");
        assert!(!staged.path(file(1, 5, 6, 10).id).exists(), "not in the store");
        assert!(staged.find(&file(1, 3, 4, 11)).is_none(), "another size is another file");
    }
}
