//! Databases beyond 1 GiB, where one page is SQLite's alone.

use std::os::unix::fs::FileExt;

use ltx::{Checksum, Encoder, Header, PageSize, Pgno, Txid};

use crate::store::Store;
use crate::world::{encode, id, restore_to};

/// A snapshot of `commit` pages: their number, then zeros.
fn snapshot(page_size: PageSize, commit: u32) -> Vec<u8> {
    let header = Header::new(page_size, commit, Txid::FIRST, Txid::FIRST, Store::time_of(Txid::FIRST));
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    for pgno in (1..=commit).filter(|pgno| *pgno != page_size.lock_page().get()) {
        encoder.encode_page(Pgno::new(pgno).unwrap(), &numbered(page_size, pgno)).unwrap();
    }
    encoder.finish(Checksum::NONE).unwrap().0
}

fn numbered(page_size: PageSize, pgno: u32) -> Vec<u8> {
    let mut page = vec![0; page_size.len()];
    page[..4].copy_from_slice(&pgno.to_be_bytes());
    page
}

/// A snapshot that ends below the lock page, and a delta that grows to `commit`.
async fn grow_to(page_size: PageSize, commit: u32) {
    let lock = page_size.lock_page().get();
    let base = snapshot(page_size, lock - 1);
    let delta =
        encode(id(0, 2, 2), page_size, commit, (lock + 1..=commit).map(|pgno| (pgno, numbered(page_size, pgno))));
    let store = Store::new([(id(9, 1, 1), base), (id(0, 2, 2), delta)]);
    let dir = tempfile::tempdir().unwrap();
    let restored = restore_to(store, dir.path(), |_| {}).await.unwrap();
    let file = std::fs::File::open(dir.path().join("db")).unwrap();
    let len = u64::from(commit) * u64::from(page_size.get());
    assert_eq!((restored.output_len, file.metadata().unwrap().len()), (len, len));
    for pgno in [1, 2, lock - 1, lock, lock + 1, lock + 2].into_iter().filter(|pgno| *pgno <= commit) {
        let mut page = vec![9; page_size.len()];
        file.read_exact_at(&mut page, Pgno::new(pgno).unwrap().offset(page_size)).unwrap();
        let expected = if pgno == lock { vec![0; page_size.len()] } else { numbered(page_size, pgno) };
        assert_eq!(page, expected, "page {pgno} of {commit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_ends_with_the_lock_page_restores() {
    grow_to(PageSize::new(65536).unwrap(), 16385).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_page_is_zero_between_others() {
    grow_to(PageSize::new(65536).unwrap(), 16387).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_page_is_zero_with_pages_of_4096() {
    grow_to(PageSize::new(4096).unwrap(), 262_146).await;
}
