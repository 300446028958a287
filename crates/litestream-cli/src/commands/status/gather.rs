//! Collects what `status` shows: local files, the daemon's answer, the replica.
//!
//! All databases at once and against one limit: a store that does not answer
//! costs the limit once, and its databases say so.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use litestream_replica::clock::{Clock, SystemClock};
use litestream_replica::{Inventory, ReplicaClient};
use ltx::Txid;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::report::{Health, Row, State};
use crate::config::{DbConfig, Surroundings, defaults};
use crate::control::client::{Client, ClientError};
use crate::control::types::{List, ListedDatabase, Moment};
use crate::units::format_size;

/// Whom to ask, and for how long.
#[derive(Debug)]
pub(super) struct Scope {
    /// Where the daemon listens, if it does.
    pub(super) socket: String,
    /// Leave the replica alone.
    pub(super) local_only: bool,
    /// For everything together.
    pub(super) limit: Duration,
}

/// One row a database, in their order.
pub(super) async fn gather(databases: Vec<DbConfig>, scope: &Scope, surroundings: &Surroundings<'_>) -> Vec<Row> {
    let deadline = Instant::now() + scope.limit;
    let (daemon, silence) = ask_daemon(scope).await;
    let room = Arc::new(Semaphore::new(MAX_LOOKS));
    let mut rows = Vec::new();
    let mut looks = JoinSet::new();
    for db in databases {
        let Some(path) = db.path.clone() else { continue };
        let meta = db.meta_path.clone().unwrap_or_else(|| litestream::meta_path(&path));
        let mut row = local(&path, &meta);
        let known = daemon.get(&path);
        match known {
            Some(known) => from_daemon(&mut row, known, lag_limit(&db)),
            None => without_daemon(&mut row, &meta, silence.as_ref()),
        }
        // A daemon at work knows the replica; everybody else has to look.
        let is_known = known.is_some_and(|known| known.status == "replicating" && known.latest.is_some());
        if !is_known && !scope.local_only {
            match db.client(surroundings) {
                Ok(client) => {
                    let (index, room, limit) = (rows.len(), room.clone(), scope.limit);
                    looks.spawn(async move { (index, look(client, room, deadline, limit).await) });
                }
                Err(error) => row.degraded(format!("replica: {error:#}")),
            }
        }
        rows.push((row, meta, lag_limit(&db)));
    }
    while let Some(Ok((index, look))) = looks.join_next().await {
        let Some((row, meta, limit)) = rows.get_mut(index) else { continue };
        match look {
            Ok(inventory) => from_replica(row, meta, &inventory, *limit),
            Err(why) => row.degraded(format!("replica cannot be looked at: {why}")),
        }
    }
    rows.into_iter().map(|(row, ..)| row).collect()
}

/// Somebody listens, and yet there is no answer.
struct Silence {
    why: String,
    /// It is ours to fix: the socket is not for this user.
    is_forbidden: bool,
}

/// The daemon's databases by path; and why there are none, if somebody listens.
async fn ask_daemon(scope: &Scope) -> (HashMap<PathBuf, ListedDatabase>, Option<Silence>) {
    let client = Client::new(&scope.socket, Some(scope.limit.min(DAEMON_LIMIT)));
    let error = match client.get::<List>("/list").await {
        Ok(list) => return (list.databases.into_iter().map(|db| (PathBuf::from(&db.path), db)).collect(), None),
        Err(error) => error,
    };
    let is_forbidden = match &error {
        ClientError::Unreachable(cause) if cause.kind() == std::io::ErrorKind::PermissionDenied => true,
        ClientError::Unreachable(_) => return (HashMap::new(), None),
        _ => false,
    };
    let why = format!("daemon at {} cannot be asked: {error}", scope.socket);
    (HashMap::new(), Some(Silence { why, is_forbidden }))
}

/// What the files beside the database say, as upstream has it.
fn local(db: &Path, meta: &Path) -> Row {
    let absent = || "-".to_owned();
    let mut row = Row {
        database: db.display().to_string(),
        // Whoever cannot read the state directory sees that from the status.
        replica_problem: litestream::replica_problem(meta).unwrap_or_default(),
        ..Row::default()
    };
    if !db.exists() {
        (row.status, row.local_txid, row.wal_size) = ("no database", absent(), absent());
        row.degraded("database file not found");
        return row;
    }
    let mut wal = db.as_os_str().to_owned();
    wal.push("-wal");
    row.wal_size = format_size(std::fs::metadata(wal).map_or(0, |wal| wal.len()));
    (row.status, row.local_txid) = match litestream::local_txid(meta) {
        Ok(Some(txid)) => ("ok", txid.to_string()),
        Ok(None) => ("not initialized", absent()),
        Err(error) => {
            row.degraded(format!("local state cannot be read: {error}"));
            row.health = Health::Error;
            ("error", absent())
        }
    };
    if row.status == "not initialized" {
        row.degraded("nothing has been captured yet");
    }
    if let Some(problem) = row.replica_problem.clone() {
        row.degraded(format!("replica is being healed: {problem}"));
    }
    row
}

