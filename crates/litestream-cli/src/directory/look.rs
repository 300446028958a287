//! What stands below a watched directory, read from the file system. Blocking.
//!
//! The rule that must never break: a file that SQLite has open in this process is
//! not opened here, because closing any descriptor of it would drop SQLite's locks.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::roster::Found;
use crate::config::DbConfig;
use crate::config::directory::{DEPTH_MAX, SQLITE_HEADER, is_state_directory};

/// A listing of directories.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Files whose names make them candidates.
    pub(crate) files: BTreeSet<PathBuf>,
    /// The directories themselves and, if asked for, all below them.
    pub(crate) directories: BTreeSet<PathBuf>,
    /// What could not be read; the listing is not complete then.
    pub(crate) errors: Vec<(PathBuf, std::io::Error)>,
}

impl Listing {
    /// Adds what is in `dir`, and below it if the entry is recursive. A directory that
    /// is gone is no error. Symbolic links to directories are not entered.
    pub(crate) fn add(&mut self, entry: &DbConfig, dir: &Path) {
        let depth = dir.strip_prefix(entry.dir.as_deref().unwrap_or(dir)).map_or(0, |below| below.components().count());
        self.walk(entry, dir, depth);
    }

    fn walk(&mut self, entry: &DbConfig, dir: &Path, depth: usize) {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(err) if matches!(err.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                return;
            }
            Err(err) => return self.errors.push((dir.to_owned(), err)),
        };
        self.directories.insert(dir.to_owned());
        for item in entries {
            let item = match item {
                Ok(item) => item,
                Err(err) => return self.errors.push((dir.to_owned(), err)),
            };
            let path = item.path();
            // It may be gone already.
            let Ok(kind) = item.file_type() else { continue };
            if !kind.is_dir() {
                if entry.derive(&path).is_some() {
                    self.files.insert(path);
                }
            } else if entry.recursive && depth < DEPTH_MAX && !is_state_directory(&path) {
                self.walk(entry, &path, depth + 1);
            }
        }
    }
}

/// Looks at files. `known` says which are replicated under the path itself; those
/// are not opened. `databases` are the paths of everything replicated by this
/// process.
pub(crate) fn look(paths: &BTreeMap<PathBuf, bool>, databases: &[PathBuf]) -> Vec<(PathBuf, Found)> {
    let any_fresh = paths.values().any(|known| !known);
    let open: HashSet<(u64, u64)> =
        if any_fresh { databases.iter().filter_map(|path| inode(path)).collect() } else { HashSet::new() };
    paths
        .iter()
        .map(|(path, known)| {
            let found = if *known { exists(path) } else { inspect(path, &open) };
            (path.clone(), found)
        })
        .collect()
}

fn exists(path: &Path) -> Found {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Found::Database,
        Ok(_) => Found::Nothing,
        // Anything else may pass; nothing is stopped because of it.
        Err(err) if matches!(err.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Found::Nothing
        }
        Err(_) => Found::Database,
    }
}

fn inspect(path: &Path, open: &HashSet<(u64, u64)>) -> Found {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Found::Nothing,
        Ok(metadata) if open.contains(&(metadata.dev(), metadata.ino())) => return Found::Known,
        Ok(_) => {}
        Err(_) => return Found::Nothing,
    }
    let Ok(mut file) = File::open(path) else { return Found::Other };
    let mut header = [0; SQLITE_HEADER.len()];
    let is_database = file.read_exact(&mut header).is_ok() && header == *SQLITE_HEADER;
    let is_open = file.metadata().is_ok_and(|metadata| open.contains(&(metadata.dev(), metadata.ino())));
    if is_open {
        // Put in the place of the other one between the two looks. Its descriptor
        // must not be closed; this is rare enough to keep it.
        std::mem::forget(file);
        return Found::Known;
    }
    if is_database { Found::Database } else { Found::Other }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
