//! The engine on healthy stores: newest wins, whatever the levels, sizes and
//! parallelism.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use litestream_replica::Target;
use ltx::{Checksum, Encoder, Header, HeaderFlags, PageSize, Pgno, Txid};

use crate::store::Store;
use crate::world::{World, assert_same_image, encode, id, names, restore_to};

#[tokio::test(flavor = "multi_thread")]
async fn newest_file_wins_over_levels_that_overlap() {
    let mut world = World::new(512, 1);
    world.commit(40, []);
    for txid in 2..=12 {
        world.commit(40, [txid, 7, 40 - txid]);
    }
    let store =
        world.store(&[(9, 1, 4), (3, 2, 6), (1, 5, 8), (1, 8, 10), (0, 9, 9), (0, 10, 10), (0, 11, 11), (0, 12, 12)]);
    let dir = tempfile::tempdir().unwrap();
    let restored = restore_to(store, dir.path(), |_| {}).await.unwrap();
    assert_eq!(restored.txid.get(), 12);
    assert_eq!(restored.commit, 40);
    assert_eq!(restored.timestamp, Store::time_of(Txid::new(12)));
    assert_same_image(&std::fs::read(dir.path().join("db")).unwrap(), world.image(12), world.page_size);
    assert_eq!(names(dir.path()), ["db"]);
}

/// Grow, shrink, overwrite: each state of each history, over every page size.
#[tokio::test(flavor = "multi_thread")]
async fn every_txid_of_random_histories_restores() {
    for (page_size, seed) in [512, 1024, 4096, 32768, 65536].into_iter().zip(100..) {
        println!("page size {page_size}, seed {seed}");
        let world = World::random(page_size, seed, 12);
        let files: Vec<_> =
            (1..=world.last()).map(|n| (0, n, n)).chain([(1, 1, 3), (1, 4, 8), (2, 1, 8), (9, 1, 5)]).collect();
        let store = world.store(&files);
        for txid in 1..=world.last() {
            let dir = tempfile::tempdir().unwrap();
            let restored =
                restore_to(store.clone(), dir.path(), |o| o.target = Target::Txid(Txid::new(txid))).await.unwrap();
            assert_eq!(restored.txid.get(), txid);
            assert_same_image(&std::fs::read(dir.path().join("db")).unwrap(), world.image(txid), world.page_size);
        }
    }
}

