//! Capture of one database: from commits in its WAL to level-0 files on local
//! disk, with the WAL kept short on the way.
//!
//! Blocking, single-owner, without network: [`crate::db`] runs it on worker
//! threads and talks to the replica. The order that must never change: an LTX
//! file is durable, then the page sums know it, then the position does.

mod delta;
mod held;
mod image;
mod l0;
mod live;
mod open;
mod parked;
mod pass;
mod rebase;
mod sealed;
mod unpinned;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litestream_replica::clock::Clock;
use ltx::Txid;

pub(crate) use image::{Frozen, ImageKind};
use live::Live;
pub(crate) use pass::MIN_SPACE;

use litestream_replica::flushes::Quiet;

use crate::continuity::Gap;
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::meta::MetaDir;
use crate::options::DbOptions;
use crate::page_sums::PageSums;
use crate::position::{Inode, Position, PositionFile};

/// Capture state of one database. All methods block.
pub(crate) struct Capture {
    options: DbOptions,
    clock: Arc<dyn Clock>,
    live: Option<Live>,
    local: Option<Local>,
    base: Base,
    /// Numbers up to this one are taken, also where their history was given up: an image
    /// under one of them may still be on its way to the replica.
    floor: Txid,
    /// The database file, kept open between re-opens: closing it would drop the
    /// locks of connections that are still open on it.
    db_file: Option<(Inode, Arc<File>)>,
    checkpoints: Checkpoints,
    last_timestamp: jiff::Timestamp,
    /// Pages captured since the last file.
    delta: Option<delta::OpenDelta>,
    /// Older pages that are becoming a file.
    sealed: Option<sealed::SealedDelta>,
    /// Frames copied under the write lock and not looked at yet.
    held: Option<held::HeldTail>,
    /// What is known of the database while it is not open for want of descriptors.
    parked: Option<parked::Parked>,
    /// The pin was given up because nothing could be captured.
    wal_given_up: bool,
    /// Set when the log contradicted itself: the next opening compares all pages.
    broken: Option<Gap>,
    counters: Arc<Counters>,
}

/// The local state directory and what stands in it.
struct Local {
    meta: Arc<MetaDir>,
    position_file: PositionFile,
    sums: Option<PageSums>,
    /// The last image is not known to be stored, and nothing may be built on it.
    is_image_lost: bool,
}

/// What the next delta would be applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// Nothing is known yet: the database has not been opened.
    Unopened,
    /// No transaction captured so far can be continued; a whole image is needed.
    Missing {
        /// Why, for the log.
        reason: &'static str,
    },
    /// Everything up to here is in local level-0 files or in the replica.
    Known(Position),
}

/// What a pass does with the pages it captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Publish {
    /// Keeps them for a later file.
    Later,
    /// Makes them a file, on the side if they are many: it may be complete only at a
    /// later pass.
    Soon,
    /// Makes them a file before the pass ends.
    Now,
}

/// When and how the WAL was last made shorter.
struct Checkpoints {
    /// Since when frames wait to be copied; `None` while there are none.
    dirty_since: Option<Instant>,
    /// No attempt before this moment: somebody's reader holds the WAL.
    not_before: Instant,
    backoff: Duration,
    /// How long to wait for somebody else's checkpoint in the present pass.
    patience: Duration,
    /// Another reader stood in the way in the present pass.
    blocked: bool,
    /// When the write lock was taken, while it is held.
    locked_at: Option<Instant>,
    /// Keeps our own flushes off the disk while the write lock is held.
    quiet: Option<Quiet<'static>>,
    /// When a checkpoint under the write lock last ended.
    unlocked_at: Option<Instant>,
}

/// What a pass found and did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassReport {
    /// Newest captured transaction; `None` while an image is needed.
    pub(crate) txid: Option<Txid>,
    /// WAL bytes captured.
    pub(crate) wal_bytes: u64,
    /// Length of the WAL in use, in bytes.
    pub(crate) wal_size: u64,
    /// Database size in bytes.
    pub(crate) db_size: u64,
    /// True when frames wait in the WAL for a checkpoint by time.
    pub(crate) checkpoint_pending: bool,
}

