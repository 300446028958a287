//! A database file that other processes read, opened so that whole pages can be
//! put into it under SQLite's own locks.
//!
//! The connection serves for three things SQLite must do itself: taking locks,
//! rolling back a journal that a killed writer left, and switching the journal
//! mode. Bytes go through the file handle of that connection, because opening
//! and closing the file elsewhere in this process would drop its locks.
//!
//! Rule that must never break: nothing is written unless this connection holds
//! SQLite's EXCLUSIVE lock, which [`Exclusive`] proves.
//!
//! Sources: sqlite.org/lockingv3.html, sqlite.org/c3ref/io_methods.html.

use std::os::raw::{c_int, c_void};
use std::path::Path;
use std::ptr;
use std::time::Duration;

use rusqlite::{OpenFlags, ffi};

use super::{is_busy, sqlite};
use crate::error::{Error, ErrorKind, Result};

/// A database in rollback-journal mode. Belongs to one thread at a time.
pub(crate) struct LiveFile {
    inner: rusqlite::Connection,
}

impl LiveFile {
    /// Opens an existing database file. Touches nothing yet.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let inner = rusqlite::Connection::open_with_flags(path, flags).map_err(|e| sqlite("open database", e))?;
        Ok(Self { inner })
    }

    /// Takes the EXCLUSIVE lock, waiting at most `patience`; `None` when readers
    /// kept theirs. A journal left by a killed writer is rolled back first.
    ///
    /// While it waits, PENDING keeps new readers out, so that a steady stream of
    /// them cannot starve us.
    pub(crate) fn lock_exclusive(&self, patience: Duration) -> Result<Option<Exclusive<'_>>> {
        self.inner.busy_timeout(patience).map_err(|e| sqlite("set busy timeout", e))?;
        match self.inner.execute_batch("BEGIN EXCLUSIVE") {
            Ok(()) => {}
            Err(err) if is_busy(&err) => return Ok(None),
            Err(err) => return Err(sqlite("lock database", err)),
        }
        let lock = Exclusive { live: self };
        // In WAL mode BEGIN EXCLUSIVE takes another lock than the one that keeps
        // readers of the file out.
        if self.lock_state()? != LOCK_EXCLUSIVE {
            return Err(Error::new(
                ErrorKind::Setup,
                "the database is in WAL mode: somebody else has written to this copy",
            ));
        }
        Ok(Some(lock))
    }

    /// Runs `read` under a SHARED lock, waiting at most `patience` for it. Rolls
    /// back a journal that a killed writer left.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when the lock was not to be had; what `read` returns.
    pub(crate) fn read<T>(&self, patience: Duration, read: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.inner.busy_timeout(patience).map_err(|e| sqlite("set busy timeout", e))?;
        // BEGIN alone takes no lock; reading the cookie does, without parsing a
        // schema that may not be ours to judge.
        self.inner
            .execute_batch("BEGIN")
            .and_then(|()| self.inner.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0)))
            .map_err(|e| sqlite("read database", e))
            .and_then(|_| read(self))
            .inspect_err(|_| self.end())
            .inspect(|_| self.end())
    }

    /// Switches a copy whose header says WAL to rollback mode, once nobody else
    /// has it open. False while somebody does.
    pub(crate) fn leave_wal_mode(&self, patience: Duration) -> Result<bool> {
        self.inner.busy_timeout(patience).map_err(|e| sqlite("set busy timeout", e))?;
        match self.inner.query_row("PRAGMA journal_mode = delete", [], |row| row.get::<_, String>(0)) {
            Ok(mode) => Ok(mode == "delete"),
            Err(err) if is_busy(&err) => Ok(false),
            Err(err) => Err(sqlite("switch to rollback journal", err)),
        }
    }

    /// Length of the file in bytes.
    pub(crate) fn len(&self) -> Result<u64> {
        let (file, methods) = self.file()?;
        let mut len = 0;
        // SAFETY: `file` is this connection's open main database file and the
        // method is its own; the out-pointer lives for the call.
        let code = unsafe { methods.xFileSize.map(|size| size(file, &raw mut len)) };
        check(code, "read length of database")?;
        Ok(u64::try_from(len).unwrap_or(0))
    }

    /// Fills `buffer` from `offset`. What lies beyond the end reads as zeros.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let (file, methods) = self.file()?;
        let (len, offset) = (io_len(buffer.len())?, io_offset(offset)?);
        // SAFETY: as in `len`; the buffer is writable for `len` bytes.
        let code = unsafe { methods.xRead.map(|read| read(file, buffer.as_mut_ptr().cast(), len, offset)) };
        if code == Some(ffi::SQLITE_IOERR_SHORT_READ) {
            return Ok(());
        }
        check(code, "read database")
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let (file, methods) = self.file()?;
        let (len, offset) = (io_len(bytes.len())?, io_offset(offset)?);
        // SAFETY: as in `len`; the buffer is readable for `len` bytes.
        let code = unsafe { methods.xWrite.map(|write| write(file, bytes.as_ptr().cast(), len, offset)) };
        check(code, "write database")
    }

    fn truncate(&self, len: u64) -> Result<()> {
        let (file, methods) = self.file()?;
        let len = io_offset(len)?;
        // SAFETY: as in `len`.
        let code = unsafe { methods.xTruncate.map(|truncate| truncate(file, len)) };
        check(code, "truncate database")
    }

    fn sync(&self) -> Result<()> {
        let (file, methods) = self.file()?;
        // SAFETY: as in `len`.
        let code = unsafe { methods.xSync.map(|sync| sync(file, ffi::SQLITE_SYNC_FULL)) };
        check(code, "fsync database")
    }

    /// The lock this connection holds on the file, as SQLite counts them.
    fn lock_state(&self) -> Result<c_int> {
        let mut state: c_int = 0;
        self.control(ffi::SQLITE_FCNTL_LOCKSTATE, (&raw mut state).cast(), "read lock state")?;
        Ok(state)
    }

    /// The main database file and its methods.
    fn file(&self) -> Result<(*mut ffi::sqlite3_file, &ffi::sqlite3_io_methods)> {
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        self.control(ffi::SQLITE_FCNTL_FILE_POINTER, (&raw mut file).cast(), "open database file")?;
        let closed = || Error::new(ErrorKind::Transient, "database file is not open");
        if file.is_null() {
            return Err(closed());
        }
        // SAFETY: FCNTL_FILE_POINTER gave the connection's file handle, which
        // lives as long as the connection, and so do its methods.
        let methods = unsafe { (*file).pMethods.as_ref() };
        Ok((file, methods.ok_or_else(closed)?))
    }

    fn control(&self, op: c_int, argument: *mut c_void, what: &str) -> Result<()> {
        // SAFETY: the handle lives as long as `self.inner`; each caller passes a
        // pointer to what the operation documents, alive for the call.
        let code = unsafe { ffi::sqlite3_file_control(self.inner.handle(), c"main".as_ptr(), op, argument) };
        check(Some(code), what)
    }

    /// Gives all locks back. The transaction never wrote, so rolling it back
    /// cannot fail in a way that matters: closing the connection would do it too.
    fn end(&self) {
        if !self.inner.is_autocommit()
            && let Err(error) = self.inner.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "could not release database lock");
        }
    }
}

