//! What has been done for one database since it was added, in plain numbers.
//!
//! Whoever does something counts it here; nobody is woken to count, so that an
//! idle database costs nothing. Readers get copies ([`Counts`]) and decide what
//! to show and how.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

/// Numbers about one database since it was added.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Passes over the WAL. One that finds no database is counted, and no failure.
    pub captures: Effort,
    /// WAL bytes turned into LTX.
    pub captured_wal_bytes: u64,
    /// The last pass failed because there was no space on the local disk.
    pub is_disk_full: bool,
    /// Checkpoints, all of them `PASSIVE`.
    pub checkpoints: Effort,
    /// Upload rounds that failed.
    pub upload_errors: u64,
    /// How long capture waits after its last failure; zero when that did not fail.
    pub capture_backoff: Duration,
    /// How long uploads wait after the last failure; zero when that did not fail.
    pub upload_backoff: Duration,
    /// What the last look for expired level-0 files found.
    pub l0_expiry: Option<L0Expiry>,
    /// Bytes of local files, as of the last look; only looked at for a budget.
    pub local_bytes: u64,
    /// How often history that waited to be sent was given up for a budget.
    pub histories_given_up: u64,
    /// How often the WAL was given up because nothing could be captured from it.
    pub wals_given_up: u64,
    /// Since when a pass is running.
    pub pass_began_at: Option<Timestamp>,
}

/// Something that is done again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Attempts.
    pub count: u64,
    /// Those that failed.
    pub errors: u64,
    /// Time spent, failed attempts included.
    pub duration: Duration,
}

/// Level-0 files of a replica as one look for expired ones found them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct L0Expiry {
    /// Expired, hence deleted.
    pub eligible: u64,
    /// Not in level 1 yet.
    pub not_compacted: u64,
    /// In level 1, but not old enough.
    pub too_recent: u64,
}

/// The side of a database that backs off by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Capture,
    Upload,
}

/// The running numbers.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    captures: Tally,
    captured_wal_bytes: AtomicU64,
    is_disk_full: AtomicBool,
    checkpoints: Tally,
    upload_errors: AtomicU64,
    local_bytes: AtomicU64,
    histories_given_up: AtomicU64,
    wals_given_up: AtomicU64,
    backoff_ms: [AtomicU64; 2],
    l0_expiry: Mutex<Option<L0Expiry>>,
    /// Milliseconds since the epoch; zero while none is running.
    pass_began_ms: AtomicI64,
}

#[derive(Debug, Default)]
struct Tally {
    count: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
}

impl Tally {
    fn add(&self, took: Duration, failed: bool) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.errors.fetch_add(u64::from(failed), Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> Effort {
        Effort {
            count: self.count.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            duration: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
        }
    }
}

impl Counters {
    pub(crate) fn pass_begins(&self, now: Timestamp) {
        self.pass_began_ms.store(now.as_millisecond().max(1), Ordering::Relaxed);
    }

    pub(crate) fn pass_ended(&self, took: Duration, failed: bool, disk_full: bool, wal_bytes: u64) {
        self.pass_began_ms.store(0, Ordering::Relaxed);
        self.captures.add(took, failed);
        self.is_disk_full.store(disk_full, Ordering::Relaxed);
        self.captured_wal_bytes.fetch_add(wal_bytes, Ordering::Relaxed);
    }

    pub(crate) fn checkpointed(&self, took: Duration, failed: bool) {
        self.checkpoints.add(took, failed);
    }

    pub(crate) fn upload_failed(&self) {
        self.upload_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn holds_locally(&self, bytes: u64) {
        self.local_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn gave_up_history(&self) {
        self.histories_given_up.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn gave_up_wal(&self) {
        self.wals_given_up.fetch_add(1, Ordering::Relaxed);
    }

    /// `pause` is zero once an attempt succeeds.
    pub(crate) fn backs_off(&self, side: Side, pause: Duration) {
        let [capture, upload] = &self.backoff_ms;
        let slot = if side == Side::Capture { capture } else { upload };
        slot.store(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn looked_for_expired_l0(&self, found: L0Expiry) {
        *self.l0_expiry.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }

    pub(crate) fn get(&self) -> Counts {
        let [capture_backoff, upload_backoff] =
            self.backoff_ms.each_ref().map(|ms| Duration::from_millis(ms.load(Ordering::Relaxed)));
        let began = self.pass_began_ms.load(Ordering::Relaxed);
        Counts {
            captures: self.captures.get(),
            captured_wal_bytes: self.captured_wal_bytes.load(Ordering::Relaxed),
            is_disk_full: self.is_disk_full.load(Ordering::Relaxed),
            checkpoints: self.checkpoints.get(),
            upload_errors: self.upload_errors.load(Ordering::Relaxed),
            local_bytes: self.local_bytes.load(Ordering::Relaxed),
            histories_given_up: self.histories_given_up.load(Ordering::Relaxed),
            wals_given_up: self.wals_given_up.load(Ordering::Relaxed),
            capture_backoff,
            upload_backoff,
            l0_expiry: *self.l0_expiry.lock().unwrap_or_else(PoisonError::into_inner),
            pass_began_at: (began > 0).then(|| Timestamp::from_millisecond(began).ok()).flatten(),
        }
    }
}
