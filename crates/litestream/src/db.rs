//! One replicated database: its capture and its replica behind one async door.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use litestream_replica::ReplicaClient;
use litestream_replica::clock::Clock;
use ltx::Txid;
use tokio::sync::{Notify, watch};

use crate::capture::{Capture, PassReport};
use crate::error::{Error, ErrorKind, Result};
use crate::options::{DbOptions, ReplicaOptions, StoreOptions};
use crate::replica::{SharedCapture, Uploader, with};

/// A database and its replica. Created by [`Store::add`](crate::Store::add).
pub struct Database {
    pub(crate) options: DbOptions,
    pub(crate) replica: ReplicaOptions,
    store: StoreOptions,
    client: Arc<dyn ReplicaClient>,
    clock: Arc<dyn Clock>,
    capture: SharedCapture,
    uploader: tokio::sync::Mutex<Uploader>,
    /// For whoever waits to send: moves with each capture that found something.
    captured: watch::Sender<Captured>,
    /// Rung by the file notification.
    pub(crate) wake: Arc<Notify>,
    status: Mutex<DatabaseStatus>,
}

/// What the upload side waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Captured {
    /// A pass has succeeded, so the database is open.
    pub(crate) ready: bool,
    /// Newest captured transaction.
    pub(crate) txid: Option<Txid>,
}

/// What is known about a database at one moment.
#[derive(Clone, Debug, Default)]
pub struct DatabaseStatus {
    /// Newest captured transaction.
    pub txid: Option<Txid>,
    /// Newest transaction the replica has in an unbroken chain.
    pub replica_txid: Option<Txid>,
    /// When a pass last succeeded.
    pub captured_at: Option<Timestamp>,
    /// When an upload round last succeeded.
    pub uploaded_at: Option<Timestamp>,
    /// Why the last pass failed, if it did.
    pub capture_error: Option<String>,
    /// Why the last upload failed, if it did.
    pub upload_error: Option<String>,
    /// Length of the WAL in use, in bytes.
    pub wal_size: u64,
    /// Size of the database file in bytes.
    pub db_size: u64,
}

impl Database {
    pub(crate) fn new(
        options: DbOptions,
        replica: ReplicaOptions,
        store: StoreOptions,
        client: Arc<dyn ReplicaClient>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let capture = Capture::new(options.clone(), clock.clone(), Instant::now());
        Self {
            uploader: tokio::sync::Mutex::new(Uploader::new(client.clone())),
            capture: Arc::new(Mutex::new(capture)),
            captured: watch::Sender::new(Captured::default()),
            wake: Arc::new(Notify::new()),
            status: Mutex::default(),
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
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Captures everything committed so far, with `publish` into local level-0 files.
    ///
    /// Before the first upload has given the database a base there is nothing to
    /// continue, and the report's TXID is `None`.
    pub(crate) async fn capture(&self, publish: bool) -> Result<PassReport> {
        let result = with(&self.capture, move |capture| capture.pass(Instant::now(), publish)).await;
        self.update_status(|status, now| match &result {
            Ok(report) => {
                status.txid = report.txid;
                status.wal_size = report.wal_size;
                status.db_size = report.db_size;
                status.captured_at = Some(now);
                status.capture_error = None;
            }
            Err(err) => status.capture_error = Some(err.to_string()),
        });
        if let Ok(report) = &result {
            let now = Captured { ready: true, txid: report.txid };
            self.captured.send_if_modified(|captured| std::mem::replace(captured, now) != now);
        }
        result
    }

    /// Sends what the replica lacks, at most one batch. True when nothing is left.
    pub(crate) async fn upload_batch(&self) -> Result<bool> {
        let mut uploader = self.uploader.lock().await;
        let result = uploader.round(&self.capture, self.replica.max_sync_ltx_files).await;
        let uploaded = uploader.uploaded();
        self.update_status(|status, now| match &result {
            Ok(_) => {
                status.replica_txid = uploaded;
                status.uploaded_at = Some(now);
                status.upload_error = None;
            }
            Err(err) => status.upload_error = Some(err.to_string()),
        });
        if let (Ok(_), Some(uploaded)) = (&result, uploaded) {
            let retention = self.store.l0_retention;
            if !retention.is_zero() {
                with(&self.capture, move |capture| capture.prune(uploaded, retention)).await?;
            }
        }
        result
    }

    /// Captures everything committed so far and sends it. On success the replica
    /// holds every transaction that was committed when the call began.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`] when there is no database.
    pub async fn sync(&self) -> Result<Txid> {
        self.capture(true).await.map_err(|err| self.named("sync database", err))?;
        while !self.upload_batch().await.map_err(|err| self.named("sync replica for", err))? {}
        // A first upload gives the database its base; what was committed since the
        // pass above is captured by now or by this pass.
        let report = self.capture(true).await.map_err(|err| self.named("sync database", err))?;
        while !self.upload_batch().await.map_err(|err| self.named("sync replica for", err))? {}
        report.txid.ok_or_else(|| Error::new(ErrorKind::Transient, format!("sync {}: no base", self.path().display())))
    }

    /// Writes a snapshot of the present state to level 9, even if there is one.
    ///
    /// # Errors
    /// When the database has not been synced before, or the replica fails.
    pub async fn snapshot(&self) -> Result<Txid> {
        let mut uploader = self.uploader.lock().await;
        uploader.snapshot(&self.capture).await.map_err(|err| self.named("snapshot", err))
    }

    /// Captures what is left and closes the database. Idempotent.
    pub(crate) async fn close(&self) -> Result<()> {
        with(&self.capture, Capture::close).await
    }

    /// True when frames wait beyond the position. Answers true when it cannot tell.
    pub(crate) fn is_behind(&self) -> bool {
        // A pass that is running holds the lock and will see what we would see.
        self.capture.try_lock().map_or(true, |capture| capture.is_behind())
    }

    /// True when an idle database needs a pass all the same.
    pub(crate) fn needs_attention(&self) -> bool {
        self.capture.try_lock().map_or(true, |capture| capture.needs_attention(Instant::now()))
    }

    /// WAL bytes that wait for capture, as far as they can be told at once.
    pub(crate) fn backlog(&self) -> u64 {
        self.capture.try_lock().map_or(0, |capture| capture.backlog())
    }

    /// True when captured pages wait to become a file.
    pub(crate) fn has_open_delta(&self) -> bool {
        self.capture.try_lock().map_or(true, |capture| capture.has_open_delta())
    }

    pub(crate) fn captured(&self) -> watch::Receiver<Captured> {
        self.captured.subscribe()
    }

    pub(crate) fn has_unsent(&self) -> bool {
        let status = self.status();
        match (status.txid, status.replica_txid) {
            (Some(captured), Some(uploaded)) => captured > uploaded,
            _ => true,
        }
    }

    /// The path as SQLite sees it, behind symlinks; files are watched there.
    pub(crate) fn real_path(&self) -> PathBuf {
        std::fs::canonicalize(self.path()).unwrap_or_else(|_| self.path().to_owned())
    }

    fn update_status(&self, update: impl FnOnce(&mut DatabaseStatus, Timestamp)) {
        let now = self.clock.now();
        update(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner), now);
    }

    fn named(&self, what: &str, err: Error) -> Error {
        err.context(format!("{what} {}", self.path().display()))
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.options.path).finish_non_exhaustive()
    }
}
