//! Many databases in one process: start, one-shot run, shutdown.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use litestream_replica::clock::Clock;
use litestream_replica::metered::Operations;
use litestream_replica::{Level, ReplicaClient};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::db::Database;
use crate::error::{Error, ErrorKind, Result};
use crate::lifecycle::{Patience, StopReport};
use crate::maintenance;
use crate::monitor::Shared;
use crate::options::{DbOptions, ReplicaOptions, StoreOptions};
use crate::seats::{SeatUse, Seats};
use crate::traffic::{QueueUse, Traffic};

/// The databases of one process.
pub struct Store {
    options: StoreOptions,
    clock: Arc<dyn Clock>,
    registry: Arc<Mutex<Registry>>,
    traffic: Traffic,
    shared: Arc<Shared>,
    /// The maintenance task's end of the channel in `shared`, until it starts.
    touched: Mutex<Option<UnboundedReceiver<Arc<Database>>>>,
    cancel: CancellationToken,
    /// Ends the retries of final syncs.
    abandon: CancellationToken,
    /// Maintenance, and stops that are under way.
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
        let seats = Arc::new(Seats::new(options.max_descriptors));
        Self {
            options,
            clock,
            registry: Arc::default(),
            traffic: Traffic::default(),
            touched: Mutex::new(Some(touched)),
            shared: Arc::new(Shared::new(sender, seats, MAX_PASSES, MAX_UPLOADS)),
            cancel: CancellationToken::new(),
            abandon: CancellationToken::new(),
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
        check(&options)?;
        let db = Arc::new(self.database(options, client, replica));
        let mut registry = self.registry();
        if registry.find(db.path()).is_some() {
            return Err(Error::new(ErrorKind::Setup, format!("database {} is added twice", db.path().display())));
        }
        registry.insert(db.clone());
        Ok(db)
    }

    fn database(&self, options: DbOptions, client: Arc<dyn ReplicaClient>, replica: ReplicaOptions) -> Database {
        let client = self.traffic.meter(client);
        let seats = self.shared.seats.clone();
        Database::new(options, replica, self.options.clone(), client, self.clock.clone(), seats)
    }

    /// All databases, in the order they were added.
    pub fn databases(&self) -> Vec<Arc<Database>> {
        self.registry().databases.values().cloned().collect()
    }

    /// Requests to replicas since the start, by type of replica.
    pub fn operations(&self) -> Vec<(&'static str, Arc<Operations>)> {
        self.traffic.operations()
    }

    /// Background tasks that ended by a panic. Whatever they did is not done any
    /// more until the process starts anew.
    pub fn crashed_tasks(&self) -> usize {
        self.shared.alarm.crashed()
    }

    /// How many databases are open, and how many are not for want of descriptors.
    pub fn seats(&self) -> SeatUse {
        self.shared.seats.usage()
    }

    /// How much runs at this moment of what waits for a place: passes, uploads, work
    /// on levels, snapshots.
    pub fn queues(&self) -> [QueueUse; 4] {
        let of = |name, limit, permits: &Semaphore| QueueUse {
            name,
            limit,
            running: limit.saturating_sub(permits.available_permits()),
        };
        let [levels, snapshots] = self.shared.lanes.queues();
        let (passes, uploads) = (&self.shared.passes, &self.shared.uploads);
        [of("capture", MAX_PASSES, passes), of("upload", MAX_UPLOADS, uploads), levels, snapshots]
    }