impl Capture {
    /// Prepares capture of one database. Touches neither it nor the disk.
    pub(crate) fn new(options: DbOptions, clock: Arc<dyn Clock>, counters: Arc<Counters>, now: Instant) -> Self {
        Self {
            options,
            clock,
            live: None,
            local: None,
            base: Base::Unopened,
            floor: Txid::NONE,
            db_file: None,
            checkpoints: Checkpoints {
                dirty_since: None,
                not_before: now,
                backoff: Duration::ZERO,
                patience: Duration::ZERO,
                blocked: false,
                locked_at: None,
                quiet: None,
                unlocked_at: None,
            },
            last_timestamp: jiff::Timestamp::UNIX_EPOCH,
            delta: None,
            sealed: None,
            held: None,
            parked: None,
            wal_given_up: false,
            broken: None,
            counters,
        }
    }

    /// The newest captured transaction.
    pub(crate) fn txid(&self) -> Option<Txid> {
        match &self.base {
            Base::Known(position) => Some(position.txid),
            Base::Unopened | Base::Missing { .. } => None,
        }
    }

    /// # Errors
    /// Before the first opening, and after one that failed: whether anything can be
    /// continued is not known then.
    pub(crate) fn settled(&self) -> Result<()> {
        if matches!(self.base, Base::Unopened) { Err(not_open()) } else { Ok(()) }
    }

    /// The position itself, for comparing with the replica.
    pub(crate) fn position(&self) -> Option<Position> {
        match &self.base {
            Base::Known(position) => Some(*position),
            Base::Unopened | Base::Missing { .. } => None,
        }
    }

    /// Path of a local level-0 file, whether it exists or not.
    pub(crate) fn l0_path(&self, txid: Txid) -> Result<PathBuf> {
        Ok(self.local()?.meta.l0_path(txid))
    }

    /// TXIDs of the local level-0 files, ascending.
    pub(crate) fn l0_txids(&self) -> Result<Vec<Txid>> {
        self.local()?.meta.l0_txids()
    }

    /// The local level-0 files with their times of modification.
    pub(crate) fn l0_times(&self) -> Result<Vec<(Txid, jiff::Timestamp)>> {
        let meta = &self.local()?.meta;
        let time = |txid| {
            let modified = std::fs::metadata(meta.l0_path(txid)).and_then(|file| file.modified()).ok()?;
            Some((txid, jiff::Timestamp::try_from(modified).ok()?))
        };
        Ok(meta.l0_txids()?.into_iter().filter_map(time).collect())
    }

    /// Bytes of the local level-0 files.
    pub(crate) fn l0_len(&self) -> Result<u64> {
        let meta = &self.local()?.meta;
        let len = |txid| std::fs::metadata(meta.l0_path(txid)).map_or(0, |file| file.len());
        Ok(meta.l0_txids()?.into_iter().map(len).sum())
    }

    /// Deletes local level-0 files; those the page sums may still replay are
    /// brought into them first.
    pub(crate) fn remove_l0(&mut self, txids: &[Txid]) -> Result<()> {
        for &txid in txids {
            if self.local()?.sums.as_ref().is_some_and(|sums| sums.durable_txid() < txid) {
                self.stamp_sums()?;
            }
            self.local()?.meta.remove_l0(txid)?;
        }
        Ok(())
    }

    /// Writes down what the page sums describe, so that closing them loses nothing.
    fn stamp_sums(&mut self) -> Result<()> {
        let stamped = match &mut self.local {
            Some(Local { sums: Some(sums), .. }) if sums.txid() > sums.durable_txid() => sums.stamp(),
            _ => return Ok(()),
        };
        if stamped.is_err() {
            self.distrust_sums();
        }
        stamped
    }

