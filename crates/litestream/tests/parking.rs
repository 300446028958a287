//! More databases than can be open at once: idle ones are closed for others, whatever
//! happens to them meanwhile is captured, and whoever cannot be served is told.
//!
//! Spec: docs/decisions/0007-parking.md.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot be set up fails")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use litestream::{
    DESCRIPTORS_OPEN, DESCRIPTORS_PARKED, Database, DatabaseState, DbOptions, ErrorKind, ReplicaOptions, SeatUse,
    Store, StoreOptions,
};
use litestream_replica::ReplicaClient;
use litestream_replica::clock::SystemClock;
use litestream_replica::file::{FileClient, FileOptions};
use litestream_replica::restore::{NoProgress, RestoreOptions, restore};
use litestream_testkit::image::{Image, read_image};
use litestream_testkit::scenario::{self, CheckpointMode, checkpoint};
use rusqlite::Connection;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};
use support::{close, warnings, warnings_here};

const LIMIT: Duration = Duration::from_secs(60);

/// Databases that share a few descriptors, each with an application.
struct Fleet {
    dir: tempfile::TempDir,
    store: Store,
    databases: Vec<Arc<Database>>,
    applications: Vec<Option<Connection>>,
}

impl Fleet {
    /// So many databases of which so many can be open at once.
    fn new(count: usize, at_once: usize) -> Self {
        let descriptors = count * DESCRIPTORS_PARKED as usize + at_once * DESCRIPTORS_OPEN as usize;
        let mut fleet = Self::with_descriptors(descriptors);
        for _ in 0..count {
            fleet.add(ReplicaOptions::default());
        }
        fleet
    }

    fn with_descriptors(descriptors: usize) -> Self {
        let options = StoreOptions { max_descriptors: Some(descriptors), ..StoreOptions::default() };
        let store = Store::new(options, Arc::new(SystemClock));
        Self { dir: tempfile::tempdir().unwrap(), store, databases: Vec::new(), applications: Vec::new() }
    }

    fn add(&mut self, replica: ReplicaOptions) {
        let index = self.add_without_file(replica);
        self.applications[index] = Some(scenario::quiet_connection(&self.path(index)).unwrap());
        self.commit(index, 3);
    }

    fn add_without_file(&mut self, replica: ReplicaOptions) -> usize {
        let index = self.databases.len();
        let options = DbOptions { monitor_interval: Duration::from_millis(20), ..DbOptions::new(self.path(index)) };
        self.databases.push(self.store.add(options, self.client(index), replica).unwrap());
        self.applications.push(None);
        index
    }

    fn path(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("{index}.db"))
    }

    fn client(&self, index: usize) -> Arc<dyn ReplicaClient> {
        let path = self.dir.path().join(format!("replica-{index}"));
        Arc::new(FileClient::new(FileOptions::new(path)).unwrap())
    }

    fn application(&self, index: usize) -> &Connection {
        self.applications[index].as_ref().unwrap()
    }

    fn commit(&self, index: usize, count: u32) {
        scenario::commit(self.application(index), count).unwrap();
    }

    async fn sync(&self, index: usize) {
        let synced = tokio::time::timeout(LIMIT, self.databases[index].sync()).await;
        synced.unwrap_or_else(|_| panic!("database {index} gets no seat: {:?}", self.store.seats())).unwrap();
    }

    /// The files were written so long ago that no other write can look the same.
    fn is_idle(&self, index: usize) {
        set_modified(&self.path(index), LONG_AGO);
    }

    /// The file was written by a clock that ran ahead, so that no look can tell the next
    /// write: it stays open.
    fn is_never_idle(&self, index: usize) {
        set_modified(&self.path(index), FAR_AHEAD);
    }

    /// Has the next database opened for this one, of two that share a seat.
    async fn park(&self, index: usize) {
        let other = index + 1;
        self.is_idle(index);
        self.commit(other, 1);
        self.sync(other).await;
        self.is_idle(other);
        let seats = self.store.seats();
        // What was just captured is open, so the other one is not.
        assert_eq!((seats.open, seats.parked), (1, 1), "{seats:?}");
    }

    async fn assert_restores(&self, index: usize, what: &str) {
        let output = self.dir.path().join("restored.db");
        restore(self.client(index), RestoreOptions::new(&output), Arc::new(NoProgress)).await.unwrap();
        let restored = Image::of_closed_file(&output).unwrap();
        std::fs::remove_file(&output).unwrap();
        read_image(&self.path(index)).unwrap().assert_same(&restored, &format!("database {index} {what}"));
    }

    async fn sync_and_compare(&self, index: usize, what: &str) {
        self.sync(index).await;
        self.assert_restores(index, what).await;
    }

    /// How often all pages of this database were compared because the log proved nothing.
    fn comparisons(&self, index: usize) -> usize {
        let path = self.path(index).display().to_string();
        let is_one = |line: &&String| line.contains("continuity lost") && line.contains(&path);
        warnings().lock().unwrap().iter().filter(is_one).count()
    }
}

