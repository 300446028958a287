//! Hours of a running daemon: files go up through the levels, snapshots are made,
//! old files go, and every recorded moment that is still in the window can be
//! restored as it was. `Ln` is lesson SR-n of docs/hazards.md.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot be set up fails")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use litestream::StoreOptions;
use litestream::levels::Levels;
use litestream_replica::{Inventory, Level, Target};
use litestream_testkit::image::{Image, read_image};
use litestream_testkit::scenario;
use support::{Daemon, HOUR, MINUTE, PausedClock, SECOND, Setup, pass, warnings_here};

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
        let client = Gauged { inner: setup.client(), gauge: gauge.clone(), levels: 1..=1 };
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

/// How many writes of some levels run, and the most there ever were at once.
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
    levels: std::ops::RangeInclusive<u8>,
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
        if !self.levels.contains(&request.id.level.get()) {
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

/// L20: upstream made a snapshot and a compaction of one big database at once and
/// ran out of memory.
#[tokio::test(start_paused = true)]
async fn one_database_is_never_compacted_and_snapshotted_at_once() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 5).unwrap();
    let gauge = std::sync::Arc::new(Gauge::default());
    let client = Gauged { inner: setup.client(), gauge: gauge.clone(), levels: 1..=9 };
    let options = StoreOptions { snapshot_interval: 5 * MINUTE, ..short_intervals() };
    let daemon = Daemon::start_over(&setup, std::sync::Arc::new(client), options, PausedClock::new());
    daemon.settle().await;
    for _ in 0..3 {
        let boundary = daemon.clock.elapsed() + before_boundary(&daemon.clock);
        for _ in 0..3 {
            scenario::commit(&app, 2).unwrap();
            daemon.db.sync().await.unwrap();
            pass(31 * SECOND).await;
        }
        // Levels 1 and 2 and the snapshot are due at the same moment, and somebody
        // asks for a snapshot besides.
        scenario::commit(&app, 2).unwrap();
        daemon.db.sync().await.unwrap();
        pass(boundary - daemon.clock.elapsed() + Duration::from_millis(50)).await;
        daemon.db.snapshot().await.unwrap();
        pass(10 * SECOND).await;
    }
    assert!(setup.level(9).len() >= 4, "{:?}", setup.level(9));
    assert!(setup.level(1).len() >= 3 && setup.level(2).len() >= 2, "{:?}", setup.level(2));
    assert_eq!(gauge.most(), 1);
    daemon.close().await;
}

/// Until the next five minutes are full.
fn before_boundary(clock: &PausedClock) -> Duration {
    let past = clock.elapsed().as_nanos() % (5 * MINUTE).as_nanos();
    5 * MINUTE - Duration::from_nanos(u64::try_from(past).unwrap())
}

/// L33: with its default of 24 hours for both, upstream's window had no length right
/// after each snapshot.
#[tokio::test(start_paused = true)]
async fn the_default_window_is_a_day_long_at_every_moment() {
    let setup = Setup::new();
    let app = setup.application();
    let clock = PausedClock::new();
    // Storing a snapshot takes a moment, and what expires is decided after it.
    let client = Gauged { inner: setup.client(), gauge: Default::default(), levels: 9..=9 };
    let daemon = Daemon::start_over(&setup, std::sync::Arc::new(client), StoreOptions::default(), clock.clone());
    let mut images = BTreeMap::new();
    for hour in 1..76 {
        scenario::commit(&app, 2).unwrap();
        images.insert(daemon.db.sync().await.unwrap(), read_image(&setup.db()).unwrap());
        // A little behind the boundary, where the snapshot of midnight is made.
        let boundary = HOUR * hour + 5 * SECOND;
        pass(boundary - clock.elapsed()).await;
        let inventory = Inventory::load(&*setup.client(), false).await.unwrap();
        let moment = litestream_replica::clock::Clock::now(&*clock) - jiff::SignedDuration::from_hours(24);
        if hour <= 24 {
            continue;
        }
        let plan = inventory.plan(Target::Timestamp(moment)).unwrap_or_else(|err| panic!("hour {hour}: {err}"));
        let behind = moment.duration_since(plan.timestamp());
        assert!(behind <= jiff::SignedDuration::from_mins(61), "hour {hour}: {behind}");
        if hour % 24 == 0 {
            images[&plan.txid()].assert_same(&setup.restored_at(plan.txid()).await, &format!("hour {hour}"));
        }
    }
    assert!(daemon.meter.snapshot().delete.count > 0, "something did expire");
    daemon.close().await;
}

