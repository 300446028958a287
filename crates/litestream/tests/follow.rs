//! A copy that is kept up to date: what it becomes, what readers of it see, and
//! what it refuses.
//!
//! Spec: store-and-restore §14, §20 L56–L61.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot be set up fails")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use jiff::Timestamp;
use litestream::follow::{FollowOptions, Follower, NoObserver, Severity, Trouble, restore_copy, txid_path};
use litestream_replica::clock::{Clock, ManualClock, SystemClock};
use litestream_replica::file::FileClient;
use litestream_replica::restore::{NoProgress, RestoreOptions};
use litestream_replica::{
    ByteStream, Error, ErrorKind, FileId, FileInfo, Level, ObjectInfo, ReplicaClient, Result, WriteRequest,
};
use litestream_testkit::image::read_image;
use litestream_testkit::scenario;
use ltx::{Checksum, Encoder, FileName, Header, PageSize, Pgno, Txid};
use rusqlite::{Connection, OpenFlags};
use support::{Setup, close};

/// Counts listings and fails them on demand.
struct Watched {
    inner: Arc<FileClient>,
    lists: AtomicUsize,
    fails: AtomicBool,
}

#[async_trait::async_trait]
impl ReplicaClient for Watched {
    fn kind(&self) -> &'static str {
        "watched"
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
        self.lists.fetch_add(1, Ordering::SeqCst);
        if self.fails.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Transient, "list failed"));
        }
        self.inner.list(level, seek, metadata).await
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> Result<ByteStream> {
        self.inner.open(id, offset, len).await
    }

    async fn list_objects(&self, folder: &str) -> Result<Vec<ObjectInfo>> {
        self.inner.list_objects(folder).await
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> Result<ByteStream> {
        self.inner.open_object(key, offset, len).await
    }

    async fn write(&self, request: WriteRequest) -> Result<FileInfo> {
        self.inner.write(request).await
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.inner.delete(files).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.inner.delete_all().await
    }
}

/// A source with its replica, and a copy of it.
struct Site {
    setup: Setup,
    app: Connection,
    client: Arc<Watched>,
}

impl Site {
    async fn new() -> Self {
        let setup = Setup::new();
        let app = setup.application();
        let client =
            Arc::new(Watched { inner: setup.client(), lists: AtomicUsize::new(0), fails: AtomicBool::new(false) });
        let site = Self { setup, app, client };
        site.commit(20).await;
        site
    }

    /// Commits some rows and replicates them.
    async fn commit(&self, count: u32) {
        scenario::commit(&self.app, count).unwrap();
        self.replicate().await;
    }

    async fn replicate(&self) {
        let store = self.setup.store();
        store.once(false).await.unwrap();
        close(&store).await;
    }

    fn copy(&self) -> PathBuf {
        self.setup.dir.path().join("copy.db")
    }

    /// Restores the copy and takes it up.
    async fn follow(&self) -> Follower {
        restore_copy(self.client.clone(), RestoreOptions::new(self.copy()), Arc::new(NoProgress)).await.unwrap();
        self.resume(false)
    }

    fn resume(&self, may_rebuild: bool) -> Follower {
        self.resume_by(may_rebuild, Arc::new(SystemClock))
    }

    fn resume_by(&self, may_rebuild: bool, clock: Arc<dyn Clock>) -> Follower {
        let options = FollowOptions { may_rebuild, ..FollowOptions::new(self.copy()) };
        Follower::new(self.client.clone(), options, clock, Arc::new(NoObserver)).unwrap()
    }

    /// Ticks until nothing is new.
    async fn catch_up(&self, follower: &mut Follower) -> usize {
        let mut count = 0;
        while follower.tick().await.unwrap().is_some() {
            count += 1;
            assert!(count < 100);
        }
        count
    }

