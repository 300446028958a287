//! `points -timestamp` and `points -txid`: what a restore to there would give.

use litestream_replica::{Plan, RestorePoint, Target};
use serde::Serialize;

use super::text::without_blanks;
use super::window::Point;
use crate::output;
use crate::units::format_size;

/// What `-json` prints.
#[derive(Serialize)]
pub(super) struct Answer {
    source: String,
    replica: &'static str,
    /// The target as flag and value.
    target: String,
    /// The state a restore gives.
    txid: String,
    timestamp: String,
    /// The next one that could be had instead.
    next: Option<Point>,
    /// Files to fetch, and their bytes.
    files: usize,
    size: u64,
}

impl Answer {
    pub(super) fn new(
        source: String,
        replica: &'static str,
        target: Target,
        plan: &Plan,
        next: Option<RestorePoint>,
    ) -> Self {
        let target = match target {
            Target::Timestamp(moment) => format!("-timestamp {moment}"),
            Target::Txid(txid) => format!("-txid {txid}"),
            Target::Latest => String::new(),
        };
        Self {
            source,
            replica,
            target,
            txid: plan.txid().to_string(),
            timestamp: output::timestamp_millis(plan.timestamp()),
            next: next.as_ref().map(Point::from),
            files: plan.files.len(),
            size: plan.total_bytes(),
        }
    }

    pub(super) fn text(&self) -> String {
        let next = match &self.next {
            Some(next) => format!("{} of {}", next.txid, next.timestamp),
            None => "none, this is the newest".to_owned(),
        };
        let plural = if self.files == 1 { "" } else { "s" };
        without_blanks(&format!(
            "restore {} gives\n  transaction  {} of {}\n  next point   {next}\n  to fetch     {} file{plural}, {}\n",
            self.target,
            self.txid,
            self.timestamp,
            self.files,
            format_size(self.size),
        ))
    }
}
