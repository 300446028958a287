//! Large restores that were interrupted go on where they stopped, whatever
//! happened to their leftovers, and give the right database or none.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use litestream_replica::{ErrorKind, RestoreOptions};

use crate::store::Store;
use crate::world::{World, assert_same_image, names, restore_to};

/// A snapshot of several chunks, and small changes over it.
fn world() -> World {
    let mut world = World::new(4096, 61);
    world.commit(5000, []);
    world.commit(5000, [3, 2500]);
    world.commit(5000, [1, 4999]);
    world
}

fn from_zero(options: &mut RestoreOptions) {
    options.resume_from_bytes = 0;
    options.parallelism = 1;
}

/// Requests that a whole restore takes.
async fn opens_of_a_whole_restore(store: &Arc<Store>) -> u64 {
    let before = store.seen.opens.load(Ordering::SeqCst);
    let dir = tempfile::tempdir().unwrap();
    restore_to(Arc::clone(store) as _, dir.path(), from_zero).await.unwrap();
    store.seen.opens.load(Ordering::SeqCst) - before
}

/// Restores into `dir` and is killed when `chunks` chunks are done: the files
/// that stand there at that moment are put aside and put back afterwards.
async fn killed_after(store: &Arc<Store>, dir: &Path, chunks: u64) {
    let gate = store.gate();
    let work = tempfile::tempdir().unwrap();
    let output = work.path().to_owned();
    let client = Arc::clone(store);
    let restore = tokio::spawn(async move { restore_to(client, &output, from_zero).await });
    // Head and tail of the snapshot, and one request for the small file.
    gate.add_permits(3 + chunks as usize);
    let journal = work.path().join("db.tmp-resume");
    for _ in 0..5_000_000 {
        if std::fs::metadata(&journal).is_ok_and(|found| found.len() == 32 + chunks * 112) {
            break;
        }
        tokio::task::yield_now().await;
    }
    for name in ["db.tmp", "db.tmp-resume"] {
        std::fs::copy(work.path().join(name), dir.join(name)).unwrap();
    }
    assert_eq!(std::fs::metadata(dir.join("db.tmp-resume")).unwrap().len(), 32 + chunks * 112, "chunks done");
    restore.abort();
    assert!(restore.await.unwrap_err().is_cancelled());
    store.ungate();
}

async fn finish(store: &Arc<Store>, dir: &Path) -> u64 {
    let before = store.seen.opens.load(Ordering::SeqCst);
    restore_to(Arc::clone(store) as _, dir, from_zero).await.unwrap();
    assert_eq!(names(dir), ["db"]);
    store.seen.opens.load(Ordering::SeqCst) - before
}

fn assert_image(dir: &Path, world: &World, txid: u64) {
    assert_same_image(&std::fs::read(dir.join("db")).unwrap(), world.image(txid), world.page_size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_fetches_only_what_was_not_done() {
    let world = world();
    let store = world.store(&[(9, 1, 1), (0, 2, 2)]);
    let whole = opens_of_a_whole_restore(&store).await;
    assert!(whole >= 3 + 4, "only {whole} requests");
    for chunks in [1, 3] {
        let dir = tempfile::tempdir().unwrap();
        killed_after(&store, dir.path(), chunks).await;
        assert_eq!(finish(&store, dir.path()).await, whole - chunks);
        assert_image(dir.path(), &world, 2);
    }
}

/// The machine lost power, and some pages never reached the disk.
#[tokio::test(flavor = "multi_thread")]
async fn pages_that_are_not_in_place_are_fetched_again() {
    let world = world();
    let store = world.store(&[(9, 1, 1), (0, 2, 2)]);
    let whole = opens_of_a_whole_restore(&store).await;
    let dir = tempfile::tempdir().unwrap();
    killed_after(&store, dir.path(), 2).await;
    let temp = dir.path().join("db.tmp");
    let mut bytes = std::fs::read(&temp).unwrap();
    bytes[5 * 4096..6 * 4096].fill(0);
    std::fs::write(&temp, bytes).unwrap();
    assert_eq!(finish(&store, dir.path()).await, whole - 1, "one chunk of two was lost");
    assert_image(dir.path(), &world, 2);

    killed_after(&store, dir.path(), 2).await;
    std::fs::remove_file(dir.path().join("db")).unwrap();
    std::fs::File::options().write(true).open(&temp).unwrap().set_len(4096).unwrap();
    assert_eq!(finish(&store, dir.path()).await, whole, "all was lost");
    assert_image(dir.path(), &world, 2);
}

/// Backups went on meanwhile: chunks whose pages are now another file's are done
/// again, the rest is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_plan_uses_what_still_holds() {
    let world = world();
    let store = world.store(&[(9, 1, 1), (0, 2, 2)]);
    let whole = opens_of_a_whole_restore(&store).await;
    let dir = tempfile::tempdir().unwrap();
    killed_after(&store, dir.path(), 3).await;
    let (id, bytes) = world.file(0, 3, 3);
    store.put(id, bytes);
    // One request more for the new file; page 1 was in the first of three chunks.
    assert_eq!(finish(&store, dir.path()).await, whole + 1 - 2);
    assert_image(dir.path(), &world, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leftover_of_another_database_does_not_show_through() {
    let (one, mut other) = (world(), World::new(512, 62));
    let store = one.store(&[(9, 1, 1), (0, 2, 2)]);
    other.commit(20_000, []);
    other.commit(19_000, [7]);
    let other_store = other.store(&[(9, 1, 1), (0, 2, 2)]);
    let dir = tempfile::tempdir().unwrap();
    killed_after(&store, dir.path(), 2).await;
    finish(&other_store, dir.path()).await;
    assert_image(dir.path(), &other, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_restore_keeps_no_journal() {
    let store = world().store(&[(9, 1, 1), (0, 2, 2)]);
    let gate = store.gate();
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().to_owned();
    let restore = tokio::spawn(restore_in(Arc::clone(&store), output));
    store.until_waiting(3).await;
    assert_eq!(names(dir.path()), ["db.tmp"]);
    gate.add_permits(1000);
    restore.await.unwrap();
    assert_eq!(names(dir.path()), ["db"]);
}

async fn restore_in(store: Arc<Store>, dir: std::path::PathBuf) {
    restore_to(store, &dir, |_| {}).await.unwrap();
}

/// The line is down for longer than retries last: what was done stays, and the
/// message says how to go on. Every other error leaves nothing.
#[tokio::test(start_paused = true)]
async fn a_large_restore_that_lost_its_store_goes_on_when_repeated() {
    let world = world();
    let store = world.store(&[(9, 1, 1), (0, 2, 2)]);
    let whole = opens_of_a_whole_restore(&store).await;
    store.go_away_after(Some(3 + 2));
    let dir = tempfile::tempdir().unwrap();
    let error = restore_to(Arc::clone(&store) as _, dir.path(), from_zero).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().starts_with("stopped; repeat the same restore to go on from "), "{error}");
    assert_eq!(names(dir.path()), ["db.tmp", "db.tmp-resume"]);
    store.go_away_after(None);
    let opens = finish(&store, dir.path()).await;
    assert!(opens < whole, "{opens} of {whole} requests again");
    assert_image(dir.path(), &world, 2);
}
