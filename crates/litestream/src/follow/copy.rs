//! The followed copy: a database file, who may touch it, and where it stands.
//!
//! Everything here blocks. Waiting for a lock looks at the cancellation token
//! many times a second, says after some seconds whom it waits for, and gives up
//! after a minute, so that neither a signal nor a person is kept in the dark.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ltx::PageSize;
use tokio_util::sync::CancellationToken;

use super::apply::{Batch, Written, apply};
use super::page_one::{self, PageOne};
use super::spill::Spill;
use super::{lock_holders, sidecar};
use crate::error::{Error, ErrorKind, Result};
use crate::sqlite::LiveFile;

/// A database that this process keeps up to date.
pub(super) struct Copy {
    /// As the user wrote it; the sidecar stands beside it.
    output: PathBuf,
    /// Without symbolic links, as SQLite names the journal.
    path: PathBuf,
    live: LiveFile,
    inode: (u64, u64),
    header: PageOne,
    /// The counter we left in the file; another one is somebody else's work.
    /// `None` until we have written, or when anything may be overwritten.
    counter: Option<u32>,
    cancel: CancellationToken,
}

impl Copy {
    /// Opens the database at `output`. A journal that a killed follower left is
    /// rolled back, and a copy in WAL mode taken out of it.
    ///
    /// # Errors
    /// [`ErrorKind::Setup`] when somebody has written to it;
    /// [`ErrorKind::Busy`]; [`ErrorKind::Cancelled`].
    pub(super) fn open(output: &Path, may_overwrite: bool, cancel: CancellationToken) -> Result<Self> {
        let failed = |e| Error::io(format!("open {}", output.display()), e);
        let path = fs::canonicalize(output).map_err(failed)?;
        let live = LiveFile::open(&path)?;
        let mut header = [0; page_one::HEADER_LEN];
        // Bytes 18 and 19 are where they are in any file; whoever locks it now is
        // waited for below, where it matters.
        live.read_at(0, &mut header)?;
        let mut copy = Self {
            inode: inode(&path).map_err(failed)?,
            header: parse(&header)?,
            output: output.to_owned(),
            path,
            live,
            counter: None,
            cancel,
        };
        if copy.header.is_wal {
            copy.leave_wal_mode(may_overwrite)?;
        }
        copy.header = copy.locked("read database", |copy| copy.try_read(PageOne::of))?;
        Ok(copy)
    }

    pub(super) fn page_size(&self) -> PageSize {
        self.header.page_size
    }

    /// Allows the next batch to replace whatever is there.
    pub(super) fn forget_counter(&mut self) {
        self.counter = None;
    }

    /// Applies `batch` and saves its position.
    ///
    /// # Errors
    /// [`ErrorKind::Setup`] when the copy was replaced or written to by somebody
    /// else; [`ErrorKind::Discontinuous`] when its page size is another;
    /// [`ErrorKind::Corrupt`] when the batch is incomplete;
    /// [`ErrorKind::Busy`]; [`ErrorKind::Cancelled`]; [`ErrorKind::DiskFull`].
    /// In every case the database stands where it stood.
    pub(super) fn commit(&mut self, batch: &Batch) -> Result<Written> {
        let written = self.locked("lock database", |copy| copy.try_commit(batch))?;
        self.counter = Some(written.counter);
        self.header.page_size = batch.pages.page_size();
        sidecar::publish(&self.output)?;
        Ok(written)
    }

    fn try_commit(&self, batch: &Batch) -> Result<Option<Written>> {
        let Some(lock) = self.live.lock_exclusive(LOCK_SLICE)? else { return Ok(None) };
        let found = inode(&self.path);
        if !found.is_ok_and(|found| found == self.inode) {
            let problem = format!("the copy was removed or replaced: {}", self.output.display());
            return Err(Error::new(ErrorKind::Setup, problem));
        }
        let header = PageOne::of(lock.file())?;
        if self.counter.is_some_and(|counter| counter != header.counter) || header.is_wal {
            return Err(self.written_by_others("its change counter moved"));
        }
        sidecar::prepare(&self.output, batch.to)?;
        let written = apply(&lock, &self.path, batch, &|_| ());
        drop(lock);
        if written.is_err() {
            // Puts back what was overwritten, if anything was. Should it fail,
            // the journal stays and whoever opens the database next does it.
            if let Err(error) = self.live.read(LOCK_SLICE, |_| Ok(())) {
                tracing::warn!(%error, "follow: could not roll back");
            }
        }
        written.map(Some)
    }