/// 2020, and 2100.
const LONG_AGO: i64 = 1_577_836_800;
const FAR_AHEAD: i64 = 4_102_444_800;

/// Sets the time of a database and its WAL, by name: to open and close one of them here
/// would drop the locks that SQLite has in this process.
fn set_modified(db: &Path, tv_sec: i64) {
    for suffix in ["", "-wal"] {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec, tv_nsec: 0 },
        };
        let path = format!("{}{suffix}", db.display());
        // The last close of an application takes the WAL with it.
        if std::fs::exists(&path).unwrap() {
            rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
        }
    }
}

async fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "timed out waiting until {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_databases_are_parked_and_wake_with_their_next_commit() {
    warnings();
    const COUNT: usize = 5;
    let fleet = Fleet::new(COUNT, 1);
    assert_eq!(fleet.store.seats(), SeatUse::default());
    for index in 0..COUNT {
        fleet.sync(index).await;
        fleet.is_idle(index);
    }
    let all_but_one = SeatUse { open: 1, parked: COUNT - 1, waiting: 0, parkings: COUNT as u64 - 1 };
    assert_eq!(fleet.store.seats(), all_but_one);

    // Of those that did not change everything is known without opening them.
    for (index, db) in fleet.databases.iter().enumerate() {
        let before = db.status();
        fleet.sync(index).await;
        let status = db.status();
        assert_eq!((status.txid, status.wal_size, status.db_size), (before.txid, before.wal_size, before.db_size));
        assert!(status.wal_size > 0 && status.db_size > 0, "{status:?}");
        assert!(db.is_proven_current(), "{status:?}");
    }
    assert_eq!(fleet.store.seats(), all_but_one, "one was opened for nothing");

    for round in 0..3 {
        for index in 0..COUNT {
            fleet.commit(index, 2);
            assert!(!fleet.databases[index].is_proven_current(), "round {round}");
            fleet.sync(index).await;
            fleet.is_idle(index);
        }
    }
    let seats = fleet.store.seats();
    assert_eq!((seats.open, seats.parked, seats.waiting), (1, COUNT - 1, 0));
    assert_eq!(seats.parkings, 4 * COUNT as u64 - 1, "one for each opening but the first");
    for index in 0..COUNT {
        fleet.assert_restores(index, "after some rounds").await;
        // The applications kept their WAL: it proves by itself that nothing is missing.
        assert_eq!(fleet.comparisons(index), 0, "{:?}", warnings());
    }
    close(&fleet.store).await;
    assert_eq!(fleet.store.seats().open + fleet.store.seats().parked, 0, "a closed database has no seat");
}

