//! A replica that lost something, or holds damaged bytes: the daemon finds it,
//! puts it right from local copies or covers it with a snapshot, and says so
//! while it lasts. `Ln` is lesson SR-n of docs/hazards.md.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot be set up fails")]

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use litestream::StoreOptions;
use litestream::levels::Levels;
use litestream_replica::file::FileClient;
use litestream_replica::{
    Body, ByteStream, Error, ErrorKind, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteRequest,
};
use litestream_testkit::scenario;
use ltx::Txid;
use support::{Daemon, HOUR, MINUTE, PausedClock, SECOND, Setup, pass};
use tokio::sync::Notify;

/// Two levels, and a look at the store every minute.
fn validating() -> StoreOptions {
    StoreOptions {
        levels: Levels::new(vec![30 * SECOND, 5 * MINUTE]).unwrap(),
        l0_retention: MINUTE,
        validation_interval: Some(MINUTE),
        ..StoreOptions::default()
    }
}

async fn commits(daemon: &Daemon, app: &rusqlite::Connection, count: usize, pause: Duration) {
    for _ in 0..count {
        scenario::commit(app, 3).unwrap();
        daemon.db.sync().await.unwrap();
        pass(pause).await;
    }
}

fn overwrite(path: &std::path::Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(path, bytes).unwrap();
}

/// L12, L13: transactions missing in level 0, at its start and in its middle, did
/// not stop upstream's level 1 or were left out of it for ever.
#[tokio::test(start_paused = true)]
async fn holes_in_level_0_are_filled_from_local_copies_at_start() {
    let setup = Setup::new();
    let app = setup.application();
    let clock = PausedClock::new();
    let daemon = Daemon::start(&setup, StoreOptions::default(), clock.clone());
    commits(&daemon, &app, 8, SECOND).await;
    daemon.close().await;
    let before = setup.level(0);
    for hole in [before[0], before[3], before[4]] {
        fs::remove_file(setup.path_of(0, hole)).unwrap();
    }
    let daemon = Daemon::start(&setup, StoreOptions::default(), clock);
    daemon.db.sync().await.unwrap();
    assert_eq!(setup.level(0), before);
    assert_eq!(setup.level(9).len(), 1, "no snapshot was needed");
    commits(&daemon, &app, 1, 2 * MINUTE).await;
    assert_eq!(setup.level(1)[0].0, before[0].0, "level 1 has them all");
    setup.assert_restores("after filling the holes");
    daemon.close().await;
}

/// L12 again, but nobody has the transactions any more.
#[tokio::test(start_paused = true)]
async fn a_hole_that_cannot_be_filled_is_covered_by_a_snapshot_and_stepped_over() {
    let setup = Setup::new();
    let app = setup.application();
    let clock = PausedClock::new();
    let daemon = Daemon::start(&setup, StoreOptions::default(), clock.clone());
    commits(&daemon, &app, 8, SECOND).await;
    daemon.close().await;
    let before = setup.level(0);
    let (first, _) = before[3];
    fs::remove_file(setup.path_of(0, before[3])).unwrap();
    fs::remove_file(setup.meta().join("ltx/0").join(setup.path_of(0, before[3]).file_name().unwrap())).unwrap();
    let daemon = Daemon::start(&setup, StoreOptions::default(), clock);
    daemon.db.sync().await.unwrap();
    let newest = before.last().unwrap().1;
    assert_eq!(setup.level(9).last(), Some(&(1, newest)), "a snapshot of the newest state");
    assert_eq!(setup.level(0).last(), Some(&(newest, newest)), "level 0 carries the newest transaction");
    commits(&daemon, &app, 4, MINUTE).await;
    pass(10 * MINUTE).await;
    let level_1 = setup.level(1);
    assert!(level_1.iter().all(|&(min, max)| max < first || min > first), "nothing pretends to hold it: {level_1:?}");
    assert!(level_1.last().unwrap().1 > newest, "and the level goes on: {level_1:?}");
    setup.assert_restores("after stepping over");
    daemon.close().await;
}

/// L68, §16.5: the prefix is emptied while the daemon runs.
#[tokio::test(start_paused = true)]
async fn a_replica_that_is_wiped_while_running_gets_a_new_base() {
    let setup = Setup::new();
    let app = setup.application();
    let daemon = Daemon::start(&setup, validating(), PausedClock::new());
    commits(&daemon, &app, 30, 10 * SECOND).await;
    fs::remove_dir_all(setup.replica()).unwrap();
    commits(&daemon, &app, 3, MINUTE).await;
    let status = daemon.db.status();
    assert!(status.problems_found >= 1 && status.problem.is_none(), "{status:?}");
    assert_eq!(status.problems_found, status.problems_healed);
    setup.assert_restores("after the wipe");
    let newest = status.txid.unwrap().get();
    assert_eq!(setup.level(0).last(), Some(&(newest, newest)));
    commits(&daemon, &app, 5, MINUTE).await;
    pass(10 * MINUTE).await;
    assert!(!setup.level(2).is_empty(), "compaction goes on");
    setup.assert_restores("later");
    daemon.close().await;
}

