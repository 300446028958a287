//! Databases that come, stop, start again and go while the store runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use litestream::{Database, DatabaseState, DbOptions, ErrorKind, Registration, ReplicaOptions, Store, StoreOptions};
use litestream_replica::clock::SystemClock;
use litestream_replica::file::{FileClient, FileOptions};
use litestream_replica::{ByteStream, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteRequest};
use litestream_testkit::scenario;
use ltx::Txid;
use support::{Setup, close};

const PATIENCE: Duration = Duration::from_secs(20);

async fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "timed out waiting until {what}");
}

async fn replicated(db: &Database) {
    wait_until("everything is replicated", || {
        let status = db.status();
        status.state == DatabaseState::Replicating && status.txid.is_some() && !status.has_unsent()
    })
    .await;
}

fn running_store() -> Store {
    let store = Store::new(StoreOptions::default(), Arc::new(SystemClock));
    store.start();
    store
}

async fn register(store: &Store, path: &Path, client: Arc<dyn ReplicaClient>) -> Registration {
    store.register(DbOptions::new(path), client, ReplicaOptions::default()).await.unwrap()
}

async fn registered(store: &Store, setup: &Setup) -> Arc<Database> {
    match register(store, &setup.db(), setup.client()).await {
        Registration::New(db) => db,
        Registration::Known(db) => panic!("{db:?} was known already"),
    }
}

