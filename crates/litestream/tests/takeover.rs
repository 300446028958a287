//! Local state that is not what we left: without a record of where capture stood, without
//! page sums, with another page size. What the log and the files prove is continued; the
//! rest is compared, or begun anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use litestream::{DbOptions, Disk, DiskLayer, DiskOp, ErrorKind};
use litestream_testkit::scenario::{self, CheckpointMode};
use ltx::Txid;
use support::{Setup, close, warnings};

/// A database whose history is an image and some files behind it, and an application that
/// keeps its WAL.
async fn replicated() -> (Setup, rusqlite::Connection) {
    warnings();
    let setup = Setup::new();
    let app = scenario::quiet_connection(&setup.db()).unwrap();
    scenario::commit(&app, 300).unwrap();
    for _ in 0..3 {
        run_once(&setup).await;
        scenario::commit(&app, 2).unwrap();
    }
    run_once(&setup).await;
    (setup, app)
}

async fn run_once(setup: &Setup) -> Txid {
    let (store, db) = setup.store_with(DbOptions::new(setup.db()));
    let txid = db.sync().await.unwrap();
    close(&store).await;
    txid
}

/// Files of the replica that hold every page of the database, at whatever level.
fn images(setup: &Setup) -> usize {
    let is_whole = |path: &Path| {
        let mut decoder = ltx::Decoder::new(io::BufReader::new(std::fs::File::open(path).unwrap())).unwrap();
        let mut page = vec![0; decoder.header().page_size.len()];
        let mut pages = 0;
        while decoder.next_page(&mut page).unwrap().is_some() {
            pages += 1;
        }
        pages == decoder.header().commit
    };
    let files = [0, 9].into_iter().flat_map(|level| setup.level(level).into_iter().map(move |file| (level, file)));
    files.filter(|(level, file)| is_whole(&setup.path_of(*level, *file))).count()
}

fn newest(setup: &Setup) -> Txid {
    litestream::local_txid(&setup.meta()).unwrap().unwrap()
}

fn lose(setup: &Setup, side_file: &str) {
    std::fs::remove_file(setup.meta().join(side_file)).unwrap();
}

fn was_told(setup: &Setup, what: &str) -> bool {
    let path = setup.db().display().to_string();
    warnings().lock().unwrap().iter().any(|line| line.contains(what) && line.contains(&path))
}

/// The log proves what comes after the newest file, but not that whoever wrote it had
/// captured everything before: all pages are compared, which is no new transaction when
/// none differs, and no image.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_without_a_record_is_continued_after_a_comparison() {
    let (setup, app) = replicated().await;
    let (txid, images_before) = (newest(&setup), images(&setup));
    lose(&setup, "position");
    assert_eq!(run_once(&setup).await, txid, "nothing was committed");
    assert!(!was_told(&setup, "captured the pages that differ"));

    lose(&setup, "position");
    scenario::commit(&app, 3).unwrap();
    assert_eq!(run_once(&setup).await, txid.next());
    setup.assert_restores("after commits that nobody recorded");
    assert!(was_told(&setup, "captured the pages that differ"), "{:?}", warnings());

    // The same, and what the newest file stands for has left the log.
    lose(&setup, "position");
    scenario::checkpoint(&app, CheckpointMode::Truncate).unwrap();
    scenario::commit(&app, 3).unwrap();
    assert_eq!(run_once(&setup).await, txid.next().next());
    setup.assert_restores("after a log that nobody recorded");
    assert_eq!(images(&setup), images_before);
    setup.assert_level_0_is_dense();
}

/// A comparison over an empty log leaves a file that stands for no frame of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_frame_and_without_a_record_is_continued_too() {
    let (setup, app) = replicated().await;
    let (txid, images_before) = (newest(&setup), images(&setup));
    scenario::commit(&app, 3).unwrap();
    scenario::checkpoint(&app, CheckpointMode::Truncate).unwrap();
    assert_eq!(run_once(&setup).await, txid.next(), "compared");
    lose(&setup, "position");
    scenario::commit(&app, 3).unwrap();
    assert_eq!(run_once(&setup).await, txid.next().next());
    setup.assert_restores("behind an empty log");
    assert_eq!(images(&setup), images_before);
}

/// Nothing can be compared then, and nothing tells whether the history is complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_without_record_and_page_sums_is_not_continued_with_deltas() {
    let (setup, app) = replicated().await;
    let (txid, images_before) = (newest(&setup), images(&setup));
    lose(&setup, "position");
    lose(&setup, "page-sums");
    scenario::commit(&app, 3).unwrap();
    let next = run_once(&setup).await;
    assert!(next > txid, "{next} {txid}");
    assert_eq!(images(&setup), images_before + 1);
    setup.assert_restores("another program's history");
    scenario::commit(&app, 1).unwrap();
    assert_eq!(run_once(&setup).await, next.next(), "from there it goes on as usual");
    assert_eq!(images(&setup), images_before + 1);
    setup.assert_restores("another program's history, continued");
}

/// The place in the log is recorded and proven: the sums are only made again.
#[tokio::test(flavor = "multi_thread")]
async fn page_sums_that_are_lost_are_made_again_as_long_as_the_log_proves_the_rest() {
    let (setup, app) = replicated().await;
    let (txid, images_before) = (newest(&setup), images(&setup));
    lose(&setup, "page-sums");
    scenario::commit(&app, 3).unwrap();
    assert_eq!(run_once(&setup).await, txid.next());
    assert_eq!(images(&setup), images_before);
    setup.assert_restores("without page sums");
    // They are those of the whole database: a comparison finds what differs and no more.
    scenario::commit(&app, 3).unwrap();
    scenario::checkpoint(&app, CheckpointMode::Truncate).unwrap();
    assert_eq!(run_once(&setup).await, txid.next().next());
    assert_eq!(images(&setup), images_before);
    setup.assert_restores("compared with new page sums");

    lose(&setup, "page-sums");
    scenario::commit(&app, 3).unwrap();
    scenario::checkpoint(&app, CheckpointMode::Truncate).unwrap();
    scenario::commit(&app, 3).unwrap();
    run_once(&setup).await;
    assert!(was_told(&setup, "continuity lost and page sums missing"), "{:?}", warnings());
    assert_eq!(images(&setup), images_before + 1);
    setup.assert_restores("without page sums and without proof");
}