/// Without `validation.interval` the hourly listing finds it, which comes along
/// with other work only.
#[tokio::test(start_paused = true)]
async fn a_wiped_replica_is_noticed_within_an_hour_of_work() {
    let setup = Setup::new();
    let app = setup.application();
    let daemon = Daemon::start(&setup, StoreOptions::default(), PausedClock::new());
    commits(&daemon, &app, 2, MINUTE).await;
    fs::remove_dir_all(setup.replica()).unwrap();
    commits(&daemon, &app, 14, 5 * MINUTE).await;
    setup.assert_restores("after an hour");
    assert_eq!(daemon.db.status().problem, None);
    daemon.close().await;
}

/// §16.5: the prefix is emptied while nobody runs.
#[tokio::test(start_paused = true)]
async fn a_replica_that_is_wiped_before_start_gets_a_new_base() {
    let setup = Setup::new();
    let app = setup.application();
    let clock = PausedClock::new();
    let daemon = Daemon::start(&setup, StoreOptions::default(), clock.clone());
    commits(&daemon, &app, 30, 10 * SECOND).await;
    pass(10 * MINUTE).await;
    daemon.close().await;
    let newest = setup.level(0).last().unwrap().1;
    fs::remove_dir_all(setup.replica()).unwrap();
    let daemon = Daemon::start(&setup, StoreOptions::default(), clock);
    commits(&daemon, &app, 2, MINUTE).await;
    assert!(setup.level(9)[0].1 >= newest, "numbers never go back: {:?}", setup.level(9));
    setup.assert_restores("after the restart");
    daemon.close().await;
}

/// L67, §16.2: level 0 emptied and the local state lost. Upstream began at 1 again
/// and went on restoring the old data.
#[tokio::test(start_paused = true)]
async fn numbering_goes_on_when_level_0_and_the_local_state_are_lost() {
    let setup = Setup::new();
    let app = setup.application();
    let clock = PausedClock::new();
    let daemon = Daemon::start(&setup, StoreOptions::default(), clock.clone());
    commits(&daemon, &app, 8, 10 * SECOND).await;
    daemon.close().await;
    let newest = setup.level(1).last().unwrap().1;
    fs::remove_dir_all(setup.replica().join("ltx/0")).unwrap();
    fs::remove_dir_all(setup.meta()).unwrap();
    scenario::commit(&app, 3).unwrap();
    let daemon = Daemon::start(&setup, StoreOptions::default(), clock);
    commits(&daemon, &app, 2, SECOND).await;
    assert!(setup.level(0)[0].0 > newest, "{:?} above {newest}", setup.level(0));
    setup.assert_restores("the new state");
    daemon.close().await;
}

/// Level 0 emptied by a rule of the store while the daemon runs: upstream would
/// take its position from there (D16).
#[tokio::test(start_paused = true)]
async fn level_0_gets_its_newest_file_back() {
    let setup = Setup::new();
    let app = setup.application();
    let daemon = Daemon::start(&setup, validating(), PausedClock::new());
    commits(&daemon, &app, 10, 10 * SECOND).await;
    pass(2 * MINUTE).await;
    let newest = *setup.level(0).last().unwrap();
    fs::remove_dir_all(setup.replica().join("ltx/0")).unwrap();
    pass(2 * MINUTE).await;
    assert_eq!(setup.level(0), [newest]);
    assert_eq!(setup.level(9).len(), 1, "no snapshot was needed");
    daemon.close().await;
}

/// L65, L66, `reset`: the state directory's files vanish under the daemon. The
/// history goes on above what the replica holds.
#[tokio::test(start_paused = true)]
async fn a_reset_under_a_running_daemon_never_goes_back() {
    let setup = Setup::new();
    let app = setup.application();
    let daemon = Daemon::start(&setup, StoreOptions::default(), PausedClock::new());
    commits(&daemon, &app, 8, 10 * SECOND).await;
    let newest = daemon.db.status().replica_txid.unwrap();
    fs::remove_dir_all(setup.meta().join("ltx")).unwrap();
    commits(&daemon, &app, 5, 20 * SECOND).await;
    pass(2 * MINUTE).await;
    assert!(daemon.db.status().replica_txid.unwrap() > newest);
    setup.assert_restores("after the reset");
    daemon.close().await;
}

