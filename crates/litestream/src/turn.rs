//! Who may flush the disk.
//!
//! A checkpoint under the write lock flushes the WAL and the database while the
//! application waits. A flush of a level-0 file at the same time would make that wait
//! several times as long, so they take turns, each database for itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Ends when it is dropped.
pub(crate) type Turn = OwnedSemaphorePermit;

/// The disk of one database; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct DiskTurn(Arc<Semaphore>);

impl DiskTurn {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Waits for the turn. `None`, after `patience`, means to go ahead without: taking
    /// turns is a courtesy.
    pub(crate) fn wait(&self, patience: Duration) -> Option<Turn> {
        let deadline = Instant::now() + patience;
        loop {
            if let Ok(permit) = self.0.clone().try_acquire_owned() {
                return Some(permit);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

const PAUSE: Duration = Duration::from_micros(500);
