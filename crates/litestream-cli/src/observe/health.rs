//! Whether the program lives, and whether every database is safe: `/healthz` and
//! `/readyz`, and the judgement that the heartbeat and the service manager's
//! status line share.
//!
//! A database is *ready* when what was committed reaches its replica in time. One
//! that is idle stays ready: nothing is missing. A single failure does not make
//! it unready, lasting lag does.
//!
//! Spec: docs/operations.md.

use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use litestream::{Database, DatabaseState, Store};
use litestream_replica::clock::{Clock, SystemClock};
use serde::Serialize;

use super::Observer;
use crate::units::GoDuration;

/// What is thought of one database.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Judgement {
    #[serde(rename = "path", serialize_with = "as_text")]
    pub(crate) db: PathBuf,
    /// What it is doing.
    pub(crate) state: &'static str,
    /// Nothing is to be done about it.
    pub(crate) ready: bool,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Age of the oldest change that the replica lacks.
    pub(crate) lag_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) captured_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uploaded_at: Option<String>,
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    databases: Vec<Judgement>,
}

#[derive(Serialize)]
struct Liveness {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// All databases of a store.
pub(crate) fn judge_all(store: &Store) -> Vec<Judgement> {
    let now = SystemClock.now();
    store.databases().iter().filter(|db| is_wanted(db)).map(|db| judge(db, now)).collect()
}

/// One that was stopped on request is nobody's concern.
pub(crate) fn is_wanted(db: &Database) -> bool {
    !matches!(db.status().state, DatabaseState::Stopping | DatabaseState::Stopped)
}

/// One database.
pub(crate) fn judge(db: &Database, now: Timestamp) -> Judgement {
    let lag = db.lag();
    let status = db.status();
    let late = db.sync_interval() + GRACE;
    let reason = if status.is_missing {
        Some("database file not found".to_owned())
    } else if let Some(problem) = &status.problem {
        Some(format!("replica is not whole: {}", problem.text))
    } else if status.captured_at.is_none() {
        Some(because("waiting for the first capture", status.capture_error.as_deref()))
    } else if status.replica_txid.is_none() && status.uploaded_at.is_none() {
        Some(because("waiting for the first upload", status.upload_error.as_deref()))
    } else if lag > late {
        let error = status.current_error();
        Some(because(&format!("replica lags {} behind", whole_seconds(lag)), error))
    } else {
        stuck_pass(db, now)
    };
    Judgement {
        db: db.path().to_owned(),
        state: status.state.name(),
        ready: reason.is_none(),
        reason,
        lag_seconds: lag.as_secs_f64(),
        captured_at: status.captured_at.map(|at| at.to_string()),
        uploaded_at: status.uploaded_at.map(|at| at.to_string()),
    }
}

/// A pass that does not end is most likely a file system that does not answer.
fn stuck_pass(db: &Database, now: Timestamp) -> Option<String> {
    let since = db.counts().pass_began_at?;
    let running = Duration::try_from(now.duration_since(since)).ok()?;
    (running > LONG_PASS).then(|| format!("a capture has been running for {}", whole_seconds(running)))
}

fn because(what: &str, error: Option<&str>) -> String {
    error.map_or_else(|| what.to_owned(), |error| format!("{what}: {error}"))
}

fn whole_seconds(duration: Duration) -> GoDuration {
    GoDuration::from_secs(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))
}

/// `GET /healthz`: restarting the program may help when this fails.
pub(super) fn live(observer: &Observer) -> (StatusCode, &'static str, String) {
    let reason = fault(observer);
    let code = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let status = if reason.is_none() { "ok" } else { "stuck" };
    (code, JSON, json(&Liveness { status, reason }))
}

/// Why the program does not do its work any more.
fn fault(observer: &Observer) -> Option<String> {
    let crashed = observer.store.crashed_tasks();
    if crashed > 0 {
        return Some(format!("background tasks ended by a panic: {crashed}"));
    }
    (!observer.pulse.is_beating()).then(|| format!("no task has run for {}", whole_seconds(observer.pulse.age())))
}

impl Observer {
    /// True while the program does its work, however its databases fare.
    pub(crate) fn is_alive(&self) -> bool {
        fault(self).is_none()
    }
}

/// `GET /readyz`: true when every database is safe.
pub(super) fn ready(observer: &Observer) -> (StatusCode, &'static str, String) {
    let databases = judge_all(&observer.store);
    let ready = databases.iter().all(|database| database.ready);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, JSON, json(&Readiness { ready, databases }))
}

fn json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
    text.push('\n');
    text
}

fn as_text<S: serde::Serializer>(path: &std::path::Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

const JSON: &str = "application/json";
/// Lag on top of `sync-interval` that is nothing to worry about.
const GRACE: Duration = Duration::from_secs(30);
const LONG_PASS: Duration = Duration::from_secs(120);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
mod tests;
