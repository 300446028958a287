//! What the tests of this crate share: a database, a file replica, a store.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot be set up fails")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use litestream::{Database, DbOptions, ReplicaOptions, Store, StoreOptions};
use litestream_replica::clock::SystemClock;
use litestream_replica::file::{FileClient, FileOptions};
use litestream_replica::plan::Target;
use litestream_replica::restore::{NoProgress, RestoreOptions, restore};
use litestream_testkit::image::{Image, read_image};
use litestream_testkit::upstream;
use tokio_util::sync::CancellationToken;

/// A temporary directory with a database and its replica.
pub struct Setup {
    pub dir: tempfile::TempDir,
}

impl Setup {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn db(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    pub fn replica(&self) -> PathBuf {
        self.dir.path().join("replica")
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.replica().display())
    }

    pub fn client(&self) -> Arc<FileClient> {
        Arc::new(FileClient::new(FileOptions::new(self.replica())).unwrap())
    }

    pub fn store(&self) -> Store {
        self.store_with(DbOptions::new(self.db())).0
    }

    pub fn store_with(&self, options: DbOptions) -> (Store, Arc<Database>) {
        let store = Store::new(StoreOptions::default(), Arc::new(SystemClock));
        let db = store.add(options, self.client(), ReplicaOptions::default()).unwrap();
        (store, db)
    }

    pub fn application(&self) -> rusqlite::Connection {
        let db = rusqlite::Connection::open(self.db()).unwrap();
        db.busy_timeout(Duration::from_secs(10)).unwrap();
        db.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, x)")
            .unwrap();
        db
    }

    /// What upstream restores from the replica.
    pub fn restored(&self) -> Image {
        let output = self.dir.path().join("restored.db");
        if output.exists() {
            std::fs::remove_file(&output).unwrap();
        }
        upstream::litestream().restore(&self.url(), &output).unwrap().success().unwrap();
        Image::of_closed_file(&output).unwrap()
    }

    pub fn assert_restores(&self, what: &str) {
        read_image(&self.db()).unwrap().assert_same(&self.restored(), what);
    }

    pub fn l0_count(&self) -> usize {
        count(&self.replica().join("ltx/0"))
    }
}

pub fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

pub async fn close(store: &Store) {
    let report = store.close(&CancellationToken::new()).await;
    assert!(report.unsent.is_empty(), "{:?}", report.unsent);
}

impl Setup {
    /// What our own restore makes of the replica at one transaction.
    pub async fn restored_at(&self, txid: ltx::Txid) -> Image {
        let output = self.dir.path().join(format!("restored-{txid}.db"));
        let options = RestoreOptions { target: Target::Txid(txid), ..RestoreOptions::new(&output) };
        let restored = restore(self.client(), options, Arc::new(NoProgress)).await.unwrap();
        assert_eq!(restored.txid, txid);
        let image = Image::of_closed_file(&output).unwrap();
        std::fs::remove_file(&output).unwrap();
        image
    }
}

impl Setup {
    pub fn meta(&self) -> PathBuf {
        litestream::meta_path(&self.db())
    }

    /// Salts in the header of the WAL.
    pub fn wal_salts(&self) -> Vec<u8> {
        let wal = std::fs::read(format!("{}-wal", self.db().display())).unwrap();
        wal.get(16..24).unwrap().to_vec()
    }

    pub fn wal_len(&self) -> u64 {
        std::fs::metadata(self.dir.path().join("app.db-wal")).unwrap().len()
    }

    /// Does what compaction does: one level-1 file for all of level 0.
    pub fn merge_level_0_into_1(&self) {
        let mut paths: Vec<_> =
            std::fs::read_dir(self.replica().join("ltx/0")).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let name = |path: &Path| ltx::FileName::parse(path.file_name().unwrap().to_str().unwrap()).unwrap();
        let merged = ltx::FileName { min: name(&paths[0]).min, max: name(paths.last().unwrap()).max };
        let level_1 = self.replica().join("ltx/1");
        std::fs::create_dir_all(&level_1).unwrap();
        let inputs = paths.iter().map(|path| std::fs::File::open(path).unwrap()).collect();
        ltx::merge(inputs, std::fs::File::create(level_1.join(merged.to_string())).unwrap()).unwrap();
    }
}