/// Nobody pins the WAL of a parked database: what others do to it must be noticed.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_parked_database_is_captured_or_compared() {
    warnings();
    let mut fleet = Fleet::new(2, 1);
    fleet.sync_and_compare(0, "at first").await;

    // The WAL is copied, cut off and begun anew.
    fleet.park(0).await;
    fleet.commit(0, 4);
    assert!(!checkpoint(fleet.application(0), CheckpointMode::Truncate).unwrap().is_blocked, "a pin is left");
    fleet.commit(0, 1);
    fleet.sync_and_compare(0, "whose wal was cut off").await;
    assert_eq!(fleet.comparisons(0), 1);

    // The last connection goes, and takes the WAL with it.
    fleet.park(0).await;
    fleet.commit(0, 2);
    drop(fleet.applications[0].take());
    assert!(!std::fs::exists(fleet.dir.path().join("0.db-wal")).unwrap(), "somebody has it open");
    fleet.sync_and_compare(0, "without its wal").await;

    // Another one writes and does the same.
    fleet.park(0).await;
    scenario::commit(&scenario::quiet_connection(&fleet.path(0)).unwrap(), 5).unwrap();
    fleet.sync_and_compare(0, "written by another").await;

    // Another file is put in its place.
    fleet.park(0).await;
    let other = fleet.dir.path().join("other");
    scenario::commit(&scenario::quiet_connection(&other).unwrap(), 40).unwrap();
    scenario::replace_by_rename(&fleet.path(0), &other).unwrap();
    fleet.sync_and_compare(0, "that was replaced").await;

    // It is deleted, and made anew.
    fleet.park(0).await;
    for suffix in ["", "-wal", "-shm"] {
        // An application's last close may have removed these two.
        let _ = std::fs::remove_file(format!("{}{suffix}", fleet.path(0).display()));
    }
    assert_eq!(fleet.databases[0].sync().await.unwrap_err().kind(), ErrorKind::Missing);
    fleet.applications[0] = Some(scenario::quiet_connection(&fleet.path(0)).unwrap());
    fleet.commit(0, 7);
    // A file that is not open gives up the seat it was refused with.
    fleet.is_idle(1);
    fleet.sync_and_compare(0, "made anew").await;
    fleet.commit(1, 1);
    fleet.is_idle(0);
    fleet.sync_and_compare(1, "that others were opened for").await;
    close(&fleet.store).await;
}

/// What is left of the old WAL behind the new frames proves that nothing came in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_wal_that_starts_over_at_its_end_while_parked_costs_no_comparison() {
    warnings();
    let fleet = Fleet::new(2, 1);
    fleet.commit(0, 60);
    fleet.sync(0).await;
    fleet.park(0).await;
    // One frame at the beginning of a long WAL, captured: the next time its end is known
    // to be the end of everything.
    assert!(!checkpoint(fleet.application(0), CheckpointMode::Full).unwrap().is_blocked);
    fleet.commit(0, 1);
    fleet.sync_and_compare(0, "that began its wal anew").await;
    let before = fleet.comparisons(0);
    fleet.park(0).await;
    let copied = checkpoint(fleet.application(0), CheckpointMode::Passive).unwrap();
    assert_eq!(copied.copied, copied.frames, "{copied:?}");
    let salts = wal_salts(&fleet.path(0));
    fleet.commit(0, 1);
    assert_ne!(wal_salts(&fleet.path(0)), salts, "the wal did not start over");
    fleet.sync_and_compare(0, "that began its wal anew at its end").await;
    assert_eq!(fleet.comparisons(0), before, "{:?}", warnings());
    close(&fleet.store).await;
}

fn wal_salts(db: &Path) -> Vec<u8> {
    std::fs::read(format!("{}-wal", db.display())).unwrap()[16..24].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_database_too_many_is_refused_until_another_is_closed() {
    let descriptors = DESCRIPTORS_PARKED + DESCRIPTORS_OPEN;
    let mut fleet = Fleet::with_descriptors(descriptors as usize);
    fleet.add(ReplicaOptions::default());
    fleet.add(ReplicaOptions::default());
    fleet.sync(0).await;
    fleet.is_idle(0);
    let refused = fleet.databases[1].sync().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Setup);
    assert!(refused.to_string().contains("1 databases need all the open files"), "{refused}");
    assert_eq!(fleet.store.seats(), SeatUse { open: 1, ..SeatUse::default() }, "nobody waits, nobody is parked");
    // Those that are served do not suffer.
    fleet.commit(0, 2);
    fleet.sync_and_compare(0, "beside one that was refused").await;

    fleet.store.stop_database(&fleet.databases[0], LIMIT).await.unwrap();
    fleet.sync_and_compare(1, "after another was closed").await;
    close(&fleet.store).await;
}

