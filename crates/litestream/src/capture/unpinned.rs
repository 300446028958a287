//! Letting go of the WAL when nothing can be captured from it.
//!
//! The pin keeps every frame that is not captured. When it cannot be captured, because
//! the disk of the local state is full, the WAL would grow until the application's disk
//! is full as well. Beyond a budget the pin is given up and the WAL is copied into the
//! database to its end, so that it starts over: it is bounded whatever the application
//! does. What it held is in the database; the
//! next capture compares all pages.
//!
//! The rule that must never break: position, page sums and local files stay as they
//! are, so that the comparison finds everything since the last file.
//!
//! Spec: docs/operations.md, "Budgets".

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Capture;
use crate::error::{Error, Result};
use crate::sqlite::Connection;
use crate::wal;

impl Capture {
    /// Bytes of the WAL in use. Without a connection it is the length of its file, which
    /// may be more; zero of a database that is another process's.
    pub(crate) fn wal_in_use(&self) -> u64 {
        if self.local.is_none() {
            return 0;
        }
        match &self.live {
            Some(live) => live.peek().map_or(0, |index| wal::frame_offset(live.page_size, index.end.frame)),
            None => fs::metadata(wal_of(&self.options.path)).map_or(0, |file| file.len()),
        }
    }

    /// When more than `limit` bytes of the WAL are in use: gives up the pin and lets the
    /// WAL start over, as far as others' readers allow. True when it was given up by this.
    ///
    /// # Errors
    /// SQLite does not tell, or refuses the checkpoint; the pin may be given up all the
    /// same.
    pub(crate) fn let_go_of_wal(&mut self, limit: u64) -> Result<bool> {
        let path = fs::canonicalize(&self.options.path).map_err(|e| Error::io("find database", e))?;
        let copier = Connection::open(&path, PATIENCE)?;
        copier.begin_read()?;
        let page_size = copier.page_size()?;
        copier.end()?;
        let in_use = copier.wal_index().map_or(u64::MAX, |index| wal::frame_offset(page_size, index.end.frame));
        if in_use <= limit {
            return Ok(false);
        }
        // What they hold is found again by comparison.
        self.drop_deltas();
        self.held = None;
        self.live = None;
        if let Some(local) = &mut self.local {
            // Not written down: the disk is full. They are read again from where they
            // were last, and brought up to date from the local files.
            local.sums = None;
        }
        let is_first = !std::mem::replace(&mut self.wal_given_up, true);
        // Under the write lock, because a writer that never pauses adds frames as fast as
        // they are copied, and a WAL that is not copied to its end does not start over.
        let locker = Connection::open(&path, PATIENCE)?;
        let is_locked = locker.lock_writers(PATIENCE)?;
        let copied = copier.checkpoint_passive(PATIENCE);
        locker.end()?;
        let db = self.options.path.display();
        match copied {
            Ok(copied) => tracing::debug!(%db, in_use, is_locked, ?copied, "wal copied without a pin"),
            Err(error) => tracing::warn!(%db, in_use, %error, "wal cannot be copied into the database"),
        }
        Ok(is_first)
    }

    /// The WAL was let go of, and nothing has been captured since.
    pub(crate) fn has_given_up_wal(&self) -> bool {
        self.wal_given_up
    }

    /// Bytes that may still be written where the local state is; `None` when the
    /// system does not tell.
    pub(crate) fn local_space(&self) -> Option<u64> {
        let meta = self.options.meta_path();
        let space = rustix::fs::statvfs(&meta).ok()?;
        Some(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

/// The WAL of the database behind a path that may be a symlink.
fn wal_of(path: &Path) -> PathBuf {
    let mut name = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).into_os_string();
    name.push("-wal");
    PathBuf::from(name)
}

/// How long a gap between two commits, or the end of another checkpoint, is waited for.
const PATIENCE: Duration = Duration::from_millis(100);
