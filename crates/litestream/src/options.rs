//! Settings of a database, its replica and the store, each with its default.
//!
//! Names are the configuration's keys with `-` → `_`. This is the only place a
//! default of these keys is written down (spec: replication §1, config §5–7).

use std::path::PathBuf;
use std::time::Duration;

/// Settings of one database.
#[derive(Clone, Debug)]
pub struct DbOptions {
    /// The database file.
    pub path: PathBuf,
    /// Directory of local state; `None` means `<dir>/.<file>-litestream`.
    pub meta_path: Option<PathBuf>,
    /// How often the WAL is looked at where file notification is missing. Zero
    /// stops background replication, as upstream has it.
    pub monitor_interval: Duration,
    /// How long committed frames may wait before a checkpoint copies them into
    /// the database file. Zero: no checkpoint by time.
    pub checkpoint_interval: Duration,
    /// How long SQLite waits for a lock on our behalf.
    pub busy_timeout: Duration,
    /// WAL length, in pages, from which each pass checkpoints.
    pub min_checkpoint_page_count: u32,
    /// WAL length, in pages, at which the write lock is taken at the latest so
    /// that the WAL can start over. Zero means the default.
    pub truncate_page_n: i64,
    /// WAL bytes after which a pass begins another file, at a commit. Zero: no limit.
    pub max_sync_wal_bytes: u64,
}

impl DbOptions {
    /// The defaults for the database at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            meta_path: None,
            monitor_interval: Duration::from_secs(1),
            checkpoint_interval: Duration::from_secs(60),
            busy_timeout: Duration::from_secs(1),
            min_checkpoint_page_count: 1000,
            truncate_page_n: DEFAULT_TRUNCATE_PAGE_N,
            max_sync_wal_bytes: 64 << 20,
        }
    }

    /// The directory of local state.
    pub fn meta_path(&self) -> PathBuf {
        self.meta_path.clone().unwrap_or_else(|| crate::meta::default_path(&self.path))
    }

    pub(crate) fn sync_limit(&self) -> u64 {
        if self.max_sync_wal_bytes == 0 { u64::MAX } else { self.max_sync_wal_bytes }
    }
}

/// Settings of one database's replica.
#[derive(Clone, Debug)]
pub struct ReplicaOptions {
    /// Shortest time between two uploads. The first commit after a quiet spell
    /// goes out at once.
    pub sync_interval: Duration,
    /// Files sent in one round before other work gets its turn. Zero: no limit.
    pub max_sync_ltx_files: u32,
    /// Accepted for compatibility: recovery from lost or damaged local files is
    /// always on, because it never goes back in TXIDs.
    pub auto_recover: bool,
}

impl Default for ReplicaOptions {
    fn default() -> Self {
        Self { sync_interval: Duration::from_secs(1), max_sync_ltx_files: 256, auto_recover: false }
    }
}

/// Settings shared by all databases of a process.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// How long uploaded level-0 files stay on local disk.
    pub l0_retention: Duration,
    /// How long the final upload may be retried. Zero: one attempt.
    pub shutdown_sync_timeout: Duration,
    /// Pause between those attempts.
    pub shutdown_sync_interval: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            l0_retention: Duration::from_secs(5 * 60),
            shutdown_sync_timeout: Duration::from_secs(30),
            shutdown_sync_interval: Duration::from_millis(500),
        }
    }
}

/// About 500 MB of 4 KiB pages.
const DEFAULT_TRUNCATE_PAGE_N: i64 = 121_359;
