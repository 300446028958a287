//! One database from start to stop and back, while others run on.
//!
//! ```text
//! idle ──start──▶ running ──stop──▶ stopping ──▶ stopped ──start──▶ running …
//!   └───────────────────stop──────────▲              └──unregister──▶ removed
//! ```
//!
//! Changes of one database happen one after the other (`transition`), so two
//! starts at once give one start, and a stop during a start waits for it. The rule
//! that must never break: everything that works on a database has ended before its
//! handles are closed, and nothing opens it again until it is started (lesson 31).
//!
//! Spec: docs/commands.md, "Control socket".

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ltx::Txid;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::db::Database;
use crate::error::{Error, ErrorKind, Result};
use crate::monitor::{self, Shared};
use crate::status::DatabaseState;

/// Where a database is in its life, and what works on it.
#[derive(Debug, Default)]
pub(crate) struct Lifecycle {
    /// Held while the phase changes.
    transition: tokio::sync::Mutex<()>,
    phase: Mutex<Phase>,
}

#[derive(Debug, Default)]
enum Phase {
    /// Nothing works on it in the background.
    #[default]
    Idle,
    Running(Run),
    Stopping,
    Stopped,
    /// Stopped, and no longer one of the store's.
    Removed,
}

/// The background work of one start.
#[derive(Clone, Debug)]
struct Run {
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// How a database was stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopReport {
    /// It was stopped already, and nothing was done.
    pub was_stopped: bool,
    /// Newest captured transaction.
    pub txid: Option<Txid>,
    /// Newest transaction that is known to be in the replica.
    pub replica_txid: Option<Txid>,
    /// Why changes may not have reached the replica, if so. The database is stopped
    /// all the same; its local files go out when it is started again.
    pub unsent: Option<String>,
    /// Somebody else had removed it before.
    pub(crate) was_removed: bool,
}

/// How long a final sync may take.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    /// Failed attempts are repeated until then.
    pub(crate) retry_until: Instant,
    /// An attempt under way is abandoned then; `None`: never.
    pub(crate) give_up_at: Option<Instant>,
    /// Pause between attempts.
    pub(crate) pause: Duration,
    /// The operator's wish to wait no longer.
    pub(crate) abandon: CancellationToken,
}