fn from_daemon(row: &mut Row, known: &ListedDatabase, lag_limit: Duration) {
    let state = known.state.as_deref().unwrap_or(&known.status);
    row.daemon = state.to_owned();
    row.replica_txid = known.replicated_txid.filter(|txid| *txid > 0).map(|txid| Txid::new(txid).to_string());
    row.lag_seconds = known.lag_seconds;
    row.lag_bytes = known.lag_bytes;
    row.last_success = known.last_sync_at;
    row.last_error.clone_from(&known.last_error);
    row.last_error_at = known.last_error_at;
    let point = |point: crate::control::types::Point| State::new(Txid::new(point.txid), point.timestamp.0);
    row.earliest = known.earliest.map(point);
    row.latest = known.latest.map(point);
    match (state, &known.error) {
        ("failing", error) => row.degraded(error.clone().unwrap_or_else(|| "replication fails".to_owned())),
        ("replicating" | "starting", _) => {}
        ("waiting", _) => row.degraded("the daemon waits for the database file"),
        ("idle" | "open", _) => row.degraded("the daemon does not replicate it in the background"),
        (other, _) => row.degraded(format!("the daemon has it in state {other}")),
    }
    if let Some(problem) = &known.replica_problem {
        row.replica_problem = Some(problem.clone());
        row.degraded(format!("replica is being healed: {problem}"));
    }
    if known.last_sync_at.is_none() {
        row.degraded("nothing has reached the replica since the daemon started");
    }
    judge_lag(row, lag_limit);
}

fn without_daemon(row: &mut Row, meta: &Path, silence: Option<&Silence>) {
    let (daemon, why) = match (litestream::is_in_use(meta), silence) {
        // It holds the lock, and has no socket or one that is not for us.
        (Ok(true), None | Some(Silence { is_forbidden: true, .. })) => ("running", None),
        (Ok(true), Some(silence)) => ("running", Some(silence.why.clone())),
        (Ok(false), None) => ("not running", Some("no running daemon was found for it".to_owned())),
        (Ok(false), Some(silence)) => ("unknown", Some(silence.why.clone())),
        (Err(error), _) => ("unknown", Some(format!("whether a daemon replicates it cannot be told: {error}"))),
    };
    row.daemon = daemon.to_owned();
    if let Some(why) = why {
        row.degraded(why);
    }
}

async fn look(
    client: Arc<dyn ReplicaClient>,
    room: Arc<Semaphore>,
    deadline: Instant,
    limit: Duration,
) -> Result<Inventory, String> {
    let load = async {
        let _permit = room.acquire().await.map_err(|error| error.to_string())?;
        Inventory::load(&*client, false).await.map_err(|error| error.to_string())
    };
    timeout_at(deadline, load).await.unwrap_or_else(|_| Err(format!("no answer within {}s", limit.as_secs())))
}

fn from_replica(row: &mut Row, meta: &Path, inventory: &Inventory, lag_limit: Duration) {
    let points = inventory.restore_points();
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        row.degraded("the replica holds no backup that can be restored");
        return;
    };
    row.replica_txid = Some(last.txid.to_string());
    row.earliest = Some(State::new(first.txid, first.created_at));
    row.latest = Some(State::new(last.txid, last.created_at));
    row.last_success = row.last_success.or(Some(Moment(last.created_at)));
    if last.txid < inventory.newest_txid() {
        row.degraded(
            "transactions are missing in the replica: its newest files cannot be restored (see litestream points)",
        );
    }
    let behind = litestream::unsent_files(meta, last.txid).unwrap_or_default();
    row.lag_bytes = Some(behind.0);
    row.lag_seconds = Some(behind.1.map_or(0.0, |since| age(since).as_secs_f64()));
    judge_lag(row, lag_limit);
}

fn judge_lag(row: &mut Row, limit: Duration) {
    let lag = row.lag_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    if let Some(lag) = lag.filter(|lag| *lag > limit) {
        row.degraded(format!("the replica is behind by {}s", lag.as_secs()));
    }
}

fn age(since: Timestamp) -> Duration {
    SystemClock.now().duration_since(since).try_into().unwrap_or_default()
}

/// From which lag a database is degraded: a few rounds of uploads, and room for
/// a slow one.
fn lag_limit(db: &DbConfig) -> Duration {
    let interval = db.replica().ok().and_then(|replica| replica.sync_interval).unwrap_or(defaults::SYNC_INTERVAL);
    interval.to_duration().saturating_mul(5) + Duration::from_secs(10)
}

/// Replicas that are looked at together.
const MAX_LOOKS: usize = 16;
/// A daemon that lives answers at once.
const DAEMON_LIMIT: Duration = Duration::from_secs(3);