    /// Compares the pages of one file that ends at the copy's position with the
    /// copy. False when they differ: it is a copy of something else.
    pub(super) fn matches(&self, pages: &Spill, commit: u32) -> Result<bool> {
        if self.page_size() != pages.page_size() {
            return Ok(false);
        }
        self.locked("read database", |copy| {
            copy.try_read(|live| {
                let page_size = pages.page_size();
                let mut is_same = live.len()? == u64::from(commit) * u64::from(page_size.get());
                let mut current = vec![0; page_size.len()];
                pages.for_each_newest_first(|pgno, page| {
                    if is_same && pgno.get() <= commit {
                        live.read_at(pgno.offset(page_size), &mut current)?;
                        is_same = match pgno.get() {
                            1 => page_one::is_same(&current, page),
                            _ => current == page,
                        };
                    }
                    Ok(())
                })?;
                Ok(is_same)
            })
        })
    }

    /// A copy that upstream restored still says WAL in its header until a file
    /// brings its first page. Readers then keep a lock as long as they are open.
    fn leave_wal_mode(&self, may_overwrite: bool) -> Result<()> {
        let mut wal = self.path.clone().into_os_string();
        wal.push("-wal");
        let wal_len = fs::metadata(wal).map_or(0, |found| found.len());
        if wal_len > WAL_HEADER_LEN && !may_overwrite {
            return Err(self.written_by_others("there is a write-ahead log beside it"));
        }
        self.locked("leave WAL mode", |copy| Ok(copy.live.leave_wal_mode(LOCK_SLICE)?.then_some(())))
    }

    fn written_by_others(&self, sign: &str) -> Error {
        let path = self.output.display();
        Error::new(ErrorKind::Setup, format!("somebody else has written to the copy {path}: {sign}"))
    }

    fn try_read<T>(&self, read: impl FnOnce(&LiveFile) -> Result<T>) -> Result<Option<T>> {
        match self.live.read(LOCK_SLICE, read) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == ErrorKind::Busy => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Repeats `attempt`, which waits a moment for its lock, until it gives
    /// something.
    fn locked<T>(&self, what: &str, attempt: impl Fn(&Self) -> Result<Option<T>>) -> Result<T> {
        let started = Instant::now();
        let mut was_told = false;
        loop {
            if self.cancel.is_cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "follow cancelled"));
            }
            if let Some(value) = attempt(self)? {
                return Ok(value);
            }
            let waited = started.elapsed();
            if waited > LOCK_PATIENCE {
                let context = format!("{what}: locked by {}", lock_holders::of(&self.path));
                return Err(Error::new(ErrorKind::Busy, context));
            }
            if waited > TELL_AFTER && !was_told {
                was_told = true;
                let holders = lock_holders::of(&self.path);
                tracing::warn!(db = %self.output.display(), holders, "follow: waiting for readers to finish");
            }
            // Readers without a busy timeout get their turn.
            std::thread::sleep(LOCK_PAUSE);
        }
    }
}

impl PageOne {
    fn of(live: &LiveFile) -> Result<Self> {
        let mut header = [0; page_one::HEADER_LEN];
        live.read_at(0, &mut header)?;
        parse(&header)
    }
}

fn parse(header: &[u8]) -> Result<PageOne> {
    PageOne::parse(header).ok_or_else(|| Error::new(ErrorKind::Corrupt, "the copy is not an SQLite database"))
}

fn inode(path: &Path) -> std::io::Result<(u64, u64)> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// How long one attempt keeps new readers out while old ones finish.
const LOCK_SLICE: Duration = Duration::from_millis(100);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// When a person is told whom we wait for.
const TELL_AFTER: Duration = Duration::from_secs(3);
/// When the attempt counts as failed. The batch is kept and tried again.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);
const WAL_HEADER_LEN: u64 = 32;
