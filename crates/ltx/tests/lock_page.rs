//! Databases around 1 GiB, where one page is never stored (spec: ltx §8.3).
//!
//! A frame of a zero page is a few hundred bytes, so files of a database that
//! large are small, and quick when the frame is compressed once.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod forge;

use forge::{Forge, page};
use ltx::{Checksum, Decoder, Encoder, Error, Header, Merge, PageSize, Pgno, RunEncoder, Summary, Txid, merge};

const SIZE: PageSize = PageSize::new(65536).unwrap();
const LOCK: u32 = SIZE.lock_page().get();

fn delta(page_size: PageSize, txid: u64, commit: u32, pages: impl IntoIterator<Item = u32>) -> ltx::Result<Vec<u8>> {
    let header = Header::new(page_size, commit, Txid::new(txid), Txid::new(txid), jiff::Timestamp::UNIX_EPOCH);
    let mut encoder = Encoder::new(Vec::new(), header)?;
    for pgno in pages {
        encoder.encode_page(Pgno::new(pgno).unwrap(), &page(page_size.len(), pgno))?;
    }
    Ok(encoder.finish(Checksum::NONE)?.0)
}

/// A snapshot of zero pages.
fn snapshot(commit: u32) -> (Vec<u8>, Summary) {
    let zero = vec![0; SIZE.len()];
    let mut run = RunEncoder::new(SIZE);
    run.push(Pgno::FIRST, &zero).unwrap();
    let mut frame = run.finish().bytes().to_vec();
    let header = Header::new(SIZE, commit, Txid::FIRST, Txid::FIRST, jiff::Timestamp::UNIX_EPOCH);
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    for pgno in (1..=commit).filter(|pgno| *pgno != LOCK) {
        frame[..4].copy_from_slice(&pgno.to_be_bytes());
        encoder.copy_frame(Pgno::new(pgno).unwrap(), &frame, &zero).unwrap();
    }
    encoder.finish(Checksum::NONE).unwrap()
}

#[test]
fn snapshots_just_below_at_and_above_the_lock_page_are_complete() {
    for (commit, count) in [(LOCK - 1, 16384), (LOCK, 16384), (LOCK + 1, 16385)] {
        let (file, written) = snapshot(commit);
        assert_eq!(written.page_count, count);
        assert_eq!(Decoder::new(file.as_slice()).unwrap().finish().unwrap(), written);
    }
}

#[test]
fn a_snapshot_grows_over_the_lock_page_by_merging() {
    let (base, _) = snapshot(LOCK - 1);
    let grown = delta(SIZE, 2, LOCK + 2, [7, LOCK + 1, LOCK + 2]).unwrap();
    let mut out = Vec::new();
    let summary = merge(vec![base.as_slice(), &grown], &mut out).unwrap();
    assert_eq!((summary.header.commit, summary.page_count), (LOCK + 2, u64::from(LOCK) + 1));
    assert_eq!(Decoder::new(out.as_slice()).unwrap().finish().unwrap(), summary);

    let hole = delta(SIZE, 2, LOCK + 2, [LOCK + 2]).unwrap();
    let error = merge(vec![base.as_slice(), &hole], Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "nonsequential page numbers in snapshot transaction (skip lock page): 16384,16387");
    // Growing by the lock page alone needs no page at all.
    let by_one = delta(SIZE, 2, LOCK, []).unwrap();
    assert_eq!(merge(vec![base.as_slice(), &by_one], Vec::new()).unwrap().page_count, u64::from(LOCK) - 1);
}

#[test]
fn deltas_jump_over_the_lock_page_at_every_page_size() {
    for bits in 9..=16 {
        let size = PageSize::new(1 << bits).unwrap();
        let lock = size.lock_page().get();
        let file = delta(size, 2, lock + 3, [1, lock - 1, lock + 1]).unwrap();
        Decoder::new(file.as_slice()).unwrap().finish().unwrap();
        let next = delta(size, 3, lock + 3, [lock - 1, lock + 3]).unwrap();
        let mut merge = Merge::new(vec![file.as_slice(), &next]).unwrap();
        let mut numbers = Vec::new();
        while let Some(page) = merge.next_page().unwrap() {
            numbers.push(page.pgno.get());
        }
        merge.finish().unwrap();
        assert_eq!(numbers, [1, lock - 1, lock + 1, lock + 3]);
    }
}

#[test]
fn the_lock_page_is_refused_by_writer_and_reader() {
    let error = delta(SIZE, 2, LOCK, [LOCK]).unwrap_err();
    assert_eq!(error.to_string(), "cannot encode lock page: pgno=16385");
    let file = Forge::new(65536, LOCK + 1, 2, 2).page(LOCK, &page(65536, 1)).build();
    let error = Decoder::new(file.as_slice()).unwrap().finish().unwrap_err();
    assert!(matches!(error, Error::LockPage { pgno: LOCK }), "{error}");
}

#[test]
fn page_offsets_do_not_overflow() {
    // The last page that SQLite allows, at the largest size: byte 2^48 nearly.
    let last = 4_294_967_294;
    let file = delta(SIZE, 2, last, [65_537, last]).unwrap();
    Decoder::new(file.as_slice()).unwrap().finish().unwrap();
    assert_eq!(Pgno::new(65_537).unwrap().offset(SIZE), 1 << 32);
    assert_eq!(Pgno::new(last).unwrap().offset(SIZE), 4_294_967_293 << 16);
}
