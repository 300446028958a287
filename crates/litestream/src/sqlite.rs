//! The only file that calls SQLite.
//!
//! A [`Connection`] here never writes to the database: it reads, checkpoints and,
//! for the tail of a checkpoint under sustained load, holds the write lock for a
//! moment and rolls back. It never closes the WAL away either: checkpoint-on-close
//! is off, so the log a crash or a clean exit leaves is the same.
//!
//! Spec: replication §2, §3.2.

use std::os::raw::{c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::Once;
use std::time::{Duration, Instant};

use ltx::PageSize;
use rusqlite::{OpenFlags, TransactionState, ffi};

use crate::error::{Error, ErrorKind, Result};
use crate::wal_index::{self, WalIndex};

mod heap;
mod live_file;

pub(crate) use self::heap::trim_heap;
pub(crate) use self::live_file::{Exclusive, LiveFile};

/// One connection to a database in WAL mode. Belongs to one thread at a time.
pub(crate) struct Connection {
    inner: rusqlite::Connection,
}

/// What a checkpoint did. Counts are frames of the present WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckpointOutcome {
    /// Frames in the WAL.
    pub(crate) log: u32,
    /// Frames now in the database file.
    pub(crate) backfilled: u32,
}

impl Connection {
    /// Opens an existing database for reading and checkpoints. Does not create
    /// a missing one and does not change its journal mode.
    pub(crate) fn open(path: &Path, busy_timeout: Duration) -> Result<Self> {
        allocate_on_demand();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let inner = rusqlite::Connection::open_with_flags(path, flags).map_err(|e| sqlite("open database", e))?;
        let connection = Self { inner };
        connection.inner.busy_timeout(busy_timeout).map_err(|e| sqlite("set busy timeout", e))?;
        connection.configure()?;
        Ok(connection)
    }

