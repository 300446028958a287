//! Hours of a running daemon: files go up through the levels, snapshots are made,
//! old files go, and every recorded moment that is still in the window can be
//! restored as it was.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot be set up fails")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use litestream::StoreOptions;
use litestream::levels::Levels;
use litestream_replica::{Inventory, Level, Target};
use litestream_testkit::image::{Image, read_image};
use litestream_testkit::scenario;
use support::{Daemon, HOUR, MINUTE, PausedClock, SECOND, Setup, pass};

fn short_intervals() -> StoreOptions {
    StoreOptions {
        levels: Levels::new(vec![30 * SECOND, 5 * MINUTE, 30 * MINUTE]).unwrap(),
        snapshot_interval: HOUR,
        snapshot_retention: 2 * HOUR,
        l0_retention: MINUTE,
        ..StoreOptions::default()
    }
}

/// L3, L4, L19, L21: the whole life of a history.
#[tokio::test(start_paused = true)]
async fn every_recorded_moment_of_the_window_is_restored_after_hours_of_work() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let setup = Setup::new();
    let app = setup.application();
    let clock = PausedClock::new();
    let daemon = Daemon::start(&setup, short_intervals(), clock.clone());
    let mut images: BTreeMap<u64, Image> = BTreeMap::new();
    let mut rounds = 0;
    while clock.elapsed() < 5 * HOUR {
        rounds += 1;
        match rng.u8(..12) {
            0 => app.execute_batch("DELETE FROM t WHERE id % 3 = 0; VACUUM").unwrap(),
            1 => scenario::commit(&app, 200).unwrap(),
            _ => scenario::commit(&app, 2).unwrap(),
        }
        let txid = daemon.db.sync().await.unwrap().get();
        images.insert(txid, read_image(&setup.db()).unwrap());
        pass(Duration::from_secs(rng.u64(20..400))).await;
    }
    pass(5 * MINUTE).await;
    let status = daemon.db.status();
    assert!(status.compactions > 40, "{rounds} rounds, {status:?}");
    assert_eq!((status.compaction_errors, status.problems_found), (0, 0), "{status:?}");
    let counts = daemon.meter.snapshot();
    // Snapshots stand in for none of them: nothing was read back at all.
    assert_eq!(counts.get.count, 0, "{counts:?}");

    let inventory = Inventory::load(&*setup.client(), false).await.unwrap();
    let points: Vec<u64> = inventory.restore_points().iter().map(|point| point.txid.get()).collect();
    let newest = *images.keys().next_back().unwrap();
    assert_eq!(inventory.plan(Target::Latest).unwrap().txid().get(), newest);
    let mut compared = 0;
    for point in points.iter().rev().step_by(2) {
        let Some(image) = images.get(point) else { continue };
        image.assert_same(&setup.restored_at(ltx::Txid::new(*point)).await, &format!("seed {seed}, txid {point}"));
        compared += 1;
    }
    assert!(compared > 8, "{compared} of {} points, {} images", points.len(), images.len());
    assert!(setup.level(9).len() <= 5, "{:?}", setup.level(9));
    assert!(setup.level(0).len() < 20, "{:?}", setup.level(0));
    setup.assert_restores("by upstream");
    // The window: any moment of the last two hours.
    let now = litestream_replica::clock::Clock::now(&*clock);
    for minutes in (0..120).step_by(7) {
        let moment = now - jiff::SignedDuration::from_mins(minutes);
        let plan = inventory.plan(Target::Timestamp(moment)).unwrap();
        assert!(plan.timestamp() < moment);
        let behind = moment.duration_since(plan.timestamp());
        // A commit every 400 s at most, and what is older than the level-1 files has
        // the granularity of the highest level.
        assert!(behind <= jiff::SignedDuration::from_mins(40), "{minutes} minutes back: {behind}");
    }
    daemon.close().await;
}

/// L32: zero keeps level 0 for ever; L5: the local copies go all the same.
#[tokio::test(start_paused = true)]
async fn zero_l0_retention_keeps_level_0_in_the_replica_only() {
    let setup = Setup::new();
    let app = setup.application();
    let options = StoreOptions { l0_retention: Duration::ZERO, ..short_intervals() };
    let daemon = Daemon::start(&setup, options, PausedClock::new());
    for _ in 0..10 {
        scenario::commit(&app, 2).unwrap();
        daemon.db.sync().await.unwrap();
        pass(10 * SECOND).await;
    }
    let written = setup.level(0);
    assert!(written.len() >= 10);
    pass(20 * MINUTE).await;
    assert_eq!(setup.level(0), written);
    assert_eq!(support::count(&setup.meta().join("ltx/0")), 1, "only the newest local file");
    assert_eq!(daemon.meter.snapshot().delete.count, 0);
    daemon.close().await;
}

