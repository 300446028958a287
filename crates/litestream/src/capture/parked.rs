//! A database that is not open: what it looked like when it was closed, and whether
//! that still holds.
//!
//! While a database is *parked* there is no connection, no pin and no descriptor but
//! the lock of its state directory. Nothing keeps others from checkpointing or
//! restarting the WAL, so the next opening goes the way of a process start: the log
//! proves that it continues the position, or all pages are compared.
//!
//! The rule that must never break: **a look at a parked database says "unchanged" only
//! when no commit can have happened.** When in doubt it says "changed", which costs an
//! opening.
//!
//! Why this holds: docs/decisions/0007-parking.md.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Capture, PassReport};
use crate::continuity::Tail;
use crate::error::Result;
use crate::position::Inode;

/// See the module's description.
pub(super) struct Parked {
    /// The database behind symlinks, as SQLite saw it.
    path: PathBuf,
    wal_path: PathBuf,
    /// What both files looked like; `None` when a change may look the same.
    sight: Option<Sight>,
    /// What stood in the WAL behind the position.
    pub(super) tail: Option<Tail>,
    /// Length of the WAL in use, in bytes.
    pub(super) wal_size: u64,
    /// Size of the database file in bytes.
    pub(super) db_size: u64,
}

/// The attributes of both files at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sight {
    db: Stamp,
    wal: Option<Stamp>,
    /// Every frame of the WAL was in the database file.
    is_backfilled: bool,
}

/// Attributes that a write to a file changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: Inode,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: Inode::of(metadata),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Sight {
    /// Looks at both files. `None` when one of them was written so lately that
    /// another write could leave the same attributes.
    #[allow(clippy::disallowed_methods, reason = "compared with what the file system's own clock wrote")]
    pub(super) fn of(db: &Path, wal: &Path, is_backfilled: bool) -> io::Result<Option<Self>> {
        let now = SystemTime::now();
        let db = fs::metadata(db)?;
        let wal = stat(wal)?;
        // A commit makes an empty WAL longer, so its age does not matter.
        let is_old = is_settled(&db, now) && wal.as_ref().is_none_or(|wal| wal.len() == 0 || is_settled(wal, now));
        Ok(is_old.then(|| Self { db: Stamp::of(&db), wal: wal.as_ref().map(Stamp::of), is_backfilled }))
    }

    /// True when nothing was committed since.
    fn still_holds(&self, db: &Path, wal: &Path) -> bool {
        let (Ok(db), Ok(wal)) = (fs::metadata(db), stat(wal)) else { return false };
        if Stamp::of(&db) != self.db {
            return false;
        }
        let wal = wal.as_ref().map(Stamp::of);
        // A session that wrote nothing may take the WAL away. What was in it had been
        // in the database file before, or that file would have changed with it.
        wal == self.wal || (self.is_backfilled && wal.is_none_or(|wal| wal.len == 0))
    }
}

impl Capture {
    /// Closes a database that is not worked on: connections, pin and descriptors go,
    /// the lock of the state directory stays. True when the database holds no
    /// descriptors but that any more.
    ///
    /// Unless `force`d, only a database whose next change a look will tell. A forced
    /// one may have frames beyond the position; they are found when it is opened.
    ///
    /// # Errors
    /// The page sums cannot be made durable; the next pass opens everything anew.
    pub(crate) fn park(&mut self, force: bool) -> Result<bool> {
        let Some(live) = &self.live else { return Ok(self.has_let_go()) };
        let is_read_by_image = self.db_file.as_ref().is_none_or(|(_, file)| std::sync::Arc::strong_count(file) > 2);
        if is_read_by_image || self.has_open_delta() || self.held.is_some() || live.check().is_err() {
            return Ok(false);
        }
        let (path, wal_path) = live.paths();
        let (path, wal_path) = (path.to_owned(), wal_path.to_owned());
        let Some(index) = live.peek() else { return Ok(false) };
        // Before the look at the wal-index: what is committed in between changes the
        // attributes, and the index below does not show it.
        let sight = Sight::of(&path, &wal_path, index.is_backfilled()).unwrap_or(None);
        // Without a base there is nothing to be behind of.
        let is_behind = self.position().is_some() && self.is_behind();
        let sight = sight.filter(|_| !is_behind);
        if sight.is_none() && !force {
            return Ok(false);
        }
        let live = self.live()?;
        let tail = self.position().and_then(|position| live.tail(&position.wal));
        let wal_size = crate::wal::frame_offset(live.page_size, index.end.frame);
        let db_size = live.db.metadata().map_or(0, |file| file.len());
        self.stamp_sums()?;
        self.live = None;
        if let Some(local) = &mut self.local {
            local.sums = None;
        }
        self.db_file = None;
        self.parked = Some(Parked { path, wal_path, sight, tail, wal_size, db_size });
        Ok(true)
    }

