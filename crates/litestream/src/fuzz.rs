//! Fuzz bodies of what stands on the local disk: the application's log, and our own
//! state, which another program may have damaged.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crc_fast::{CrcAlgorithm, checksum};
use litestream_fuzz::{Bound, Target, bounded};
use ltx::wal::{Chain, FRAME_HEADER_LEN, HEADER_LEN, WordOrder, frame_at, frame_len};
use ltx::{Checksum, PageSize, Pgno, Txid};

use crate::health::replica_problem;
use crate::page_sums::PageSums;
use crate::position::{Inode, Position, PositionFile};
use crate::wal::{self, Salts, WalPosition};

fn file_with(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn contents(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn load(bytes: &[u8]) -> Option<Position> {
    let file = file_with(bytes);
    PositionFile::new(move || Ok(file.try_clone().unwrap().into())).load().unwrap()
}

#[test]
fn no_position_file_crashes_or_is_believed_without_its_checksum() {
    let file = tempfile::tempfile().unwrap();
    let again = file.try_clone().unwrap();
    let mut positions = PositionFile::new(move || Ok(again.try_clone().unwrap().into()));
    for txid in 1..=3 {
        let wal = WalPosition { salts: Salts(1, 2), frame: 3, chain: Chain(4, 5) };
        let inode = Inode { device: 6, number: 7 };
        let page_size = PageSize::new(4096).unwrap();
        let position = Position {
            txid: Txid::new(txid),
            file_checksum: Checksum::new(1 << 63),
            page_size,
            commit: 17,
            wal,
            inode,
        };
        positions.store(&position).unwrap();
    }
    let sound = contents(&file);
    let repair = |bytes: &mut Vec<u8>| {
        for record in bytes.chunks_exact_mut(88) {
            let sum = checksum(CrcAlgorithm::Crc64Nvme, &record[..80]).to_be_bytes();
            record[80..].copy_from_slice(&sum);
        }
    };
    let words = [&b"LSPOS001"[..], &[0xff; 8], &[0; 8]];
    Target::new("position", [sound]).words(&words).repair(repair).run(|input| {
        let bound = Bound { base: 64 << 10, per_byte: 0 };
        let Some(position) = bounded(0, bound, || load(input)) else { return };
        // A repeated record may have overflowed its turn; the file is then as good as
        // a lost one, and never another position.
        let file = file_with(input);
        let mut positions = PositionFile::new(move || Ok(file.try_clone().unwrap().into()));
        assert_eq!(positions.load().unwrap(), Some(position));
        positions.store(&Position { txid: position.txid.next(), ..position }).unwrap();
        assert_eq!(positions.load().unwrap().unwrap().txid, position.txid.next(), "the next record wins");
    });
}

#[test]
fn no_table_of_page_sums_crashes_or_costs_what_it_claims() {
    let file = tempfile::tempfile().unwrap();
    let mut sums = PageSums::create(file.try_clone().unwrap().into(), PageSize::new(512).unwrap()).unwrap();
    let entries: Vec<Checksum> = (1..=20).map(|n| Checksum::new(n | 1 << 63)).collect();
    sums.append(Pgno::new(1).unwrap(), &entries).unwrap();
    sums.complete(Txid::new(7), 20).unwrap();
    sums.stamp().unwrap();
    let repair = |bytes: &mut Vec<u8>| {
        if let Some(header) = bytes.first_chunk_mut::<64>() {
            let sum = checksum(CrcAlgorithm::Crc64Nvme, &header[..56]).to_le_bytes();
            header[56..].copy_from_slice(&sum);
        }
    };
    let words = [&b"LSSUM001"[..], &[0xff; 4], &[0xff; 8], &[0; 4]];
    Target::new("page sums", [contents(&file)]).words(&words).repair(repair).run(|input| {
        let bound = Bound { base: 64 << 10, per_byte: 0 };
        bounded(0, bound, || {
            let Some(sums) = PageSums::open(file_with(input).into()).unwrap() else { return };
            for first in [1, 19, 21, u32::MAX] {
                // An error, or as many as were asked for.
                if let Ok(read) = sums.read(Pgno::new(first).unwrap(), 100) {
                    assert_eq!(read.len(), 100);
                }
            }
        });
    });
}

#[test]
fn no_note_of_a_problem_crashes_or_takes_memory_beyond_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let note = dir.path().join("replica-problem");
    let sound = "since 2026-01-02T03:04:05Z: level 0 has a hole at 0000000000000007\n";
    Target::new("replica problem", [sound.to_owned(), sound.repeat(2000)]).words(&["\0", "\u{1b}[2J", "\u{feff}"]).run(
        |input| {
            std::fs::write(&note, input).unwrap();
            // Read as bytes, then as text, of which each bad byte takes three, twice.
            let bound = Bound { base: 1 << 20, per_byte: 0 };
            let text = bounded(0, bound, || replica_problem(dir.path())).unwrap().unwrap();
            assert!(text.len() <= 3 * (64 << 10));
            let shown = &input[..input.len().min(64 << 10)];
            assert_eq!(text, String::from_utf8_lossy(shown).trim_end());
        },
    );
}

/// A log that SQLite wrote, as far as its last commit.
fn log() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(
        "PRAGMA page_size = 512; PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0;
         CREATE TABLE t (x); INSERT INTO t VALUES (randomblob(900)); DELETE FROM t; VACUUM;",
    )
    .unwrap();
    std::fs::read(dir.path().join("db-wal")).unwrap()
}