/// SQLite's EXCLUSIVE lock; nobody else reads or writes the file. Given back on
/// drop.
pub(crate) struct Exclusive<'a> {
    live: &'a LiveFile,
}

impl Exclusive<'_> {
    /// The file, for reading.
    pub(crate) fn file(&self) -> &LiveFile {
        self.live
    }

    /// Writes `bytes` at `offset`.
    pub(crate) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.live.write_at(offset, bytes)
    }

    /// Cuts or extends the file.
    pub(crate) fn truncate(&self, len: u64) -> Result<()> {
        self.live.truncate(len)
    }

    /// Flushes the file to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.live.sync()
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.live.end();
    }
}

fn check(code: Option<c_int>, what: &str) -> Result<()> {
    match code {
        Some(ffi::SQLITE_OK) => Ok(()),
        Some(code) => Err(sqlite(what, rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))),
        None => Err(Error::new(ErrorKind::Setup, format!("{what}: not supported by this SQLite"))),
    }
}

fn io_len(len: usize) -> Result<c_int> {
    c_int::try_from(len).map_err(|e| Error::with_source(ErrorKind::Setup, "length of a transfer", e))
}

fn io_offset(offset: u64) -> Result<i64> {
    i64::try_from(offset).map_err(|e| Error::with_source(ErrorKind::Setup, "offset in database", e))
}

/// `SQLITE_LOCK_EXCLUSIVE` as the file control reports it.
const LOCK_EXCLUSIVE: c_int = 4;
