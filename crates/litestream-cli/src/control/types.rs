//! The JSON of the control socket. Field names and types are a contract; fields
//! may be added, and whoever reads ignores those it does not know.
//!
//! Transaction IDs are decimal numbers here, 0 for none. Fields below the remark
//! "ours" are unknown to upstream and therefore optional when read.
//!
//! Spec: docs/commands.md, "Control socket".

use jiff::Timestamp;
use ltx::Txid;
use serde::{Deserialize, Serialize};

/// What any `POST` route reads; each uses its own fields.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Request {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replica_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wait: Option<bool>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<i64>,
}

/// `GET /list`
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct List {
    pub(crate) databases: Vec<ListedDatabase>,
}

/// One database of `GET /list`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct ListedDatabase {
    pub(crate) path: String,
    /// `replicating`, `open` or `stopped`, as upstream has it.
    pub(crate) status: String,
    /// Last successful upload round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_sync_at: Option<Moment>,

    // ours
    /// `starting`, `waiting`, `replicating`, `failing`, `stopping`, `stopped`, `idle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) txid: Option<u64>,
    /// Absent until the replica was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replicated_txid: Option<u64>,
    /// Age of the oldest change that the replica lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lag_seconds: Option<f64>,
    /// Size of captured files that wait to be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lag_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_capture_at: Option<Moment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wal_size: Option<u64>,
    /// What is wrong now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// The newest failure, even if all is well since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_error_at: Option<Moment>,
    /// What the replica lacks while it is being healed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replica_problem: Option<String>,
    /// Where the replica is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replica: Option<String>,
    /// The oldest state that can be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) earliest: Option<Point>,
    /// The newest state that can be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) latest: Option<Point>,
}

/// A state that can be restored.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Point {
    pub(crate) txid: u64,
    pub(crate) timestamp: Moment,
}

/// `GET /info`
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Info {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) uptime_seconds: i64,
    pub(crate) started_at: Moment,
    pub(crate) database_count: usize,
}

/// `GET /txid`
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct LocalTxid {
    pub(crate) txid: u64,
    // ours
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replicated_txid: Option<u64>,
}

/// `POST /sync`
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Synced {
    /// `no_change`, `synced_local` or `synced`.
    pub(crate) status: String,
    pub(crate) path: String,
    pub(crate) txid: u64,
    pub(crate) replicated_txid: u64,
}

/// `POST /start`, `/stop`, `/register`, `/unregister`: what became of a database.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Changed {
    /// `started`, `already_running`, `stopped`, …
    pub(crate) status: String,
    pub(crate) path: String,
    /// Captured locally; no proof of an upload. Absent after `/register`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) txid: Option<u64>,

    // ours
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replicated_txid: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
    /// What is wrong with it at this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// The replica in force, where it is another than the one asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) other_replica: Option<String>,
}

/// `GET /debug/sync-status`
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct SyncStatus {
    pub(crate) databases: Vec<Diagnosis>,
}

/// What one database is doing, or did last.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Diagnosis {
    pub(crate) path: String,
    pub(crate) active: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) operation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) phase: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) updated_at: Option<Moment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) txid: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wal_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Any failure.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct ErrorBody {
    pub(crate) error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) details: Option<serde_json::Value>,
}

/// A transaction ID as the protocol writes it.
pub(crate) fn number(txid: Option<Txid>) -> u64 {
    txid.map_or(0, Txid::get)
}

/// A moment in RFC 3339, to the nanosecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Moment(pub(crate) Timestamp);

impl From<Timestamp> for Moment {
    fn from(moment: Timestamp) -> Self {
        Self(moment)
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.0.to_string()
    }
}

impl TryFrom<String> for Moment {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}