impl Patience {
    async fn is_over(&self) {
        match self.give_up_at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

impl Lifecycle {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state this phase means; `running` answers for a database at work.
    pub(crate) fn state(&self, running: impl FnOnce() -> DatabaseState) -> DatabaseState {
        match *self.phase() {
            Phase::Idle => DatabaseState::Idle,
            Phase::Running(_) => running(),
            Phase::Stopping => DatabaseState::Stopping,
            Phase::Stopped | Phase::Removed => DatabaseState::Stopped,
        }
    }

    /// Cancelled when the database is stopped; `None` when nothing may work on it.
    pub(crate) fn running(&self) -> Option<CancellationToken> {
        match &*self.phase() {
            Phase::Running(run) => Some(run.cancel.clone()),
            _ => None,
        }
    }

    /// Waits until no change is under way.
    pub(crate) async fn settled(&self) {
        drop(self.transition.lock().await);
    }

    pub(crate) fn is_removed(&self) -> bool {
        matches!(*self.phase(), Phase::Removed)
    }
}

impl Database {
    /// Starts the two tasks of a database that is idle. False when it is not, or is
    /// not to be replicated in the background.
    pub(crate) fn begin(self: &Arc<Self>, shared: &Arc<Shared>, parent: &CancellationToken) -> bool {
        if self.options.monitor_interval.is_zero() {
            tracing::warn!(db = %self.path().display(), "monitor-interval is 0: this database is not replicated");
            return false;
        }
        let mut phase = self.lifecycle.phase();
        if !matches!(*phase, Phase::Idle) {
            return false;
        }
        let run = Run { cancel: parent.child_token(), tasks: TaskTracker::new() };
        let alarm = &shared.alarm;
        run.tasks.spawn(alarm.watch(monitor::capture(self.clone(), shared.clone(), run.cancel.clone())));
        run.tasks.spawn(alarm.watch(monitor::upload(self.clone(), shared.clone(), run.cancel.clone())));
        *phase = Phase::Running(run);
        true
    }

    /// Opens a stopped database again, and with `background` starts its tasks. False
    /// when it is not stopped.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`] when it has been removed meanwhile.
    pub(crate) async fn restart(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        parent: &CancellationToken,
        background: bool,
    ) -> Result<bool> {
        let _transition = self.lifecycle.transition.lock().await;
        match *self.lifecycle.phase() {
            Phase::Idle | Phase::Running(_) => return Ok(false),
            Phase::Removed => return Err(not_found(self)),
            Phase::Stopping | Phase::Stopped => {}
        }
        if parent.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "litestream is shutting down"));
        }
        self.reopen().await;
        *self.lifecycle.phase() = Phase::Idle;
        if background {
            self.begin(shared, parent);
        }
        Ok(true)
    }

    /// Ends what works on this database, captures and sends what is left, and closes
    /// it. With `remove` it cannot be started again.
    ///
    /// Must run to its end once begun: call it from a task that is not dropped.
    ///
    /// # Errors
    /// The database could not be closed; it counts as stopped all the same.
    pub(crate) async fn halt(
        self: &Arc<Self>,
        shared: &Shared,
        patience: &Patience,
        remove: bool,
    ) -> Result<StopReport> {
        let _transition = self.lifecycle.transition.lock().await;
        let before = std::mem::replace(&mut *self.lifecycle.phase(), Phase::Stopping);
        let after = if remove || matches!(before, Phase::Removed) { Phase::Removed } else { Phase::Stopped };
        if let Phase::Running(run) = &before {
            run.cancel.cancel();
            run.tasks.close();
            run.tasks.wait().await;
        }
        let was_removed = matches!(before, Phase::Removed);
        let mut report = StopReport { was_stopped: true, was_removed, ..StopReport::default() };
        let mut closed = Ok(());
        if matches!(before, Phase::Idle | Phase::Running(_)) {
            // Maintenance notices the cancelled run and lets go.
            drop(self.heavy.lock().await);
            report.was_stopped = false;
            report.unsent = self.final_sync(shared, patience).await.err();
            closed = self.close().await;
            // Takes it off the maintenance queue.
            if self.touch() && shared.touched.send(self.clone()).is_err() {
                tracing::trace!(db = %self.path().display(), "no maintenance any more");
            }
        }
        *self.lifecycle.phase() = after;
        if let Err(err) = &closed {
            tracing::error!(db = %self.path().display(), error = %err, "failed to close database");
        }
        let status = self.status();
        (report.txid, report.replica_txid) = (status.txid, status.replica_txid);
        if report.was_stopped && status.txid.is_some() && status.has_unsent() {
            report.unsent = Some("stopped before everything was sent".to_owned());
        }
        closed.map(|()| report)
    }

    async fn final_sync(&self, shared: &Shared, patience: &Patience) -> Result<(), String> {
        let given_up = |why: &str| if self.status().has_unsent() { Err(why.to_owned()) } else { Ok(()) };
        let _permit = tokio::select! {
            permit = shared.uploads.acquire() => permit.map_err(|err| err.to_string())?,
            () = patience.abandon.cancelled() => return given_up("final sync interrupted"),
            () = patience.is_over() => return given_up("timed out before the final sync"),
        };
        let mut attempts = 0;
        loop {
            attempts += 1;
            let attempt = tokio::select! {
                () = patience.abandon.cancelled() => {
                    tracing::warn!(db = %self.path().display(), attempts, "shutdown sync interrupted by signal");
                    return given_up("shutdown sync interrupted");
                }
                () = patience.is_over() => return given_up("timed out during the final sync"),
                attempt = self.sync_rest() => attempt,
            };
            let err = match attempt {
                Ok(()) => {
                    if attempts > 1 {
                        tracing::info!(db = %self.path().display(), attempts, "shutdown sync succeeded after retry");
                    }
                    return Ok(());
                }
                Err(err) => err,
            };
            // A database that could never be opened has captured nothing, and what
            // only a person can mend is not mended by waiting.
            let is_hopeless = matches!(err.kind(), ErrorKind::Setup | ErrorKind::Corrupt);
            if is_hopeless && self.status().captured_at.is_none() {
                return Err(err.to_string());
            }
            // The other one sends on, for longer than anybody waits here.
            if err.kind() == ErrorKind::Leased {
                return Err(err.to_string());
            }
            let now = Instant::now();
            if now >= patience.retry_until {
                return Err(format!("shutdown sync timeout after {attempts} attempts: {err}"));
            }
            if attempts == 1 {
                tracing::warn!(
                    db = %self.path().display(),
                    attempts,
                    error = %err,
                    remaining = ?patience.retry_until.duration_since(now),
                    "shutdown sync failed, retrying (press Ctrl+C again to skip)"
                );
            }
            tokio::select! {
                () = patience.abandon.cancelled() => {}
                () = patience.is_over() => {}
                () = sleep(patience.pause.max(MIN_PAUSE)) => {}
            }
        }
    }

    /// Everything committed is captured and sent. Of a database whose file is gone
    /// that is what was captured before.
    async fn sync_rest(&self) -> Result<()> {
        match self.sync().await {
            Err(err) if err.kind() == ErrorKind::Missing => {}
            other => return other.map(|_| ()),
        }
        // The last pass over a file that is gone may have found commits that its status
        // does not tell of. When there are none a round asks the replica nothing.
        if self.status().txid.is_none() {
            return Ok(());
        }
        while !self.upload_batch().await? {}
        Ok(())
    }
}

pub(crate) fn not_found(db: &Database) -> Error {
    Error::new(ErrorKind::Missing, format!("database not found: {}", db.path().display()))
}

const MIN_PAUSE: Duration = Duration::from_millis(10);