/// A daemon with the setting that made upstream's replica unrestorable.
fn start_recovering(setup: &Setup, auto_recover: bool, clock: Arc<PausedClock>) -> Daemon {
    let meter = Arc::new(litestream_replica::metered::Metered::new(setup.client()));
    let store = litestream::Store::new(StoreOptions::default(), clock.clone());
    let options = litestream::ReplicaOptions { auto_recover, ..Default::default() };
    let db = store.add(litestream::DbOptions::new(setup.db()), meter.clone(), options).unwrap();
    store.start();
    Daemon { store, db, meter, clock }
}

/// The newest transaction in any file of the replica or of local level 0.
fn newest_known(setup: &Setup) -> Txid {
    let stored = (0..=9).flat_map(|level| setup.level(level)).map(|(_, max)| max).max().unwrap();
    Txid::new(stored).max(litestream::local_txid(&setup.meta()).unwrap().unwrap_or(Txid::NONE))
}

/// `litestream reset` (upstream's own) and the loss of all local state, while nobody
/// runs, with and without `auto-recover`, with the WAL as it was or started over.
#[tokio::test(start_paused = true)]
async fn a_reset_while_stopped_goes_on_above_everything_known() {
    for case in 0..8 {
        let (auto_recover, by_upstream, restarts_wal) = (case & 1 != 0, case & 2 != 0, case & 4 != 0);
        let what = format!("auto-recover {auto_recover}, reset by upstream {by_upstream}, new WAL {restarts_wal}");
        let setup = Setup::new();
        let app = setup.application();
        let clock = PausedClock::new();
        let daemon = start_recovering(&setup, auto_recover, clock.clone());
        commits(&daemon, &app, 12, 20 * SECOND).await;
        pass(10 * MINUTE).await;
        daemon.close().await;
        let (before, known) = (litestream_testkit::image::read_image(&setup.db()).unwrap(), newest_known(&setup));
        if by_upstream {
            let upstream = litestream_testkit::upstream::litestream();
            upstream.run(["reset".as_ref(), setup.db().as_os_str()]).unwrap().success().unwrap();
            assert!(!setup.meta().join("ltx").exists(), "{what}");
        } else {
            fs::remove_dir_all(setup.meta()).unwrap();
        }
        scenario::commit(&app, 3).unwrap();
        if restarts_wal {
            scenario::checkpoint(&app, scenario::CheckpointMode::Truncate).unwrap();
            scenario::commit(&app, 3).unwrap();
        }
        let old = setup.level(0);
        let daemon = start_recovering(&setup, auto_recover, clock);
        commits(&daemon, &app, 3, SECOND).await;
        let new: Vec<_> = setup.level(0).into_iter().filter(|file| !old.contains(file)).collect();
        assert!(new.len() >= 3 && new.iter().all(|&(min, _)| min >= known.get()), "{what}: {new:?} above {known}");
        setup.assert_restores(&what);
        before.assert_same(&setup.restored_at(known).await, &format!("before the reset, {what}"));
        commits(&daemon, &app, 10, MINUTE).await;
        let status = daemon.db.status();
        assert!(status.problem.is_none() && status.compaction_errors == 0, "{what}: {status:?}");
        assert!(setup.level(1).last().unwrap().1 > known.get(), "{what}: compaction goes on");
        setup.assert_restores(&format!("after compaction, {what}"));
        daemon.close().await;
    }
}

/// L66: what made upstream recover by itself. Local files are gone before they could
/// be sent; upstream counted from 1 again and restored old data without a word.
#[tokio::test(start_paused = true)]
async fn auto_recover_goes_on_above_everything_that_was_sent() {
    for auto_recover in [false, true] {
        let setup = Setup::new();
        let app = setup.application();
        let daemon = start_recovering(&setup, auto_recover, PausedClock::new());
        commits(&daemon, &app, 6, 10 * SECOND).await;
        pass(MINUTE).await;
        let before = litestream_testkit::image::read_image(&setup.db()).unwrap();
        let sent = daemon.db.status().replica_txid.unwrap();
        let away = setup.dir.path().join("away");
        fs::rename(setup.replica(), &away).unwrap();
        fs::write(setup.replica(), "not a directory").unwrap();
        for _ in 0..4 {
            scenario::commit(&app, 3).unwrap();
            pass(2 * SECOND).await;
        }
        // Nobody but this machine has seen those; their numbers may be used again.
        let status = daemon.db.status();
        assert!(status.txid.unwrap() > sent && status.upload_error.is_some(), "{status:?}");
        fs::remove_dir_all(setup.meta().join("ltx")).unwrap();
        fs::remove_file(setup.replica()).unwrap();
        fs::rename(&away, setup.replica()).unwrap();
        pass(10 * MINUTE).await;
        commits(&daemon, &app, 2, 2 * SECOND).await;
        let status = daemon.db.status();
        assert!(status.replica_txid.unwrap() > sent && status.problem.is_none(), "{status:?}");
        setup.assert_restores("after the recovery");
        before.assert_same(&setup.restored_at(sent).await, "what was sent before");
        daemon.close().await;
    }
}

