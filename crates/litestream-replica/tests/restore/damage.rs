//! Damaged, vanished and unreliable files: an error or the right bytes, never
//! anything else, and nothing left behind.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use litestream_replica::{ErrorKind, OutputPolicy, Target};
use ltx::{Digest, Footer, Header, PageSize, Txid, decode_run};
use tempfile::TempDir;

use crate::store::Store;
use crate::world::{World, assert_same_image, id, names, restore_to};

/// A directory with an old database, which a failed restore must not touch.
fn dir_with_old_database() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("db"), b"old").unwrap();
    std::fs::write(dir.path().join("db-wal"), b"old wal").unwrap();
    dir
}

fn assert_untouched(dir: &TempDir) {
    assert_eq!(names(dir.path()), ["db", "db-wal"]);
    assert_eq!(std::fs::read(dir.path().join("db")).unwrap(), b"old");
    assert_eq!(std::fs::read(dir.path().join("db-wal")).unwrap(), b"old wal");
}

/// A snapshot of four pages, and a delta over it.
fn small_world() -> World {
    let mut world = World::new(512, 31);
    world.commit(4, []);
    world.commit(5, [2]);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_cut_anywhere_is_an_error() {
    let world = small_world();
    for damaged in [id(9, 1, 1), id(0, 2, 2)] {
        let store = world.store(&[(9, 1, 1), (0, 2, 2)]);
        let whole = store.get(damaged);
        for len in 0..whole.len() {
            store.put(damaged, whole[..len].to_vec());
            let dir = dir_with_old_database();
            let error = restore_to(store.clone(), dir.path(), |o| o.policy = OutputPolicy::Force).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {len}: {error}");
            assert_untouched(&dir);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_file_is_refused_before_anything_is_read() {
    let store = small_world().store(&[(9, 1, 1), (0, 2, 2)]);
    store.put(id(9, 1, 1), vec![0; 50]);
    let dir = dir_with_old_database();
    let error = restore_to(store.clone(), dir.path(), |o| o.policy = OutputPolicy::Force).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid ltx file: level=9 min=0000000000000001 max=0000000000000001 has size 50 bytes (minimum 100)"
    );
    assert_eq!(store.seen.opens.load(Ordering::SeqCst), 0);
    assert_untouched(&dir);
}

/// LZ4 has several spellings of one page, so that a changed byte may still give
/// the same database. Anything but that is an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_byte_changed_anywhere_is_an_error_or_changes_nothing() {
    let world = small_world();
    let mut harmless = 0;
    for damaged in [id(9, 1, 1), id(0, 2, 2)] {
        let store = world.store(&[(9, 1, 1), (0, 2, 2)]);
        let whole = store.get(damaged);
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                store.put(damaged, bytes);
                let dir = dir_with_old_database();
                match restore_to(store.clone(), dir.path(), |o| o.policy = OutputPolicy::Force).await {
                    Ok(_) => {
                        harmless += 1;
                        assert_eq!(names(dir.path()), ["db"]);
                        let image = std::fs::read(dir.path().join("db")).unwrap();
                        assert_same_image(&image, world.image(2), world.page_size);
                    }
                    Err(error) => {
                        assert!(error.to_string().contains("ltx file"), "byte {at}: {error} names no file");
                        assert_untouched(&dir);
                    }
                }
            }
        }
    }
    assert!(harmless < 20, "{harmless} changes went unnoticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_file_is_planned_around() {
    let world = World::random(512, 32, 6);
    let store = world.store(&[(9, 1, 2), (9, 1, 4), (1, 3, 4), (0, 3, 3), (0, 4, 4), (0, 5, 5), (0, 6, 6)]);
    for damaged in [id(9, 1, 4), id(1, 3, 4)] {
        let mut bytes = store.get(damaged);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        store.put(damaged, bytes);
    }
    let dir = tempfile::tempdir().unwrap();
    let restored = restore_to(store, dir.path(), |_| {}).await.unwrap();
    assert_eq!((restored.txid.get(), restored.file_count), (6, 5));
    assert_same_image(&std::fs::read(dir.path().join("db")).unwrap(), world.image(6), world.page_size);
}

/// Without its newest file a replica would restore too, to an older state. That
/// is not what was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_newest_file_is_no_reason_to_restore_less() {
    let world = World::random(512, 33, 3);
    for target in [Target::Latest, Target::Txid(Txid::new(3)), Target::Timestamp(Store::time_of(Txid::new(9)))] {
        let store = world.store(&[(9, 1, 1), (0, 2, 2), (0, 3, 3)]);
        let mut bytes = store.get(id(0, 3, 3));
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        store.put(id(0, 3, 3), bytes);
        let dir = dir_with_old_database();
        let set = |o: &mut litestream_replica::RestoreOptions| {
            o.policy = OutputPolicy::Force;
            o.target = target;
        };
        let error = restore_to(store, dir.path(), set).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(
            error.to_string(),
            "decode database: ltx file 0/0000000000000003-0000000000000003.ltx: file checksum mismatch"
        );
        assert_untouched(&dir);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_other_txids_than_the_name_is_an_error() {
    let world = World::random(512, 34, 3);
    let store = world.store(&[(9, 1, 1), (0, 2, 2)]);
    store.put(id(0, 3, 3), store.get(id(0, 2, 2)));
    let dir = tempfile::tempdir().unwrap();
    let error = restore_to(store, dir.path(), |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("its header says 0000000000000002-0000000000000002"), "{error}");
}

/// Retention removed a file between planning and reading; another level has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_file_is_planned_around() {
    let world = World::random(512, 35, 4);
    let store = world.store(&[(9, 1, 1), (1, 2, 3), (2, 2, 3), (0, 4, 4)]);
    store.vanish_on_open(id(2, 2, 3));
    let dir = tempfile::tempdir().unwrap();
    let restored = restore_to(store, dir.path(), |_| {}).await.unwrap();
    assert_eq!(restored.txid.get(), 4);
    assert_same_image(&std::fs::read(dir.path().join("db")).unwrap(), world.image(4), world.page_size);
}

/// A compaction finished and level 0 expired between the listing and the reads:
/// one look at the store tells about all of them.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_expire_together_cost_one_new_plan() {
    let world = World::random(512, 39, 9);
    let mut files = vec![(9, 1, 1), (1, 2, 9)];
    files.extend((2..=9).map(|n| (0, n, n)));
    let store = world.store(&files);
    store.hide_once(id(1, 2, 9));
    (2..=9).for_each(|n| store.vanish_on_open(id(0, n, n)));
    let dir = tempfile::tempdir().unwrap();
    let restored = restore_to(Arc::clone(&store) as _, dir.path(), |_| {}).await.unwrap();
    assert_eq!((restored.txid.get(), restored.file_count), (9, 2));
    assert_eq!(store.seen.lists.load(Ordering::SeqCst), 20);
    assert_same_image(&std::fs::read(dir.path().join("db")).unwrap(), world.image(9), world.page_size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_file_without_substitute_is_named() {
    let store = World::random(512, 36, 3).store(&[(9, 1, 1), (0, 2, 2), (0, 3, 3)]);
    store.vanish_on_open(id(0, 2, 2));
    let dir = dir_with_old_database();
    let error = restore_to(store, dir.path(), |o| o.policy = OutputPolicy::Force).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("0/0000000000000002-0000000000000002.ltx"), "{error}");
    assert_untouched(&dir);
}

#[tokio::test(start_paused = true)]
async fn a_file_shorter_than_its_listing_is_planned_around() {
    let world = World::random(512, 38, 3);
    let store = world.store(&[(9, 1, 1), (1, 2, 3), (0, 2, 2), (0, 3, 3)]);
    store.list_longer(id(1, 2, 3), 70);
    let dir = tempfile::tempdir().unwrap();
    let restored = restore_to(store, dir.path(), |_| {}).await.unwrap();
    assert_eq!(restored.file_count, 3);
    assert_same_image(&std::fs::read(dir.path().join("db")).unwrap(), world.image(3), world.page_size);
}

/// A store that lies about sizes, up to where sums of them overflow.
#[tokio::test(start_paused = true)]
async fn sizes_beyond_all_reason_are_an_error() {
    let world = small_world();
    for by in [1 << 40, u64::MAX / 2, u64::MAX - 100_000, u64::MAX - 1000] {
        let store = world.store(&[(9, 1, 1), (0, 2, 2)]);
        let len = store.get(id(0, 2, 2)).len() as u64;
        store.list_longer(id(9, 1, 1), by.min(u64::MAX - store.get(id(9, 1, 1)).len() as u64));
        store.list_longer(id(0, 2, 2), by.min(u64::MAX - len));
        let dir = dir_with_old_database();
        let error = restore_to(store, dir.path(), |o| o.policy = OutputPolicy::Force).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{by}: {error}");
        assert_eq!(std::fs::read(dir.path().join("db")).unwrap(), b"old");
    }
}

/// A file of more than 1 MiB, read in ranges.
fn ranged_world() -> World {
    let mut world = World::new(4096, 37);
    world.commit(800, []);
    world.commit(800, [3, 700]);
    world
}

/// Changes a file whose index starts at the offset given.
type Damage = fn(&mut [u8], usize);

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_index_with_a_right_checksum_restores() {
    for world in [small_world(), ranged_world()] {
        let len = world.file(9, 1, 1).1.len();
        let index_offset = Footer::parse(&world.file(9, 1, 1).1, len as u64).unwrap().index_offset as usize;
        let wrong: [(&str, Damage); 5] = [
            ("page number", |bytes, at| bytes[at] = 3),
            ("offset of the first frame", |bytes, at| bytes[at + 1] += 1),
            ("length of the first frame", |bytes, at| bytes[at + 2] ^= 1),
            ("first entry is the end", |bytes, at| bytes[at] = 0),
            ("size field", |bytes, _| {
                let at = bytes.len() - 17;
                bytes[at] ^= 0x55;
            }),
        ];
        for (what, damage) in wrong {
            let store = world.store(&[(9, 1, 1), (0, 2, 2)]);
            let mut bytes = store.get(id(9, 1, 1));
            damage(&mut bytes, index_offset);
            if what == "first entry is the end" {
                // The rest of the index then stands where its size belongs, so
                // the file must end here.
                let trailer = bytes[len - 16..].to_vec();
                bytes.truncate(index_offset + 1);
                bytes.extend(1_u64.to_be_bytes());
                bytes.extend(trailer);
            }
            seal(&mut bytes, index_offset);
            store.put(id(9, 1, 1), bytes);
            let dir = tempfile::tempdir().unwrap();
            restore_to(store, dir.path(), |_| {}).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_same_image(&std::fs::read(dir.path().join("db")).unwrap(), world.image(2), world.page_size);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_a_large_file_is_found_wherever_it_is() {
    let world = ranged_world();
    let store = world.store(&[(9, 1, 1), (0, 2, 2)]);
    let whole = store.get(id(9, 1, 1));
    for at in
        [0, 99, 104, 5000, whole.len() / 2, whole.len() - 66_000, whole.len() - 5000, whole.len() - 20, whole.len() - 1]
    {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        store.put(id(9, 1, 1), bytes);
        let dir = dir_with_old_database();
        let error = restore_to(store.clone(), dir.path(), |o| o.policy = OutputPolicy::Force).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
        assert_untouched(&dir);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absurd_length_is_damage_and_not_a_full_disk() {
    let world = small_world();
    let store = world.store(&[(9, 1, 1)]);
    let (newest, bytes) = world.file(0, 2, 2);
    let mut bytes = bytes;
    bytes[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    reseal(&mut bytes);
    store.put(newest, bytes);
    let dir = tempfile::tempdir().unwrap();
    let error = restore_to(store, dir.path(), |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("a database of 4294967295 pages cannot be in files of"), "{error}");
    assert!(names(dir.path()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn broken_transfers_are_read_on_where_they_broke() {
    let world = ranged_world();
    for kept in [0, 1, 40_000] {
        let store = world.store(&[(9, 1, 1), (0, 2, 2)]);
        let total: u64 = store.ids().into_iter().map(|id| store.get(id).len() as u64).sum();
        store.break_transfers(3, kept);
        let dir = tempfile::tempdir().unwrap();
        let restored = restore_to(store, dir.path(), |o| o.parallelism = 1).await.unwrap();
        assert_same_image(&std::fs::read(dir.path().join("db")).unwrap(), world.image(2), world.page_size);
        assert!(restored.bytes_fetched <= total + 65_636, "bytes that came are not fetched again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_is_a_transient_error() {
    let store = ranged_world().store(&[(9, 1, 1), (0, 2, 2)]);
    store.break_transfers(u64::MAX, 0);
    let dir = dir_with_old_database();
    let error = restore_to(store, dir.path(), |o| o.policy = OutputPolicy::Force).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert_untouched(&dir);
}

/// As long as bytes come, a flaky line may break any number of times.
#[tokio::test(start_paused = true)]
async fn progress_renews_the_retry_budget() {
    let world = ranged_world();
    let store = world.store(&[(9, 1, 1), (0, 2, 2)]);
    store.break_transfers(50, 16 << 10);
    let dir = tempfile::tempdir().unwrap();
    restore_to(Arc::clone(&store) as _, dir.path(), |_| {}).await.unwrap();
    assert_same_image(&std::fs::read(dir.path().join("db")).unwrap(), world.image(2), world.page_size);
}

/// Makes the file checksum right for whatever an intact page block is followed by.
pub(crate) fn reseal(bytes: &mut [u8]) {
    let index_offset = Footer::parse(bytes, bytes.len() as u64).unwrap().index_offset;
    seal(bytes, index_offset as usize);
}

fn seal(bytes: &mut [u8], index_offset: usize) {
    let len = bytes.len();
    let page_size = PageSize::new(u32::from_be_bytes(bytes[8..12].try_into().unwrap())).unwrap();
    let block = Header::LEN..index_offset - 6;
    let run = decode_run::<ltx::Error>(&bytes[block.clone()], page_size, &mut |_, _: &[u8]| Ok(())).unwrap();
    let digest = Digest::of(&bytes[..Header::LEN]).combine(run.digest).combine(Digest::of(&bytes[block.end..len - 8]));
    bytes[len - 8..].copy_from_slice(&digest.finish().get().to_be_bytes());
}
