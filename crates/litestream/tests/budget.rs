//! A local disk that is full: what goes first, what the WAL is worth, and how all of it
//! comes back by itself.
//!
//! Spec: docs/operations.md, "Budgets".

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use litestream::{Database, DbOptions, Disk, DiskLayer, DiskOp, ErrorKind, ReplicaOptions, Store, StoreOptions};
use litestream_testkit::scenario::{self, CheckpointMode};
use support::{PausedClock, SECOND, Setup, close, count, pass, warnings};

/// A disk on which no file can grow while it is full.
#[derive(Default)]
struct SmallDisk {
    is_full: AtomicBool,
    refused: AtomicU64,
}

impl SmallDisk {
    fn fill(&self) {
        self.is_full.store(true, Ordering::SeqCst);
    }

    fn relieve(&self) {
        assert!(self.refused.load(Ordering::SeqCst) > 0, "nobody noticed that the disk was full");
        self.is_full.store(false, Ordering::SeqCst);
    }
}

impl DiskLayer for SmallDisk {
    fn before(&self, op: &DiskOp<'_>) -> io::Result<()> {
        if let DiskOp::Write { file, offset, bytes, .. } = op
            && self.is_full.load(Ordering::SeqCst)
            && offset + bytes.len() as u64 > file.metadata()?.len()
        {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }
}

/// Bytes of the WAL above which it is given up.
const BUDGET: u64 = 200_000;

/// A store over one database with its local state on a small disk.
fn store_on(setup: &Setup, disk: &Arc<SmallDisk>, max_wal_bytes: u64) -> (Store, Arc<Database>) {
    let store = Store::new(StoreOptions::default(), PausedClock::new());
    let options = DbOptions { disk: Disk::behind(disk.clone()), max_wal_bytes, ..DbOptions::new(setup.db()) };
    let db = store.add(options, setup.client(), ReplicaOptions::default()).unwrap();
    (store, db)
}

/// An application that leaves all checkpoints to us.
fn careless_application(setup: &Setup) -> rusqlite::Connection {
    let app = setup.application();
    app.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    app
}

fn write(app: &rusqlite::Connection, bytes: u64) {
    for _ in 0..bytes.div_ceil(20_000) {
        app.execute("INSERT INTO t (x) VALUES (randomblob(20000))", []).unwrap();
    }
}

async fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if done() {
            return;
        }
        pass(Duration::from_millis(10)).await;
    }
    panic!("timed out waiting until {what}");
}

async fn settle(db: &Database) {
    wait_until("everything is replicated", || db.is_proven_current()).await;
}

/// A database on such a disk, all of it replicated, and its application.
async fn replicated(max_wal_bytes: u64) -> (Setup, rusqlite::Connection, Arc<SmallDisk>, Store, Arc<Database>) {
    let setup = Setup::new();
    let app = careless_application(&setup);
    write(&app, 40_000);
    let disk = Arc::new(SmallDisk::default());
    let (store, db) = store_on(&setup, &disk, max_wal_bytes);
    store.start();
    settle(&db).await;
    (setup, app, disk, store, db)
}

#[tokio::test(start_paused = true)]
async fn the_wal_is_given_up_while_nothing_can_be_captured_and_compared_afterwards() {
    let warnings = warnings();
    let (setup, app, disk, store, db) = replicated(BUDGET).await;
    let then = setup.restored();

    disk.fill();
    write(&app, 40_000);
    wait_until("the full disk is noticed", || db.counts().is_disk_full).await;
    pass(5 * SECOND).await;
    assert_eq!(db.counts().wals_given_up, 0, "it is within its budget");
    write(&app, 2 * BUDGET);
    wait_until("the wal is given up", || db.counts().wals_given_up > 0).await;
    // Nobody has come back to it yet: what is written now begins the WAL anew.
    let (salts, len) = (setup.wal_salts(), setup.wal_len());
    write(&app, BUDGET);
    assert_ne!(setup.wal_salts(), salts, "the wal goes on");
    assert_eq!(setup.wal_len(), len, "the wal grows");
    assert!(db.counts().is_disk_full && db.counts().capture_backoff > Duration::ZERO, "{:?}", db.counts());
    assert!(db.lag() > 4 * SECOND, "{:?}", db.lag());
    assert!(db.status().capture_error.is_some_and(|error| error.contains("ltx")), "{:?}", db.status());
    then.assert_same(&setup.restored(), "nothing new has reached the replica");

    disk.relieve();
    settle(&db).await;
    setup.assert_restores("after the disk was full");
    let counts = db.counts();
    assert_eq!((counts.wals_given_up, counts.histories_given_up, counts.is_disk_full), (1, 0, false), "{counts:?}");
    assert_eq!(db.lag(), Duration::ZERO);
    {
        let path = setup.db().display().to_string();
        let warnings = warnings.lock().unwrap();
        let told = |what: &str| warnings.iter().any(|line| line.contains(what) && line.contains(&path));
        assert!(told("wal given up: it exceeds max-wal-bytes"), "{warnings:?}");
        assert!(told("continuity lost, captured the pages that differ"), "{warnings:?}");
    }
    setup.assert_level_0_is_dense();
    close(&store).await;
}

