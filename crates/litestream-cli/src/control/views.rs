//! What a database looks like in the answers of the control socket.

use litestream::{Database, DatabaseState, DatabaseStatus};
use litestream_replica::clock::{Clock, SystemClock};
use ltx::Txid;

use crate::control::types::{Changed, Diagnosis, ListedDatabase, Point, number};

/// Newest local transaction; 0 if there is none or it cannot be told.
pub(super) fn local_txid(db: &Database) -> u64 {
    number(db.local_txid().unwrap_or_default())
}

/// What has become of it.
pub(super) fn changed(db: &Database, what: &str) -> Changed {
    let status = db.status();
    Changed {
        status: what.to_owned(),
        path: db.path().display().to_string(),
        txid: Some(local_txid(db)),
        replicated_txid: status.replica_txid.map(Txid::get),
        state: Some(status.state.name().to_owned()),
        error: status.current_error().map(str::to_owned),
        other_replica: None,
    }
}

/// As `GET /list` shows it. Blocks on local files.
pub(super) fn listed(db: &Database) -> ListedDatabase {
    let status = db.status();
    let now = SystemClock.now();
    let recoverable = db.recoverable();
    let point =
        |point: &litestream_replica::RestorePoint| Point { txid: point.txid.get(), timestamp: point.created_at.into() };
    let lag_bytes = match status.replica_txid {
        Some(sent) if status.has_unsent() => {
            litestream::unsent_files(&db.meta_path(), sent).ok().map(|(bytes, _)| bytes)
        }
        Some(_) => Some(0),
        None => None,
    };
    ListedDatabase {
        path: db.path().display().to_string(),
        status: upstream_status(&status).to_owned(),
        last_sync_at: status.uploaded_at.map(Into::into),
        state: Some(status.state.name().to_owned()),
        txid: Some(local_txid(db)),
        replicated_txid: status.replica_txid.map(Txid::get),
        lag_seconds: status.lag(now).map(|lag| lag.as_secs_f64()),
        lag_bytes,
        last_capture_at: status.captured_at.map(Into::into),
        wal_size: Some(status.wal_size),
        error: status.current_error().map(str::to_owned),
        last_error: status.last_error.as_ref().map(|error| error.text.clone()),
        last_error_at: status.last_error.as_ref().map(|error| error.at.into()),
        replica_problem: status.problem.map(|problem| problem.text),
        replica: Some(db.client().location()),
        earliest: recoverable.as_ref().map(|(first, _)| point(first)),
        latest: recoverable.as_ref().map(|(_, last)| point(last)),
    }
}

/// The three states upstream knows.
fn upstream_status(status: &DatabaseStatus) -> &'static str {
    match status.state {
        DatabaseState::Idle => "open",
        DatabaseState::Stopped | DatabaseState::Stopping => "stopped",
        _ => "replicating",
    }
}

/// As `GET /debug/sync-status` shows it.
pub(super) fn diagnosis(db: &Database) -> Diagnosis {
    let status = db.status();
    let has_run = status.captured_at.is_some() || status.last_error.is_some();
    let newest_event = [status.captured_at, status.uploaded_at, status.last_error.as_ref().map(|error| error.at)];
    Diagnosis {
        path: db.path().display().to_string(),
        active: db.is_busy(),
        operation: has_run.then(|| "sync".to_owned()),
        phase: has_run.then(|| if status.current_error().is_some() { "starting" } else { "sync_complete" }.to_owned()),
        updated_at: newest_event.into_iter().flatten().max().map(Into::into),
        txid: Some(local_txid(db)).filter(|txid| *txid > 0),
        wal_size: Some(status.wal_size).filter(|size| *size > 0),
        error: status.current_error().map(str::to_owned),
    }
}
