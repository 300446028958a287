//! One replicated database: its capture and its replica behind one async door.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use litestream_replica::ReplicaClient;
use litestream_replica::clock::Clock;
use litestream_replica::points::RestorePoint;
use ltx::Txid;
use tokio::sync::{Notify, watch};

use crate::agenda::Agenda;
use crate::capture::{Capture, PassReport, Publish};
use crate::counters::Counters;
use crate::error::{Error, ErrorKind, Result};
use crate::health::Health;
use crate::insight::Window;
use crate::lifecycle::Lifecycle;
use crate::options::{DbOptions, ReplicaOptions, StoreOptions};
use crate::position::Position;
use crate::prefix::Prefix;
use crate::replica::{SharedCapture, Uploader, with};
use crate::seats::{Seat, Seated, Seats};
use crate::staged::Staged;
use crate::status::DatabaseStatus;

/// A database and its replica. Created by [`Store::add`](crate::Store::add).
pub struct Database {
    pub(crate) options: DbOptions,
    pub(crate) replica: ReplicaOptions,
    pub(crate) store: StoreOptions,
    client: Arc<dyn ReplicaClient>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) capture: SharedCapture,
    /// Taken by whatever needs the database open.
    pub(crate) seat: Arc<Seat>,
    pub(crate) uploader: tokio::sync::Mutex<Uploader>,
    /// What the replica holds; everything is written through it.
    pub(crate) prefix: Arc<Prefix>,
    pub(crate) staged: Staged,
    pub(crate) health: Arc<Health>,
    pub(crate) agenda: Mutex<Agenda>,
    /// Held by whatever reads or writes more than one file: compaction,
    /// snapshots, retention. One at a time for each database.
    pub(crate) heavy: tokio::sync::Mutex<()>,
    id: u64,
    is_touched: AtomicBool,
    /// Set while nothing may open the database again.
    pub(crate) is_closed: Arc<AtomicBool>,
    pub(crate) lifecycle: Lifecycle,
    /// Zero while unknown.
    page_len: AtomicU32,
    /// Local level-0 files beside the newest, so that they are looked at again.
    pub(crate) has_old_local_files: AtomicBool,
    /// For whoever waits to send: moves with each capture that found something.
    captured: watch::Sender<Captured>,
    /// Rung by the file notification.
    pub(crate) wake: Arc<Notify>,
    status: Mutex<DatabaseStatus>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) added_at: Timestamp,
    /// When caches were last dropped for a full disk.
    pub(crate) relieved_at: Mutex<Option<Timestamp>>,
    /// The last that was known of it.
    pub(crate) window: Mutex<Option<Window>>,
}

/// What the upload side waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Captured {
    /// A pass has succeeded, so the database is open.
    pub(crate) ready: bool,
    /// Newest captured transaction.
    pub(crate) txid: Option<Txid>,
}

impl Database {
    pub(crate) fn new(
        options: DbOptions,
        replica: ReplicaOptions,
        store: StoreOptions,
        client: Arc<dyn ReplicaClient>,
        clock: Arc<dyn Clock>,
        seats: Arc<Seats>,
    ) -> Self {
        let counters = Arc::new(Counters::default());
        let capture = Capture::new(options.clone(), clock.clone(), counters.clone(), Instant::now());
        let capture = Arc::new(Mutex::new(capture));
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let seat = Seat::new(id, seats, capture.clone());
        let meta = options.meta_path();
        let prefix = Arc::new(Prefix::new(client.clone(), clock.clone()));
        let health = Arc::new(Health::new(&options.path, &meta, options.disk.clone(), clock.clone()));
        let staged = Staged::new(&meta, options.disk.clone());
        Self {
            uploader: tokio::sync::Mutex::new(Uploader::new(
                prefix.clone(),
                health.clone(),
                staged.clone(),
                seat.clone(),
            )),
            seat,
            prefix,
            staged,
            health,
            agenda: Mutex::default(),
            heavy: tokio::sync::Mutex::new(()),
            id,
            is_touched: AtomicBool::new(false),
            is_closed: Arc::default(),
            lifecycle: Lifecycle::default(),
            page_len: AtomicU32::new(0),
            has_old_local_files: AtomicBool::new(true),
            capture,
            captured: watch::Sender::new(Captured::default()),
            wake: Arc::new(Notify::new()),
            status: Mutex::default(),
            counters,
            added_at: clock.now(),
            window: Mutex::default(),
            relieved_at: Mutex::default(),
            options,
            replica,
            store,
            client,
            clock,
        }
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.options.path
    }

    /// Where its replica is.
    pub fn client(&self) -> &Arc<dyn ReplicaClient> {
        &self.client
    }

    /// What is known at this moment.
    pub fn status(&self) -> DatabaseStatus {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let state = self.lifecycle.state(|| status.running_state());
        let (problem, problems_found, problems_healed) = self.health.report();
        DatabaseStatus { state, problem, problems_found, problems_healed, ..status }
    }

