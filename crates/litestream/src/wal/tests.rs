//! Real logs made by SQLite, damaged in every way a reader may meet.

use std::path::Path;

use ltx::PageSize;

use super::*;

fn log(dir: &Path, page_size: u32) -> File {
    let path = dir.join("db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(&format!(
        "PRAGMA page_size = {page_size}; PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0;
         CREATE TABLE t (x); INSERT INTO t VALUES (randomblob(3000)); INSERT INTO t VALUES (zeroblob(9000));
         DELETE FROM t WHERE rowid = 1;"
    ))
    .unwrap();
    let copy = dir.join("copy-wal");
    std::fs::copy(dir.join("db-wal"), &copy).unwrap();
    File::options().read(true).write(true).open(copy).unwrap()
}

fn start(header: &WalHeader) -> WalPosition {
    WalPosition { salts: header.salts, frame: 0, chain: header.chain }
}

fn frame_count(wal: &File, header: &WalHeader) -> u32 {
    frame_at(header.page_size, wal.metadata().unwrap().len()).unwrap()
}

#[test]
fn a_log_of_any_page_size_scans_to_its_last_commit() {
    for page_size in [512, 1024, 4096, 65536] {
        let dir = tempfile::tempdir().unwrap();
        let wal = log(dir.path(), page_size);
        let header = read_header(&wal).unwrap().unwrap();
        assert_eq!(header.page_size.get(), page_size);
        let count = frame_count(&wal, &header);
        let frames = scan(&wal, &header, start(&header), count, u64::MAX).unwrap().unwrap();
        assert_eq!(frames.end.frame, count);
        assert!(frames.pages.keys().all(|pgno| pgno.get() <= frames.commit));
    }
}

#[test]
fn two_scans_find_what_one_finds() {
    let dir = tempfile::tempdir().unwrap();
    let wal = log(dir.path(), 512);
    let header = read_header(&wal).unwrap().unwrap();
    let count = frame_count(&wal, &header);
    let whole = scan(&wal, &header, start(&header), count, u64::MAX).unwrap().unwrap();
    let first = scan(&wal, &header, start(&header), count, 1).unwrap().unwrap();
    assert!(first.end.frame < count, "a limit of one byte stops at the first commit");
    let second = scan(&wal, &header, first.end, count, u64::MAX).unwrap().unwrap();
    assert_eq!(second.end, whole.end);
    let mut pages = first.pages;
    pages.extend(second.pages);
    pages.retain(|pgno, _| pgno.get() <= whole.commit);
    assert_eq!(pages, whole.pages);
}

/// A transaction of several frames counts when its last one is there, and not before.
#[test]
fn frames_after_the_last_commit_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let wal = log(dir.path(), 512);
    let header = read_header(&wal).unwrap().unwrap();
    let count = frame_count(&wal, &header);
    let mut ends = vec![];
    let mut whole = 0;
    for until in 1..=count {
        let found = scan(&wal, &header, start(&header), until, u64::MAX).unwrap();
        match found.map(|frames| (frames.end.frame, frames.commits)) {
            None => assert!(ends.is_empty(), "frame {until}: a commit was there before"),
            Some((end, commits)) if end == until => {
                ends.push(end);
                assert_eq!(commits as usize, ends.len());
                whole += 1;
            }
            Some((end, _)) => assert_eq!(Some(&end), ends.last(), "frame {until}"),
        }
    }
    assert_eq!((ends.last(), whole), (Some(&count), 4), "a table, two rows, one deletion");
    assert!((count as usize) > 2 * whole, "some transactions have several frames");
}

#[test]
fn a_changed_byte_anywhere_in_a_frame_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let wal = log(dir.path(), 512);
    let header = read_header(&wal).unwrap().unwrap();
    let count = frame_count(&wal, &header);
    let second = frame_offset(header.page_size, 1);
    for i in 0..frame_len(header.page_size) as u64 {
        let mut byte = [0];
        wal.read_exact_at(&mut byte, second + i).unwrap();
        wal.write_all_at(&[byte[0] ^ 0x40], second + i).unwrap();
        let result = scan(&wal, &header, start(&header), count, u64::MAX);
        assert!(matches!(result, Err(ScanError::Broken { frame: 2, .. })), "byte {i} of the frame: {result:?}");
        wal.write_all_at(&byte, second + i).unwrap();
    }
}

#[test]
fn a_header_caught_half_written_counts_as_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let wal = log(dir.path(), 512);
    for i in 0..HEADER_LEN as u64 {
        let mut byte = [0];
        wal.read_exact_at(&mut byte, i).unwrap();
        wal.write_all_at(&[byte[0] ^ 1], i).unwrap();
        assert_eq!(read_header(&wal).unwrap(), None, "byte {i}");
        wal.write_all_at(&byte, i).unwrap();
    }
    wal.set_len(31).unwrap();
    assert_eq!(read_header(&wal).unwrap(), None);
}

#[test]
fn positions_do_not_overflow_beyond_four_gibibytes() {
    let page_size = PageSize::new(65536).unwrap();
    let offset = frame_offset(page_size, 70_000);
    assert_eq!(offset, 32 + 70_000 * 65_560);
    assert_eq!(frame_at(page_size, offset), Some(70_000));
    assert_eq!(frame_at(page_size, offset + 1), None);
    assert_eq!(frame_at(page_size, 0), None);
}