/// L2: a file of level 1 is damaged in the store and no local copy is left.
#[tokio::test(start_paused = true)]
async fn a_damaged_file_is_covered_by_a_snapshot() {
    let setup = Setup::new();
    let app = setup.application();
    let options = StoreOptions { validation_interval: None, ..validating() };
    let daemon = Daemon::start(&setup, options, PausedClock::new());
    commits(&daemon, &app, 20, 10 * SECOND).await;
    let damaged = setup.level(1)[1];
    overwrite(&setup.path_of(1, damaged));
    fs::remove_dir_all(setup.meta().join("compacted")).unwrap();
    commits(&daemon, &app, 10, 20 * SECOND).await;
    pass(6 * MINUTE).await;
    let status = daemon.db.status();
    assert_eq!((status.problems_found, status.problems_healed), (1, 1), "{status:?}");
    assert!(setup.level(9).len() == 2, "{:?}", setup.level(9));
    let level_2 = setup.level(2);
    assert!(level_2.iter().all(|&(min, max)| max < damaged.0 || min > damaged.1), "not merged: {level_2:?}");
    assert!(level_2.last().unwrap().1 > damaged.1, "the level goes on: {level_2:?}");
    setup.assert_restores("after the snapshot");
    daemon.close().await;
}

/// The same while level 0 still has what was in it: the file is made again.
#[tokio::test(start_paused = true)]
async fn a_damaged_file_is_made_again_from_the_level_below() {
    let setup = Setup::new();
    let app = setup.application();
    let options = StoreOptions { validation_interval: None, l0_retention: HOUR, ..validating() };
    let daemon = Daemon::start(&setup, options, PausedClock::new());
    commits(&daemon, &app, 20, 10 * SECOND).await;
    let damaged = setup.path_of(1, setup.level(1)[1]);
    let sound = fs::read(&damaged).unwrap();
    overwrite(&damaged);
    fs::remove_dir_all(setup.meta().join("compacted")).unwrap();
    commits(&daemon, &app, 20, 20 * SECOND).await;
    pass(6 * MINUTE).await;
    let status = daemon.db.status();
    assert_eq!((status.problems_found, status.problems_healed), (1, 1), "{status:?}");
    assert!(fs::read(&damaged).unwrap() == sound, "level 1 has its file back");
    let level_2 = setup.level(2);
    assert!(level_2.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "level 2 has no hole: {level_2:?}");
    setup.assert_restores("after the repair");
    daemon.close().await;
}

/// The same with the local copy still there: the merge never sees the damage, and
/// a damaged *copy* makes it read the store.
#[tokio::test(start_paused = true)]
async fn a_damaged_local_copy_is_read_from_the_store_instead() {
    let setup = Setup::new();
    let app = setup.application();
    let options = StoreOptions { validation_interval: None, ..validating() };
    let daemon = Daemon::start(&setup, options, PausedClock::new());
    commits(&daemon, &app, 20, 10 * SECOND).await;
    let copies: Vec<_> = fs::read_dir(setup.meta().join("compacted/1")).unwrap().map(|e| e.unwrap().path()).collect();
    overwrite(&copies[0]);
    pass(6 * MINUTE).await;
    assert_eq!(daemon.meter.snapshot().get.count, 1, "that one file");
    assert_eq!(daemon.db.status().compaction_errors, 0);
    assert!(!setup.level(2).is_empty());
    setup.assert_restores("after level 2");
    daemon.close().await;
}

/// L17: the base is gone while nobody runs.
#[tokio::test(start_paused = true)]
async fn a_missing_base_is_made_again_at_start() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 100).unwrap();
    let clock = PausedClock::new();
    let daemon = Daemon::start(&setup, StoreOptions::default(), clock.clone());
    commits(&daemon, &app, 3, SECOND).await;
    daemon.close().await;
    fs::remove_dir_all(setup.replica().join("ltx/9")).unwrap();
    let daemon = Daemon::start(&setup, StoreOptions::default(), clock);
    daemon.db.sync().await.unwrap();
    assert_eq!(setup.level(9).len(), 1);
    setup.assert_restores("with a new base");
    daemon.close().await;
}

