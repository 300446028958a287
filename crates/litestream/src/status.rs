//! What is known about one database at one moment, for whoever asks: the control
//! socket, `status`, metrics, the heartbeat.
//!
//! Everything here is kept up to date by the work itself; asking costs a lock and
//! a copy, never a system call or a request.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use ltx::Txid;

use crate::error::{Error, ErrorKind};
use crate::health::ReplicaProblem;

/// What a database is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatabaseState {
    /// Known, but nothing is done in the background: a one-shot run, or a
    /// `monitor-interval` of zero.
    #[default]
    Idle,
    /// Started; the first pass has not ended yet.
    Starting,
    /// There is no database file, or an empty one, and it is waited for.
    Waiting,
    /// Captured and sent as it changes.
    Replicating,
    /// The last capture or the last upload failed; it is tried again.
    Failing,
    /// Being stopped: what is left is sent, then it is closed.
    Stopping,
    /// Closed on request; it can be started again.
    Stopped,
}

impl DatabaseState {
    /// The state's name in the control protocol and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Waiting => "waiting",
            Self::Replicating => "replicating",
            Self::Failing => "failing",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for DatabaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known about a database at one moment.
#[derive(Clone, Debug, Default)]
pub struct DatabaseStatus {
    /// What it is doing.
    pub state: DatabaseState,
    /// Newest captured transaction. A stopped database keeps the last one.
    pub txid: Option<Txid>,
    /// Newest transaction the replica has in an unbroken chain; `None` until the
    /// replica was seen for the first time.
    pub replica_txid: Option<Txid>,
    /// When a pass last succeeded.
    pub captured_at: Option<Timestamp>,
    /// When an upload round last succeeded.
    pub uploaded_at: Option<Timestamp>,
    /// Why the last pass failed, if it did.
    pub capture_error: Option<String>,
    /// Why the last upload failed, if it did.
    pub upload_error: Option<String>,
    /// The newest failure, also when everything has gone well since.
    pub last_error: Option<LastError>,
    /// There is no database file, or an empty one.
    pub is_missing: bool,
    /// Length of the WAL in use, in bytes.
    pub wal_size: u64,
    /// Size of the database file in bytes.
    pub db_size: u64,
    /// What is wrong with the replica and not healed yet.
    pub problem: Option<ReplicaProblem>,
    /// Problems of the replica found since the start.
    pub problems_found: u64,
    /// How many of those were healed.
    pub problems_healed: u64,
    /// Files made by compaction since the start.
    pub compactions: u64,
    /// Compactions that failed.
    pub compaction_errors: u64,
    /// Compactions after which the level had a hole or an overlap.
    pub compaction_verify_errors: u64,
    /// When a snapshot was last stored by the schedule.
    pub snapshot_at: Option<Timestamp>,
    /// When the replica was last listed and found to be whole.
    pub verified_at: Option<Timestamp>,
    /// Captured and not uploaded, oldest first.
    pub(crate) unsent: Unsent,
}

/// A failure and when it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// When.
    pub at: Timestamp,
    /// What, with its causes.
    pub text: String,
}

impl DatabaseStatus {
    /// How far the replica lags behind: the age of the oldest change that it does
    /// not have. Zero when it has everything; `None` while it is not known what
    /// the replica has.
    ///
    /// While captures fail nobody knows what was committed since the last good
    /// one, so the time since then counts.
    pub fn lag(&self, now: Timestamp) -> Option<Duration> {
        self.replica_txid?;
        let uncaptured = self.capture_error.as_ref().filter(|_| !self.is_missing).and(self.captured_at);
        let since = [self.unsent.since(), uncaptured].into_iter().flatten().min();
        Some(since.map_or(Duration::ZERO, |since| now.duration_since(since).try_into().unwrap_or_default()))
    }

