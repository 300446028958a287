//! The steps that background work consists of, for whoever takes them one at a time
//! in an order of his own: the simulator. The daemon's tasks do not go through here.

use crate::agenda::Lane;
use crate::capture::Publish;
use crate::db::Database;
use crate::error::Result;

/// One step of background work on a database.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A pass whose pages wait for a later file.
    CaptureLater,
    /// A pass whose pages become a file, on the side if they are many.
    CaptureSoon,
    /// A pass whose pages are a file when it ends.
    CaptureNow,
    /// A round of uploads.
    Upload,
    /// What the agenda has due for levels.
    Levels,
    /// What the agenda has due for snapshots and retention.
    Snapshots,
    /// The database is closed for want of descriptors, whatever it has to do.
    Park,
    /// A look at the WAL while nothing can be captured.
    WatchWal,
}

impl Database {
    /// Takes one step. True when nothing of its kind is left to do; for
    /// [`Step::Park`] when the database was closed, for [`Step::WatchWal`] when the WAL is given up.
    ///
    /// # Errors
    /// What a background task would log and try again. Maintenance logs by itself and
    /// has no errors here.
    #[doc(hidden)]
    pub async fn take_step(&self, step: Step) -> Result<bool> {
        match step {
            Step::CaptureLater => self.capture(Publish::Later).await.map(|_| !self.has_open_delta()),
            Step::CaptureSoon => self.capture(Publish::Soon).await.map(|_| !self.has_open_delta()),
            Step::CaptureNow => self.capture(Publish::Now).await.map(|_| true),
            Step::Upload => self.upload_batch().await,
            Step::Levels => Ok(self.take_lane(Lane::Levels).await),
            Step::Snapshots => Ok(self.take_lane(Lane::Snapshots).await),
            Step::Park => Ok(self.seat.park().await),
            Step::WatchWal => self.keep_wal_budget().await.map(|space| space.is_some()),
        }
    }

    async fn take_lane(&self, lane: Lane) -> bool {
        self.review();
        if self.next_due(lane).is_none_or(|due| due > self.clock.now()) {
            return true;
        }
        self.work_off(lane).await;
        false
    }
}
