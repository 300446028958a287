//! Deletes what a daemon keeps locally about a database, so that its next start
//! begins with a whole image. Neither the database nor its replica is touched.
//!
//! The state directory's lock is held meanwhile: nothing is deleted under a daemon
//! of this implementation, and none starts in between.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::meta::{self, Ownership};

/// What [`reset`] would delete: directories and files of the state directory,
/// `ltx` first. Empty when there is no state.
///
/// # Errors
/// When the directory exists and cannot be read.
pub fn local_state(meta: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(meta) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry?;
        if is_state(&entry.file_name().to_string_lossy()) {
            paths.push(entry.path());
        }
    }
    paths.sort_by_key(|path| (path.file_name() != Some("ltx".as_ref()), path.clone()));
    Ok(paths)
}

/// Deletes the local state of the database at `db` and returns what was deleted.
///
/// # Errors
/// [`ErrorKind::Setup`](crate::ErrorKind::Setup) when a daemon has the database;
/// nothing is deleted then. Any other error leaves a part, and the next reset or
/// start copes with it.
pub fn reset(db: &Path, meta: &Path) -> Result<Vec<PathBuf>> {
    let failed = |what: &str, path: &Path, err| Error::io(format!("{what} {}", path.display()), err);
    let listed = |err| failed("read state directory", meta, err);
    if local_state(meta).map_err(listed)?.is_empty() {
        return Ok(Vec::new());
    }
    let ownership = Ownership::of(db).map_err(|err| failed("read attributes of", db, err))?;
    let _lock = meta::lock(meta, db, ownership)?;
    let paths = local_state(meta).map_err(listed)?;
    // The position goes before the files it describes: a reset that was cut short
    // must not leave a place to go on from.
    let mut order: Vec<&PathBuf> = paths.iter().collect();
    order.sort_by_key(|path| path.file_name() != Some("position".as_ref()));
    for path in order {
        let deleted = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        deleted.map_err(|err| failed("delete", path, err))?;
    }
    Ok(paths)
}

/// Everything a daemon keeps but its lock. What somebody else put there stays.
fn is_state(name: &str) -> bool {
    STATE.contains(&name) || (name.starts_with("damaged-") && name.ends_with(".ltx"))
}

const STATE: [&str; 8] =
    ["ltx", "position", "page-sums", "open-delta", "sealed-delta", "held-tail", "compacted", "replica-problem"];

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_lock_and_foreign_files_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (db, meta) = (dir.path().join("a.db"), dir.path().join("meta"));
        fs::write(&db, "x").unwrap();
        assert_eq!(reset(&db, &meta).unwrap(), Vec::<PathBuf>::new(), "no state is no error");
        fs::create_dir_all(meta.join("ltx/0")).unwrap();
        for name in ["ltx/0/1.ltx", "position", "damaged-0000000000000001.ltx", "lock", "notes.txt"] {
            fs::write(meta.join(name), "x").unwrap();
        }
        let names = |paths: Vec<PathBuf>| -> Vec<String> {
            paths.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names(reset(&db, &meta).unwrap()), ["ltx", "damaged-0000000000000001.ltx", "position"]);
        assert!(local_state(&meta).unwrap().is_empty());
        assert!(meta.join("lock").exists() && meta.join("notes.txt").exists() && db.exists());
    }

    #[test]
    fn nothing_is_deleted_under_a_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let (db, meta) = (dir.path().join("a.db"), dir.path().join("meta"));
        fs::write(&db, "x").unwrap();
        fs::create_dir_all(meta.join("ltx/0")).unwrap();
        assert!(!meta::is_in_use(&meta).unwrap());
        let daemon = meta::lock(&meta, &db, Ownership::of(&db).unwrap()).unwrap();
        assert!(meta::is_in_use(&meta).unwrap());
        assert_eq!(reset(&db, &meta).unwrap_err().kind(), crate::ErrorKind::Setup);
        assert!(meta.join("ltx/0").exists());
        drop(daemon);
        assert!(!meta::is_in_use(&meta).unwrap());
        reset(&db, &meta).unwrap();
    }
}
