//! A store that fails before or after doing its work, and writers that must not
//! share one prefix.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::sync::{Arc, Mutex};

use litestream::{DbOptions, ReplicaOptions, Store, StoreOptions};
use litestream_replica::clock::SystemClock;
use litestream_replica::file::FileClient;
use litestream_replica::{
    Body, ByteStream, Error, ErrorKind, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteRequest,
};
use litestream_testkit::scenario::{self, CheckpointMode};
use ltx::Txid;
use support::{Setup, close};

/// Fails some operations: before they happen, or after, as a lost reply does.
struct Flaky {
    inner: Arc<FileClient>,
    rng: Mutex<fastrand::Rng>,
}

impl Flaky {
    fn fails(&self) -> bool {
        self.rng.lock().unwrap().u8(..) < 60
    }

    fn maybe(&self, what: &str) -> Result<()> {
        if self.fails() { Err(Error::new(ErrorKind::Transient, format!("{what} failed"))) } else { Ok(()) }
    }
}

#[async_trait::async_trait]
impl ReplicaClient for Flaky {
    fn kind(&self) -> &'static str {
        "flaky"
    }

    fn location(&self) -> String {
        self.inner.location()
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    async fn init(&self) -> Result<()> {
        self.maybe("init")
    }

    async fn list(&self, level: Level, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        // Ten levels are listed at once; each fails seldom enough that one in a
        // few listings succeeds.
        if level == Level::L0 {
            self.maybe("list")?;
        }
        self.inner.list(level, seek, metadata).await
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        self.maybe("open")?;
        self.inner.open(id, offset, len).await
    }

    async fn write(&self, request: WriteRequest) -> Result<FileInfo> {
        self.maybe("write")?;
        let info = self.inner.write(request).await?;
        self.maybe("reply to write")?;
        Ok(info)
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.inner.delete(files).await
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.maybe("list objects")?;
        self.inner.list_objects(prefix).await
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        self.maybe("open object")?;
        self.inner.open_object(key, offset, len).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.inner.delete_all().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_and_loses_replies_ends_up_complete() {
    for seed in 0..6 {
        let setup = Setup::new();
        let app = setup.application();
        let client = Arc::new(Flaky { inner: setup.client(), rng: Mutex::new(fastrand::Rng::with_seed(seed)) });
        let mut failures = 0;
        for round in 0..4 {
            let store = Store::new(StoreOptions::default(), Arc::new(SystemClock));
            let db = store.add(DbOptions::new(setup.db()), client.clone(), ReplicaOptions::default()).unwrap();
            for _ in 0..10 {
                scenario::commit(&app, 3).unwrap();
                failures += usize::from(db.sync().await.is_err());
            }
            while db.sync().await.is_err() {
                failures += 1;
                assert!(failures < 500, "seed {seed}: never succeeds");
            }
            setup.assert_restores(&format!("seed {seed}, round {round}"));
            close(&store).await;
            scenario::commit(&app, 2).unwrap();
            scenario::checkpoint(&app, CheckpointMode::Truncate).unwrap();
        }
        assert!(failures > 5, "seed {seed}: the faults were met");
        setup.assert_level_0_is_dense();
    }
}

/// Another process appends to our prefix while we run: we stop sending and say so,
/// instead of mixing two histories.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_writer_is_an_error_while_running() {
    let (ours, theirs) = (Setup::new(), Setup::new());
    let app = ours.application();
    scenario::commit(&app, 10).unwrap();
    let (store, db) = ours.store_with(DbOptions::new(ours.db()));
    db.sync().await.unwrap();

    let other = theirs.application();
    scenario::commit(&other, 5).unwrap();
    let intruder = Store::new(StoreOptions::default(), Arc::new(SystemClock));
    intruder.add(DbOptions::new(theirs.db()), ours.client(), ReplicaOptions::default()).unwrap();
    intruder.once(false).await.unwrap();

    scenario::commit(&app, 1).unwrap();
    let first = db.sync().await.unwrap_err().to_string();
    assert!(first.contains("second writer"), "{first}");
    let again = db.sync().await.unwrap_err().to_string();
    assert!(again.contains("another writer appends to"), "{again}");
    drop(store);
    // The intruder's history, which came last, is whole.
    litestream_testkit::image::read_image(&theirs.db()).unwrap().assert_same(&ours.restored(), "the other database");
}

/// Two daemons on one database would both checkpoint and both write TXIDs.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_one_database_is_refused() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 1).unwrap();
    let first = setup.store();
    first.once(false).await.unwrap();
    let second = setup.store();
    let message = second.once(false).await.unwrap_err().to_string();
    assert!(message.contains("another litestream process already replicates"), "{message}");
    drop(second);
    scenario::commit(&app, 1).unwrap();
    first.once(false).await.unwrap();
    setup.assert_restores("by the first");
    close(&first).await;
}

