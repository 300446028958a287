//! Many databases in one process: start, one-shot run, shutdown.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use litestream_replica::clock::Clock;
use litestream_replica::{Level, ReplicaClient};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::db::Database;
use crate::error::{Error, ErrorKind, Result};
use crate::maintenance;
use crate::monitor::{self, Shared};
use crate::options::{DbOptions, ReplicaOptions, StoreOptions};
use crate::watch::Watcher;

/// The databases of one process.
pub struct Store {
    options: StoreOptions,
    clock: Arc<dyn Clock>,
    databases: Mutex<Vec<Arc<Database>>>,
    shared: Arc<Shared>,
    /// The maintenance task's end of the channel in `shared`, until it starts.
    touched: Mutex<Option<UnboundedReceiver<Arc<Database>>>>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// How a shutdown went.
#[derive(Clone, Debug, Default)]
pub struct CloseReport {
    /// Databases with transactions that are known not to have reached their
    /// replica, and why. The local files stay and go out at the next start.
    pub unsent: Vec<(PathBuf, String)>,
}

impl Store {
    /// An empty store. Needs a tokio runtime around it.
    pub fn new(options: StoreOptions, clock: Arc<dyn Clock>) -> Self {
        let (sender, touched) = unbounded_channel();
        Self {
            options,
            clock,
            databases: Mutex::default(),
            touched: Mutex::new(Some(touched)),
            shared: Arc::new(Shared {
                touched: sender,
                watcher: Watcher::new(),
                passes: Semaphore::new(MAX_PASSES),
                uploads: Semaphore::new(MAX_UPLOADS),
            }),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Adds a database. Touches neither it nor the replica yet.
    ///
    /// # Errors
    /// [`ErrorKind::Setup`] for settings that cannot work.
    pub fn add(
        &self,
        options: DbOptions,
        client: Arc<dyn ReplicaClient>,
        replica: ReplicaOptions,
    ) -> Result<Arc<Database>> {
        if options.min_checkpoint_page_count == 0 {
            return Err(Error::new(ErrorKind::Setup, "minimum checkpoint page count required"));
        }
        let db = Database::new(options, replica, self.options.clone(), client, self.clock.clone());
        let db = Arc::new(db);
        self.databases.lock().unwrap_or_else(PoisonError::into_inner).push(db.clone());
        Ok(db)
    }

    /// All databases, in the order they were added.
    pub fn databases(&self) -> Vec<Arc<Database>> {
        self.databases.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts replicating, compacting and expiring in the background. A database
    /// with a `monitor-interval` of zero is left alone, as upstream does.
    pub fn start(&self) {
        let touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(touched) = touched {
            self.log_schedule();
            self.tasks.spawn(maintenance::run(touched, self.clock.clone(), self.cancel.clone()));
        }
        for db in self.databases() {
            if db.options.monitor_interval.is_zero() {
                tracing::warn!(db = %db.path().display(), "monitor-interval is 0: this database is not replicated");
                continue;
            }
            self.tasks.spawn(monitor::capture(db.clone(), self.shared.clone(), self.cancel.clone()));
            self.tasks.spawn(monitor::upload(db, self.shared.clone(), self.cancel.clone()));
        }
    }

    /// Upstream's lines, one for each thing that is done at intervals.
    fn log_schedule(&self) {
        let options = &self.options;
        let system = "store";
        for (level, interval) in options.levels.iter() {
            tracing::info!(system, level = level.get(), ?interval, "starting compaction monitor");
        }
        let interval = options.snapshot_interval;
        tracing::info!(system, level = Level::SNAPSHOT.get(), ?interval, "starting compaction monitor");
        if !options.l0_retention.is_zero() {
            let interval = options.l0_retention_check_interval;
            tracing::info!(system, ?interval, retention = ?options.l0_retention, "starting L0 retention monitor");
        }
        if let Some(interval) = options.validation_interval {
            tracing::info!(system, ?interval, "starting validation monitor");
        }
        let defaults = StoreOptions::default();
        let is_default = options.snapshot_retention == defaults.snapshot_retention
            && options.snapshot_interval == defaults.snapshot_interval;
        if !options.retention_enabled {
            tracing::warn!(
                system,
                hint = "nothing is deleted from the replica: expire old files with rules of the store, but never the newest snapshot and what follows it",
                "retention disabled; cloud provider lifecycle policies must handle retention"
            );
        } else if options.snapshot_retention <= options.snapshot_interval && !is_default {
            tracing::warn!(
                system,
                retention = ?options.snapshot_retention,
                interval = ?options.snapshot_interval,
                hint = "the window is kept whole all the same: the newest snapshot older than snapshot.retention stays as its base, so up to two intervals of history are stored",
                "snapshot.retention is not longer than snapshot.interval"
            );
        }
    }

    /// Replicates every database once, in order, and stops at the first failure.
    /// Nothing is compacted, and nothing expires but local files.
    ///
    /// # Errors
    /// As [`Database::sync`] and [`Database::snapshot`].
    pub async fn once(&self, force_snapshot: bool) -> Result<()> {
        for db in self.databases() {
            tracing::info!(db = %db.path().display(), "syncing database");
            db.sync().await?;
            if force_snapshot {
                tracing::info!(db = %db.path().display(), "taking snapshot");
                db.snapshot().await?;
            }
            if let Some(inventory) = db.prefix.known() {
                db.prune(&inventory, false).await?;
            }
        }
        Ok(())
    }

    /// Deletes from every replica what retention allows, after [`once`](Self::once).
    ///
    /// # Errors
    /// The first replica that fails; what was deleted before stays deleted.
    pub async fn enforce_retention(&self) -> Result<()> {
        for db in self.databases() {
            tracing::info!(db = %db.path().display(), "enforcing retention");
            db.enforce_retention().await?;
        }
        Ok(())
    }

    /// Stops background work, captures and sends what is left of every database,
    /// and closes them all, concurrently and against one deadline.
    ///
    /// `interrupt` is the operator's second signal: it ends the retries.
    pub async fn close(&self, interrupt: &CancellationToken) -> CloseReport {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let deadline = Instant::now() + self.options.shutdown_sync_timeout;
        let closing = self.databases().into_iter().map(|db| self.close_one(db, deadline, interrupt));
        let results = futures_util::future::join_all(closing).await;
        CloseReport { unsent: results.into_iter().flatten().collect() }
    }

    async fn close_one(
        &self,
        db: Arc<Database>,
        deadline: Instant,
        interrupt: &CancellationToken,
    ) -> Option<(PathBuf, String)> {
        let unsent = self.final_sync(&db, deadline, interrupt).await.err();
        if let Err(err) = db.close().await {
            tracing::error!(db = %db.path().display(), error = %err, "failed to close database");
        }
        unsent.map(|reason| (db.path().to_owned(), reason))
    }

    async fn final_sync(&self, db: &Database, deadline: Instant, interrupt: &CancellationToken) -> Result<(), String> {
        let _permit = self.shared.uploads.acquire().await.map_err(|err| err.to_string())?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let attempt = tokio::select! {
                () = interrupt.cancelled() => {
                    tracing::warn!(db = %db.path().display(), attempts, "shutdown sync interrupted by signal");
                    return if db.has_unsent() { Err("shutdown sync interrupted".to_owned()) } else { Ok(()) };
                }
                attempt = db.sync() => attempt,
            };
            let err = match attempt {
                Ok(_) => {
                    if attempts > 1 {
                        tracing::info!(db = %db.path().display(), attempts, "shutdown sync succeeded after retry");
                    }
                    return Ok(());
                }
                // A database that never existed has nothing to send.
                Err(err) if err.kind() == ErrorKind::Missing => return Ok(()),
                Err(err) => err,
            };
            // A database that could never be opened has captured nothing, and what
            // only a person can mend is not mended by waiting.
            let is_hopeless = matches!(err.kind(), ErrorKind::Setup | ErrorKind::Corrupt);
            if is_hopeless && db.status().captured_at.is_none() {
                return Err(err.to_string());
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(format!("shutdown sync timeout after {attempts} attempts: {err}"));
            }
            if attempts == 1 {
                tracing::warn!(
                    db = %db.path().display(),
                    attempts,
                    error = %err,
                    remaining = ?deadline.duration_since(now),
                    "shutdown sync failed, retrying (press Ctrl+C again to skip)"
                );
            }
            tokio::select! {
                () = interrupt.cancelled() => {}
                () = sleep(self.options.shutdown_sync_interval.max(MIN_RETRY)) => {}
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Passes are short and mostly wait for the disk.
const MAX_PASSES: usize = 16;
const MAX_UPLOADS: usize = 64;
const MIN_RETRY: Duration = Duration::from_millis(10);