/// Files of the database that this process has open.
fn open_files(db: &Path) -> Vec<PathBuf> {
    let db = db.canonicalize().unwrap();
    let links =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    links.filter(|path| path.to_string_lossy().starts_with(&*db.to_string_lossy())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_sends_the_rest_and_closes_and_starting_goes_on_from_there() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 10).unwrap();
    let store = running_store();
    let db = registered(&store, &setup).await;
    replicated(&db).await;
    scenario::commit(&app, 10).unwrap();

    let report = store.stop_database(&db, PATIENCE).await.unwrap();
    assert_eq!((report.was_stopped, report.unsent.clone()), (false, None));
    assert_eq!(report.txid, report.replica_txid);
    assert_eq!(db.status().state, DatabaseState::Stopped);
    setup.assert_restores("everything committed before the stop");
    drop(app);
    assert_eq!(open_files(&setup.db()), Vec::<PathBuf>::new(), "handles are closed");

    let again = store.stop_database(&db, PATIENCE).await.unwrap();
    assert_eq!((again.was_stopped, again.txid), (true, report.txid));
    assert_eq!(db.sync().await.unwrap_err().kind(), ErrorKind::Cancelled, "a stopped database stays closed");

    let app = setup.application();
    scenario::commit(&app, 10).unwrap();
    assert!(store.start_database(&db).await.unwrap());
    assert!(!store.start_database(&db).await.unwrap(), "it runs already");
    db.sync().await.unwrap();
    assert!(db.status().txid > report.txid, "what was committed meanwhile is captured");
    setup.assert_restores("after the restart");
    setup.assert_level_0_is_dense();
    close(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_and_stops_at_once_leave_one_running_database() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 3).unwrap();
    let store = Arc::new(running_store());
    let db = registered(&store, &setup).await;
    let mut changes = Vec::new();
    for index in 0..24 {
        let (store, db) = (store.clone(), db.clone());
        changes.push(tokio::spawn(async move {
            if index % 3 == 0 {
                store.stop_database(&db, PATIENCE).await.map(|_| ())
            } else {
                store.start_database(&db).await.map(|_| ())
            }
        }));
    }
    for change in changes {
        change.await.unwrap().unwrap();
    }
    store.start_database(&db).await.unwrap();
    scenario::commit(&app, 3).unwrap();
    db.sync().await.unwrap();
    setup.assert_restores("after many starts and stops");
    setup.assert_level_0_is_dense();
    close(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_path_is_registered_once_and_forgotten_without_a_trace() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 3).unwrap();
    let store = running_store();
    let db = registered(&store, &setup).await;
    let other: Arc<dyn ReplicaClient> =
        Arc::new(FileClient::new(FileOptions::new(setup.dir.path().join("elsewhere"))).unwrap());
    match register(&store, &setup.db(), other).await {
        Registration::Known(known) => assert!(Arc::ptr_eq(&known, &db), "the first registration stays in force"),
        Registration::New(_) => panic!("registered twice"),
    }
    replicated(&db).await;
    scenario::commit(&app, 3).unwrap();

    let path = setup.db();
    let both = tokio::join!(store.unregister(&path, PATIENCE), store.unregister(&path, PATIENCE));
    let reports = [both.0.unwrap(), both.1.unwrap()];
    assert_eq!(reports.iter().flatten().count(), 1, "the other one found nothing: {reports:?}");
    assert!(store.find(&setup.db()).is_none());
    assert!(store.databases().is_empty());
    setup.assert_restores("unregistering sends what is left");
    assert_eq!(store.start_database(&db).await.unwrap_err().kind(), ErrorKind::Missing);
    let forgotten = Arc::downgrade(&db);
    drop(db);
    wait_until("maintenance has let go of it", || forgotten.strong_count() == 0).await;

    let db = registered(&store, &setup).await;
    scenario::commit(&app, 3).unwrap();
    db.sync().await.unwrap();
    setup.assert_restores("registered anew");
    close(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_exist_yet_is_waited_for() {
    let setup = Setup::new();
    let store = running_store();
    let db = registered(&store, &setup).await;
    wait_until("it waits", || db.status().state == DatabaseState::Waiting).await;
    assert_eq!(db.status().current_error(), None);
    let report = store.stop_database(&db, PATIENCE).await.unwrap();
    assert_eq!((report.txid, report.unsent), (None, None));
    assert!(store.start_database(&db).await.unwrap());
    let app = setup.application();
    scenario::commit(&app, 3).unwrap();
    replicated(&db).await;
    close(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_registered_or_started_during_shutdown() {
    let setup = Setup::new();
    setup.application();
    let store = running_store();
    let db = registered(&store, &setup).await;
    replicated(&db).await;
    store.stop_database(&db, PATIENCE).await.unwrap();
    close(&store).await;
    let other = setup.dir.path().join("other.db");
    let refused = store.register(DbOptions::new(&other), setup.client(), ReplicaOptions::default()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(store.start_database(&db).await.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(db.status().state, DatabaseState::Stopped);
}

/// A store whose writes hang while told to, as behind a dead connection.
struct Hanging {
    inner: Arc<FileClient>,
    hangs: AtomicBool,
    writing: AtomicBool,
}

impl Hanging {
    fn new(setup: &Setup, hangs: bool) -> Arc<Self> {
        Arc::new(Self { inner: setup.client(), hangs: hangs.into(), writing: false.into() })
    }
}

#[async_trait::async_trait]
impl ReplicaClient for Hanging {
    fn kind(&self) -> &'static str {
        "hanging"
    }

    fn location(&self) -> String {
        self.inner.location()
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    async fn init(&self) -> Result<()> {
        Ok(())
    }

    async fn list(&self, level: Level, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        self.inner.list(level, seek, metadata).await
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        self.inner.open(id, offset, len).await
    }

    async fn write(&self, request: WriteRequest) -> Result<FileInfo> {
        self.writing.store(true, Ordering::Release);
        if self.hangs.load(Ordering::Acquire) {
            // Holds on to the stream, as an upload that makes no progress does.
            std::future::pending::<()>().await;
        }
        self.inner.write(request).await
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.inner.delete(files).await
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.inner.list_objects(prefix).await
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        self.inner.open_object(key, offset, len).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.inner.delete_all().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_upload_does_not_hold_up_a_stop_beyond_its_deadline() {
    let setup = Setup::new();
    let app = setup.application();
    let client = Hanging::new(&setup, false);
    let store = running_store();
    let Registration::New(db) = register(&store, &setup.db(), client.clone()).await else { panic!() };
    scenario::commit(&app, 3).unwrap();
    replicated(&db).await;
    client.hangs.store(true, Ordering::Release);
    scenario::commit(&app, 3).unwrap();
    let started = Instant::now();
    let report = store.stop_database(&db, Duration::from_millis(300)).await.unwrap();
    assert!(started.elapsed() < PATIENCE / 2, "took {:?}", started.elapsed());
    assert!(report.unsent.is_some() && report.txid > report.replica_txid, "{report:?}");

    client.hangs.store(false, Ordering::Release);
    store.start_database(&db).await.unwrap();
    db.sync().await.unwrap();
    setup.assert_restores("what could not be sent goes out after the start");
    close(&store).await;
}

/// Lesson 31: an image that is being stored when the database is stopped must end
/// before the file under it is closed.
#[tokio::test(flavor = "multi_thread")]
async fn lesson_31_background_work_ends_before_handles_close() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 2000).unwrap();
    let client = Hanging::new(&setup, true);
    let store = running_store();
    let Registration::New(db) = register(&store, &setup.db(), client.clone()).await else { panic!() };
    wait_until("the first image is being stored", || client.writing.load(Ordering::Acquire)).await;
    let report = store.stop_database(&db, Duration::from_millis(100)).await.unwrap();
    assert!(report.unsent.is_some(), "{report:?}");
    drop(app);
    assert_eq!(open_files(&setup.db()), Vec::<PathBuf>::new(), "no reader is left behind");

    // The next start, or another process, finds everything free.
    let (other, other_db) = setup.store_with(DbOptions::new(setup.db()));
    other_db.sync().await.unwrap();
    close(&other).await;
    setup.assert_restores("by another process");
    let closed = store.close(&tokio_util::sync::CancellationToken::new()).await;
    drop(closed);
}