/// The only seat belongs to a database that cannot be parked. Time is simulated: whoever
/// waits does so for longer than it takes to warn of it.
#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_seat_is_counted_and_may_give_up() {
    let (_guard, lines) = warnings_here();
    let fleet = Fleet::new(2, 1);
    fleet.sync(0).await;
    fleet.is_never_idle(0);
    let waiting = fleet.databases[1].clone();
    let job = tokio::spawn(async move { waiting.sync().await });
    wait_until("it waits", || fleet.store.seats().waiting == 1).await;
    assert_eq!(fleet.store.seats(), SeatUse { open: 1, parked: 0, waiting: 1, parkings: 0 });
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!job.is_finished());
    let told = |line: &&String| line.contains("they take turns") && line.contains("waiting=1");
    assert_eq!(lines.lock().unwrap().iter().filter(told).count(), 1, "{lines:?}");
    job.abort();
    wait_until("it does not wait", || fleet.store.seats().waiting == 0).await;

    // The one that is open is not disturbed, and two that want the same seat share it.
    fleet.commit(0, 1);
    fleet.sync(0).await;
    fleet.is_never_idle(0);
    let both = async { tokio::join!(fleet.sync(1), fleet.sync(1)) };
    let goes_idle = async {
        wait_until("somebody waits", || fleet.store.seats().waiting > 0).await;
        fleet.is_idle(0);
    };
    tokio::join!(both, goes_idle);
    assert_eq!(fleet.store.seats(), SeatUse { open: 1, parked: 1, waiting: 0, parkings: 1 });
    fleet.assert_restores(0, "that was waited for").await;
    fleet.assert_restores(1, "that waited").await;
    close(&fleet.store).await;
}

/// All are written to all the time, only one can be open, and among them are one without
/// a file and one that is none.
#[tokio::test(flavor = "multi_thread")]
async fn more_busy_databases_than_can_be_open_take_turns() {
    const BUSY: usize = 4;
    let quick = ReplicaOptions { sync_interval: Duration::from_millis(10), ..ReplicaOptions::default() };
    let descriptors = (BUSY + 2) * DESCRIPTORS_PARKED as usize + DESCRIPTORS_OPEN as usize;
    let mut fleet = Fleet::with_descriptors(descriptors);
    for _ in 0..BUSY {
        fleet.add(quick.clone());
    }
    let missing = fleet.add_without_file(quick.clone());
    let garbage = fleet.add_without_file(quick.clone());
    std::fs::write(fleet.path(garbage), "this is no database, and never was one".repeat(100)).unwrap();
    fleet.store.start();
    let sent = |index: usize| fleet.databases[index].status().replica_txid.map_or(0, ltx::Txid::get);
    wait_until("everybody is replicated, however often the others commit", || {
        (0..BUSY).for_each(|index| fleet.commit(index, 1));
        (0..BUSY).all(|index| sent(index) >= 4)
    })
    .await;
    assert!(fleet.store.seats().parkings >= BUSY as u64, "{:?}", fleet.store.seats());
    wait_until("the others have been tried", || {
        let state = |index: usize| fleet.databases[index].status().state;
        (state(missing), state(garbage)) == (DatabaseState::Waiting, DatabaseState::Failing)
    })
    .await;
    wait_until("nobody waits or lacks anything", || {
        let is_current = |index: usize| fleet.databases[index].is_proven_current();
        (0..BUSY).all(is_current)
    })
    .await;
    for index in 0..BUSY {
        fleet.assert_restores(index, "after taking turns").await;
    }
    assert_eq!(fleet.store.crashed_tasks(), 0);
    // Closing would say that it could not be sent.
    std::fs::remove_file(fleet.path(garbage)).unwrap();
    close(&fleet.store).await;
}
