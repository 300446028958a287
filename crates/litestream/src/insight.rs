//! What a database tells about itself to whoever asks: monitoring, health checks,
//! the heartbeat. Nothing here asks the store, waits for a lock that is held
//! during work, or changes anything.

use std::time::Duration;

use jiff::Timestamp;
use litestream_replica::Inventory;

use crate::counters::Counts;
use crate::db::Database;
use crate::hole::images;

/// What can be restored from a replica, as far as this process knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Time of the oldest state that can be restored.
    pub earliest: Timestamp,
    /// Time of the newest state that can be restored. For an idle database that
    /// is the time of its last change.
    pub latest: Timestamp,
    /// Time of the newest snapshot.
    pub snapshot: Option<Timestamp>,
}

impl Window {
    pub(crate) fn of(inventory: &Inventory) -> Option<Self> {
        let points = inventory.restore_points();
        let snapshot = images(inventory).next_back().map(|image| image.created_at);
        let (first, last) = (points.first()?, points.last()?);
        Some(Self { earliest: first.created_at, latest: last.created_at, snapshot })
    }
}

impl Database {
    /// What has been done for it so far.
    pub fn counts(&self) -> Counts {
        self.counters.get()
    }

    /// The age of the oldest change that the replica lacks; zero when it has
    /// everything. While it is not known what the replica has, that is the time
    /// since the database was added; one whose file is missing lags nothing.
    pub fn lag(&self) -> Duration {
        let (now, status) = (self.clock.now(), self.status());
        let unknown = || {
            let since = if status.is_missing { now } else { self.added_at };
            now.duration_since(since).try_into().unwrap_or_default()
        };
        status.lag(now).unwrap_or_else(unknown)
    }

    /// What can be restored. After an error of the store this is what was known
    /// before it; `None` before the store was first listed, or when there is nothing.
    pub fn window(&self) -> Option<Window> {
        let known = self.prefix.inspect(Window::of);
        let mut window = self.window.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = known {
            *window = known;
        }
        *window
    }

    /// How many files the replica holds and how many bytes they have; `None` while
    /// that is not known.
    pub fn replica_size(&self) -> Option<(u64, u64)> {
        self.prefix.inspect(|inventory| {
            let files = inventory.files();
            (files.len() as u64, files.iter().map(|file| file.size).sum())
        })
    }

    /// Shortest time between two uploads.
    pub fn sync_interval(&self) -> Duration {
        self.replica.sync_interval
    }

    /// True when everything committed is proven at this moment to be in the
    /// replica: the WAL holds nothing beyond the captured position, and the
    /// replica acknowledged everything up to there. False when it cannot be told
    /// at once, for example while a pass runs.
    pub fn is_proven_current(&self) -> bool {
        let Ok(capture) = self.capture.try_lock() else { return false };
        let is_captured = !capture.is_behind() && !capture.has_open_delta() && capture.is_on_its_file();
        drop(capture);
        let status = self.status();
        is_captured && status.txid.is_some() && status.txid == status.replica_txid && status.problem.is_none()
    }
}
