//! What `status` says about a database, and whether that is good.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::control::types::Moment;
use crate::output::{self, json, table};
use crate::units::{GoDuration, format_size};

/// One database. The first four names and types are upstream's.
#[derive(Debug, Default, Serialize)]
pub(super) struct Row {
    pub(super) database: String,
    pub(super) status: &'static str,
    pub(super) local_txid: String,
    pub(super) wal_size: String,

    // ours
    pub(super) health: Health,
    /// What the daemon does with it; `not running` without one.
    pub(super) daemon: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replica_txid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lag_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lag_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_success: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_error_at: Option<Moment>,
    /// The oldest state that can be restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) earliest: Option<State>,
    /// The newest state that can be restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latest: Option<State>,
    /// What the daemon found to be wrong with the replica and has not healed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replica_problem: Option<String>,
    /// Why it is not healthy.
    pub(super) reasons: Vec<String>,
}

/// A state that can be restored.
#[derive(Clone, Debug, Serialize)]
pub(super) struct State {
    pub(super) txid: String,
    pub(super) timestamp: Moment,
}

impl State {
    pub(super) fn new(txid: ltx::Txid, timestamp: Timestamp) -> Self {
        Self { txid: txid.to_string(), timestamp: Moment(timestamp) }
    }
}

/// The verdict, worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Health {
    /// Replicated, and the replica has everything but the last moments.
    #[default]
    Healthy,
    /// Not backed up as it should be, or nobody can tell.
    Degraded,
    /// The local state cannot even be read.
    Error,
}

impl Row {
    /// Something is not as it should be.
    pub(super) fn degraded(&mut self, reason: impl Into<String>) {
        self.health = self.health.max(Health::Degraded);
        let reason = reason.into();
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    fn cells(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let window = self.earliest.as_ref().zip(self.latest.as_ref()).map(|(earliest, latest)| {
            format!("{} .. {}", output::timestamp(earliest.timestamp.0), output::timestamp(latest.timestamp.0))
        });
        vec![
            self.database.clone(),
            self.status.to_owned(),
            self.local_txid.clone(),
            self.wal_size.clone(),
            or_dash(self.replica_txid.clone()),
            or_dash(self.lag()),
            or_dash(self.last_success.map(|at| output::timestamp(at.0))),
            or_dash(window),
            self.daemon.clone(),
        ]
    }

    fn lag(&self) -> Option<String> {
        let seconds = Duration::try_from_secs_f64(self.lag_seconds?).ok()?.as_secs();
        let age = GoDuration::from(Duration::from_secs(seconds));
        Some(match self.lag_bytes {
            Some(bytes) if bytes > 0 => format!("{age} {}", format_size(bytes)),
            _ => age.to_string(),
        })
    }
}

/// The table, and behind it what is wrong.
pub(super) fn as_text(rows: &[Row]) -> String {
    let heading = [
        "database",
        "status",
        "local txid",
        "wal size",
        "replica txid",
        "lag",
        "last success",
        "recoverable",
        "daemon",
    ];
    let cells: Vec<_> = rows.iter().map(Row::cells).collect();
    let reasons = rows.iter().flat_map(|row| row.reasons.iter().map(move |why| format!("{}: {why}\n", row.database)));
    table::format(&heading, &cells) + &reasons.collect::<String>()
}

/// The same as JSON.
///
/// # Errors
/// None that can happen; the type is the library's.
pub(super) fn as_json(rows: &[Row]) -> anyhow::Result<String> {
    Ok(json::format(&rows)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_columns_stand_first_and_reasons_behind_the_table() {
        let mut row = Row {
            database: "/a.db".to_owned(),
            status: "ok",
            local_txid: "0000000000000002".to_owned(),
            wal_size: "4.2 kB".to_owned(),
            daemon: "not running".to_owned(),
            lag_seconds: Some(61.9),
            lag_bytes: Some(4200),
            ..Row::default()
        };
        row.degraded("no daemon replicates it");
        row.degraded("no daemon replicates it");
        assert_eq!(
            as_text(&[row]),
            "database  status  local txid        wal size  replica txid  lag          last success  recoverable  daemon\n\
             /a.db     ok      0000000000000002  4.2 kB    -             1m1s 4.2 kB  -             -            not running\n\
             /a.db: no daemon replicates it\n"
        );
    }

    #[test]
    fn json_begins_with_upstreams_fields() {
        let row = Row { database: "/a.db".to_owned(), status: "no database", ..Row::default() };
        let text = as_json(&[row]).unwrap();
        let names: Vec<&str> =
            text.lines().filter_map(|line| line.trim().strip_prefix('"')?.split('"').next()).collect();
        assert_eq!(names, ["database", "status", "local_txid", "wal_size", "health", "daemon", "reasons"]);
        assert_eq!(as_json(&[]).unwrap(), "[]\n");
    }
}