/// Makes salts and cumulative checksums of all frames those that the header implies.
#[allow(clippy::ptr_arg, reason = "what a target takes")]
fn repair_log(bytes: &mut Vec<u8>) {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>().copied() else { return };
    let order = if header[3] & 1 == 1 { WordOrder::Big } else { WordOrder::Little };
    let mut chain = Chain::default().over(&header[..24], order);
    let store = |to: &mut [u8], Chain(a, b): Chain| to.copy_from_slice(&[a.to_be_bytes(), b.to_be_bytes()].concat());
    store(&mut bytes[24..32], chain);
    for frame in bytes[HEADER_LEN..].chunks_exact_mut(FRAME_HEADER_LEN + 512) {
        frame[8..16].copy_from_slice(&header[16..24]);
        chain = chain.over(&frame[..8], order).over(&frame[FRAME_HEADER_LEN..], order);
        store(&mut frame[16..24], chain);
    }
}

#[test]
fn no_log_crashes_a_scan_or_makes_it_believe_a_page_beyond_the_end() {
    let words = [&[0x37, 0x7f, 0x06, 0x82][..], &[0x37, 0x7f, 0x06, 0x83], &[0xff; 4], &[0; 4], &[0, 0, 0, 1]];
    Target::new("wal", [log()]).words(&words).repair(repair_log).run(|input| {
        let file = file_with(input);
        let Ok(Some(header)) = wal::read_header(&file) else { return };
        let count = input.len().saturating_sub(HEADER_LEN) / frame_len(header.page_size);
        let count = u32::try_from(count).unwrap();
        let from = WalPosition { salts: header.salts, frame: 0, chain: header.chain };
        for (until, limit) in [(count, u64::MAX), (count, 1), (count.saturating_add(3), u64::MAX), (u32::MAX, u64::MAX)]
        {
            // One read of a megabyte, and a few words for each frame.
            let bound = Bound { base: 3 << 20, per_byte: 4 };
            let scanned = bounded(input.len(), bound, || wal::scan(&file, &header, from, until, limit));
            let Ok(Some(frames)) = scanned else { continue };
            assert!(frames.commit > 0 && frames.end.frame <= until);
            let end = input.len() as u64;
            for (pgno, offset) in &frames.pages {
                assert!(pgno.get() <= frames.commit, "{pgno} of {}", frames.commit);
                assert!(offset + u64::from(header.page_size.get()) <= end);
                let frame = frame_at(header.page_size, offset - FRAME_HEADER_LEN as u64);
                assert!(frame.is_some_and(|frame| frame < frames.end.frame));
            }
        }
    });
}
