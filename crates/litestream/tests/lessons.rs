//! Scenarios that upstream's users paid for and no other test plays: the numbers are
//! the L-numbers of docs/hazards.md. Every one ends with a restore by upstream's
//! binary that must equal the live database, unless the point is that nothing is
//! written at all.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot be set up fails")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use litestream::{DbOptions, Disk, DiskLayer, DiskOp};
use litestream_testkit::scenario::{self, CheckpointMode};
use rusqlite::config::DbConfig;
use support::{Setup, close, count};
use tokio_util::sync::CancellationToken;

async fn run_once(setup: &Setup) {
    let store = setup.store();
    store.once(false).await.unwrap();
    close(&store).await;
}

fn images(setup: &Setup) -> usize {
    count(&setup.replica().join("ltx/9"))
}

fn side_file(setup: &Setup, suffix: &str) -> PathBuf {
    let mut path = setup.db().into_os_string();
    path.push(suffix);
    path.into()
}

/// An application whose last close leaves the log alone, as a killed one does.
fn careless_application(setup: &Setup) -> rusqlite::Connection {
    let app = setup.application();
    app.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    app
}

/// Byte ranges on which this process holds read locks on a file.
#[cfg(target_os = "linux")]
fn read_locks(path: &std::path::Path) -> Vec<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let inode = format!(":{}", std::fs::metadata(path).unwrap().ino());
    let mine = std::process::id().to_string();
    std::fs::read_to_string("/proc/locks")
        .unwrap()
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.len() == 8 && words[3] == "READ" && words[4] == mine && words[5].ends_with(&inode))
        .map(|words| (words[6].parse().unwrap(), words[7].parse().unwrap_or(u64::MAX)))
        .collect()
}

/// L1: whoever closes any descriptor of the database drops all locks of the process,
/// and then the application's last close deletes the log.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn l1_nothing_we_open_and_close_drops_sqlites_locks() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 50).unwrap();
    let (store, db) = setup.store_with(DbOptions::new(setup.db()));
    store.once(true).await.unwrap();
    app.close().unwrap();
    db.sync().await.unwrap();
    let _ = (db.status(), db.local_txid().unwrap(), db.recoverable());
    let read_slots = read_locks(&side_file(&setup, "-shm"));
    assert!(read_slots.iter().any(|&(from, to)| from <= 127 && to >= 123), "no read slot is locked: {read_slots:?}");
    let shared = read_locks(&setup.db());
    assert!(shared.iter().any(|&(from, to)| from <= 1_073_741_826 && to > 1_073_741_826), "no shared lock: {shared:?}");
    close(&store).await;
}

/// L3: the application closes its last connection while we run, then we close; the
/// log stays both times, and nothing has to be stored anew.
#[tokio::test(flavor = "multi_thread")]
async fn l3_the_log_outlives_the_close_of_either() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 20).unwrap();
    let (store, db) = setup.store_with(DbOptions::new(setup.db()));
    store.once(false).await.unwrap();
    scenario::commit(&app, 5).unwrap();
    app.close().unwrap();
    assert!(setup.wal_len() > 0, "the application's close kept the log");
    db.sync().await.unwrap();
    close(&store).await;
    assert!(setup.wal_len() > 0, "so did ours");
    let before = setup.l0_count();
    run_once(&setup).await;
    assert_eq!((images(&setup), setup.l0_count()), (1, before), "the next start has nothing to do");
    setup.assert_restores("after both closed");
}

/// L4: a transaction so large that it spills into the log before it is rolled back.
#[tokio::test(flavor = "multi_thread")]
async fn l4_what_was_rolled_back_is_in_no_file() {
    let setup = Setup::new();
    let app = setup.application();
    app.execute_batch("PRAGMA cache_size = 5; PRAGMA cache_spill = 5").unwrap();
    scenario::commit(&app, 5).unwrap();
    let (store, db) = setup.store_with(DbOptions::new(setup.db()));
    store.once(false).await.unwrap();
    app.execute_batch("BEGIN; UPDATE event SET body = zeroblob(200)").unwrap();
    for _ in 0..300 {
        app.execute("INSERT INTO event (body) VALUES (zeroblob(4000))", []).unwrap();
    }
    let spilled = setup.wal_len();
    db.sync().await.unwrap();
    app.execute_batch("ROLLBACK").unwrap();
    assert!(spilled > 300 * 4096, "the transaction spilled: {spilled}");
    db.sync().await.unwrap();
    setup.assert_restores("after the rollback");
    scenario::commit(&app, 3).unwrap();
    db.sync().await.unwrap();
    setup.assert_restores("after the next commits");
    close(&store).await;
}

