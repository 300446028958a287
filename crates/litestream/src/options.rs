//! Settings of a database, its replica and the store, each with its default.
//!
//! Names are the configuration's keys with `-` → `_`. This is the only place a
//! default of these keys is written down (spec: replication §1, docs/configuration.md).

use std::path::PathBuf;
use std::time::Duration;

use crate::compactor::FAN_IN;
use crate::disk::Disk;
use crate::levels::Levels;
use crate::retention::Policy;

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
    /// Bytes of local files above which those go that can be spared, in the end also
    /// those that wait to be sent. Zero: no limit.
    pub max_local_bytes: u64,
    /// Bytes of the WAL above which it is given up while nothing can be captured from
    /// it. Zero: no limit.
    pub max_wal_bytes: u64,
    /// Where local state is kept; tests put a layer in between. No setting of the
    /// user's.
    pub disk: Disk,
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
            max_local_bytes: 0,
            max_wal_bytes: DEFAULT_MAX_WAL_BYTES,
            disk: Disk::default(),
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
    /// How often level 1, 2, … is made from the level below; at most eight. Empty:
    /// level 0 and snapshots only.
    pub levels: Levels,
    /// How often a snapshot is made of a database that has changed.
    pub snapshot_interval: Duration,
    /// For how long back any moment can be restored. The newest snapshot older
    /// than this stays as the base of that window.
    pub snapshot_retention: Duration,
    /// How long level-0 files stay once a higher level has them, in the replica
    /// and on local disk. Zero: for ever in the replica.
    pub l0_retention: Duration,
    /// How often expired level-0 files are looked for.
    pub l0_retention_check_interval: Duration,
    /// Whether anything is ever deleted from a replica. Local files expire either way.
    pub retention_enabled: bool,
    /// How often a replica is listed and its levels checked for holes; `None`: never.
    pub validation_interval: Option<Duration>,
    /// Check the level for holes after each compaction.
    pub verify_compaction: bool,
    /// How long the final upload may be retried. Zero: one attempt.
    pub shutdown_sync_timeout: Duration,
    /// Pause between those attempts.
    pub shutdown_sync_interval: Duration,
    /// File descriptors that all databases may have together; `None`: no limit. Each
    /// database has [`DESCRIPTORS_PARKED`](crate::DESCRIPTORS_PARKED), and while it is
    /// open [`DESCRIPTORS_OPEN`](crate::DESCRIPTORS_OPEN) more; idle ones are closed
    /// when others need theirs.
    pub max_descriptors: Option<usize>,
}

impl StoreOptions {
    /// Files that one merge may have open, of which several run at once; not counted
    /// in [`max_descriptors`](Self::max_descriptors), but in proportion to them.
    pub(crate) fn fan_in(&self) -> usize {
        self.max_descriptors.map_or(FAN_IN, |total| (total / 32).clamp(4, FAN_IN))
    }

    /// How long what is kept.
    pub fn policy(&self) -> Policy {
        Policy {
            l0_retention: self.l0_retention,
            snapshot_retention: self.snapshot_retention,
            snapshot_interval: self.snapshot_interval,
            enabled: self.retention_enabled,
        }
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            snapshot_interval: DAY,
            snapshot_retention: DAY,
            l0_retention: Duration::from_secs(5 * 60),
            l0_retention_check_interval: Duration::from_secs(15),
            retention_enabled: true,
            validation_interval: None,
            verify_compaction: false,
            shutdown_sync_timeout: Duration::from_secs(30),
            shutdown_sync_interval: Duration::from_millis(500),
            max_descriptors: None,
        }
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// As long as upstream lets a WAL become before it stops the application's writers.
const DEFAULT_MAX_WAL_BYTES: u64 = 500_000_000;
/// About 500 MB of 4 KiB pages.
const DEFAULT_TRUNCATE_PAGE_N: i64 = 121_359;