    /// A write or a flush of the page sums failed, and nobody knows which of them are on
    /// the disk: the next flush would succeed without them. The next pass begins with
    /// those of the last stamp and the files after it, which are kept until then.
    fn distrust_sums(&mut self) {
        if let Some(local) = &mut self.local {
            local.sums = None;
        }
        // Without a base there is nothing to compare with, and the next image brings
        // sums of its own.
        if !matches!(self.base, Base::Missing { .. }) {
            self.forget();
        }
    }

    /// Forgets the base: nothing can be continued. The next image is numbered above
    /// everything in the replica and above `floor`.
    pub(crate) fn lose_base(&mut self, reason: &'static str, floor: Txid) {
        self.floor = self.floor.max(floor);
        self.base = Base::Missing { reason };
        self.drop_deltas();
    }

    /// The newest number that is known to have been given to a transaction here, whether
    /// or not that transaction still exists.
    pub(crate) fn floor(&self) -> Txid {
        self.floor.max(self.txid().unwrap_or(Txid::NONE))
    }

    /// Drops everything in memory; the next pass begins from what is on disk.
    fn forget(&mut self) {
        self.live = None;
        self.held = None;
        self.drop_deltas();
        self.base = Base::Unopened;
    }

    /// Gives back what only a busy database needs. The pin stays.
    pub(crate) fn rest(&mut self) {
        if let Some(live) = &mut self.live {
            live.rest();
        }
    }

    /// Closes the database. Everything needed to go on later is on disk.
    pub(crate) fn close(&mut self) -> Result<()> {
        if self.has_open_delta() {
            self.publish_delta()?;
        }
        self.stamp_sums()?;
        self.forget();
        self.parked = None;
        self.local = None;
        self.let_go_of_file();
        Ok(())
    }

    /// Closes the database file once no image reads it any more. An image that was
    /// abandoned ends within a few pages; until then its pin needs the file open,
    /// and whoever opens the database again must not lose locks to a late close.
    fn let_go_of_file(&mut self) {
        let deadline = Instant::now() + IMAGE_PATIENCE;
        while let Some((_, file)) = &self.db_file {
            if Arc::strong_count(file) == 1 {
                self.db_file = None;
            } else if Instant::now() >= deadline {
                tracing::warn!(db = %self.options.path.display(), "an image is still being read, the database file stays open");
                return;
            } else {
                std::thread::sleep(IMAGE_PAUSE);
            }
        }
    }

    fn local(&self) -> Result<&Local> {
        self.local.as_ref().ok_or_else(not_open)
    }

    fn local_mut(&mut self) -> Result<&mut Local> {
        self.local.as_mut().ok_or_else(not_open)
    }

    fn live(&self) -> Result<&Live> {
        self.live.as_ref().ok_or_else(not_open)
    }

    fn live_mut(&mut self) -> Result<&mut Live> {
        self.live.as_mut().ok_or_else(not_open)
    }

    fn known(&self) -> Result<Position> {
        self.position().ok_or_else(|| {
            Error::new(crate::error::ErrorKind::Discontinuous, "no base: a snapshot of the database is needed first")
        })
    }

    /// Now, but never before the newest file: restore by time relies on order.
    /// A clock that was set back by more than a minute is believed.
    fn timestamp(&mut self) -> jiff::Timestamp {
        let now = self.clock.now();
        let behind = self.last_timestamp.duration_since(now);
        if !(behind.is_positive() && behind < jiff::SignedDuration::from_mins(1)) {
            self.last_timestamp = now;
        }
        self.last_timestamp
    }
}

fn not_open() -> Error {
    Error::new(crate::error::ErrorKind::Transient, "database is not open")
}

/// How long a close waits for an abandoned image.
const IMAGE_PATIENCE: Duration = Duration::from_secs(5);
const IMAGE_PAUSE: Duration = Duration::from_millis(2);
const MIN_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