/// L6: opening fails until the file is a database; each pass tries again.
#[tokio::test(flavor = "multi_thread")]
async fn l6_a_database_that_could_not_be_opened_is_tried_again() {
    let setup = Setup::new();
    std::fs::write(setup.db(), vec![7; 8192]).unwrap();
    let (store, db) = setup.store_with(DbOptions::new(setup.db()));
    for _ in 0..3 {
        let message = db.sync().await.unwrap_err().to_string();
        assert!(message.contains("not a database"), "{message}");
    }
    std::fs::remove_file(setup.db()).unwrap();
    let app = setup.application();
    scenario::commit(&app, 5).unwrap();
    store.once(false).await.unwrap();
    setup.assert_restores("once it was a database");
    close(&store).await;
}

/// L8: the application keeps a write transaction open; capture needs no write lock.
#[tokio::test(flavor = "multi_thread")]
async fn l8_capture_goes_on_beside_an_open_write_transaction() {
    let setup = Setup::new();
    let (app, other) = (setup.application(), setup.application());
    scenario::commit(&app, 5).unwrap();
    let (store, db) = setup.store_with(DbOptions { busy_timeout: Duration::ZERO, ..DbOptions::new(setup.db()) });
    store.once(false).await.unwrap();
    scenario::commit(&app, 5).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; UPDATE event SET body = zeroblob(100)").unwrap();
    let before = db.local_txid().unwrap();
    let after = db.sync().await.unwrap();
    assert!(Some(after) > before, "what was committed is captured");
    setup.assert_restores("while the transaction is open");
    other.execute_batch("COMMIT").unwrap();
    db.sync().await.unwrap();
    setup.assert_restores("after it was committed");
    close(&store).await;
}

/// L19, L22: any kind of checkpoint while we are down, with growth, and with logs of
/// one frame.
#[tokio::test(flavor = "multi_thread")]
async fn l19_no_checkpoint_while_down_loses_a_commit() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 50).unwrap();
    run_once(&setup).await;
    for mode in [CheckpointMode::Passive, CheckpointMode::Full, CheckpointMode::Restart, CheckpointMode::Truncate] {
        for commits in [200, 1] {
            scenario::commit(&app, commits).unwrap();
            scenario::checkpoint(&app, mode).unwrap();
            scenario::commit(&app, 1).unwrap();
            run_once(&setup).await;
            setup.assert_restores(&format!("after {mode:?} and {commits} commits while down"));
        }
    }
    assert_eq!(images(&setup), 1, "only what differs is sent");
}

/// L24: the database shrinks between two commits of one pass.
#[tokio::test(flavor = "multi_thread")]
async fn l24_a_database_that_shrinks_within_one_pass_is_captured() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 2000).unwrap();
    let (store, db) = setup.store_with(DbOptions::new(setup.db()));
    store.once(false).await.unwrap();
    app.execute_batch("DELETE FROM event WHERE id > 20; VACUUM").unwrap();
    scenario::commit(&app, 1).unwrap();
    db.sync().await.unwrap();
    setup.assert_restores("after a vacuum");
    scenario::commit(&app, 500).unwrap();
    app.execute_batch("DELETE FROM event WHERE id % 2 = 0; VACUUM").unwrap();
    db.sync().await.unwrap();
    setup.assert_restores("after growth and a vacuum");
    close(&store).await;
}

/// L28, L31: the log is checkpointed and recycled over and over: one delta a round,
/// no image, and commits into a log whose size does not change are seen.
#[tokio::test(flavor = "multi_thread")]
async fn l28_checkpoints_cost_no_image_and_hide_no_commit() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 20).unwrap();
    let options = DbOptions { min_checkpoint_page_count: 1, ..DbOptions::new(setup.db()) };
    let (store, db) = setup.store_with(options);
    store.once(false).await.unwrap();
    let before = setup.l0_count();
    let mut restarts = 0;
    for _ in 0..20 {
        let len = setup.wal_len();
        scenario::commit(&app, 1).unwrap();
        restarts += usize::from(setup.wal_len() == len);
        db.sync().await.unwrap();
    }
    assert!(restarts > 10, "the log was recycled only {restarts} times");
    assert_eq!((images(&setup), setup.l0_count()), (1, before + 20));
    setup.assert_restores("after twenty rounds");
    close(&store).await;
}