    /// Closes the file a failed opening may have left behind.
    fn has_let_go(&mut self) -> bool {
        if self.db_file.as_ref().is_some_and(|(_, file)| std::sync::Arc::strong_count(file) > 1) {
            return false;
        }
        self.db_file = None;
        if let Some(local) = &mut self.local
            && local.sums.as_ref().is_some_and(|sums| sums.txid() == sums.durable_txid())
        {
            local.sums = None;
        }
        true
    }

    /// The database was closed for others, and was not opened since.
    pub(crate) fn is_parked(&self) -> bool {
        self.live.is_none() && self.parked.is_some()
    }

    /// For a parked database, whether something may have been committed since;
    /// `None` for every other.
    pub(crate) fn parked_and_changed(&self) -> Option<bool> {
        let parked = self.parked.as_ref().filter(|_| self.live.is_none())?;
        Some(!parked.sight.is_some_and(|sight| sight.still_holds(&parked.path, &parked.wal_path)))
    }

    /// What a pass over a parked database would report, when nothing has changed.
    pub(crate) fn unchanged(&self) -> Option<PassReport> {
        let parked = self.parked.as_ref().filter(|_| self.parked_and_changed() == Some(false))?;
        Some(PassReport {
            txid: self.txid(),
            wal_bytes: 0,
            wal_size: parked.wal_size,
            db_size: parked.db_size,
            checkpoint_pending: false,
        })
    }

    /// Opens a parked database again.
    pub(super) fn unpark(&mut self) -> Result<()> {
        if self.is_parked() { self.open() } else { Ok(()) }
    }
}

/// Attributes of a file that may be missing.
fn stat(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// The file has not been written for longer than a file system's clock ticks, and by
/// a clock that has not been set back since.
fn is_settled(file: &Metadata, now: SystemTime) -> bool {
    let age = file.modified().ok().and_then(|modified| now.duration_since(modified).ok());
    age.is_some_and(|age| age >= COARSEST_TICK)
}

/// FAT counts in two seconds; everything else ticks faster.
const COARSEST_TICK: Duration = Duration::from_millis(2500);

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot be set up fails")]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    /// Files of a database and its WAL, written a minute ago.
    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let files = Self { dir: tempfile::tempdir().unwrap() };
            files.write("db", b"database", 60);
            files.write("wal", b"frames", 60);
            files
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// Adds `bytes`; then the file is as old as that.
        fn write(&self, name: &str, bytes: &[u8], age_s: i64) {
            let mut file = File::options().append(true).create(true).open(self.path(name)).unwrap();
            file.write_all(bytes).unwrap();
            let age = Duration::from_secs(age_s.unsigned_abs());
            let now = SystemTime::now();
            file.set_modified(if age_s < 0 { now + age } else { now - age }).unwrap();
        }

        fn sight(&self, is_backfilled: bool) -> Option<Sight> {
            Sight::of(&self.path("db"), &self.path("wal"), is_backfilled).unwrap()
        }

        fn is_unchanged(&self, sight: Option<Sight>) -> bool {
            sight.unwrap().still_holds(&self.path("db"), &self.path("wal"))
        }
    }

    #[test]
    fn a_file_that_may_change_unseen_is_no_sight() {
        for (name, age_s) in [("db", 0), ("db", 2), ("wal", 1), ("wal", -3600)] {
            let files = Files::new();
            assert!(files.is_unchanged(files.sight(false)));
            files.write(name, b"", age_s);
            assert_eq!(files.sight(true), None, "{name} written {age_s} s ago");
        }
        let files = Files::new();
        fs::remove_file(files.path("wal")).unwrap();
        files.write("wal", b"", 0);
        assert!(files.is_unchanged(files.sight(true)), "a commit makes an empty wal longer");
    }

    #[test]
    fn every_trace_of_a_commit_is_a_change() {
        type Change = fn(&Files);
        let changes: [(&str, Change); 5] = [
            ("appended to the wal", |files| files.write("wal", b"frame", 0)),
            ("written in place, and the time set back", |files| files.write("wal", b"", 60)),
            ("copied into the database", |files| files.write("db", b"", 0)),
            ("replaced", |files| {
                fs::rename(files.path("db"), files.path("aside")).unwrap();
                fs::copy(files.path("aside"), files.path("db")).unwrap();
            }),
            ("deleted", |files| fs::remove_file(files.path("db")).unwrap()),
        ];
        for (what, change) in changes {
            let files = Files::new();
            let sight = files.sight(true);
            change(&files);
            assert!(!files.is_unchanged(sight), "{what}");
        }
    }

    #[test]
    fn a_wal_that_goes_is_no_change_only_when_all_of_it_was_copied() {
        for is_backfilled in [true, false] {
            let files = Files::new();
            let sight = files.sight(is_backfilled);
            File::create(files.path("wal")).unwrap();
            assert_eq!(files.is_unchanged(sight), is_backfilled, "cut off");
            fs::remove_file(files.path("wal")).unwrap();
            assert_eq!(files.is_unchanged(sight), is_backfilled, "deleted");
            files.write("db", b"", 0);
            assert!(!files.is_unchanged(sight), "and copied");
        }
    }
}