impl Setup {
    /// The level-0 files of the replica follow each other without a hole.
    pub fn assert_level_0_is_dense(&self) {
        let mut txids: Vec<u64> = std::fs::read_dir(self.replica().join("ltx/0"))
            .unwrap()
            .map(|entry| ltx::FileName::parse(entry.unwrap().file_name().to_str().unwrap()).unwrap().max.get())
            .collect();
        txids.sort_unstable();
        let first = txids[0];
        assert!(txids.iter().copied().eq(first..first + txids.len() as u64), "a hole in {txids:?}");
    }
}

/// A wall clock that follows the runtime's paused time: hours pass in seconds.
pub struct PausedClock {
    start: jiff::Timestamp,
    origin: tokio::time::Instant,
}

impl PausedClock {
    /// Stands at 2026-03-02T00:00:00Z, a boundary of every usual interval.
    pub fn new() -> Arc<Self> {
        Self::at("2026-03-02T00:00:00Z")
    }

    pub fn at(start: &str) -> Arc<Self> {
        Arc::new(Self { start: start.parse().unwrap(), origin: tokio::time::Instant::now() })
    }

    pub fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }
}

impl litestream_replica::clock::Clock for PausedClock {
    fn now(&self) -> jiff::Timestamp {
        self.start + jiff::SignedDuration::try_from(self.origin.elapsed()).unwrap()
    }
}

/// A running daemon over one database, with everything it asks of the store counted.
pub struct Daemon {
    pub store: Store,
    pub db: Arc<Database>,
    pub meter: Arc<litestream_replica::metered::Metered>,
    pub clock: Arc<PausedClock>,
}

impl Daemon {
    pub fn start(setup: &Setup, options: StoreOptions, clock: Arc<PausedClock>) -> Self {
        Self::start_over(setup, setup.client(), options, clock)
    }

    pub fn start_over(
        setup: &Setup,
        client: Arc<dyn litestream_replica::ReplicaClient>,
        options: StoreOptions,
        clock: Arc<PausedClock>,
    ) -> Self {
        let meter = Arc::new(litestream_replica::metered::Metered::new(client));
        let store = Store::new(options, clock.clone());
        let db = store.add(DbOptions::new(setup.db()), meter.clone(), ReplicaOptions::default()).unwrap();
        store.start();
        Self { store, db, meter, clock }
    }

    /// Waits until everything committed is in the replica.
    pub async fn settle(&self) {
        for _ in 0..600 {
            let status = self.db.status();
            if status.txid.is_some() && status.txid == status.replica_txid && status.upload_error.is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("never settles: {:?}", self.db.status());
    }

    pub fn requests(&self) -> u64 {
        self.meter.snapshot().operations().iter().map(|(_, counts)| counts.count + counts.errors).sum()
    }

    pub async fn close(self) {
        close(&self.store).await;
    }
}

/// Lets simulated time pass.
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);

impl Setup {
    /// The files of one level of the replica, as `(min, max)`, ascending.
    pub fn level(&self, level: u8) -> Vec<(u64, u64)> {
        let dir = self.replica().join(format!("ltx/{level}"));
        let mut files: Vec<(u64, u64)> = std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| ltx::FileName::parse(entry.unwrap().file_name().to_str().unwrap()))
            .map(|name| (name.min.get(), name.max.get()))
            .collect();
        files.sort_unstable();
        files
    }

    pub fn path_of(&self, level: u8, (min, max): (u64, u64)) -> PathBuf {
        let name = ltx::FileName { min: ltx::Txid::new(min), max: ltx::Txid::new(max) };
        self.replica().join(format!("ltx/{level}/{name}"))
    }
}

/// Lines of warnings and errors.
pub type Lines = Arc<std::sync::Mutex<Vec<String>>>;

/// Keeps what it is told of.
struct Collector(Lines);

/// The warnings and errors of all tests of this process so far, from the first call on.
pub fn warnings() -> &'static Lines {
    static LINES: std::sync::LazyLock<Lines> = std::sync::LazyLock::new(|| {
        let lines = Lines::default();
        tracing::subscriber::set_global_default(Collector(lines.clone())).unwrap();
        lines
    });
    &LINES
}

/// Those of this thread alone, until the guard is dropped.
pub fn warnings_here() -> (tracing::subscriber::DefaultGuard, Lines) {
    let lines = Lines::default();
    (tracing::subscriber::set_default(Collector(lines.clone())), lines)
}

impl tracing::Subscriber for Collector {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
