//! Databases beyond 1 GiB, where one page is SQLite's alone.

use std::os::unix::fs::FileExt;

use ltx::{Checksum, Encoder, Header, PageSize, Pgno, Txid};

use crate::store::Store;
use crate::world::{encode, id, restore_to};

/// The page that holds byte 1 GiB.
const LOCK: u32 = 16385;

/// A snapshot of `commit` pages of 64 KiB: their number, then zeros.
fn snapshot(page_size: PageSize, commit: u32) -> Vec<u8> {
    let header = Header::new(page_size, commit, Txid::FIRST, Txid::FIRST, Store::time_of(Txid::FIRST));
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    let mut page = vec![0; page_size.len()];
    for pgno in (1..=commit).filter(|pgno| *pgno != LOCK) {
        page[..4].copy_from_slice(&pgno.to_be_bytes());
        encoder.encode_page(Pgno::new(pgno).unwrap(), &page).unwrap();
    }
    encoder.finish(Checksum::NONE).unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_page_is_zero_in_a_restored_database() {
    let size = PageSize::new(65536).unwrap();
    let base = snapshot(size, LOCK - 1);
    for (commit, grown) in [(LOCK, vec![]), (LOCK + 1, vec![LOCK + 1])] {
        let grown = grown.into_iter().map(|pgno: u32| {
            let mut page = vec![0; size.len()];
            page[..4].copy_from_slice(&pgno.to_be_bytes());
            (pgno, page)
        });
        let delta = encode(id(0, 2, 2), size, commit, grown);
        let store = Store::new([(id(9, 1, 1), base.clone()), (id(0, 2, 2), delta)]);
        let dir = tempfile::tempdir().unwrap();
        let restored = restore_to(store, dir.path(), |_| {}).await.unwrap();
        assert_eq!(restored.output_len, u64::from(commit) * 65536);
        let file = std::fs::File::open(dir.path().join("db")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), restored.output_len);
        for pgno in [1, 2, LOCK - 1, LOCK, LOCK + 1].into_iter().filter(|pgno| *pgno <= commit) {
            let mut page = vec![9; size.len()];
            file.read_exact_at(&mut page, u64::from(pgno - 1) * 65536).unwrap();
            let mut expected = vec![0; size.len()];
            if pgno != LOCK {
                expected[..4].copy_from_slice(&pgno.to_be_bytes());
            }
            assert_eq!(page, expected, "page {pgno} of {commit}");
        }
    }
}