/// L5: nothing is deleted from the replica, and local disk does not fill.
#[tokio::test(start_paused = true)]
async fn disabled_retention_deletes_local_files_only() {
    let setup = Setup::new();
    let app = setup.application();
    let options = StoreOptions { retention_enabled: false, ..short_intervals() };
    let daemon = Daemon::start(&setup, options, PausedClock::new());
    for _ in 0..30 {
        scenario::commit(&app, 2).unwrap();
        daemon.db.sync().await.unwrap();
        pass(15 * MINUTE).await;
    }
    assert_eq!(daemon.meter.snapshot().delete.count, 0);
    assert!(setup.level(9).len() > 5);
    assert!(support::count(&setup.meta().join("ltx/0")) <= 2);
    let copies = ["1", "2"].map(|level| support::count(&setup.meta().join("compacted").join(level)));
    assert!(copies.iter().sum::<usize>() <= 4, "copies go when the next level has them: {copies:?}");
    setup.assert_restores("with everything kept");
    daemon.close().await;
}

/// `levels: []` is level 0 and snapshots.
#[tokio::test(start_paused = true)]
async fn without_levels_there_are_snapshots_only() {
    let setup = Setup::new();
    let app = setup.application();
    let options = StoreOptions { levels: Levels::new(Vec::new()).unwrap(), ..short_intervals() };
    let daemon = Daemon::start(&setup, options, PausedClock::new());
    for _ in 0..20 {
        scenario::commit(&app, 2).unwrap();
        daemon.db.sync().await.unwrap();
        pass(20 * MINUTE).await;
    }
    assert!((1..9).all(|level| setup.level(level).is_empty()));
    assert!(setup.level(9).len() >= 3, "{:?}", setup.level(9));
    assert!(support::count(&setup.meta().join("ltx/0")) <= 2, "local files go once they are sent");
    setup.assert_restores("without levels");
    daemon.close().await;
}

/// L6: a database that does not exist yet is nothing to report, and its levels
/// work as soon as it does.
#[tokio::test(start_paused = true)]
async fn a_database_that_comes_later_is_taken_up() {
    let setup = Setup::new();
    let daemon = Daemon::start(&setup, short_intervals(), PausedClock::new());
    pass(2 * HOUR).await;
    let status = daemon.db.status();
    assert_eq!((status.compaction_errors, status.problems_found), (0, 0));
    assert_eq!(daemon.requests(), 0, "nothing is asked of the store");
    let app = setup.application();
    for _ in 0..5 {
        scenario::commit(&app, 2).unwrap();
        pass(MINUTE).await;
    }
    daemon.settle().await;
    assert!(!setup.level(1).is_empty());
    setup.assert_restores("once it exists");
    daemon.close().await;
}

/// L69: more files wait than one round sends; nobody waits an interval a round.
#[tokio::test(start_paused = true)]
async fn a_backlog_is_sent_and_merged_without_waiting_between_rounds() {
    let setup = Setup::new();
    let app = setup.application();
    let store = litestream::Store::new(short_intervals(), PausedClock::new());
    let replica = litestream::ReplicaOptions { max_sync_ltx_files: 2, ..Default::default() };
    let options = litestream::DbOptions { max_sync_wal_bytes: 8 << 10, ..litestream::DbOptions::new(setup.db()) };
    let db = store.add(options, setup.client(), replica).unwrap();
    db.sync().await.unwrap();
    for _ in 0..40 {
        scenario::commit(&app, 20).unwrap();
    }
    let started = tokio::time::Instant::now();
    db.sync().await.unwrap();
    assert!(setup.level(0).len() > 10, "{:?}", setup.level(0));
    assert!(started.elapsed() < SECOND);
    store.start();
    pass(2 * MINUTE).await;
    assert!(!setup.level(1).is_empty());
    setup.assert_restores("after the backlog");
    support::close(&store).await;
}