    /// True when captured transactions are known not to be in the replica, or
    /// nothing is known about that.
    pub fn has_unsent(&self) -> bool {
        match (self.txid, self.replica_txid) {
            (Some(captured), Some(uploaded)) => captured > uploaded,
            _ => true,
        }
    }

    /// What is wrong at this moment: with the database first, then the replica.
    pub fn current_error(&self) -> Option<&str> {
        let capture = self.capture_error.as_deref().filter(|_| !self.is_missing);
        capture.or(self.upload_error.as_deref())
    }

    pub(crate) fn captured(&mut self, txid: Option<Txid>, now: Timestamp) {
        self.txid = txid;
        self.captured_at = Some(now);
        self.capture_error = None;
        self.is_missing = false;
        if let Some(txid) = txid.filter(|txid| Some(*txid) > self.replica_txid) {
            self.unsent.push(txid, now);
        }
    }

    pub(crate) fn capture_failed(&mut self, err: &Error, now: Timestamp) {
        let is_brief = |at: Timestamp| now.duration_since(at) < BRIEF;
        if err.kind() == ErrorKind::Busy && self.captured_at.is_some_and(is_brief) {
            // Somebody holds a lock for a moment: not worth mentioning.
            return;
        }
        self.is_missing = err.kind() == ErrorKind::Missing;
        let text = err.to_string();
        if !self.is_missing {
            self.last_error = Some(LastError { at: now, text: text.clone() });
        }
        self.capture_error = Some(text);
    }

    pub(crate) fn uploaded(&mut self, txid: Option<Txid>, now: Timestamp) {
        self.replica_txid = txid;
        self.uploaded_at = Some(now);
        self.upload_error = None;
        self.unsent.sent(txid);
        if self.txid.is_some() && !self.has_unsent() {
            self.unsent = Unsent::default();
        }
    }

    pub(crate) fn upload_failed(&mut self, err: &Error, now: Timestamp) {
        let text = err.to_string();
        self.last_error = Some(LastError { at: now, text: text.clone() });
        self.upload_error = Some(text);
    }

    /// The state of a database whose tasks run.
    pub(crate) fn running_state(&self) -> DatabaseState {
        if self.is_missing {
            DatabaseState::Waiting
        } else if self.capture_error.is_some() || self.upload_error.is_some() {
            DatabaseState::Failing
        } else if self.captured_at.is_none() {
            DatabaseState::Starting
        } else {
            DatabaseState::Replicating
        }
    }

    /// What stays known when the database is opened anew.
    pub(crate) fn reopened(&mut self) {
        let kept = std::mem::take(self);
        *self = Self {
            uploaded_at: kept.uploaded_at,
            last_error: kept.last_error,
            compactions: kept.compactions,
            compaction_errors: kept.compaction_errors,
            compaction_verify_errors: kept.compaction_verify_errors,
            snapshot_at: kept.snapshot_at,
            verified_at: kept.verified_at,
            ..Self::default()
        };
    }
}

/// When transactions were captured that the replica does not have. Bounded: under
/// a long outage the newest entries are merged, which keeps the oldest exact.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unsent {
    captured: VecDeque<(Txid, Timestamp)>,
}

impl Unsent {
    fn push(&mut self, txid: Txid, at: Timestamp) {
        let is_full = self.captured.len() >= MAX_UNSENT;
        if self.captured.back().is_some_and(|(newest, _)| *newest > txid) {
            // Numbering began anew behind the replica's: what waited is in what comes.
            let since = self.since().unwrap_or(at);
            self.captured = VecDeque::from([(txid, since)]);
            return;
        }
        match self.captured.back_mut() {
            Some((newest, _)) if *newest >= txid => {}
            Some((newest, _)) if is_full => *newest = txid,
            _ => self.captured.push_back((txid, at)),
        }
    }

    fn sent(&mut self, txid: Option<Txid>) {
        while self.captured.front().is_some_and(|(oldest, _)| Some(*oldest) <= txid) {
            self.captured.pop_front();
        }
        if self.captured.is_empty() {
            // An idle database keeps no memory for it.
            self.captured = VecDeque::new();
        }
    }