    /// The copy equals the source in all that is not the copy's own business, it
    /// is sound, and its position is saved.
    #[track_caller]
    fn assert_same(&self, follower: &Follower, what: &str) {
        let source = read_image(&self.setup.db()).unwrap().bytes().to_vec();
        let copy = fs::read(self.copy()).unwrap();
        assert_eq!(source.len(), copy.len(), "{what}: length");
        let same = |at: usize| matches!(at, 18..20 | 24..28 | 92..96);
        let differs = (0..source.len()).find(|at| !same(*at) && source[*at] != copy[*at]);
        assert_eq!(differs, None, "{what}: first difference, page size {:?}", &copy[16..18]);
        assert_eq!(copy[18..20], [1, 1], "{what}: journal mode");
        assert_eq!(copy[24..28], copy[92..96], "{what}: change counters");
        let saved = fs::read_to_string(txid_path(&self.copy())).unwrap();
        assert_eq!(saved, format!("{}\n", follower.position()), "{what}: saved position");
        let left: Vec<_> = names(self.setup.dir.path())
            .into_iter()
            .filter(|name| name.starts_with("copy.db") && !matches!(name.as_str(), "copy.db" | "copy.db-txid"))
            .collect();
        assert_eq!(left, Vec::<String>::new(), "{what}: left beside the copy");
    }

    fn level(&self, level: u8) -> PathBuf {
        self.setup.replica().join(format!("ltx/{level}"))
    }

    /// Removes the files of a level for which `unwanted` holds.
    fn remove(&self, level: u8, unwanted: impl Fn(FileName) -> bool) {
        for name in names(&self.level(level)) {
            if unwanted(FileName::parse(&name).unwrap()) {
                fs::remove_file(self.level(level).join(name)).unwrap();
            }
        }
    }