/// A store that says no to every write, or to those of one level, and carries it out
/// when that is asked for.
struct Late {
    inner: Arc<FileClient>,
    level: Option<Level>,
    kept: Mutex<Vec<WriteRequest>>,
}

impl Late {
    fn new(setup: &Setup) -> Arc<Self> {
        Arc::new(Self { inner: setup.client(), level: None, kept: Mutex::default() })
    }

    fn at(level: Level, setup: &Setup) -> Arc<Self> {
        Arc::new(Self { inner: setup.client(), level: Some(level), kept: Mutex::default() })
    }

    async fn catch_up(&self) {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap());
        assert!(!kept.is_empty(), "nothing was written");
        for request in kept {
            self.inner.write(request).await.unwrap();
        }
    }
}

#[async_trait::async_trait]
impl ReplicaClient for Late {
    fn kind(&self) -> &'static str {
        "late"
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

    async fn write(&self, mut request: WriteRequest) -> Result<FileInfo> {
        if self.level.is_some_and(|level| level != request.id.level) {
            return self.inner.write(request).await;
        }
        if let Body::Stream(chunks) = request.body {
            let chunks: Vec<bytes::Bytes> = futures_util::TryStreamExt::try_collect(chunks).await?;
            request.body = Body::Bytes(chunks.concat().into());
        }
        self.kept.lock().unwrap().push(request);
        Err(Error::new(ErrorKind::Transient, "timed out"))
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

/// A snapshot times out and takes effect when all local state is gone and the database
/// has gone on: its number must not be another state's by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_arrives_late_has_a_number_of_its_own() {
    let setup = Setup::new();
    let app = setup.application();
    let commit = || app.execute("INSERT INTO t (x) VALUES (randomblob(20000))", []).unwrap();
    commit();
    setup.store().once(false).await.unwrap();
    let late = Late::at(Level::SNAPSHOT, &setup);
    let store = Store::new(StoreOptions::default(), Arc::new(SystemClock));
    let db = store.add(DbOptions::new(setup.db()), late.clone(), ReplicaOptions::default()).unwrap();
    db.sync().await.unwrap();
    commit();
    db.snapshot().await.unwrap_err();
    drop((db, store));
    std::fs::remove_dir_all(setup.meta()).unwrap();
    commit();
    setup.store().once(false).await.unwrap();
    late.catch_up().await;
    commit();
    setup.store().once(false).await.unwrap();
    setup.assert_restores("behind the late snapshot");
}

/// Two images of the same number are on their way, and the older one arrives when the
/// process that sent the younger one is gone. Seeds 483 and 939 of the simulation.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_built_on_an_image_that_may_not_be_the_one_that_arrived() {
    let setup = Setup::new();
    let app = setup.application();
    let commit = || app.execute("INSERT INTO t (x) VALUES (randomblob(20000))", []).unwrap();
    commit();
    setup.store().once(false).await.unwrap();
    std::fs::remove_dir_all(setup.meta()).unwrap();
    let (older, younger) = (Late::new(&setup), Late::new(&setup));
    for client in [older.clone(), younger.clone()] {
        commit();
        let store = Store::new(StoreOptions::default(), Arc::new(SystemClock));
        let db = store.add(DbOptions::new(setup.db()), client, ReplicaOptions::default()).unwrap();
        db.sync().await.unwrap_err();
        drop((db, store));
    }
    let number = |late: &Late| late.kept.lock().unwrap().first().map(|request| request.id);
    assert!(number(&older).is_some() && number(&older) == number(&younger), "not the same number");
    older.catch_up().await;
    commit();
    let (store, db) = setup.store_with(DbOptions::new(setup.db()));
    db.sync().await.unwrap();
    setup.assert_restores("behind an image that was late");
    close(&store).await;
}
