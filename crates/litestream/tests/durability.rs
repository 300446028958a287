//! What is in place when: files of the local state before they count, and the moment an
//! image stands for. What a loss of power does is the simulator's subject; here it is
//! enough that nothing counts before it is flushed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot be set up fails")]

mod support;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use litestream::{DbOptions, Disk, DiskLayer, DiskOp};
use litestream_testkit::scenario;
use support::{Setup, close};

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Write(PathBuf),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    SyncDir(PathBuf),
    Remove(PathBuf),
    Clear(PathBuf),
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Seen>>);

impl DiskLayer for Recorder {
    fn before(&self, op: &DiskOp<'_>) -> io::Result<()> {
        let owned = |path: &Path| path.to_owned();
        self.0.lock().unwrap().push(match op {
            DiskOp::Write { path, .. } => Seen::Write(owned(path)),
            DiskOp::Sync { path, .. } => Seen::Sync(owned(path)),
            DiskOp::Rename { from, to } => Seen::Rename(owned(from), owned(to)),
            DiskOp::SyncDir { path } => Seen::SyncDir(owned(path)),
            DiskOp::Remove { path } => Seen::Remove(owned(path)),
            DiskOp::SetLen { path, len: 0, .. } => Seen::Clear(owned(path)),
            _ => return Ok(()),
        });
        Ok(())
    }
}

/// A level-0 file is flushed before it gets its name, the name before the position
/// knows the file, and all of that before a sync is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_and_its_name_are_flushed_before_they_count() {
    let setup = Setup::new();
    let app = setup.application();
    let recorder = Arc::new(Recorder::default());
    let (store, db) =
        setup.store_with(DbOptions { disk: Disk::behind(recorder.clone()), ..DbOptions::new(setup.db()) });
    scenario::commit(&app, 20).unwrap();
    store.once(false).await.unwrap();
    let mut files = 0;
    for round in 0..5 {
        recorder.0.lock().unwrap().clear();
        scenario::commit(&app, 3).unwrap();
        db.sync().await.unwrap();
        let seen = std::mem::take(&mut *recorder.0.lock().unwrap());
        let at = |wanted: &Seen| seen.iter().position(|one| one == wanted);
        let last = |wanted: &Seen| seen.iter().rposition(|one| one == wanted);
        for (i, one) in seen.iter().enumerate() {
            let Seen::Rename(from, to) = one else { continue };
            if to.extension().is_none_or(|extension| extension != "ltx") {
                continue;
            }
            files += 1;
            let written = last(&Seen::Write(from.clone())).unwrap();
            let flushed = last(&Seen::Sync(from.clone()));
            assert!(flushed.is_some_and(|at| written < at && at < i), "round {round}, not flushed: {seen:?}");
            let named = at(&Seen::SyncDir(to.parent().unwrap().to_owned()));
            let known = last(&Seen::Write(setup.meta().join("position"))).unwrap();
            assert!(named.is_some_and(|at| i < at && at < known), "round {round}, name not flushed: {seen:?}");
        }
    }
    assert_eq!(files, 5, "one file a round");
    close(&store).await;
}

fn keep_state(setup: &Setup) -> PathBuf {
    let kept = setup.dir.path().join("kept");
    let copied = std::process::Command::new("cp").arg("-a").args([setup.meta(), kept.clone()]).status().unwrap();
    assert!(copied.success());
    kept
}

fn put_back_state(setup: &Setup, kept: &Path) {
    std::fs::remove_dir_all(setup.meta()).unwrap();
    std::fs::rename(kept, setup.meta()).unwrap();
}

/// After a start the local state may be older than the replica, and number what it
/// captures as the replica's newest. Seed 743 of the simulation.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_gives_no_transaction_of_the_replica_another_state() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 20).unwrap();
    setup.store().once(false).await.unwrap();
    let kept = keep_state(&setup);
    scenario::commit(&app, 3).unwrap();
    let (store, db) = setup.store_with(DbOptions::new(setup.db()));
    let newest = db.sync().await.unwrap();
    let then = setup.restored_at(newest).await;
    drop((store, db));
    put_back_state(&setup, &kept);
    scenario::commit(&app, 3).unwrap();
    let (store, db) = setup.store_with(DbOptions::new(setup.db()));
    assert_eq!(db.sync_local().await.unwrap(), Some(newest), "the same number");
    let snapshot = db.snapshot().await.unwrap();
    assert!(snapshot > newest);
    then.assert_same(&setup.restored_at(newest).await, "a transaction that was restored before");
    litestream_testkit::image::read_image(&setup.db())
        .unwrap()
        .assert_same(&setup.restored_at(snapshot).await, "the snapshot");
    close(&store).await;
}