    /// Tells this database from all others of the process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// True when the maintenance task has not yet been told that something changed,
    /// and is to be told now.
    pub(crate) fn touch(&self) -> bool {
        !self.is_touched.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn received_touch(&self) {
        self.is_touched.store(false, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// The database's page size in bytes; zero while unknown.
    pub(crate) fn page_len(&self) -> u32 {
        self.page_len.load(Ordering::Relaxed)
    }

    /// Captures everything committed so far; `publish` says what becomes of it.
    ///
    /// Before the first upload has given the database a base there is nothing to
    /// continue, and the report's TXID is `None`.
    pub(crate) async fn capture(&self, publish: Publish) -> Result<PassReport> {
        if !self.is_closed()
            && let Some(report) = self.capture.try_lock().ok().and_then(|capture| capture.unchanged())
        {
            return Ok(report);
        }
        let seated = if self.is_closed() {
            Err(Error::new(ErrorKind::Cancelled, "database not open"))
        } else {
            self.seat.take().await
        };
        self.pass(publish, seated).await
    }

    /// As [`capture`](Self::capture), for those that had to wait for the seat.
    pub(crate) async fn pass(&self, publish: Publish, seated: Result<Seated>) -> Result<PassReport> {
        let is_closed = self.is_closed.clone();
        let began = Instant::now();
        let now = monotonic_now();
        self.counters.pass_begins(self.clock.now());
        let pass = move |capture: &mut Capture| {
            // A pass opens what is not open, and a stopped database must stay closed.
            if is_closed.load(Ordering::Acquire) {
                return Err(Error::new(ErrorKind::Cancelled, "database not open"));
            }
            let report = capture.pass(now, publish)?;
            Ok((report, capture.position()))
        };
        let result = match seated {
            Ok(seated) => {
                let result = with(&self.capture, pass).await;
                drop(seated);
                result
            }
            Err(err) => Err(err),
        };
        let result = result.map(|(report, position)| {
            self.learn_page_len(position);
            report
        });
        self.count_pass(&result, began.elapsed());
        self.update_status(|status, now| match &result {
            Ok(report) => {
                status.captured(report.txid, now);
                status.wal_size = report.wal_size;
                status.db_size = report.db_size;
            }
            Err(err) if err.kind() == ErrorKind::Cancelled => {}
            Err(err) => status.capture_failed(err, now),
        });
        if let Ok(report) = &result {
            let now = Captured { ready: true, txid: report.txid };
            self.captured.send_if_modified(|captured| std::mem::replace(captured, now) != now);
        }
        if let Err(err) = self.keep_budget(result.as_ref().err().map(Error::kind)).await {
            tracing::warn!(db = %self.path().display(), error = %err, "cannot keep local budget");
        }
        result
    }

    /// Sends what the replica lacks, at most one batch. True when nothing is left.
    pub(crate) async fn upload_batch(&self) -> Result<bool> {
        let mut uploader = self.uploader.lock().await;
        let result = uploader.round(&self.capture, self.replica.max_sync_ltx_files).await;
        let uploaded = uploader.uploaded();
        drop(uploader);
        if result.is_ok() && self.status().txid < uploaded {
            // An image gave the database its position, or the level-0 file behind it a
            // newer one than the last pass saw.
            let position = with(&self.capture, |capture| Ok(capture.position())).await?;
            self.learn_page_len(position);
            self.update_status(|status, _| status.txid = status.txid.max(position.map(|position| position.txid)));
        }
        if result.is_ok() && self.status().replica_txid != uploaded {
            self.has_old_local_files.store(true, Ordering::Relaxed);
        }
        if result.is_err() {
            self.counters.upload_failed();
        }
        self.update_status(|status, now| match &result {
            Ok(_) => status.uploaded(uploaded, now),
            Err(err) => status.upload_failed(err, now),
        });
        result
    }

    /// Captures everything committed so far and sends it. On success the replica
    /// holds every transaction that was committed when the call began.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`] when there is no database.
    pub async fn sync(&self) -> Result<Txid> {
        self.capture(Publish::Now).await.map_err(|err| self.named("sync database", err))?;
        while !self.upload_batch().await.map_err(|err| self.named("sync replica for", err))? {}
        // A first upload gives the database its base; what was committed since the
        // pass above is captured by now or by this pass.
        let report = self.capture(Publish::Now).await.map_err(|err| self.named("sync database", err))?;
        while !self.upload_batch().await.map_err(|err| self.named("sync replica for", err))? {}
        report.txid.ok_or_else(|| Error::new(ErrorKind::Transient, format!("sync {}: no base", self.path().display())))
    }

    /// Captures everything committed so far into local files, without sending
    /// anything. `None` before the first upload has given the database its base.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`] when there is no database, [`ErrorKind::Cancelled`]
    /// when it is stopped.
    pub async fn sync_local(&self) -> Result<Option<Txid>> {
        let report = self.capture(Publish::Now).await.map_err(|err| self.named("sync database", err))?;
        Ok(report.txid)
    }

    /// Writes a snapshot of the present state to level 9, even if there is one.
    ///
    /// # Errors
    /// When the database has not been synced before, or the replica fails.
    pub async fn snapshot(&self) -> Result<Txid> {
        let _heavy = self.heavy.lock().await;
        self.store_snapshot().await.map_err(|err| self.named("snapshot", err))
    }

    /// Captures what is left and closes the database. Idempotent. Nothing opens it
    /// again before [`reopen`](Self::reopen).
    pub(crate) async fn close(&self) -> Result<()> {
        self.is_closed.store(true, Ordering::Release);
        let closed = with(&self.capture, Capture::close).await;
        self.seat.leave().await;
        if let Err(err) = self.prefix.release().await {
            // It ends by itself; the next writer only waits longer.
            tracing::warn!(db = %self.path().display(), error = %err, "cannot release lease");
        }
        closed
    }

    /// Lets a closed database be opened again, with nothing taken for known that
    /// somebody else may have changed meanwhile.
    pub(crate) async fn reopen(&self) {
        self.uploader.lock().await.forget();
        self.prefix.forget();
        *self.agenda.lock().unwrap_or_else(PoisonError::into_inner) = Agenda::default();
        self.has_old_local_files.store(true, Ordering::Relaxed);
        self.update_status(|status, _| status.reopened());
        self.captured.send_replace(Captured::default());
        self.is_closed.store(false, Ordering::Release);
    }

    /// The newest captured transaction, from local files if it is not known yet.
    /// Reads a directory then.
    ///
    /// # Errors
    /// When that directory exists and cannot be read.
    pub fn local_txid(&self) -> std::io::Result<Option<Txid>> {
        match self.status().txid {
            Some(txid) => Ok(Some(txid)),
            None => crate::meta::local_txid(&self.meta_path()),
        }
    }

    /// True while a capture or an upload is under way. Tells the moment, no more.
    pub fn is_busy(&self) -> bool {
        self.uploader.try_lock().is_err() || matches!(self.capture.try_lock(), Err(std::sync::TryLockError::WouldBlock))
    }

    /// The oldest and the newest state that a restore could give, from what is
    /// known of the replica without asking it. `None` while that is nothing.
    pub fn recoverable(&self) -> Option<(RestorePoint, RestorePoint)> {
        let points = self.prefix.known()?.restore_points();
        Some((*points.first()?, *points.last()?))
    }

    /// The directory of local state.
    pub fn meta_path(&self) -> PathBuf {
        self.options.meta_path()
    }

    /// True when the database is not open because others need its descriptors.
    pub(crate) fn is_parked(&self) -> bool {
        self.capture.try_lock().is_ok_and(|capture| capture.is_parked())
    }

    /// True when frames wait beyond the position. Answers true when it cannot tell.
    pub(crate) fn is_behind(&self) -> bool {
        // A pass that is running holds the lock and will see what we would see.
        self.capture.try_lock().map_or(true, |capture| capture.is_behind())
    }

    /// True when an idle database needs a pass all the same.
    pub(crate) fn needs_attention(&self) -> bool {
        self.capture.try_lock().map_or(true, |capture| capture.needs_attention(monotonic_now()))
    }

    /// WAL bytes that wait for capture, as far as they can be told at once.
    pub(crate) fn backlog(&self) -> u64 {
        self.capture.try_lock().map_or(0, |capture| capture.backlog())
    }

    /// Gives back what only a busy database needs. The pin stays.
    pub(crate) fn rest(&self) {
        if let Ok(mut capture) = self.capture.try_lock() {
            capture.rest();
        }
    }

    /// True when captured pages wait to become a file.
    pub(crate) fn has_open_delta(&self) -> bool {
        self.capture.try_lock().map_or(true, |capture| capture.has_open_delta())
    }

    /// Tells the upload side that there is no base any more, even if it was told so
    /// before the first one.
    pub(crate) fn lost_base(&self) {
        self.captured.send_modify(|captured| captured.txid = None);
    }

    pub(crate) fn captured(&self) -> watch::Receiver<Captured> {
        self.captured.subscribe()
    }

    /// The path as SQLite sees it, behind symlinks; files are watched there.
    pub(crate) fn real_path(&self) -> PathBuf {
        std::fs::canonicalize(self.path()).unwrap_or_else(|_| self.path().to_owned())
    }

    fn count_pass(&self, result: &Result<PassReport>, took: Duration) {
        let kind = result.as_ref().err().map(Error::kind);
        // No database yet is a state, not a fault.
        let failed = kind.is_some_and(|kind| !matches!(kind, ErrorKind::Missing | ErrorKind::Cancelled));
        let wal_bytes = result.as_ref().map_or(0, |report| report.wal_bytes);
        self.counters.pass_ended(took, failed, kind == Some(ErrorKind::DiskFull), wal_bytes);
    }

    fn learn_page_len(&self, position: Option<Position>) {
        if let Some(position) = position {
            self.page_len.store(position.page_size.get(), Ordering::Relaxed);
        }
    }

    pub(crate) fn update_status(&self, update: impl FnOnce(&mut DatabaseStatus, Timestamp)) {
        let now = self.clock.now();
        update(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner), now);
    }

    pub(crate) fn named(&self, what: &str, err: Error) -> Error {
        err.context(format!("{what} {}", self.path().display()))
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.options.path).finish_non_exhaustive()
    }
}

/// The runtime's time, which tests own.
fn monotonic_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);