/// Takes the beginning of a file of level 9 and then refuses it, or never answers,
/// while told to.
struct NoSnapshots {
    inner: Arc<FileClient>,
    refuses: AtomicBool,
    hangs: AtomicBool,
    /// The beginning of a file has arrived.
    began: Notify,
}

impl NoSnapshots {
    fn new(setup: &Setup) -> Arc<Self> {
        let (refuses, hangs) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { inner: setup.client(), refuses, hangs, began: Notify::new() })
    }
}

#[async_trait::async_trait]
impl ReplicaClient for NoSnapshots {
    fn kind(&self) -> &'static str {
        "file"
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
        let (refuses, hangs) = (self.refuses.load(Ordering::SeqCst), self.hangs.load(Ordering::SeqCst));
        if request.id.level != Level::SNAPSHOT || !(refuses || hangs) {
            return self.inner.write(request).await;
        }
        let Body::Stream(mut body) = request.body else { panic!("an image is a stream") };
        body.next().await.unwrap().unwrap();
        self.began.notify_one();
        if hangs {
            std::future::pending::<()>().await;
        }
        Err(Error::new(ErrorKind::Transient, "no snapshots today"))
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

/// L23: upstream's snapshot that nobody read to its end kept its read transaction, and
/// the WAL grew from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_given_up_holds_up_no_checkpoint() {
    for hangs in [false, true] {
        let setup = Setup::new();
        let app = setup.application();
        app.execute_batch("INSERT INTO t (x) VALUES (randomblob(4000000))").unwrap();
        scenario::checkpoint(&app, scenario::CheckpointMode::Truncate).unwrap();
        let client = NoSnapshots::new(&setup);
        let store = litestream::Store::new(StoreOptions::default(), Arc::new(litestream_replica::clock::SystemClock));
        let options = litestream::DbOptions {
            min_checkpoint_page_count: 50,
            truncate_page_n: 100,
            ..litestream::DbOptions::new(setup.db())
        };
        let db = store.add(options, client.clone(), Default::default()).unwrap();
        scenario::commit(&app, 1).unwrap();
        db.sync().await.unwrap();

        if hangs { &client.hangs } else { &client.refuses }.store(true, Ordering::SeqCst);
        tokio::select! {
            result = db.snapshot() => assert!(!hangs && result.is_err(), "{result:?}"),
            // Dropped in the middle, as a cancelled request is.
            () = client.began.notified(), if hangs => {}
        }
        for _ in 0..20 {
            scenario::commit(&app, 50).unwrap();
            db.sync().await.unwrap();
        }
        // A thousand commits are several megabytes of frames.
        assert!(setup.wal_len() < 2 << 20, "hangs {hangs}: {} bytes of WAL", setup.wal_len());
        support::close(&store).await;
        setup.assert_restores("without the snapshot");
    }
}

/// What could not be healed is visible until it is.
#[tokio::test(start_paused = true)]
async fn an_unhealed_problem_stays_visible() {
    let setup = Setup::new();
    let app = setup.application();
    let client = NoSnapshots::new(&setup);
    let daemon = Daemon::start_over(&setup, client.clone(), validating(), PausedClock::new());
    commits(&daemon, &app, 10, 20 * SECOND).await;
    client.refuses.store(true, Ordering::SeqCst);
    fs::remove_dir_all(setup.replica().join("ltx/9")).unwrap();
    pass(5 * MINUTE).await;
    let status = daemon.db.status();
    let problem = status.problem.expect("it is not healed");
    assert!(!problem.text.is_empty());
    assert_eq!((status.problems_found, status.problems_healed), (1, 0));
    let note = litestream::replica_problem(&setup.meta()).unwrap().unwrap();
    assert!(note.contains(&problem.text), "{note}");

    client.refuses.store(false, Ordering::SeqCst);
    pass(HOUR).await;
    let status = daemon.db.status();
    assert_eq!(status.problem, None);
    assert_eq!((status.problems_found, status.problems_healed), (1, 1));
    assert_eq!(litestream::replica_problem(&setup.meta()).unwrap(), None);
    setup.assert_restores("once it is healed");
    scenario::commit(&app, 50).unwrap();
    daemon.db.sync().await.unwrap();
    scenario::checkpoint(&app, scenario::CheckpointMode::Passive).unwrap();
    daemon.close().await;
}