/// An image takes the number of a local file that was never sent. If that file came back
/// after a loss of power, the page sums of the image would be taken for its own. Seed 918
/// of the simulation.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_an_image_replaces_are_gone_for_good_before_its_page_sums_begin() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 20).unwrap();
    setup.store().once(false).await.unwrap();
    // The local state is set back to an older one; the replica is not.
    let kept = keep_state(&setup);
    for _ in 0..3 {
        scenario::commit(&app, 3).unwrap();
        setup.store().once(false).await.unwrap();
    }
    put_back_state(&setup, &kept);
    let recorder = Arc::new(Recorder::default());
    let disk = Disk::behind(recorder.clone());
    let (store, _) = setup.store_with(DbOptions { disk, ..DbOptions::new(setup.db()) });
    store.once(false).await.unwrap();
    let seen = std::mem::take(&mut *recorder.0.lock().unwrap());
    let is_file = |one: &Seen| matches!(one, Seen::Remove(path) if path.extension().is_some_and(|kind| kind == "ltx"));
    let removed = seen.iter().position(is_file).unwrap_or_else(|| panic!("nothing was removed: {seen:?}"));
    let after = |wanted: Seen| seen.iter().skip(removed).position(|one| *one == wanted);
    let begun = after(Seen::Clear(setup.meta().join("page-sums"))).unwrap();
    let flushed = after(Seen::SyncDir(setup.meta().join("ltx/0")));
    assert!(flushed.is_some_and(|at| at < begun), "the deletions are not flushed first: {seen:?}");
    assert_eq!(seen.iter().skip(removed + begun).find(|one| is_file(one)), None, "a file goes later");
    close(&store).await;
}

/// Lets the application commit right after the moment of an image was chosen, while what
/// was committed before is written to its file.
struct CommitsAmid {
    db: PathBuf,
    is_armed: AtomicBool,
}

impl DiskLayer for CommitsAmid {
    fn before(&self, op: &DiskOp<'_>) -> io::Result<()> {
        if let DiskOp::Open { path, .. } = op
            && path.extension().is_some_and(|extension| extension == "tmp")
            && self.is_armed.swap(false, Ordering::SeqCst)
        {
            scenario::commit(&rusqlite::Connection::open(&self.db).unwrap(), 2).unwrap();
        }
        Ok(())
    }
}

/// L39: commits go on while an image is made; it stands for the transaction it holds,
/// and what came later is applied on top.
#[tokio::test(flavor = "multi_thread")]
async fn l39_an_image_is_labelled_with_the_transaction_it_holds() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 20).unwrap();
    let amid = Arc::new(CommitsAmid { db: setup.db(), is_armed: AtomicBool::new(false) });
    let (store, db) = setup.store_with(DbOptions { disk: Disk::behind(amid.clone()), ..DbOptions::new(setup.db()) });
    store.once(false).await.unwrap();
    scenario::commit(&app, 3).unwrap();
    let then = litestream_testkit::image::read_image(&setup.db()).unwrap();
    amid.is_armed.store(true, Ordering::SeqCst);
    let txid = db.snapshot().await.unwrap();
    assert!(!amid.is_armed.load(Ordering::SeqCst), "nobody committed in the middle");
    then.assert_same(&setup.restored_at(txid).await, "the image");
    db.sync().await.unwrap();
    setup.assert_restores("the image and what came later");
    close(&store).await;
}

/// Lets the application begin its log anew, over all frames it had, while pages are read
/// from them.
struct OverwritesAmid(PathBuf, AtomicBool);

impl DiskLayer for OverwritesAmid {
    fn before(&self, op: &DiskOp<'_>) -> io::Result<()> {
        if let DiskOp::Open { path, .. } = op
            && path.extension().is_some_and(|extension| extension == "tmp")
            && self.1.swap(false, Ordering::SeqCst)
        {
            let app = rusqlite::Connection::open(&self.0).unwrap();
            app.execute_batch("INSERT INTO event (body) VALUES (zeroblob(4000000))").unwrap();
        }
        Ok(())
    }
}

/// Runs once over a log that was copied to its end, so that the first pin does not keep
/// the application from starting it over.
async fn run_while_the_log_is_overwritten(setup: &Setup) {
    let amid = Arc::new(OverwritesAmid(setup.db(), AtomicBool::new(true)));
    let (store, _) = setup.store_with(DbOptions { disk: Disk::behind(amid.clone()), ..DbOptions::new(setup.db()) });
    let before = setup.wal_salts();
    store.once(false).await.unwrap();
    assert!(!amid.1.load(Ordering::SeqCst), "nobody wrote in the middle");
    assert_ne!(setup.wal_salts(), before, "the log did not start over");
    store.once(false).await.unwrap();
    setup.assert_restores("pages whose frames were overwritten");
    close(&store).await;
}