    fn since(&self) -> Option<Timestamp> {
        self.captured.front().map(|(_, at)| *at)
    }
}

/// A lock held for less than this is not a failure.
const BRIEF: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);
const MAX_UNSENT: usize = 32;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn lag_seconds(status: &DatabaseStatus, second: i64) -> Option<u64> {
        status.lag(at(second)).map(|lag| lag.as_secs())
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_change_the_replica_lacks() {
        let mut status = DatabaseStatus::default();
        status.captured(Some(Txid::new(1)), at(0));
        assert_eq!(lag_seconds(&status, 5), None, "nothing is known about the replica");
        status.uploaded(Some(Txid::new(1)), at(6));
        assert_eq!(lag_seconds(&status, 100), Some(0), "idle");
        status.captured(Some(Txid::new(2)), at(100));
        status.captured(Some(Txid::new(3)), at(110));
        status.captured(Some(Txid::new(3)), at(115));
        assert_eq!(lag_seconds(&status, 120), Some(20));
        status.uploaded(Some(Txid::new(2)), at(120));
        assert_eq!(lag_seconds(&status, 120), Some(10));
        status.uploaded(Some(Txid::new(3)), at(121));
        assert_eq!(lag_seconds(&status, 130), Some(0));
    }

    #[test]
    fn lag_ends_when_numbering_begins_anew_behind_the_replica() {
        let mut status = DatabaseStatus::default();
        status.uploaded(Some(Txid::new(3)), at(0));
        status.captured(Some(Txid::new(50)), at(10));
        // History was given up, and an image takes the next number.
        status.captured(None, at(20));
        status.captured(Some(Txid::new(4)), at(30));
        assert_eq!(lag_seconds(&status, 40), Some(30), "what waited still waits");
        status.uploaded(Some(Txid::new(4)), at(41));
        assert_eq!(lag_seconds(&status, 50), Some(0));
    }

    #[test]
    fn lag_grows_while_captures_fail() {
        let mut status = DatabaseStatus::default();
        status.captured(Some(Txid::new(1)), at(0));
        status.uploaded(Some(Txid::new(1)), at(0));
        status.capture_failed(&Error::new(ErrorKind::DiskFull, "no space"), at(30));
        assert_eq!(lag_seconds(&status, 60), Some(60));
        assert_eq!(status.running_state(), DatabaseState::Failing);
    }

    #[test]
    fn a_long_outage_keeps_the_oldest_time() {
        let mut status = DatabaseStatus::default();
        status.uploaded(None, at(0));
        status.replica_txid = Some(Txid::new(1));
        for second in 1..1000_u32 {
            status.captured(Some(Txid::new(u64::from(second) + 1)), at(i64::from(second)));
        }
        assert_eq!(status.unsent.captured.len(), MAX_UNSENT);
        assert_eq!(lag_seconds(&status, 1000), Some(999));
        status.uploaded(Some(Txid::new(1000)), at(1001));
        assert_eq!(lag_seconds(&status, 1002), Some(0));
    }

    #[test]
    fn a_missing_file_is_waited_for_and_a_lock_is_no_failure() {
        let mut status = DatabaseStatus::default();
        assert_eq!(status.running_state(), DatabaseState::Starting);
        status.capture_failed(&Error::new(ErrorKind::Missing, "no database found"), at(0));
        assert_eq!((status.running_state(), status.current_error()), (DatabaseState::Waiting, None));
        status.captured(Some(Txid::new(1)), at(1));
        status.capture_failed(&Error::new(ErrorKind::Busy, "locked"), at(2));
        assert_eq!(status.running_state(), DatabaseState::Replicating);
        status.capture_failed(&Error::new(ErrorKind::Busy, "locked"), at(60));
        assert_eq!(status.current_error(), Some("locked"));
    }
}
