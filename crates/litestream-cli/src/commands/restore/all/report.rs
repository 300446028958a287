//! What `restore -all` says at the end, and the failure it ends with.

use std::time::Duration;

use litestream_replica::{Plan, v3::V3Plan};
use serde::Serialize;

use super::super::report::{check_name, rounded};
use super::super::{Job, Outcome};
use crate::failure::Failure;
use crate::output::{self, json, table};
use crate::units::format_size;

/// One database of the report. Fields may be added, never removed.
#[derive(Default, Serialize)]
pub(super) struct Row {
    db_path: String,
    source: String,
    replica: &'static str,
    /// `restored`, `planned`, `skipped` or `failed`.
    status: &'static str,
    /// Empty where no transaction is known.
    txid: String,
    timestamp: String,
    /// Bytes of the database; of a plan, bytes to fetch.
    size: u64,
    duration_ms: u64,
    integrity_check: &'static str,
    /// Why it was skipped or has failed; empty otherwise.
    message: String,
    #[serde(skip)]
    hints: Vec<String>,
}

impl Row {
    /// A database that could not even be tried.
    pub(super) fn failed(error: &anyhow::Error) -> Self {
        let hints = error.downcast_ref::<Failure>().map(|failure| failure.hints().to_vec()).unwrap_or_default();
        Self { status: FAILED, message: format!("{error:#}"), hints, integrity_check: "none", ..Self::default() }
    }

    pub(super) fn of(job: &Job, result: anyhow::Result<Outcome>, elapsed: Duration) -> Self {
        let mut row = match result {
            Ok(Outcome::Restored(restored)) => Self {
                status: "restored",
                txid: if restored.txid.is_none() { String::new() } else { restored.txid.to_string() },
                timestamp: output::timestamp(restored.timestamp),
                size: restored.output_len,
                ..Self::default()
            },
            Ok(Outcome::Planned { txid, timestamp, size }) => {
                Self { status: "planned", txid, timestamp, size, ..Self::default() }
            }
            Ok(Outcome::Skipped(why)) => Self { status: "skipped", message: why.to_owned(), ..Self::default() },
            Err(error) => Self::failed(&error),
        };
        row.source = job.client.location();
        row.replica = job.client.kind();
        row.duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        row.integrity_check = check_name(job.check);
        row
    }
}

impl Outcome {
    pub(super) fn planned(plan: &Plan) -> Self {
        Self::Planned {
            txid: plan.txid().to_string(),
            timestamp: output::timestamp(plan.timestamp()),
            size: plan.total_bytes(),
        }
    }

    pub(super) fn planned_old(plan: &V3Plan) -> Self {
        Self::Planned { txid: String::new(), timestamp: output::timestamp(plan.timestamp()), size: plan.total_bytes() }
    }
}

/// All of them, in the order of the selection.
pub(super) struct Report {
    rows: Vec<Row>,
    is_json: bool,
    is_dry: bool,
}

/// What `-json` prints.
#[derive(Serialize)]
struct Summary<'a> {
    restored: usize,
    planned: usize,
    skipped: usize,
    failed: usize,
    duration_ms: u64,
    databases: &'a [Row],
}

impl Report {
    pub(super) fn new(is_json: bool, is_dry: bool) -> Self {
        Self { rows: Vec::new(), is_json, is_dry }
    }

    /// Makes room for a database. Until it has ended it counts as failed: it may
    /// be the one a signal interrupts.
    pub(super) fn expect(&mut self, db_path: String) -> usize {
        let row = Row { db_path, status: FAILED, message: "not restored".to_owned(), ..Row::default() };
        self.rows.push(row);
        self.rows.len() - 1
    }

    /// A line about a database that has ended.
    pub(super) fn describe(&self, index: usize, row: &Row) -> String {
        let path = self.rows.get(index).map_or("", |row| &row.db_path);
        let state = match row.txid.as_str() {
            "" => format!("the state of {}", row.timestamp),
            txid => format!("transaction {txid} of {}", row.timestamp),
        };
        let size = format_size(row.size);
        match row.status {
            "restored" => {
                format!("restored {path} at {state}: {size} in {}", rounded(Duration::from_millis(row.duration_ms)))
            }
            "planned" => format!("would restore {path} at {state}: {size} to fetch"),
            "skipped" => format!("skipped {path}: {}", row.message),
            _ => std::iter::once(format!("failed {path}: {}", row.message))
                .chain(row.hints.iter().map(|hint| format!("  {hint}")))
                .collect::<Vec<_>>()
                .join("\n"),
        }
    }

    pub(super) fn conclude(&mut self, index: usize, row: Row) {
        if let Some(expected) = self.rows.get_mut(index) {
            *expected = Row { db_path: std::mem::take(&mut expected.db_path), ..row };
        }
    }

    fn count(&self, status: &str) -> usize {
        self.rows.iter().filter(|row| row.status == status).count()
    }

    /// Prints the report; gives how many databases have failed.
    pub(super) fn print(&self, elapsed: Duration) -> anyhow::Result<usize> {
        let failed = self.count(FAILED);
        let (restored, planned, skipped) = (self.count("restored"), self.count("planned"), self.count("skipped"));
        if self.is_json {
            let duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            let summary = Summary { restored, planned, skipped, failed, duration_ms, databases: &self.rows };
            output::print(&json::format(&summary)?)?;
        } else if self.is_dry {
            let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
            let row = |row: &Row| {
                let size = if row.status == "planned" { format_size(row.size) } else { "-".to_owned() };
                vec![row.db_path.clone(), row.status.to_owned(), dash(&row.txid), dash(&row.timestamp), size]
            };
            let rows: Vec<_> = self.rows.iter().map(row).collect();
            output::print(&table::format(&["database", "status", "txid", "timestamp", "to fetch"], &rows))?;
        }
        let done = if self.is_dry { format!("would restore {planned}") } else { format!("restored {restored}") };
        output::note(&format!(
            "{done} of {} databases, {skipped} skipped, {failed} failed, in {}",
            self.rows.len(),
            rounded(elapsed)
        ));
        Ok(failed)
    }

    /// The failure that the command ends with: a line for each database.
    pub(super) fn failure(&self) -> Failure {
        let failed = || self.rows.iter().filter(|row| row.status == FAILED);
        let message = format!("{} of {} databases could not be restored", failed().count(), self.rows.len());
        failed().fold(Failure::new(message), |all, row| all.hint(format!("  {}: {}", row.db_path, row.message)))
    }
}

const FAILED: &str = "failed";