/// L69, with the tasks of a running daemon: an upload round has a limit, and the
/// next one does not wait for `sync-interval`.
#[tokio::test(start_paused = true)]
async fn a_running_daemon_sends_a_backlog_without_waiting_between_rounds() {
    let setup = Setup::new();
    let app = setup.application();
    let store = litestream::Store::new(StoreOptions::default(), PausedClock::new());
    let replica =
        litestream::ReplicaOptions { max_sync_ltx_files: 2, sync_interval: 10 * MINUTE, ..Default::default() };
    let options = litestream::DbOptions { max_sync_wal_bytes: 8 << 10, ..litestream::DbOptions::new(setup.db()) };
    let db = store.add(options, setup.client(), replica).unwrap();
    store.start();
    pass(11 * MINUTE).await;
    let before = setup.level(0).len();
    let started = tokio::time::Instant::now();
    for _ in 0..40 {
        scenario::commit(&app, 20).unwrap();
    }
    while setup.level(0).len() < before + 10 {
        assert!(started.elapsed() < MINUTE, "{:?}", db.status());
        pass(SECOND).await;
    }
    support::close(&store).await;
    setup.assert_restores("after the backlog");
}

/// L18: a continuity that upstream thought lost cost a full image at level 0 after
/// restarts.
#[tokio::test(start_paused = true)]
async fn restarts_store_no_image_at_level_0() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 400).unwrap();
    let clock = PausedClock::at("2026-03-02T17:03:11Z");
    let daemon = Daemon::start(&setup, StoreOptions::default(), clock.clone());
    daemon.settle().await;
    daemon.close().await;
    let size = |level, file| std::fs::metadata(setup.path_of(level, file)).unwrap().len();
    let image = size(9, setup.level(9)[0]);
    for restart in 0..6 {
        scenario::commit(&app, 2).unwrap();
        if restart % 2 == 1 {
            scenario::checkpoint(&app, scenario::CheckpointMode::Truncate).unwrap();
        }
        let daemon = Daemon::start(&setup, StoreOptions::default(), clock.clone());
        daemon.settle().await;
        scenario::commit(&app, 2).unwrap();
        pass(2 * SECOND).await;
        daemon.close().await;
    }
    let files = setup.level(0);
    assert!(files.len() >= 12, "{files:?}");
    for &file in files.iter().filter(|file| file.0 > 1) {
        assert!(size(0, file) * 4 < image, "{file:?}: {} bytes beside an image of {image}", size(0, file));
    }
    assert_eq!(setup.level(9).len(), 1, "{:?}", setup.level(9));
    setup.assert_restores("after the restarts");
}

/// L6: upstream's snapshot monitor met a database without pages, logged an error and
/// came back a day later.
#[tokio::test(start_paused = true)]
async fn a_database_without_pages_is_waited_for_in_silence() {
    for exists in [false, true] {
        let (_listening, complaints) = warnings_here();
        let setup = Setup::new();
        if exists {
            std::fs::write(setup.db(), b"").unwrap();
        }
        let daemon = Daemon::start(&setup, StoreOptions::default(), PausedClock::new());
        pass(10 * MINUTE).await;
        assert_eq!(*complaints.lock().unwrap(), [""; 0], "exists: {exists}");
        assert_eq!(setup.level(9), []);
        let app = setup.application();
        scenario::commit(&app, 5).unwrap();
        pass(MINUTE).await;
        assert_eq!(setup.level(9).len(), 1, "a snapshot as soon as there is something; exists: {exists}");
        daemon.close().await;
        assert_eq!(*complaints.lock().unwrap(), [""; 0], "exists: {exists}");
    }
}

/// The one-shot run's retention: what no moment of the window needs goes, in the order
/// that keeps the rest whole, and nothing else.
#[tokio::test(start_paused = true)]
async fn retention_that_is_enforced_once_keeps_every_moment_of_the_window() {
    let setup = Setup::new();
    let app = setup.application();
    let clock = PausedClock::new();
    let options = StoreOptions { snapshot_retention: 24 * HOUR, ..StoreOptions::default() };
    let store = litestream::Store::new(options, clock.clone());
    let options = litestream::DbOptions::new(setup.db());
    let db = store.add(options, setup.client(), litestream::ReplicaOptions::default()).unwrap();
    let mut images = BTreeMap::new();
    for _ in 0..6 {
        scenario::commit(&app, 3).unwrap();
        store.once(true).await.unwrap();
        images.insert(db.status().replica_txid.unwrap(), read_image(&setup.db()).unwrap());
        pass(10 * HOUR).await;
    }
    let before = setup.level(9).len();
    store.enforce_retention().await.unwrap();
    let left = setup.level(9).len();
    assert!(left < before && left >= 3, "{left} of {before}");
    let inventory = Inventory::load(&*setup.client(), false).await.unwrap();
    let window = litestream_replica::clock::Clock::now(&*clock) - jiff::SignedDuration::from_hours(24);
    assert!(inventory.plan(Target::Timestamp(window)).is_ok(), "the oldest moment of the window");
    let mut compared = 0;
    for (txid, image) in &images {
        if inventory.plan(Target::Txid(*txid)).is_ok() {
            image.assert_same(&setup.restored_at(*txid).await, &format!("txid {txid}"));
            compared += 1;
        }
    }
    assert!(compared >= 3 && compared < images.len(), "{compared} of {}", images.len());
    store.enforce_retention().await.unwrap();
    assert_eq!(setup.level(9).len(), left, "nothing is left to do");
    support::close(&store).await;
}