/// The newest file alone tells of the page size then.
#[tokio::test(flavor = "multi_thread")]
async fn another_page_size_is_refused_also_without_a_record() {
    let (setup, app) = replicated().await;
    let before = setup.restored();
    drop(app);
    scenario::change_page_size(&setup.db(), 8192).unwrap();
    lose(&setup, "position");
    let (store, db) = setup.store_with(DbOptions::new(setup.db()));
    let refused = db.sync().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Setup);
    assert!(refused.to_string().contains("page size changed from 4096 to 8192"), "{refused}");
    before.assert_same(&setup.restored(), "the old history");
    drop((store, db));
    scenario::change_page_size(&setup.db(), 4096).unwrap();
    run_once(&setup).await;
    setup.assert_restores("after the page size was changed back");
}

/// A damaged file is put aside. One that cannot be read is not: it may be readable again.
#[tokio::test(flavor = "multi_thread")]
async fn a_newest_file_that_cannot_be_read_is_an_error_and_stays_where_it_is() {
    let (setup, app) = replicated().await;
    let txid = newest(&setup);
    let unreadable = setup.meta().join(format!("ltx/0/{}-{}.ltx", txid.next(), txid.next()));
    std::fs::create_dir(&unreadable).unwrap();
    scenario::commit(&app, 1).unwrap();
    let (store, db) = setup.store_with(DbOptions::new(setup.db()));
    let refused = db.sync().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Transient);
    assert!(refused.to_string().contains(&format!("{}.ltx", txid.next())), "{refused}");
    assert!(unreadable.is_dir());
    std::fs::remove_dir(&unreadable).unwrap();
    assert_eq!(db.sync().await.unwrap(), txid.next());
    setup.assert_restores("after it could be read again");
    close(&store).await;
}

/// Fails the next operation of a kind.
struct FailsOnce {
    is_due: AtomicBool,
    fails: fn(&DiskOp<'_>) -> bool,
}

impl FailsOnce {
    fn new(fails: fn(&DiskOp<'_>) -> bool) -> Arc<Self> {
        Arc::new(Self { is_due: true.into(), fails })
    }

    fn has_failed(&self) -> bool {
        !self.is_due.load(Ordering::SeqCst)
    }
}

impl DiskLayer for FailsOnce {
    fn before(&self, op: &DiskOp<'_>) -> io::Result<()> {
        if (self.fails)(op) && self.is_due.swap(false, Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(())
    }
}

/// The first pass fails, and a snapshot comes before the next one: that nothing is known
/// yet is no reason to begin anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_could_not_be_opened_is_not_taken_for_one_without_history() {
    let (setup, app) = replicated().await;
    let images_before = images(&setup);
    scenario::commit(&app, 2).unwrap();
    let layer = FailsOnce::new(|op| matches!(op, DiskOp::Open { path, .. } if path.ends_with("position")));
    let (store, db) = setup.store_with(DbOptions { disk: Disk::behind(layer.clone()), ..DbOptions::new(setup.db()) });
    let failed = db.sync_local().await.unwrap_err();
    assert!(layer.has_failed(), "nobody opened the position: {failed}");
    let refused = db.snapshot().await.unwrap_err();
    assert!(refused.to_string().contains("database is not open"), "{refused}");
    let replica = setup.replica().display().to_string();
    let said: Vec<String> = warnings().lock().unwrap().iter().filter(|line| line.contains(&replica)).cloned().collect();
    assert_eq!(said, Vec::<String>::new());
    db.sync().await.unwrap();
    assert_eq!(images(&setup), images_before);
    setup.assert_restores("opened at the second attempt");
    close(&store).await;
}

/// After a crash the page sums are older than the position, and are brought up to it from
/// the local files. When that fails half way, the next attempt begins anew.
#[tokio::test(flavor = "multi_thread")]
async fn page_sums_that_could_not_be_brought_up_to_date_are_tried_again() {
    let (setup, app) = replicated().await;
    let images_before = images(&setup);
    {
        let (store, db) = setup.store_with(DbOptions::new(setup.db()));
        for _ in 0..3 {
            scenario::commit(&app, 2).unwrap();
            db.sync().await.unwrap();
        }
        drop((store, db));
    }
    let txid = newest(&setup);
    let layer = FailsOnce::new(|op| matches!(op, DiskOp::Write { path, .. } if path.ends_with("page-sums")));
    let (store, db) = setup.store_with(DbOptions { disk: Disk::behind(layer.clone()), ..DbOptions::new(setup.db()) });
    let failed = db.sync().await.unwrap_err();
    assert!(layer.has_failed(), "nobody wrote page sums: {failed}");
    assert_eq!(db.sync().await.unwrap(), txid);
    // They are right: what nobody captured is found by comparing with them.
    close(&store).await;
    scenario::commit(&app, 3).unwrap();
    scenario::checkpoint(&app, CheckpointMode::Truncate).unwrap();
    assert_eq!(run_once(&setup).await, txid.next());
    assert_eq!(images(&setup), images_before);
    setup.assert_restores("after the second attempt");
}
