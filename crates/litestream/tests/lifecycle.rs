//! Databases that come, stop, start again and go while the store runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use litestream::{
    Database, DatabaseState, DbOptions, Disk, DiskLayer, DiskOp, ErrorKind, Registration, ReplicaOptions, Store,
    StoreOptions,
};
use litestream_replica::clock::SystemClock;
use litestream_replica::file::{FileClient, FileOptions};
use litestream_replica::{ByteStream, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteRequest};
use litestream_testkit::scenario;
use ltx::Txid;
use support::{HOUR, PausedClock, SECOND, Setup, close, pass, warnings};
use tokio_util::sync::CancellationToken;

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

/// A store whose writes hang while told to, as behind a dead connection, or fail.
struct Hanging {
    inner: Arc<FileClient>,
    hangs: AtomicBool,
    writing: AtomicBool,
    /// So many of the next writes fail.
    failures: AtomicUsize,
}

impl Hanging {
    fn new(setup: &Setup, hangs: bool) -> Arc<Self> {
        Arc::new(Self { inner: setup.client(), hangs: hangs.into(), writing: false.into(), failures: 0.into() })
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
        while self.hangs.load(Ordering::Acquire) {
            // Holds on to the stream, as an upload that makes no progress does.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let one_less = |left: usize| left.checked_sub(1);
        if self.failures.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less).is_ok() {
            return Err(litestream_replica::Error::new(litestream_replica::ErrorKind::Transient, "no route to host"));
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
    let closed = store.close(&CancellationToken::new()).await;
    drop(closed);
}

/// Behind the first image a level-0 file gets a number that no pass has seen.
#[tokio::test(flavor = "multi_thread")]
async fn the_replica_is_never_told_to_be_ahead_of_the_database() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 3).unwrap();
    let client = Hanging::new(&setup, true);
    let store = running_store();
    let Registration::New(db) = register(&store, &setup.db(), client.clone()).await else { panic!() };
    wait_until("the first image is being stored", || client.writing.load(Ordering::Acquire)).await;
    assert!(db.sync_local().await.unwrap().is_some(), "the image has a number");
    client.hangs.store(false, Ordering::Release);
    wait_until("the image is stored", || db.status().replica_txid.is_some()).await;
    let status = db.status();
    assert!(status.txid >= status.replica_txid, "{status:?}");
    close(&store).await;
}

/// A store that is not started, with a database that was sent once and has more to send.
async fn behind(setup: &Setup, client: Arc<Hanging>, options: StoreOptions) -> (Store, Arc<Database>) {
    let app = setup.application();
    scenario::commit(&app, 3).unwrap();
    let store = Store::new(options, PausedClock::new());
    let db = store.add(DbOptions::new(setup.db()), client, ReplicaOptions::default()).unwrap();
    db.sync().await.unwrap();
    scenario::commit(&app, 3).unwrap();
    (store, db)
}

#[tokio::test(start_paused = true)]
async fn a_final_sync_that_fails_is_tried_again() {
    let setup = Setup::new();
    let client = Hanging::new(&setup, false);
    let (store, db) = behind(&setup, client.clone(), StoreOptions::default()).await;
    client.failures.store(3, Ordering::Release);
    close(&store).await;
    assert_eq!(client.failures.load(Ordering::Acquire), 0, "nothing failed");
    assert_eq!(db.status().txid, db.status().replica_txid);
    setup.assert_restores("what was sent at the fourth attempt");
}

#[tokio::test(start_paused = true)]
async fn a_final_sync_that_never_succeeds_is_given_up_in_time_and_told() {
    let setup = Setup::new();
    let client = Hanging::new(&setup, false);
    let options =
        StoreOptions { shutdown_sync_timeout: 5 * SECOND, shutdown_sync_interval: SECOND, ..StoreOptions::default() };
    let (store, db) = behind(&setup, client.clone(), options).await;
    client.failures.store(usize::MAX, Ordering::Release);
    let began = tokio::time::Instant::now();
    let report = store.close(&CancellationToken::new()).await;
    let took = began.elapsed();
    assert!(took >= 5 * SECOND && took < 7 * SECOND, "{took:?}");
    let [(path, reason)] = report.unsent.as_slice() else { panic!("{report:?}") };
    assert_eq!(path, db.path());
    assert!(reason.starts_with("shutdown sync timeout after 6 attempts"), "{reason}");
    assert!(reason.contains("no route to host"), "{reason}");
    assert!(db.status().has_unsent());
    // It was captured all the same, and goes out at the next start.
    client.failures.store(0, Ordering::Release);
    setup.store().once(false).await.unwrap();
    setup.assert_restores("after the next start");
}