    fn configure(&self) -> Result<()> {
        // SAFETY: the handle is live for as long as `self.inner`; each call below
        // passes arguments of the types SQLite documents for it.
        let codes = unsafe {
            let db = self.inner.handle();
            let mut persist: c_int = 1;
            [
                // Our own reads must never trigger a checkpoint we did not plan.
                ffi::sqlite3_wal_autocheckpoint(db, 0),
                ffi::sqlite3_db_config(db, ffi::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1 as c_int, ptr::null_mut::<c_int>()),
                ffi::sqlite3_file_control(
                    db,
                    c"main".as_ptr(),
                    ffi::SQLITE_FCNTL_PERSIST_WAL,
                    (&raw mut persist).cast(),
                ),
            ]
        };
        match codes.into_iter().find(|&code| code != ffi::SQLITE_OK) {
            None => Ok(()),
            Some(code) => {
                Err(sqlite("configure connection", rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)))
            }
        }
    }

    /// The journal mode as SQLite spells it (`wal`, `delete`, …).
    pub(crate) fn journal_mode(&self) -> Result<String> {
        self.text("PRAGMA journal_mode", "read journal mode")
    }

    /// Switches the database to WAL mode, as replication requires. The mode stays
    /// in the database's header after this process ends.
    pub(crate) fn enable_wal(&self) -> Result<()> {
        let mode = self.text("PRAGMA journal_mode = wal", "enable wal")?;
        if mode == "wal" {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Setup, format!("enable wal failed, mode={mode:?}")))
    }

    /// The database's page size. Right only after the first
    /// [`begin_read`](Self::begin_read), which learns it from the file.
    pub(crate) fn page_size(&self) -> Result<PageSize> {
        let bytes: u32 =
            self.inner.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(|e| sqlite("read page size", e))?;
        PageSize::new(bytes).ok_or_else(|| {
            Error::new(ErrorKind::Setup, format!("database has page size {bytes}, which SQLite does not allow"))
        })
    }

    /// Takes a read transaction: a *pin*. It keeps the WAL from being restarted
    /// (slot 1 and up) or its new generation from being backfilled (slot 0).
    pub(crate) fn begin_read(&self) -> Result<()> {
        self.execute("BEGIN", "open read transaction")?;
        // BEGIN alone takes no lock; the first read does. The cookie is the one thing
        // that can be read without parsing the schema, which would stay in memory for
        // as long as the connection.
        let read = self
            .inner
            .query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0))
            .map_err(|e| sqlite("open read transaction", e));
        if read.is_err() {
            self.end()?;
        }
        read.map(|_| ())
    }

    /// Ends whatever transaction is open by rolling it back. Idempotent.
    pub(crate) fn end(&self) -> Result<()> {
        if self.inner.is_autocommit() {
            return Ok(());
        }
        self.execute("ROLLBACK", "end transaction")
    }

    /// True while a read transaction is really held, as SQLite sees it.
    pub(crate) fn is_reading(&self) -> bool {
        matches!(self.inner.transaction_state(Some(c"main")), Ok(TransactionState::Read))
    }

    /// Takes the database's write lock, waiting at most `patience`. `false` when
    /// somebody else kept it. [`end`](Self::end) gives it back; nothing is written.
    ///
    /// SQLite's own busy handler sleeps for milliseconds between attempts and
    /// hardly ever meets the microseconds between two commits of a fast writer.
    pub(crate) fn lock_writers(&self, patience: Duration) -> Result<bool> {
        self.inner.busy_timeout(Duration::ZERO).map_err(|e| sqlite("set busy timeout", e))?;
        let deadline = Instant::now() + patience;
        let mut attempts: u32 = 0;
        loop {
            match self.inner.execute_batch("BEGIN IMMEDIATE") {
                Ok(()) => return Ok(true),
                Err(err) if !is_busy(&err) => return Err(sqlite("take write lock", err)),
                Err(_) if Instant::now() >= deadline => return Ok(false),
                Err(_) => attempts += 1,
            }
            if attempts.is_multiple_of(LOCK_SPINS) {
                std::thread::sleep(LOCK_PAUSE);
            }
        }
    }

    /// Copies as many frames as readers allow into the database file, without
    /// waiting for readers or writers. `None` when another checkpoint runs for
    /// longer than `patience`.
    pub(crate) fn checkpoint_passive(&self, patience: Duration) -> Result<Option<CheckpointOutcome>> {
        let deadline = Instant::now() + patience;
        loop {
            let outcome = self.try_checkpoint_passive()?;
            if outcome.is_some() || Instant::now() >= deadline {
                return Ok(outcome);
            }
            std::thread::sleep(LOCK_PAUSE);
        }
    }

    fn try_checkpoint_passive(&self) -> Result<Option<CheckpointOutcome>> {
        let (mut log, mut backfilled) = (0, 0);
        // SAFETY: handle and out-pointers are live for the call; "main" is a
        // NUL-terminated constant.
        let code = unsafe {
            ffi::sqlite3_wal_checkpoint_v2(
                self.inner.handle(),
                c"main".as_ptr(),
                ffi::SQLITE_CHECKPOINT_PASSIVE,
                &raw mut log,
                &raw mut backfilled,
            )
        };
        match code & 0xff {
            ffi::SQLITE_OK => Ok(Some(CheckpointOutcome {
                log: u32::try_from(log).unwrap_or(0),
                backfilled: u32::try_from(backfilled).unwrap_or(0),
            })),
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => Ok(None),
            _ => Err(sqlite("checkpoint", rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))),
        }
    }

    /// Reads the wal-index from the memory SQLite has mapped. `None` when no
    /// consistent copy could be had for some milliseconds, or before the first
    /// read of this connection.
    ///
    /// A writer updates the index in nanoseconds, but may lose its processor in
    /// the middle of it, so the later attempts leave it time.
    pub(crate) fn wal_index(&self) -> Option<WalIndex> {
        for attempt in 0..WAL_INDEX_ATTEMPTS {
            if let Some(index) = WalIndex::parse(&self.raw_wal_index()?) {
                return Some(index);
            }
            if attempt < WAL_INDEX_SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(WAL_INDEX_PAUSE);
            }
        }
        None
    }

    /// As [`wal_index`](Self::wal_index), for callers that must not wait.
    pub(crate) fn peek_wal_index(&self) -> Option<WalIndex> {
        (0..WAL_INDEX_SPINS).find_map(|_| WalIndex::parse(&self.raw_wal_index()?))
    }

    /// Takes the wal-index out of this process's resident memory. It stays mapped
    /// and comes back from the page cache with the next look: for a connection that
    /// is not looked at for a while.
    pub(crate) fn release_wal_index(&self) {
        #[cfg(target_os = "linux")]
        if let Some(region) = self.map_wal_index()
            && (region as usize).is_multiple_of(rustix::param::page_size())
        {
            // SAFETY: SQLite's own VFS maps the region shared, from a file, at a page
            // boundary, and keeps it mapped while the connection is open. For such a
            // mapping the advice drops page table entries only; no content is lost.
            let advised = unsafe {
                rustix::mm::madvise(region, WAL_INDEX_REGION_LEN as usize, rustix::mm::Advice::LinuxDontNeed)
            };
            if let Err(err) = advised {
                tracing::trace!(error = %err, "wal-index stays resident");
            }
        }
    }

    fn raw_wal_index(&self) -> Option<[u8; wal_index::LEN]> {
        let words = self.map_wal_index()?.cast::<u32>();
        let mut raw = [0; wal_index::LEN];
        // Other processes change this memory at any time, so every word is copied by
        // one volatile read. The order matters as it does in SQLite: a writer stores
        // the second copy of the header first.
        for (i, bytes) in raw.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            if i == HEADER_COPY_WORDS || i == 2 * HEADER_COPY_WORDS {
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            }
            // SAFETY: `map_wal_index` gave a region of at least 32 KiB, which stays
            // mapped while the connection is open.
            *bytes = unsafe { words.add(i).read_volatile() }.to_ne_bytes();
        }
        Some(raw)
    }

    /// Where the first region of the wal-index is mapped; `None` before the first
    /// read of this connection.
    fn map_wal_index(&self) -> Option<*mut c_void> {
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        let mut region: *mut c_void = ptr::null_mut();
        // SAFETY: FCNTL_FILE_POINTER stores the main database file's handle, which
        // lives as long as the connection. xShmMap(region 0) on a file whose
        // wal-index this connection has already opened returns the existing
        // mapping of at least 32 KiB; it stays valid while the connection is open.
        unsafe {
            let code = ffi::sqlite3_file_control(
                self.inner.handle(),
                c"main".as_ptr(),
                ffi::SQLITE_FCNTL_FILE_POINTER,
                (&raw mut file).cast(),
            );
            if code != ffi::SQLITE_OK || file.is_null() {
                return None;
            }
            let methods = (*file).pMethods.as_ref()?;
            if methods.iVersion < 2 {
                return None;
            }
            let map = methods.xShmMap?;
            let code = map(file, 0, WAL_INDEX_REGION_LEN, 0, (&raw mut region).cast());
            if code != ffi::SQLITE_OK || region.is_null() {
                return None;
            }
            Some(region)
        }
    }

    fn execute(&self, sql: &str, what: &str) -> Result<()> {
        self.inner.execute_batch(sql).map_err(|e| sqlite(what, e))
    }

    fn text(&self, sql: &str, what: &str) -> Result<String> {
        self.inner.query_row(sql, [], |row| row.get(0)).map_err(|e| sqlite(what, e))
    }
}