/// Nothing is pinned then, and nothing was: the WAL may be long all the same.
#[tokio::test(start_paused = true)]
async fn the_wal_is_given_up_also_when_the_disk_was_full_from_the_start() {
    let setup = Setup::new();
    let app = careless_application(&setup);
    write(&app, 40_000);
    let disk = Arc::new(SmallDisk::default());
    let (store, _) = store_on(&setup, &disk, BUDGET);
    store.once(false).await.unwrap();
    close(&store).await;
    write(&app, 40_000);
    scenario::checkpoint(&app, CheckpointMode::Truncate).unwrap();
    write(&app, 2 * BUDGET);

    disk.fill();
    let (store, db) = store_on(&setup, &disk, BUDGET);
    store.start();
    wait_until("the wal is given up", || db.counts().wals_given_up > 0).await;
    let (salts, len) = (setup.wal_salts(), setup.wal_len());
    write(&app, 20_000);
    assert_ne!(setup.wal_salts(), salts, "the wal goes on");
    assert_eq!(setup.wal_len(), len, "the wal grows");
    disk.relieve();
    settle(&db).await;
    setup.assert_restores("after a start on a full disk");
    close(&store).await;
}

/// Zero is no limit: the WAL keeps every moment for as long as there is no space.
#[tokio::test(start_paused = true)]
async fn without_a_budget_the_wal_is_kept_and_nothing_needs_comparing() {
    let warnings = warnings();
    let (setup, app, disk, store, db) = replicated(0).await;
    disk.fill();
    write(&app, 2 * BUDGET);
    wait_until("the full disk is noticed", || db.counts().is_disk_full).await;
    let salts = setup.wal_salts();
    pass(60 * SECOND).await;
    write(&app, 20_000);
    assert_eq!(db.counts().wals_given_up, 0);
    assert_eq!(setup.wal_salts(), salts, "the pin is gone");
    disk.relieve();
    settle(&db).await;
    setup.assert_restores("after the disk was full");
    let path = setup.db().display().to_string();
    let is_lost = |line: &String| line.contains("continuity lost") && line.contains(&path);
    assert!(!warnings.lock().unwrap().iter().any(is_lost), "{warnings:?}");
    close(&store).await;
}

/// What the replica has goes first, and not with every pass that fails.
#[tokio::test(start_paused = true)]
async fn a_full_disk_costs_the_copies_of_what_was_sent_once_in_a_while() {
    let setup = Setup::new();
    let app = setup.application();
    let disk = Arc::new(SmallDisk::default());
    let (store, db) = store_on(&setup, &disk, BUDGET);
    let send_some = async || {
        for _ in 0..4 {
            scenario::commit(&app, 1).unwrap();
            db.sync().await.unwrap();
        }
    };
    let fail = async || {
        disk.fill();
        scenario::commit(&app, 1).unwrap();
        assert_eq!(db.sync().await.unwrap_err().kind(), ErrorKind::DiskFull);
        assert!(db.counts().is_disk_full);
        disk.relieve();
        count(&setup.meta().join("ltx/0"))
    };
    send_some().await;
    assert!(count(&setup.meta().join("ltx/0")) >= 4);
    assert_eq!(fail().await, 1, "the newest file stays, it proves where this history stands");
    send_some().await;
    assert!(fail().await >= 4, "there was relief a moment ago");
    pass(31 * SECOND).await;
    assert_eq!(fail().await, 1);
    db.sync().await.unwrap();
    setup.assert_restores("after the disk was full");
    setup.assert_level_0_is_dense();
    close(&store).await;
}

/// Quotas, inodes that are used up, a disk that refuses all writes: the file system has
/// space and gives none.
#[tokio::test(start_paused = true)]
async fn a_disk_that_refuses_writes_although_it_has_space_costs_no_more_wal_than_a_full_one() {
    let (setup, app, disk, store, db) = replicated(BUDGET).await;
    disk.fill();
    for _ in 0..200 {
        write(&app, 40_000);
        pass(Duration::from_millis(150)).await;
    }
    assert_eq!(db.counts().wals_given_up, 1, "told once");
    assert!(setup.wal_len() < 3 * BUDGET, "{} bytes of wal", setup.wal_len());
    // Twice as long between two attempts each time, and each attempt is refused a few times.
    let refused = disk.refused.load(Ordering::SeqCst);
    assert!(refused < 60, "{refused} attempts in thirty seconds");
    disk.relieve();
    settle(&db).await;
    setup.assert_restores("after the disk takes writes again");
    close(&store).await;
}