/// Thirty databases are due at the same boundary: all of them are served, a few
/// at a time.
#[tokio::test(start_paused = true)]
async fn many_databases_at_one_boundary_are_served_a_few_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let gauge = std::sync::Arc::new(Gauge::default());
    let store = litestream::Store::new(short_intervals(), PausedClock::new());
    let mut databases = Vec::new();
    for number in 0..30 {
        let setup = Setup { dir: tempfile::tempdir_in(&dir).unwrap() };
        let app = setup.application();
        scenario::commit(&app, 5).unwrap();
        let client = Gauged { inner: setup.client(), gauge: gauge.clone() };
        let options = litestream::DbOptions::new(setup.db());
        let db = store.add(options, std::sync::Arc::new(client), Default::default()).unwrap();
        databases.push((number, setup, app, db));
    }
    store.start();
    pass(5 * SECOND).await;
    for (_, _, app, _) in &databases {
        scenario::commit(app, 2).unwrap();
    }
    pass(20 * SECOND).await;
    assert_eq!(gauge.most(), 0, "nothing before the boundary");
    pass(10 * SECOND).await;
    for (number, setup, _, db) in &databases {
        assert_eq!(setup.level(1).len(), 1, "database {number}: {:?}", db.status());
    }
    assert!((2..=8).contains(&gauge.most()), "{} at once", gauge.most());
    support::close(&store).await;
}

/// How many writes of level 1 run, and the most there ever were at once.
#[derive(Default)]
struct Gauge {
    now: std::sync::atomic::AtomicUsize,
    most: std::sync::atomic::AtomicUsize,
}

impl Gauge {
    fn most(&self) -> usize {
        self.most.load(std::sync::atomic::Ordering::SeqCst)
    }
}

struct Gauged {
    inner: std::sync::Arc<litestream_replica::file::FileClient>,
    gauge: std::sync::Arc<Gauge>,
}

#[async_trait::async_trait]
impl litestream_replica::ReplicaClient for Gauged {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn location(&self) -> String {
        self.inner.location()
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    async fn init(&self) -> litestream_replica::Result<()> {
        Ok(())
    }

    async fn list(
        &self,
        level: litestream_replica::Level,
        seek: ltx::Txid,
        metadata: bool,
    ) -> litestream_replica::Result<Vec<litestream_replica::FileInfo>> {
        self.inner.list(level, seek, metadata).await
    }

    async fn open(
        &self,
        id: litestream_replica::FileId,
        offset: u64,
        len: u64,
    ) -> litestream_replica::Result<litestream_replica::ByteStream> {
        self.inner.open(id, offset, len).await
    }

    async fn write(
        &self,
        request: litestream_replica::WriteRequest,
    ) -> litestream_replica::Result<litestream_replica::FileInfo> {
        use std::sync::atomic::Ordering::SeqCst;
        if request.id.level.get() != 1 {
            return self.inner.write(request).await;
        }
        let now = self.gauge.now.fetch_add(1, SeqCst) + 1;
        self.gauge.most.fetch_max(now, SeqCst);
        pass(Duration::from_millis(200)).await;
        let result = self.inner.write(request).await;
        self.gauge.now.fetch_sub(1, SeqCst);
        result
    }

    async fn delete(&self, files: &[litestream_replica::FileId]) -> litestream_replica::Result<()> {
        self.inner.delete(files).await
    }

    async fn list_objects(&self, prefix: &str) -> litestream_replica::Result<Vec<litestream_replica::ObjectInfo>> {
        self.inner.list_objects(prefix).await
    }

    async fn open_object(
        &self,
        key: &str,
        offset: u64,
        len: u64,
    ) -> litestream_replica::Result<litestream_replica::ByteStream> {
        self.inner.open_object(key, offset, len).await
    }

    async fn delete_all(&self) -> litestream_replica::Result<()> {
        self.inner.delete_all().await
    }
}

/// A forced snapshot of a state that has one: with a younger time it could not
/// stand for the moments since the first, and nothing else may be left of them.
#[tokio::test(start_paused = true)]
async fn a_snapshot_made_again_keeps_its_time() {
    let setup = Setup::new();
    let app = setup.application();
    let clock = PausedClock::new();
    let daemon = Daemon::start(&setup, short_intervals(), clock.clone());
    scenario::commit(&app, 5).unwrap();
    daemon.db.sync().await.unwrap();
    let first = daemon.db.snapshot().await.unwrap();
    let listed = async || Inventory::load(&*setup.client(), false).await.unwrap().level(Level::SNAPSHOT).to_vec();
    let before = listed().await;
    pass(HOUR).await;
    assert_eq!(daemon.db.snapshot().await.unwrap(), first);
    assert_eq!(listed().await, before);
    setup.assert_restores("the snapshot made again");
    daemon.close().await;
}