    /// Starts replicating, compacting and expiring in the background. A database
    /// with a `monitor-interval` of zero is left alone, as upstream does.
    pub fn start(&self) {
        let touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(touched) = touched {
            self.log_schedule();
            let maintenance =
                maintenance::run(touched, self.clock.clone(), self.shared.lanes.clone(), self.cancel.clone());
            self.tasks.spawn(self.shared.alarm.watch(maintenance));
        }
        self.registry().is_started = true;
        for db in self.databases() {
            db.begin(&self.shared, &self.cancel);
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
            tracing::info!(path = %db.path().display(), "syncing database");
            db.sync().await?;
            if force_snapshot {
                tracing::info!(path = %db.path().display(), "taking snapshot");
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
            tracing::info!(path = %db.path().display(), "enforcing retention");
            db.enforce_retention().await?;
        }
        Ok(())
    }

    /// Stops background work, captures and sends what is left of every database,
    /// and closes them all, concurrently and against one deadline. From here on
    /// nothing is registered or started.
    ///
    /// `interrupt` is the operator's second signal: it ends the retries.
    pub async fn close(&self, interrupt: &CancellationToken) -> CloseReport {
        self.registry().is_closing = true;
        self.cancel.cancel();
        self.tasks.close();
        let closing = async {
            // Maintenance, and stops that were asked for before.
            self.tasks.wait().await;
            let patience = self.patience(self.options.shutdown_sync_timeout, None);
            let closing = self.databases().into_iter().map(|db| self.close_one(db, &patience));
            let results = futures_util::future::join_all(closing).await;
            CloseReport { unsent: results.into_iter().flatten().collect() }
        };
        tokio::pin!(closing);
        tokio::select! {
            report = &mut closing => report,
            () = interrupt.cancelled() => {
                self.abandon.cancel();
                closing.await
            }
        }
    }

    async fn close_one(&self, db: Arc<Database>, patience: &Patience) -> Option<(PathBuf, String)> {
        // An error of closing is in the log; what matters here is what was sent.
        let report = db.halt(&self.shared, patience, false).await.unwrap_or_default();
        report.unsent.map(|reason| (db.path().to_owned(), reason))
    }

    fn patience(&self, retry: Duration, give_up: Option<Duration>) -> Patience {
        let now = Instant::now();
        Patience {
            retry_until: now + retry,
            give_up_at: give_up.map(|give_up| now + give_up),
            pause: self.options.shutdown_sync_interval,
            abandon: self.abandon.clone(),
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Databases that come and go while others are replicated.
impl Store {
    /// The database of this absolute path, as it was added.
    pub fn find(&self, path: &Path) -> Option<Arc<Database>> {
        self.registry().find(path)
    }

    /// Adds a database and, once [`start`](Self::start) was called, starts it.
    /// Idempotent: one that is there already stays as it is, with the client and
    /// the settings it has. The file need not exist.
    ///
    /// Waits for a removal of the same path that is under way. Safe to call from
    /// many tasks at once.
    ///
    /// # Errors
    /// [`ErrorKind::Setup`] as [`add`](Self::add); [`ErrorKind::Cancelled`] during
    /// shutdown.
    pub async fn register(
        &self,
        options: DbOptions,
        client: Arc<dyn ReplicaClient>,
        replica: ReplicaOptions,
    ) -> Result<Registration> {
        check(&options)?;
        let db = Arc::new(self.database(options, client, replica));
        loop {
            let known = {
                let mut registry = self.registry();
                if registry.is_closing {
                    return Err(Error::new(ErrorKind::Cancelled, "litestream is shutting down"));
                }
                match registry.find(db.path()) {
                    Some(known) => known,
                    None => {
                        registry.insert(db.clone());
                        if registry.is_started {
                            db.begin(&self.shared, &self.cancel);
                        }
                        return Ok(Registration::New(db));
                    }
                }
            };
            known.lifecycle.settled().await;
            if !known.lifecycle.is_removed() {
                return Ok(Registration::Known(known));
            }
            // Forgotten by whoever removed it; that takes no time any more.
            tokio::task::yield_now().await;
        }
    }

    /// Starts a database that was stopped. False when it runs already; in a store
    /// that is not started every database counts as running. A stop that is under
    /// way is waited for.
    ///
    /// Opening happens in the background: see [`DatabaseStatus::state`](crate::DatabaseStatus::state).
    ///
    /// # Errors
    /// [`ErrorKind::Missing`] when it was unregistered, [`ErrorKind::Cancelled`]
    /// during shutdown.
    pub async fn start_database(&self, db: &Arc<Database>) -> Result<bool> {
        let is_started = self.registry().is_started;
        db.restart(&self.shared, &self.cancel, is_started).await
    }

    /// Stops one database: background work on it ends, what is left is captured and
    /// sent, then its handles are closed. It stays known and can be started again.
    /// Idempotent; a start or stop that is under way is waited for.
    ///
    /// The final sync is retried and abandoned after `timeout`. The database is
    /// closed all the same; [`StopReport::unsent`] says what is missing then. The
    /// stop goes on to its end when the returned future is dropped.
    ///
    /// # Errors
    /// The database could not be closed cleanly, or somebody else's start or stop
    /// took longer than `timeout` ([`ErrorKind::Cancelled`]).
    pub async fn stop_database(&self, db: &Arc<Database>, timeout: Duration) -> Result<StopReport> {
        self.halt(db, timeout, false).await
    }

    /// Stops a database as [`stop_database`](Self::stop_database) does and forgets
    /// it, whether its final sync succeeded or not. `None` when there is none of
    /// this path. Local state and replica stay as they are.
    ///
    /// # Errors
    /// As [`stop_database`](Self::stop_database).
    pub async fn unregister(&self, path: &Path, timeout: Duration) -> Result<Option<StopReport>> {
        match self.find(path) {
            Some(db) => Ok(Some(self.halt(&db, timeout, true).await?).filter(|report| !report.was_removed)),
            None => Ok(None),
        }
    }

    async fn halt(&self, db: &Arc<Database>, timeout: Duration, remove: bool) -> Result<StopReport> {
        let patience = self.patience(timeout, Some(timeout));
        let (db, shared, registry) = (db.clone(), self.shared.clone(), self.registry.clone());
        let job = self.tasks.spawn(async move {
            let report = db.halt(&shared, &patience, remove).await;
            if remove {
                registry.lock().unwrap_or_else(PoisonError::into_inner).remove(&db);
            }
            report
        });
        match tokio::time::timeout(timeout.saturating_add(CLOSE_GRACE), job).await {
            Ok(Ok(report)) => report,
            Ok(Err(err)) => Err(Error::with_source(ErrorKind::Transient, "stop task", err)),
            Err(_) => Err(Error::new(ErrorKind::Cancelled, "timed out, the database is still being stopped")),
        }
    }
}

/// What [`Store::register`] found.
#[derive(Clone, Debug)]
pub enum Registration {
    /// It was added.
    New(Arc<Database>),
    /// There is one of this path already, and nothing was changed.
    Known(Arc<Database>),
}

/// The databases by path and in the order they were added.
#[derive(Default)]
struct Registry {
    databases: BTreeMap<u64, Arc<Database>>,
    by_path: HashMap<PathBuf, u64>,
    /// Databases are started as they are registered.
    is_started: bool,
    /// Nothing is registered any more.
    is_closing: bool,
}

impl Registry {
    fn find(&self, path: &Path) -> Option<Arc<Database>> {
        self.databases.get(self.by_path.get(path)?).cloned()
    }

    fn insert(&mut self, db: Arc<Database>) {
        self.by_path.insert(db.path().to_owned(), db.id());
        self.databases.insert(db.id(), db);
    }

    fn remove(&mut self, db: &Database) {
        if self.databases.remove(&db.id()).is_some() {
            self.by_path.remove(db.path());
        }
    }
}

fn check(options: &DbOptions) -> Result<()> {
    if options.min_checkpoint_page_count == 0 {
        return Err(Error::new(ErrorKind::Setup, "minimum checkpoint page count required"));
    }
    Ok(())
}

impl Drop for Store {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Passes are short and mostly wait for the disk.
const MAX_PASSES: usize = 16;
const MAX_UPLOADS: usize = 64;
/// What closing a database may take after its final sync was given up.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