/// Seed 2500 of the simulation.
#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_overwritten_while_they_are_read_are_not_believed() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 200).unwrap();
    let store = setup.store();
    store.once(false).await.unwrap();
    close(&store).await;
    app.execute_batch("UPDATE event SET body = randomblob(60) WHERE id IN (20, 100, 180)").unwrap();
    scenario::checkpoint(&app, scenario::CheckpointMode::Full).unwrap();
    run_while_the_log_is_overwritten(&setup).await;
}

/// The first file behind an image has the page of the last frame.
#[tokio::test(flavor = "multi_thread")]
async fn a_last_frame_that_is_overwritten_while_it_is_read_is_not_believed() {
    let setup = Setup::new();
    let app = setup.application();
    scenario::commit(&app, 200).unwrap();
    app.execute_batch("UPDATE event SET body = randomblob(60) WHERE id = 20").unwrap();
    scenario::checkpoint(&app, scenario::CheckpointMode::Full).unwrap();
    run_while_the_log_is_overwritten(&setup).await;
}

/// The page sums as they are on the medium: a flush that fails loses what it was to make
/// durable, and the next one succeeds without it.
#[derive(Default)]
struct Medium(Mutex<Flushes>);

#[derive(Default)]
struct Flushes {
    medium: Vec<u8>,
    unflushed: Vec<(usize, Vec<u8>)>,
    fails_next: bool,
    failed: u32,
    /// Flushes since, each with whether the medium then held what the file shows.
    since: Vec<bool>,
}

impl DiskLayer for Medium {
    fn before(&self, op: &DiskOp<'_>) -> io::Result<()> {
        let mut seen = self.0.lock().unwrap();
        match op {
            DiskOp::Write { path, offset, bytes, .. } if path.ends_with("page-sums") => {
                seen.unflushed.push((usize::try_from(*offset).unwrap(), bytes.to_vec()));
            }
            DiskOp::SetLen { path, len, .. } if path.ends_with("page-sums") => {
                let len = usize::try_from(*len).unwrap();
                seen.medium.resize(len, 0);
            }
            DiskOp::Sync { path, file } if path.ends_with("page-sums") => {
                let unflushed = std::mem::take(&mut seen.unflushed);
                if std::mem::take(&mut seen.fails_next) {
                    seen.failed += 1;
                    return Err(io::Error::from_raw_os_error(5));
                }
                for (offset, bytes) in unflushed {
                    let end = offset + bytes.len();
                    let len = seen.medium.len().max(end);
                    seen.medium.resize(len, 0);
                    seen.medium[offset..end].copy_from_slice(&bytes);
                }
                let mut shown = vec![0; usize::try_from(file.metadata()?.len()).unwrap()];
                file.read_exact_at(&mut shown, 0)?;
                let is_whole = shown == seen.medium;
                if seen.failed > 0 {
                    seen.since.push(is_whole);
                } else {
                    assert!(is_whole, "the model of the medium is wrong");
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// After a failed flush the table in memory is not stamped as whole: what the flush lost
/// is written again first.
#[tokio::test(flavor = "multi_thread")]
async fn page_sums_that_a_failed_flush_lost_are_written_again_before_they_are_stamped() {
    let setup = Setup::new();
    let app = setup.application();
    let medium = Arc::new(Medium::default());
    // Sent files go at once, and before them the sums are made durable.
    let disk = Disk::behind(medium.clone());
    let (store, db) = setup.store_with(DbOptions { disk, max_local_bytes: 1, ..DbOptions::new(setup.db()) });
    // Each on pages of its own, so that no later commit makes up for a lost sum.
    let commit = || app.execute("INSERT INTO t (x) VALUES (randomblob(20000))", []).unwrap();
    commit();
    store.once(false).await.unwrap();
    let mut rounds = 0;
    while medium.0.lock().unwrap().since.len() < 2 {
        medium.0.lock().unwrap().fails_next |= rounds == 4;
        commit();
        // The database is opened anew after the failure, by the next pass.
        let failed_before = medium.0.lock().unwrap().failed;
        let result = db.sync().await;
        assert!(result.is_ok() || medium.0.lock().unwrap().failed > failed_before, "{result:?}");
        rounds += 1;
        assert!(rounds < 50, "the sums are never made durable again");
    }
    {
        let seen = medium.0.lock().unwrap();
        assert_eq!(seen.failed, 1);
        assert!(seen.since.iter().all(|is_whole| *is_whole), "stamped without what was lost: {:?}", seen.since);
    }
    setup.assert_restores("after a failed flush");
    close(&store).await;
}