/// How thoroughly a restored database is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IntegrityCheck {
    /// Not at all, beyond the checksums every restore verifies.
    #[default]
    None,
    /// `PRAGMA quick_check`.
    Quick,
    /// `PRAGMA integrity_check`.
    Full,
}

/// Runs SQLite's own check over a database file nobody else has open, and leaves
/// no `-wal` or `-shm` behind.
///
/// # Errors
/// [`ErrorKind::Corrupt`] with SQLite's first finding.
pub fn integrity_check(path: &Path, check: IntegrityCheck) -> Result<()> {
    let sql = match check {
        IntegrityCheck::None => return Ok(()),
        IntegrityCheck::Quick => "PRAGMA quick_check",
        IntegrityCheck::Full => "PRAGMA integrity_check",
    };
    // `immutable` reads the file as it is: no locks, no journal, no side files.
    let uri = immutable_uri(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = rusqlite::Connection::open_with_flags(uri, flags)
        .map_err(|e| sqlite("open database for integrity check", e))?;
    let finding: String =
        connection.query_row(sql, [], |row| row.get(0)).map_err(|e| sqlite("run integrity check", e))?;
    if finding == "ok" {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, format!("integrity check failed: {finding}")))
}

fn immutable_uri(path: &Path) -> Result<String> {
    use std::fmt::Write as _;
    let absolute = std::path::absolute(path).map_err(|e| Error::io("resolve path", e))?;
    let mut uri = String::from("file:");
    for &byte in absolute.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => uri.push(char::from(byte)),
            _ => {
                write!(uri, "%{byte:02X}").map_err(|e| Error::with_source(ErrorKind::Setup, "encode path", e))?;
            }
        }
    }
    uri.push_str("?immutable=1");
    Ok(uri)
}

