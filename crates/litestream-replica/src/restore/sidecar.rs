//! The files that SQLite keeps beside a database and would apply to it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Which side files of the database `path` exist.
pub(super) fn existing(path: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for suffix in SIDECARS {
        let sidecar = with_suffix(path, suffix);
        match fs::symlink_metadata(&sidecar) {
            Ok(_) => found.push(sidecar),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(format!("stat {}", sidecar.display()), e)),
        }
    }
    Ok(found)
}

/// Removes what SQLite may have left beside a temporary database.
pub(super) fn remove_all(path: &Path) {
    for suffix in SIDECARS {
        // Mostly absent. One that stays lies beside the temporary name, where
        // it can harm no database.
        let _ = fs::remove_file(with_suffix(path, suffix));
    }
}

/// Whether removing this side file takes nothing away from its database: a WAL
/// without a frame, a journal that is empty or was ended by wiping its header, or
/// the index of a WAL, which SQLite makes anew.
///
/// What cannot be read counts as not spent.
pub(super) fn is_spent(sidecar: &Path) -> bool {
    let name = sidecar.as_os_str().as_encoded_bytes();
    if name.ends_with(b"-shm") {
        return true;
    }
    let Ok(found) = fs::symlink_metadata(sidecar) else { return false };
    if name.ends_with(b"-wal") {
        return found.is_file() && found.len() <= WAL_HEADER_LEN;
    }
    if found.is_file() && found.len() == 0 {
        return true;
    }
    let mut magic = [0xff; 8];
    let is_read = found.is_file() && File::open(sidecar).and_then(|mut file| file.read_exact(&mut magic)).is_ok();
    is_read && magic == [0; 8]
}

/// `path` with `suffix` at the end of its last component.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// What SQLite keeps beside a database and would apply to it.
const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// A WAL that holds no more has no frames.
const WAL_HEADER_LEN: u64 = 32;
