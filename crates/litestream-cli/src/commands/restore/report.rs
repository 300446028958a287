//! What is said about a restore that succeeded.
//!
//! Spec: docs/commands.md, "restore"; store-and-restore §13.4.

use std::time::Duration;

use litestream::IntegrityCheck;
use litestream_replica::Restored;
use ltx::Txid;
use serde::Serialize;

use super::Job;
use crate::output::{self, json};
use crate::units::{GoDuration, format_size};

/// What `-json` prints after a restore.
#[derive(Serialize)]
struct Summary {
    db_path: String,
    replica: &'static str,
    txid: String,
    duration_ms: u64,
    integrity_check: &'static str,
}

impl Job {
    /// A line for people, and the summary where asked for.
    pub(super) fn report(&self, restored: &Restored, elapsed: Duration) -> anyhow::Result<()> {
        if self.check != IntegrityCheck::None {
            tracing::info!("post-restore integrity check passed");
        }
        // Backups of 0.3 know times and no transactions.
        let has_txid = !restored.txid.is_none();
        let state = if has_txid { format!("transaction {} of", restored.txid) } else { "the state of".to_owned() };
        output::note(&format!(
            "restored {} at {state} {}: {} in {}",
            self.output.display(),
            output::timestamp(restored.timestamp),
            format_size(restored.output_len),
            rounded(elapsed),
        ));
        self.summarize(restored.txid, elapsed)
    }

    /// The summary where asked for. No transaction is an empty text.
    pub(super) fn summarize(&self, txid: Txid, elapsed: Duration) -> anyhow::Result<()> {
        if self.arguments.is_set("json") {
            output::print(&json::format(&Summary {
                db_path: self.output.display().to_string(),
                replica: self.client.kind(),
                txid: if txid.is_none() { String::new() } else { txid.to_string() },
                duration_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                integrity_check: check_name(self.check),
            })?)?;
        }
        Ok(())
    }
}

pub(super) fn check_name(check: IntegrityCheck) -> &'static str {
    match check {
        IntegrityCheck::None => "none",
        IntegrityCheck::Quick => "quick",
        IntegrityCheck::Full => "full",
    }
}

/// A duration for people: milliseconds are precise enough.
pub(super) fn rounded(elapsed: Duration) -> GoDuration {
    GoDuration::from_millis(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}