/// L29: a lock on a database that must be switched to WAL mode is waited for as long
/// as the option says, and no longer.
#[tokio::test(flavor = "multi_thread")]
async fn l29_busy_timeout_is_how_long_a_lock_is_waited_for() {
    let setup = Setup::new();
    let app = rusqlite::Connection::open(setup.db()).unwrap();
    scenario::commit(&app, 3).unwrap();
    app.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let (impatient, db) = setup.store_with(DbOptions { busy_timeout: Duration::ZERO, ..DbOptions::new(setup.db()) });
    let message = db.sync().await.unwrap_err().to_string();
    assert!(message.contains("locked"), "{message}");
    drop((impatient, db));
    let (patient, db) =
        setup.store_with(DbOptions { busy_timeout: Duration::from_secs(60), ..DbOptions::new(setup.db()) });
    let waiting = tokio::spawn(async move { db.sync().await.map(|_| ()) });
    // However late the other begins to wait: with patience it gets the lock.
    tokio::time::sleep(Duration::from_millis(300)).await;
    app.execute_batch("COMMIT").unwrap();
    waiting.await.unwrap().unwrap();
    setup.assert_restores("after the lock was given back");
    close(&patient).await;
}

/// L32: somebody touches database and log without a commit.
#[tokio::test(flavor = "multi_thread")]
async fn l32_a_new_time_of_modification_is_no_transaction() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 5).unwrap();
    let (store, db) = setup.store_with(DbOptions::new(setup.db()));
    store.once(false).await.unwrap();
    let before = (db.local_txid().unwrap(), setup.l0_count());
    for path in [setup.db(), side_file(&setup, "-wal")] {
        let touched = std::fs::File::options().append(true).open(path).unwrap();
        touched.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(2_000_000_000)).unwrap();
        // Closing it drops SQLite's locks, which is not the subject here.
        std::mem::forget(touched);
        db.sync().await.unwrap();
    }
    assert_eq!((db.local_txid().unwrap(), setup.l0_count()), before);
    close(&store).await;
}

/// L35: stopping with an interrupt that came before still lets go of everything.
#[tokio::test(flavor = "multi_thread")]
async fn l35_an_interrupted_close_lets_go_of_the_log() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 5).unwrap();
    let store = setup.store();
    store.once(false).await.unwrap();
    scenario::commit(&app, 5).unwrap();
    let interrupt = CancellationToken::new();
    interrupt.cancel();
    store.close(&interrupt).await;
    let outcome = scenario::checkpoint(&app, CheckpointMode::Truncate).unwrap();
    assert!(!outcome.is_blocked, "a pin is still held: {outcome:?}");
    run_once(&setup).await;
    setup.assert_restores("after the next start");
}

/// The system drops our locks, as it does when any descriptor of the shared memory is
/// closed in our process, and SQLite does not notice. Another process commits,
/// checkpoints and starts the log over; the salts look as if nothing had happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_left_under_a_lost_pin_is_missed_by_the_count() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 200).unwrap();
    let (store, db) = setup.store_with(DbOptions::new(setup.db()));
    store.once(false).await.unwrap();
    let mut other = OtherProcess::start(&setup);
    app.close().unwrap();
    other.commit();
    db.sync().await.unwrap();
    drop(std::fs::File::open(side_file(&setup, "-shm")).unwrap());
    // On a page that no later commit touches.
    assert_eq!(other.run("UPDATE event SET body = randomblob(200) WHERE id = 1"), "[]");
    assert_eq!(other.run("PRAGMA wal_checkpoint(TRUNCATE)"), "[(0, 0, 0)]", "the pin is gone");
    other.commit();
    db.sync().await.unwrap();
    setup.assert_restores("after a commit that nobody saw");
    close(&store).await;
}