/// The operator's second signal.
#[tokio::test(start_paused = true)]
async fn an_interrupt_ends_the_attempts_of_a_final_sync() {
    for hangs in [false, true] {
        let setup = Setup::new();
        let client = Hanging::new(&setup, false);
        let options = StoreOptions { shutdown_sync_timeout: HOUR, ..StoreOptions::default() };
        let (store, _db) = behind(&setup, client.clone(), options).await;
        client.hangs.store(hangs, Ordering::Release);
        client.failures.store(usize::MAX, Ordering::Release);
        let interrupt = CancellationToken::new();
        let began = tokio::time::Instant::now();
        let impatient = async {
            pass(3 * SECOND).await;
            interrupt.cancel();
        };
        let (report, ()) = tokio::join!(store.close(&interrupt), impatient);
        let took = began.elapsed();
        assert!(took >= 3 * SECOND && took < 5 * SECOND, "{took:?}");
        let [(_, reason)] = report.unsent.as_slice() else { panic!("{report:?}") };
        assert_eq!(reason, "shutdown sync interrupted");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_never_a_database_is_not_waited_for() {
    let setup = Setup::new();
    std::fs::write(setup.db(), "this is no database, and never was one".repeat(100)).unwrap();
    let store = Store::new(StoreOptions::default(), PausedClock::new());
    store.add(DbOptions::new(setup.db()), setup.client(), ReplicaOptions::default()).unwrap();
    let began = tokio::time::Instant::now();
    let report = store.close(&CancellationToken::new()).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    let [(_, reason)] = report.unsent.as_slice() else { panic!("{report:?}") };
    assert!(reason.contains("file is not a database"), "{reason}");
}

/// What was captured before is sent, although there is nothing to capture from any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_deleted_database_is_sent() {
    let setup = Setup::new();
    let (store, db) = behind(&setup, Hanging::new(&setup, false), StoreOptions::default()).await;
    let captured = db.sync_local().await.unwrap();
    let before = litestream_testkit::image::read_image(&setup.db()).unwrap();
    assert!(db.status().replica_txid < captured);
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{suffix}", setup.db().display())).unwrap();
    }
    close(&store).await;
    assert_eq!(db.status().replica_txid, captured);
    before.assert_same(&setup.restored(), "the deleted database");
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_waits_for_another_one_gives_up_in_time() {
    let setup = Setup::new();
    let client = Hanging::new(&setup, false);
    let (store, db) = behind(&setup, client.clone(), StoreOptions::default()).await;
    client.hangs.store(true, Ordering::Release);
    let impatient = async {
        wait_until("it is being stopped", || db.status().state == DatabaseState::Stopping).await;
        store.stop_database(&db, SECOND).await
    };
    let (patient, impatient) = tokio::join!(store.stop_database(&db, 60 * SECOND), impatient);
    let refused = impatient.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Cancelled);
    assert!(refused.to_string().contains("the database is still being stopped"), "{refused}");
    let report = patient.unwrap();
    assert_eq!(report.unsent.as_deref(), Some("timed out during the final sync"), "{report:?}");
    let again = store.stop_database(&db, SECOND).await.unwrap();
    assert!(again.was_stopped, "{again:?}");
    assert_eq!(again.unsent.as_deref(), Some("stopped before everything was sent"), "{again:?}");
    // Nobody is told that all is well, however often it is asked.
    let report = store.close(&CancellationToken::new()).await;
    assert_eq!(report.unsent, [(setup.db(), "stopped before everything was sent".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_path_that_is_being_removed_is_registered_anew() {
    let setup = Setup::new();
    let client = Hanging::new(&setup, false);
    let (store, old) = behind(&setup, client.clone(), StoreOptions::default()).await;
    client.hangs.store(true, Ordering::Release);
    let path = setup.db();
    let anew = async {
        wait_until("it is being removed", || old.status().state == DatabaseState::Stopping).await;
        register(&store, &path, setup.client()).await
    };
    let (removed, anew) = tokio::join!(store.unregister(&path, 5 * SECOND), anew);
    assert!(removed.unwrap().unwrap().unsent.is_some());
    let Registration::New(db) = anew else { panic!("the one that was removed: {anew:?}") };
    assert!(!Arc::ptr_eq(&db, &old));
    db.sync().await.unwrap();
    setup.assert_restores("registered while it was removed");
    close(&store).await;
}

#[tokio::test(start_paused = true)]
async fn settings_that_cannot_work_are_refused_and_some_are_told() {
    let lines = warnings();
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 3).unwrap();
    let options = StoreOptions { snapshot_retention: HOUR, snapshot_interval: 2 * HOUR, ..StoreOptions::default() };
    let store = Store::new(options, PausedClock::new());
    let no_pages = DbOptions { min_checkpoint_page_count: 0, ..DbOptions::new(setup.db()) };
    let refused = store.add(no_pages.clone(), setup.client(), ReplicaOptions::default()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Setup);
    let refused = store.register(no_pages, setup.client(), ReplicaOptions::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Setup);
    assert!(store.databases().is_empty());
    assert!(store.unregister(&setup.db(), SECOND).await.unwrap().is_none(), "there is none");

    // Upstream's way to leave one database alone.
    let no_interval = DbOptions { monitor_interval: Duration::ZERO, ..DbOptions::new(setup.db()) };
    let db = store.add(no_interval.clone(), setup.client(), ReplicaOptions::default()).unwrap();
    let refused = store.add(no_interval, setup.client(), ReplicaOptions::default()).unwrap_err();
    assert!(refused.to_string().contains("is added twice"), "{refused}");
    store.start();
    store.start();
    pass(HOUR).await;
    assert_eq!((db.status().state, db.status().txid), (DatabaseState::Idle, None));
    assert_eq!(setup.l0_count(), 0);
    db.sync().await.unwrap();
    setup.assert_restores("whoever asks is served");
    {
        let lines = lines.lock().unwrap();
        let told = |what: &str| lines.iter().any(|line| line.contains(what));
        assert!(told("snapshot.retention is not longer than snapshot.interval"), "{lines:?}");
        assert!(told("monitor-interval is 0: this database is not replicated"), "{lines:?}");
    }
    close(&store).await;
}

/// Fails the next write to the page sums.
#[derive(Default)]
struct FailsSums(AtomicBool);

impl DiskLayer for FailsSums {
    fn before(&self, op: &DiskOp<'_>) -> std::io::Result<()> {
        if let DiskOp::Write { path, .. } = op
            && path.ends_with("page-sums")
            && self.0.swap(false, Ordering::SeqCst)
        {
            return Err(std::io::Error::from_raw_os_error(5));
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_closed_cleanly_is_stopped_all_the_same() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 3).unwrap();
    let store = running_store();
    let layer = Arc::new(FailsSums::default());
    let options = DbOptions { disk: Disk::behind(layer.clone()), ..DbOptions::new(setup.db()) };
    let db = store.register(options, setup.client(), ReplicaOptions::default()).await.unwrap();
    let Registration::New(db) = db else { panic!("known already") };
    replicated(&db).await;
    scenario::commit(&app, 3).unwrap();
    db.sync().await.unwrap();
    layer.0.store(true, Ordering::SeqCst);
    store.stop_database(&db, PATIENCE).await.unwrap_err();
    assert_eq!(db.status().state, DatabaseState::Stopped);
    assert_eq!(db.sync().await.unwrap_err().kind(), ErrorKind::Cancelled);
    scenario::commit(&app, 3).unwrap();
    assert!(store.start_database(&db).await.unwrap());
    db.sync().await.unwrap();
    setup.assert_restores("after a close that failed");
    setup.assert_level_0_is_dense();
    close(&store).await;
}

/// What a store asks of its replicas, and what of it runs.
#[tokio::test(flavor = "multi_thread")]
async fn requests_and_what_waits_for_a_place_are_counted() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 3).unwrap();
    let client = Hanging::new(&setup, true);
    let store = running_store();
    let names = store.queues().map(|queue| (queue.name, queue.running, queue.limit > 0));
    assert_eq!(names.map(|(_, running, is_limited)| (running, is_limited)), [(0, true); 4], "{names:?}");
    assert!(store.operations().is_empty());
    let Registration::New(db) = register(&store, &setup.db(), client.clone()).await else { panic!() };
    wait_until("the first image is being stored", || client.writing.load(Ordering::Acquire)).await;
    let [_, uploads, ..] = store.queues();
    assert_eq!((uploads.name, uploads.running), ("upload", 1));
    assert_eq!(store.seats().open, 1);
    client.hangs.store(false, Ordering::Release);
    // The one that hangs is abandoned.
    store.stop_database(&db, PATIENCE).await.unwrap();
    assert!(store.start_database(&db).await.unwrap());
    replicated(&db).await;
    wait_until("nothing runs", || store.queues().iter().all(|queue| queue.running == 0)).await;
    let [(kind, operations)] = store.operations().try_into().unwrap();
    assert_eq!(kind, "hanging");
    let asked = |wanted: &str| {
        let counts = operations.snapshot();
        let found = counts.operations().into_iter().find(|(name, _)| *name == wanted).map(|(_, counts)| counts.count);
        found.unwrap_or_else(|| panic!("no operation {wanted}: {counts:?}"))
    };
    assert!(asked("PUT") >= 1 && asked("LIST") >= 1, "{:?}", operations.snapshot());
    assert_eq!(store.crashed_tasks(), 0);
    close(&store).await;
}