/// The SQLite version linked in.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// Keeps SQLite from setting memory aside for each connection: 48 KiB for small
/// objects and twenty pages of cache, which a connection that only ever reads
/// page 1 does not need and a thousand databases cannot afford.
fn allocate_on_demand() {
    static ONCE: Once = Once::new();
    // SAFETY: each call passes arguments of the types SQLite documents for its
    // option. Once SQLite is initialized they are refused and change nothing.
    ONCE.call_once(|| unsafe {
        let codes = [
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOOKASIDE, 0 as c_int, 0 as c_int),
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_PAGECACHE, ptr::null_mut::<c_void>(), 0 as c_int, 0 as c_int),
        ];
        if codes != [ffi::SQLITE_OK; 2] {
            tracing::debug!(?codes, "SQLite was in use before, it keeps its own memory settings");
        }
    });
}

fn is_busy(err: &rusqlite::Error) -> bool {
    matches!(err.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked))
}

fn sqlite(context: &str, err: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode as Code;
    let kind = match err.sqlite_error_code() {
        Some(Code::DatabaseBusy | Code::DatabaseLocked) => ErrorKind::Busy,
        Some(Code::NotADatabase | Code::DatabaseCorrupt) => ErrorKind::Corrupt,
        Some(Code::DiskFull) => ErrorKind::DiskFull,
        Some(Code::CannotOpen | Code::PermissionDenied | Code::ReadOnly) => ErrorKind::Setup,
        _ => ErrorKind::Transient,
    };
    Error::with_source(kind, context, describe(&err))
}

/// SQLite's message with its code, as upstream prints it: `file is not a database (26)`.
fn describe(err: &rusqlite::Error) -> String {
    match err {
        rusqlite::Error::SqliteFailure(failure, Some(text)) => format!("{text} ({})", failure.extended_code),
        rusqlite::Error::SqliteFailure(failure, None) => {
            format!("{} ({})", ffi::code_to_str(failure.extended_code), failure.extended_code)
        }
        other => other.to_string(),
    }
}

/// Attempts at the write lock between two short pauses.
const LOCK_SPINS: u32 = 64;
const LOCK_PAUSE: Duration = Duration::from_micros(50);
/// Attempts without giving up the processor, and all attempts.
const WAL_INDEX_SPINS: usize = 100;
const WAL_INDEX_ATTEMPTS: usize = 300;
const WAL_INDEX_PAUSE: Duration = Duration::from_micros(100);
const WAL_INDEX_REGION_LEN: c_int = 32 * 1024;
/// Words in one copy of the wal-index header.
const HEADER_COPY_WORDS: usize = 12;

#[cfg(test)]
mod tests;
