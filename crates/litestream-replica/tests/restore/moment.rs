//! Restores to a moment from stores whose listings tell upload times only.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::{SignedDuration, Timestamp};
use litestream_replica::plan::plan_restore;
use litestream_replica::{ErrorKind, FileId, FileInfo, Inventory, Plan, Target};
use ltx::{Header, PageSize, Txid};

use crate::store::Store;
use crate::world::{World, assert_same_image, id, restore_to};

/// A store of headers alone: planning reads no more of a file.
fn headers(files: impl IntoIterator<Item = (FileId, Timestamp)>) -> (Arc<Store>, Inventory) {
    let files: Vec<_> = files.into_iter().collect();
    let size = PageSize::new(4096).unwrap();
    let store =
        Store::new(files.iter().map(|(id, time)| (*id, Header::new(size, 1, id.min, id.max, *time).encode().to_vec())));
    store.list_stored_at("2026-11-22T00:00:00Z".parse().unwrap());
    let truth = files.into_iter().map(|(id, created_at)| FileInfo { id, size: Header::LEN as u64, created_at });
    (store, Inventory::new(truth))
}

/// A day of backups: a transaction a second, compacted and snapshotted.
fn day() -> Vec<(FileId, Timestamp)> {
    let mut files: Vec<FileId> = (4001..=5000).map(|n| id(0, n, n)).collect();
    files.extend((0..166).map(|i| id(1, i * 30 + 1, i * 30 + 30)));
    files.extend((0..16).map(|i| id(2, i * 300 + 1, i * 300 + 300)));
    files.extend((1..=4).map(|i| id(9, 1, i * 1200)));
    files.into_iter().map(|id| (id, Store::time_of(id.max))).collect()
}

async fn planned(store: &Arc<Store>, moment: Timestamp) -> litestream_replica::Result<Plan> {
    plan_restore(Arc::clone(store) as _, Target::Timestamp(moment)).await
}

/// Upstream asks for the time of every object, twice: 13,000 requests for a day
/// of backups, which looks like a restore that hangs.
#[tokio::test(flavor = "multi_thread")]
async fn the_plan_for_a_moment_asks_few_files_and_none_twice() {
    for second in [1, 30, 31, 299, 300, 1201, 2417, 3600, 4021, 4990, 5000, 5001, 9999] {
        let moment = Store::time_of(Txid::new(second)) + SignedDuration::from_millis(1);
        let (store, truth) = headers(day());
        match (planned(&store, moment).await, truth.plan(Target::Timestamp(moment))) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "second {second}"),
            (Err(found), Err(expected)) => {
                assert_eq!((found.kind(), found.to_string()), (expected.kind(), expected.to_string()));
            }
            (found, expected) => panic!("second {second}: {found:?} instead of {expected:?}"),
        }
        let opens_of = store.seen.opens_of.lock().unwrap();
        assert!(opens_of.values().all(|count| *count == 1), "second {second}");
        assert!(opens_of.len() <= 100, "second {second}: {} of 1186 files", opens_of.len());
    }
}

/// Random histories: the same choice as with all times at hand.
#[tokio::test(flavor = "multi_thread")]
async fn the_search_finds_what_all_times_would_tell() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..300 {
        let last = rng.u64(1..40);
        let mut files: HashMap<FileId, Timestamp> = HashMap::new();
        for _ in 0..rng.usize(1..60) {
            let (level, max) = (rng.u8(0..=9), rng.u64(1..=last));
            let min = if level == 9 { 1 } else { rng.u64(1..=max) };
            files.insert(id(level, min, max), Store::time_of(Txid::new(max)));
        }
        let (store, truth) = headers(files);
        let moment = Store::time_of(Txid::new(rng.u64(0..last + 3)));
        let expected = truth.plan(Target::Timestamp(moment)).map_err(|error| error.kind());
        assert_eq!(planned(&store, moment).await.map_err(|error| error.kind()), expected, "round {round}");
        assert!(store.seen.opens_of.lock().unwrap().values().all(|count| *count == 1), "round {round}");
    }
}

/// Where the clock jumped, the plan may stop early, but no file of it is too new.
#[tokio::test(flavor = "multi_thread")]
async fn no_file_of_the_plan_is_newer_than_the_moment_whatever_the_clock_did() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut planned_count = 0;
    for _ in 0..300 {
        let times: Vec<_> = (1..=30_u64).map(|n| (id(0, n, n), Store::time_of(Txid::new(rng.u64(1..60))))).collect();
        let truth: HashMap<FileId, Timestamp> = times.iter().copied().collect();
        let (store, _) = headers(times);
        let moment = Store::time_of(Txid::new(rng.u64(20..60)));
        if let Ok(plan) = planned(&store, moment).await {
            planned_count += 1;
            assert!(plan.files.iter().all(|file| truth[&file.id] < moment && file.created_at == truth[&file.id]));
        }
    }
    assert!(planned_count > 10, "only {planned_count} plans");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_is_restored_without_true_listing_times() {
    let world = World::random(512, 51, 9);
    let store = world.store(&[(9, 1, 3), (1, 2, 5), (0, 6, 6), (0, 7, 7), (0, 8, 8), (0, 9, 9)]);
    store.list_stored_at("2026-11-22T00:00:00Z".parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let target = Target::Timestamp(Store::time_of(Txid::new(8)));
    let restored = restore_to(store, dir.path(), |o| o.target = target).await.unwrap();
    assert_eq!(restored.txid.get(), 7);
    assert_same_image(&std::fs::read(dir.path().join("db")).unwrap(), world.image(7), world.page_size);
}

/// A level whose file vanished between its listing and that of the next level.
#[tokio::test(flavor = "multi_thread")]
async fn missing_transactions_are_looked_for_a_second_time() {
    let world = World::random(512, 52, 4);
    let files = [(9, 1, 1), (0, 2, 2), (0, 3, 3), (0, 4, 4)];
    for (target, lists) in [(Target::Latest, 20), (Target::Txid(Txid::new(3)), 20)] {
        let store = world.store(&files);
        store.hide_once(id(0, 3, 3));
        let plan = plan_restore(Arc::clone(&store) as _, target).await.unwrap();
        assert!(plan.txid().get() >= 3);
        assert_eq!(store.seen.lists.load(Ordering::SeqCst), lists);
    }
    let empty = Store::new([]);
    let error = plan_restore(Arc::clone(&empty) as _, Target::Latest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(empty.seen.lists.load(Ordering::SeqCst), 10, "an empty store is believed");
}