    /// Stores a whole database as one file.
    fn store_whole(&self, db: &Path, level: u8, min: Txid, max: Txid) {
        let bytes = read_image(db).unwrap();
        let size = PageSize::new(u32::try_from(bytes.page_size()).unwrap()).unwrap();
        let header = Header::new(size, u32::try_from(bytes.page_count()).unwrap(), min, max, Timestamp::UNIX_EPOCH);
        let dir = self.level(level);
        fs::create_dir_all(&dir).unwrap();
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        for (number, page) in (1..).zip(bytes.bytes().chunks_exact(size.len())) {
            encoder.encode_page(Pgno::new(number).unwrap(), page).unwrap();
        }
        let (file, _) = encoder.finish(Checksum::NONE).unwrap();
        fs::write(dir.join(FileName { min, max }.to_string()), file).unwrap();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn refused(result: std::result::Result<Option<litestream::follow::Applied>, Trouble>, severity: Severity) -> String {
    let trouble = result.unwrap_err();
    assert_eq!(trouble.severity, severity, "{}", trouble.error);
    trouble.error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_follows_commits_and_equals_a_plain_restore() {
    let site = Site::new().await;
    let mut follower = site.follow().await;
    site.assert_same(&follower, "restored");
    assert_eq!(site.catch_up(&mut follower).await, 0);
    for round in 0..5 {
        site.commit(round * 7 + 1).await;
        assert_eq!(site.catch_up(&mut follower).await, 1);
        site.assert_same(&follower, &format!("round {round}"));
    }
}

/// L60, and pages beyond the end of a source that shrank.
#[tokio::test(flavor = "multi_thread")]
async fn l60_a_source_that_shrinks_and_grows_is_followed() {
    let site = Site::new().await;
    site.commit(300).await;
    let mut follower = site.follow().await;
    for sql in ["DELETE FROM event WHERE id > 20; VACUUM", "INSERT INTO event (body) SELECT randomblob(900) FROM event"]
    {
        site.app.execute_batch(sql).unwrap();
        site.replicate().await;
        site.catch_up(&mut follower).await;
        site.assert_same(&follower, sql);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l56_a_compacted_file_that_overlaps_the_position_is_applied() {
    let site = Site::new().await;
    site.commit(1).await;
    let mut follower = site.follow().await;
    site.catch_up(&mut follower).await;
    site.commit(5).await;
    site.commit(5).await;
    site.setup.merge_level_0_into_1();
    let merged = names(&site.level(1))[0].clone();
    assert!(FileName::parse(&merged).unwrap().min <= follower.position(), "overlaps");
    site.commit(1).await;
    let newest = FileName::parse(names(&site.level(0)).last().unwrap()).unwrap();
    site.remove(0, |name| name != newest);
    site.catch_up(&mut follower).await;
    assert_eq!(follower.position(), newest.max);
    site.assert_same(&follower, "bridged");
}

#[tokio::test(flavor = "multi_thread")]
async fn l57_an_empty_level_0_is_bridged_by_level_1() {
    let site = Site::new().await;
    let mut follower = site.follow().await;
    site.catch_up(&mut follower).await;
    site.commit(5).await;
    site.setup.merge_level_0_into_1();
    site.remove(0, |_| true);
    site.catch_up(&mut follower).await;
    site.assert_same(&follower, "bridged");
    // Level 0 stays empty: all levels are listed now and then, not each time.
    site.client.lists.store(0, Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(follower.tick().await.unwrap(), None);
    }
    assert!(site.client.lists.load(Ordering::SeqCst) <= 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn l58_a_failed_listing_is_reported_and_changes_nothing() {
    let site = Site::new().await;
    let mut follower = site.follow().await;
    site.catch_up(&mut follower).await;
    site.commit(3).await;
    let (before, position) = (fs::read(site.copy()).unwrap(), follower.position());
    site.client.fails.store(true, Ordering::SeqCst);
    assert_eq!(refused(follower.tick().await, Severity::Passing), "list failed");
    assert_eq!(follower.position(), position);
    assert!(fs::read(site.copy()).unwrap() == before);
    site.client.fails.store(false, Ordering::SeqCst);
    site.catch_up(&mut follower).await;
    site.assert_same(&follower, "afterwards");
}

#[tokio::test(flavor = "multi_thread")]
async fn l59_a_damaged_file_leaves_the_copy_unchanged() {
    let site = Site::new().await;
    let mut follower = site.follow().await;
    site.catch_up(&mut follower).await;
    let first = follower.position();
    site.commit(30).await;
    site.commit(30).await;
    let newest = site.level(0).join(names(&site.level(0)).last().unwrap());
    let good = fs::read(&newest).unwrap();
    // Every part of the file: header, pages, index, checksum.
    for offset in [5, 50, 130, 1_000, good.len() / 2, good.len() - 40, good.len() - 3] {
        let mut bad = good.clone();
        bad[offset] ^= 0x40;
        fs::write(&newest, &bad).unwrap();
        // What comes before the damage is applied, the rest reported each time.
        let _ = follower.tick().await;
        assert_eq!(follower.position(), first.next(), "byte {offset}");
        let before = fs::read(site.copy()).unwrap();
        let error = refused(follower.tick().await, Severity::Stuck);
        assert!(error.contains("ltx file 0/"), "byte {offset}: {error}");
        assert!(fs::read(site.copy()).unwrap() == before, "byte {offset}");
    }
    fs::write(&newest, &good).unwrap();
    site.catch_up(&mut follower).await;
    site.assert_same(&follower, "mended");
}

/// L61: a follower is nearly always ahead of the last snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn l61_a_copy_ahead_of_the_last_snapshot_is_resumed() {
    let site = Site::new().await;
    let mut follower = site.follow().await;
    for _ in 0..3 {
        site.commit(2).await;
        site.catch_up(&mut follower).await;
    }
    drop(follower);
    let mut follower = site.resume(false);
    assert_eq!(site.catch_up(&mut follower).await, 0);
    drop(follower);
    site.commit(2).await;
    let mut follower = site.resume(false);
    assert_eq!(site.catch_up(&mut follower).await, 1);
    site.assert_same(&follower, "resumed");
}

/// L61: only level 9 covers what comes next.
#[tokio::test(flavor = "multi_thread")]
async fn l61_a_gap_is_bridged_by_a_snapshot() {
    let site = Site::new().await;
    site.commit(200).await;
    let mut follower = site.follow().await;
    site.catch_up(&mut follower).await;
    for resumes in [false, true] {
        site.app.execute_batch("DELETE FROM event WHERE id % 2; VACUUM").unwrap();
        site.replicate().await;
        site.commit(3).await;
        let store = site.setup.store();
        store.once(true).await.unwrap();
        close(&store).await;
        site.commit(1).await;
        let newest = FileName::parse(names(&site.level(0)).last().unwrap()).unwrap();
        site.remove(0, |name| name != newest);
        if resumes {
            follower = site.resume(false);
        } else {
            // It may be a writer's order of uploads: a second look decides.
            assert_eq!(follower.tick().await.unwrap(), None);
        }
        assert_eq!(site.catch_up(&mut follower).await, 1);
        assert_eq!(follower.position(), newest.max);
        site.assert_same(&follower, "bridged");
    }
}

/// L61: SQLite in WAL mode leaves page 1 alone in most transactions.
#[tokio::test(flavor = "multi_thread")]
async fn l61_a_reader_that_stays_open_sees_every_update() {
    let site = Site::new().await;
    site.app.execute_batch("CREATE TABLE c (n); INSERT INTO c VALUES (0)").unwrap();
    site.replicate().await;
    let mut follower = site.follow().await;
    let reader = Connection::open_with_flags(site.copy(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    for n in 1..6 {
        site.app.execute("UPDATE c SET n = ?", [n]).unwrap();
        site.replicate().await;
        site.catch_up(&mut follower).await;
        let found: i64 = reader.query_row("SELECT n FROM c", [], |row| row.get(0)).unwrap();
        assert_eq!(found, n);
    }
    drop(reader);
    site.assert_same(&follower, "at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_follower_asks_for_one_listing_a_look() {
    let site = Site::new().await;
    let mut follower = site.follow().await;
    site.catch_up(&mut follower).await;
    site.client.lists.store(0, Ordering::SeqCst);
    for _ in 0..20 {
        assert_eq!(follower.tick().await.unwrap(), None);
    }
    assert_eq!(site.client.lists.load(Ordering::SeqCst), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_named_and_mended_by_the_next_snapshot() {
    let site = Site::new().await;
    let mut follower = site.follow().await;
    site.catch_up(&mut follower).await;
    let position = follower.position();
    site.commit(1).await;
    site.commit(1).await;
    site.remove(0, |name| name.min == position.next());
    let error = refused(follower.tick().await, Severity::Stuck);
    let missing = format!("transactions {} to {} are missing", position.next(), position.next());
    assert!(error.contains(&missing), "{error}");
    let error = refused(site.resume(false).tick().await, Severity::Final);
    assert!(error.starts_with("cannot resume follow mode: ") && error.contains(&missing), "{error}");
    let store = site.setup.store();
    store.once(true).await.unwrap();
    close(&store).await;
    // Needed twice before it is taken.
    follower.tick().await.unwrap();
    site.catch_up(&mut follower).await;
    site.assert_same(&follower, "mended");
}

/// The prefix was emptied and begun anew: the copy is ahead of everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_was_restarted_below_is_refused_or_made_anew() {
    let site = Site::new().await;
    for _ in 0..4 {
        site.commit(1).await;
    }
    let mut follower = site.follow().await;
    site.catch_up(&mut follower).await;
    fs::remove_dir_all(site.setup.replica()).unwrap();
    assert_eq!(refused(follower.tick().await, Severity::Passing), "the replica is empty");
    scenario::commit(&site.app, 3).unwrap();
    site.store_whole(&site.setup.db(), 9, Txid::FIRST, Txid::FIRST);
    let error = refused(follower.tick().await, Severity::Final);
    assert!(error.starts_with("cannot continue follow mode: saved TXID "), "{error}");
    let error = refused(site.resume(false).tick().await, Severity::Final);
    let copy = site.copy().display().to_string();
    assert!(error.ends_with(&format!("; delete {copy} and {copy}-txid to re-restore")), "{error}");
    assert!(error.contains("is ahead of the newest backup (max TXID 0000000000000001)"), "{error}");
    let reader = Connection::open_with_flags(site.copy(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let count = |db: &Connection| -> i64 { db.query_row("SELECT count(*) FROM event", [], |row| row.get(0)).unwrap() };
    let before = count(&reader);
    let mut follower = site.resume(true);
    assert!(follower.tick().await.unwrap().unwrap().is_rebuilt);
    assert_eq!(count(&reader), before + 3, "readers that stay open see the new database");
    drop(reader);
    site.assert_same(&follower, "made anew");
}

/// A restarted history that has passed the position is told by its content.
#[tokio::test(flavor = "multi_thread")]
async fn another_history_at_the_same_transaction_is_noticed() {
    let site = Site::new().await;
    let mut follower = site.follow().await;
    site.catch_up(&mut follower).await;
    let position = follower.position();
    site.app.execute_batch("UPDATE event SET body = 'other'").unwrap();
    site.store_whole(&site.setup.db(), 9, Txid::FIRST, position.next());
    site.store_whole(&site.setup.db(), 0, position, position);
    for result in [follower.tick().await, site.resume(false).tick().await] {
        let error = refused(result, Severity::Final);
        assert!(error.contains("the copy is not what the replica has at TXID"), "{error}");
    }
    let mut follower = site.resume(true);
    site.catch_up(&mut follower).await;
    site.assert_same(&follower, "made anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_to_the_copy_is_noticed() {
    let site = Site::new().await;
    let mut follower = site.follow().await;
    site.commit(1).await;
    site.catch_up(&mut follower).await;
    Connection::open(site.copy()).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    site.commit(1).await;
    let error = refused(follower.tick().await, Severity::Final);
    assert!(error.contains("somebody else has written to the copy"), "{error}");
    drop(follower);
    let mut follower = site.resume(true);
    site.catch_up(&mut follower).await;
    site.assert_same(&follower, "made anew");
    fs::remove_file(site.copy()).unwrap();
    site.commit(1).await;
    let error = follower.tick().await.unwrap_err().error.to_string();
    assert!(error.contains("the copy was removed or replaced"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_page_size_makes_the_copy_anew_under_its_readers() {
    let site = Site::new().await;
    let mut follower = site.follow().await;
    site.catch_up(&mut follower).await;
    let reader = Connection::open_with_flags(site.copy(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let count = |db: &Connection| -> i64 { db.query_row("SELECT count(*) FROM event", [], |row| row.get(0)).unwrap() };
    assert_eq!(count(&reader), 20);
    let (next, other) = (follower.position().next(), site.setup.dir.path().join("other.db"));
    for page_size in [512, 65_536, 1_024] {
        let db = Connection::open(&other).unwrap();
        db.execute_batch(&format!("PRAGMA page_size = {page_size}; CREATE TABLE event (id INTEGER PRIMARY KEY, body)"))
            .unwrap();
        db.execute("INSERT INTO event (body) VALUES (randomblob(?))", [page_size]).unwrap();
        drop(db);
        let next = Txid::new(next.get() + u64::from(page_size == 65_536) + 2 * u64::from(page_size == 1_024));
        site.store_whole(&other, 9, Txid::FIRST, next);
        site.store_whole(&other, 0, next, next);
        assert!(follower.tick().await.unwrap().unwrap().is_rebuilt);
        assert_eq!(follower.position(), next);
        assert_eq!(count(&reader), 1, "page size {page_size}");
        let check: String = reader.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        fs::remove_file(&other).unwrap();
    }
}

/// Killed between the commit and the renaming of the sidecar: the copy is ahead
/// of its saved position, and older pages must not come between newer ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_ahead_of_its_saved_position_goes_on_in_one_step() {
    let site = Site::new().await;
    let mut follower = site.follow().await;
    site.catch_up(&mut follower).await;
    let saved = follower.position();
    for _ in 0..3 {
        site.commit(40).await;
    }
    site.catch_up(&mut follower).await;
    let reached = follower.position();
    drop(follower);
    let sidecar = txid_path(&site.copy());
    fs::write(&sidecar, format!("{saved}\n")).unwrap();
    fs::write(format!("{}.tmp", sidecar.display()), format!("{reached}\n")).unwrap();
    let mut follower = site.resume(false);
    let applied = follower.tick().await.unwrap().unwrap();
    assert_eq!((applied.from, applied.to, applied.page_count), (saved, reached, 0));
    site.assert_same(&follower, "resumed");
    // Had the replica lost those transactions, there would be no way on.
    fs::write(&sidecar, format!("{saved}\n")).unwrap();
    fs::write(format!("{}.tmp", sidecar.display()), format!("{}\n", reached.next())).unwrap();
    let error = refused(site.resume(false).tick().await, Severity::Final);
    assert!(error.contains("the copy may stand at TXID"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_is_the_age_of_the_state_that_was_applied() {
    let site = Site::new().await;
    drop(site.follow().await);
    site.commit(1).await;
    let newest = site.level(0).join(names(&site.level(0)).last().unwrap());
    let captured = Header::parse(&fs::read(newest).unwrap()).unwrap().timestamp;
    let clock = Arc::new(ManualClock::new(captured.as_millisecond() + 2_500));
    let mut follower = site.resume_by(false, clock);
    let applied = follower.tick().await.unwrap().unwrap();
    assert_eq!((applied.timestamp, applied.lag.as_millis()), (captured, 2_500));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_saved_position_nothing_is_followed() {
    let site = Site::new().await;
    drop(site.follow().await);
    fs::remove_file(txid_path(&site.copy())).unwrap();
    let options = FollowOptions::new(site.copy());
    let refused = Follower::new(site.client.clone(), options, Arc::new(SystemClock), Arc::new(NoObserver));
    let error = refused.err().unwrap().to_string();
    assert!(error.starts_with("cannot resume follow mode: database exists but no -txid file found; delete"), "{error}");
}
