//! The virtual wall clock.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use litestream_replica::clock::Clock;

/// Moves only when told to.
pub(crate) struct SimClock {
    start: i64,
    millis: AtomicI64,
}

impl SimClock {
    pub(crate) fn new(start: i64) -> Self {
        Self { start, millis: AtomicI64::new(start) }
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.millis.fetch_add(i64::try_from(by.as_millis()).unwrap_or(0), Ordering::SeqCst);
    }

    /// Milliseconds since the start of the run.
    pub(crate) fn elapsed_millis(&self) -> i64 {
        self.millis.load(Ordering::SeqCst) - self.start
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.millis.load(Ordering::SeqCst)).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}