/// As above, and the process dies right after the next record of its position. A record
/// that had followed the log into its new generation before the commits were counted
/// would be believed at the next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_death_while_a_lost_pin_is_noticed_loses_nothing() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 20).unwrap();
    let death = Arc::new(DiesAfterRecord::default());
    let (store, db) = setup.store_with(DbOptions { disk: Disk::behind(death.clone()), ..DbOptions::new(setup.db()) });
    store.once(false).await.unwrap();
    let mut other = OtherProcess::start(&setup);
    app.close().unwrap();
    other.commit();
    db.sync().await.unwrap();
    drop(std::fs::File::open(side_file(&setup, "-shm")).unwrap());
    other.commit();
    assert_eq!(other.run("PRAGMA wal_checkpoint(TRUNCATE)"), "[(0, 0, 0)]", "the pin is gone");
    death.is_near.store(true, Ordering::SeqCst);
    let _ = db.sync().await;
    assert!(death.is_here.load(Ordering::SeqCst), "nothing was recorded");
    drop((store, db));
    run_once(&setup).await;
    setup.assert_restores("after the next start");
}

/// Lets one more record of the position through, and nothing after it.
#[derive(Default)]
struct DiesAfterRecord {
    is_near: AtomicBool,
    is_here: AtomicBool,
}

impl DiskLayer for DiesAfterRecord {
    fn before(&self, op: &DiskOp<'_>) -> std::io::Result<()> {
        if self.is_here.load(Ordering::SeqCst) {
            return Err(std::io::Error::other("the process is dead"));
        }
        if let DiskOp::Write { path, .. } = op
            && path.ends_with("position")
            && self.is_near.load(Ordering::SeqCst)
        {
            self.is_here.store(true, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// A program with a connection of its own, driven line by line.
struct OtherProcess {
    child: std::process::Child,
    answers: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl OtherProcess {
    fn start(setup: &Setup) -> Self {
        use std::io::BufRead;
        use std::process::{Command, Stdio};
        let program = "import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for sql in sys.stdin: print(db.execute(sql).fetchall(), flush=True)";
        let mut child = Command::new("python3")
            .args(["-c", program])
            .arg(setup.db())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut other = Self { child, answers };
        assert_eq!(other.run("PRAGMA wal_autocheckpoint = 0"), "[(0,)]");
        assert_ne!(other.run("SELECT count(*) FROM event"), "[]");
        other
    }

    fn commit(&mut self) {
        assert_eq!(self.run("INSERT INTO event (body) VALUES (randomblob(200))"), "[]");
    }

    fn run(&mut self, sql: &str) -> String {
        use std::io::Write;
        writeln!(self.child.stdin.as_mut().unwrap(), "{sql}").unwrap();
        self.answers.next().unwrap().unwrap()
    }
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// L72: releases before 3.51.3 can mark frames as copied that are not, when a
/// checkpoint runs while another connection restarts the log.
#[test]
fn l72_the_sqlite_that_is_linked_has_the_fix_for_the_wal_reset_race() {
    let version: Vec<u32> = litestream::sqlite_version().split('.').map(|part| part.parse().unwrap()).collect();
    assert!(version >= vec![3, 51, 3], "{version:?}");
}

/// L83: the machine lost power: the end of the log is gone or zeros, the local state
/// is complete. The replica gets what the database really holds.
#[tokio::test(flavor = "multi_thread")]
async fn l83_a_log_that_lost_its_end_is_compared() {
    for zeroed in [false, true] {
        let setup = Setup::new();
        let app = careless_application(&setup);
        app.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
        scenario::commit(&app, 20).unwrap();
        run_once(&setup).await;
        scenario::commit(&app, 20).unwrap();
        run_once(&setup).await;
        app.close().unwrap();
        let wal = std::fs::File::options().write(true).open(side_file(&setup, "-wal")).unwrap();
        let len = setup.wal_len();
        wal.set_len(len - 10 * 4120).unwrap();
        if zeroed {
            wal.set_len(len).unwrap();
        }
        std::fs::remove_file(side_file(&setup, "-shm")).unwrap();
        run_once(&setup).await;
        setup.assert_restores(&format!("after the end was lost, zeroed: {zeroed}"));
        let app = setup.application();
        let rows: u32 = app.query_row("SELECT count(*) FROM event", [], |row| row.get(0)).unwrap();
        assert!((20..40).contains(&rows), "{rows} rows survived");
        scenario::commit(&app, 5).unwrap();
        run_once(&setup).await;
        setup.assert_restores("after the next commits");
        assert_eq!(images(&setup), 1);
    }
}