/// Large enough that files are read in ranges and indexes in several windows.
fn large_world() -> World {
    let mut world = World::new(512, 3);
    world.commit(90_000, []);
    world.commit(90_000, (1..=90_000).step_by(3));
    world.commit(60_000, [1, 59_999]);
    world.commit(80_000, (5..=80_000).step_by(7));
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn every_parallelism_gives_the_same_database() {
    let world = large_world();
    for parallelism in [1, 3, 8] {
        let store = world.store(&[(9, 1, 1), (0, 2, 2), (0, 3, 3), (0, 4, 4)]);
        let total: usize = store.ids().into_iter().map(|id| store.get(id).len()).sum();
        let dir = tempfile::tempdir().unwrap();
        let restored = restore_to(store.clone(), dir.path(), |o| o.parallelism = parallelism).await.unwrap();
        assert_same_image(&std::fs::read(dir.path().join("db")).unwrap(), world.image(4), world.page_size);
        assert!(store.seen.open_most.load(Ordering::SeqCst) <= parallelism as u64);
        assert_eq!(restored.bytes_fetched, store.seen.bytes.load(Ordering::SeqCst));
        assert!(restored.bytes_fetched < total as u64 + 4 * 65_636, "nothing is read twice but tails");
        assert!(store.seen.longest_read.load(Ordering::SeqCst) <= 2 << 20, "no request asks for a whole file");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parallelism_is_the_number_of_requests_at_once() {
    let world = World::random(512, 20, 16);
    let files: Vec<_> = (1..=16).map(|txid| (0, txid, txid)).collect();
    for parallelism in [1, 3, 8] {
        let store = world.store(&files);
        let gate = store.gate();
        let dir = tempfile::tempdir().unwrap();
        let restoring = restore_to(store.clone(), dir.path(), |o| o.parallelism = parallelism);
        let opened = async {
            store.until_waiting(parallelism as u64).await;
            gate.add_permits(16);
        };
        let (restored, ()) = tokio::join!(restoring, opened);
        restored.unwrap();
        assert_eq!(store.seen.open_most.load(Ordering::SeqCst), parallelism as u64);
    }
}

/// However many requests run at once, the bytes between store and disk stay few.
#[tokio::test(flavor = "multi_thread")]
async fn memory_in_flight_is_bounded() {
    let mut world = World::new(65536, 21);
    world.commit(1, []);
    let mut noise = vec![0; 65536];
    fastrand::Rng::with_seed(21).fill(&mut noise);
    let pages: Vec<_> = (1..=1000_u32).map(|pgno| (pgno, noise.clone())).collect();
    let store = Store::new([
        (id(9, 1, 1), encode(id(9, 1, 1), world.page_size, 1000, pages.clone())),
        (id(0, 2, 2), encode(id(0, 2, 2), world.page_size, 1000, pages[..12].to_vec())),
        (id(0, 3, 3), encode(id(0, 3, 3), world.page_size, 1000, pages[..12].to_vec())),
    ]);
    let memory = store.track_memory();
    let dir = tempfile::tempdir().unwrap();
    restore_to(store, dir.path(), |o| o.parallelism = 100).await.unwrap();
    let most = memory.most.load(Ordering::SeqCst);
    assert!((8 << 20..25 << 20).contains(&most), "{most} bytes in flight");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_takes_one_request() {
    let world = World::random(4096, 4, 5);
    let store = world.store(&[(0, 1, 1), (0, 2, 2), (0, 3, 3), (0, 4, 4), (0, 5, 5)]);
    let dir = tempfile::tempdir().unwrap();
    restore_to(store.clone(), dir.path(), |_| {}).await.unwrap();
    assert_eq!(store.seen.opens.load(Ordering::SeqCst), 5);
    assert_eq!(store.seen.lists.load(Ordering::SeqCst), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_delta_is_restored() {
    let mut world = World::new(4096, 5);
    world.commit(3, []);
    world.commit(3, []);
    let dir = tempfile::tempdir().unwrap();
    let restored = restore_to(world.store(&[(9, 1, 1), (0, 2, 2)]), dir.path(), |_| {}).await.unwrap();
    assert_eq!(restored.txid.get(), 2);
    assert_same_image(&std::fs::read(dir.path().join("db")).unwrap(), world.image(1), world.page_size);
}

/// A snapshot with a hole is no valid snapshot, but upstream restores it when a
/// later file fills the hole.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_file_fills_the_hole_of_a_snapshot() {
    let mut world = World::new(512, 6);
    world.commit(5, []);
    world.commit(5, [3]);
    let store = world.store(&[(0, 2, 2)]);
    let size = world.page_size;
    let pages = [1, 2, 4, 5].map(|pgno: u32| (pgno, world.image(1)[(pgno as usize - 1) * 512..][..512].to_vec()));
    // The encoder refuses such a snapshot, so make a delta and rename it.
    let bytes = rewrite_txids(&encode(id(9, 2, 2), size, 5, pages), 1, 1);
    store.put(id(9, 1, 1), bytes);
    let dir = tempfile::tempdir().unwrap();
    restore_to(store, dir.path(), |_| {}).await.unwrap();
    assert_same_image(&std::fs::read(dir.path().join("db")).unwrap(), world.image(2), size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_no_file_fails_by_its_number() {
    let size = PageSize::new(512).unwrap();
    let mut world = World::new(512, 7);
    world.commit(3, []);
    let store = world.store(&[(9, 1, 1)]);
    // Grows to 6 pages and forgets page 5.
    let pages = [4, 6].map(|pgno| (pgno, vec![pgno as u8; 512]));
    store.put(id(0, 2, 2), encode(id(0, 2, 2), size, 6, pages));
    let dir = tempfile::tempdir().unwrap();
    let error = restore_to(store, dir.path(), |_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "decode database: page 5 of 6 is in no backup file");
    assert!(names(dir.path()).is_empty());
}

/// Files of other LTX tools carry checksums of the database.
#[tokio::test(flavor = "multi_thread")]
async fn tracked_files_restore_and_their_sums_are_verified() {
    let size = PageSize::new(512).unwrap();
    let pages: Vec<_> = (1..=4_u32).map(|pgno| (Pgno::new(pgno).unwrap(), vec![pgno as u8; 512])).collect();
    let mut sum = ltx::DatabaseChecksum::new();
    for (pgno, page) in &pages {
        sum.toggle(ltx::page_checksum(*pgno, page));
    }
    let tracked = |post_apply: Checksum| {
        let header = Header {
            flags: HeaderFlags::NONE,
            ..Header::new(size, 4, Txid::FIRST, Txid::FIRST, Store::time_of(Txid::FIRST))
        };
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        for (pgno, page) in &pages {
            encoder.encode_page(*pgno, page).unwrap();
        }
        Store::new([(id(9, 1, 1), encoder.finish(post_apply).unwrap().0)])
    };
    let dir = tempfile::tempdir().unwrap();
    restore_to(tracked(sum.value()), dir.path(), |_| {}).await.unwrap();
    std::fs::remove_file(dir.path().join("db")).unwrap();

    sum.toggle(Checksum::new(1));
    let error = restore_to(tracked(sum.value()), dir.path(), |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("post-apply checksum mismatch"), "{error}");
    assert!(names(dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn mismatched_page_sizes_are_refused_by_the_names_of_both_files() {
    let (mut small, mut large) = (World::new(512, 8), World::new(1024, 8));
    small.commit(3, []);
    for _ in 0..2 {
        large.commit(3, [1]);
    }
    let store = Store::new([small.file(9, 1, 1), large.file(0, 2, 2)]);
    let dir = tempfile::tempdir().unwrap();
    let error = restore_to(store, dir.path(), |_| {}).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "decode database: ltx file 9/0000000000000001-0000000000000001.ltx: input files have mismatched page sizes: \
         512 != 1024 (in 0/0000000000000002-0000000000000002.ltx)"
    );
    assert!(names(dir.path()).is_empty());
}

/// The page size changed, and a snapshot of the new size covers what a compacted
/// file of the old one overlaps.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_page_size_is_planned_around() {
    let (mut small, mut large) = (World::new(512, 9), World::new(1024, 9));
    for _ in 0..6 {
        small.commit(3, [1]);
        large.commit(3, [1]);
    }
    let store = Store::new([
        large.file(9, 1, 3),
        small.file(2, 3, 5),
        large.file(0, 4, 4),
        large.file(0, 5, 5),
        large.file(0, 6, 6),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let restored = restore_to(store, dir.path(), |_| {}).await.unwrap();
    assert_eq!((restored.txid.get(), restored.file_count), (6, 4));
    assert_same_image(&std::fs::read(dir.path().join("db")).unwrap(), large.image(6), large.page_size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_listed_again_before_it_is_believed() {
    let world = World::random(512, 9, 4);
    let store = world.store(&[(9, 1, 1), (0, 2, 2), (0, 3, 3), (0, 4, 4)]);
    store.hide_once(id(0, 3, 3));
    let dir = tempfile::tempdir().unwrap();
    let restored = restore_to(store, dir.path(), |_| {}).await.unwrap();
    assert_eq!(restored.txid.get(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_adds_up_to_the_plan() {
    #[derive(Default)]
    struct Counter(std::sync::Mutex<(u64, u64, usize)>);
    impl litestream_replica::Progress for Counter {
        fn planned(&self, file_count: usize, total_bytes: u64) {
            *self.0.lock().unwrap() = (total_bytes, 0, file_count);
        }
        fn advanced(&self, bytes: u64) {
            self.0.lock().unwrap().1 += bytes;
        }
    }
    let store = large_world().store(&[(9, 1, 1), (0, 2, 2), (0, 3, 3)]);
    let dir = tempfile::tempdir().unwrap();
    let counter = Arc::new(Counter::default());
    let options = litestream_replica::RestoreOptions::new(dir.path().join("db"));
    litestream_replica::restore(store, options, counter.clone()).await.unwrap();
    let (planned, advanced, files) = *counter.0.lock().unwrap();
    assert_eq!((advanced, files), (planned, 3));
}

/// The same file under other TXIDs, its checksum made right again.
pub(crate) fn rewrite_txids(file: &[u8], min: u64, max: u64) -> Vec<u8> {
    let mut bytes = file.to_vec();
    bytes[16..24].copy_from_slice(&min.to_be_bytes());
    bytes[24..32].copy_from_slice(&max.to_be_bytes());
    crate::damage::reseal(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_listings_run_at_once_than_parallelism_allows() {
    for (parallelism, most) in [(1, 1), (3, 3), (8, 8)] {
        let store = World::random(512, 10, 3).store(&[(9, 1, 1), (0, 2, 2), (0, 3, 3)]);
        let dir = tempfile::tempdir().unwrap();
        restore_to(Arc::clone(&store) as _, dir.path(), |o| o.parallelism = parallelism).await.unwrap();
        assert_eq!(store.seen.lists_most.load(Ordering::SeqCst), most);
        assert!(store.seen.open_most.load(Ordering::SeqCst) <= most);
    }
}
