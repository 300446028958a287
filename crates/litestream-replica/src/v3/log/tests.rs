//! Real logs by SQLite, fed in odd pieces and damaged at every place that matters.

use std::path::PathBuf;

use litestream_testkit::image::{self, Image};
use litestream_testkit::scenario::{commit, quiet_connection};

use super::*;

/// A database at the start of a log, the log, and what both together are.
struct World {
    dir: tempfile::TempDir,
    base: Vec<u8>,
    log: Vec<u8>,
    expected: Image,
}

fn world(sql: &str) -> World {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    let app = quiet_connection(&db).unwrap();
    commit(&app, 3).unwrap();
    app.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    app.execute_batch(sql).unwrap();
    let expected = image::read_image(&db).unwrap();
    let copy = |suffix: &str| {
        let to = dir.path().join("copy");
        let from = format!("{}{suffix}", db.display());
        assert!(std::process::Command::new("cp").args([&from, to.to_str().unwrap()]).status().unwrap().success());
        std::fs::read(to).unwrap()
    };
    World { base: copy(""), log: copy("-wal"), expected, dir }
}

impl World {
    /// Applies `log` in pieces of `piece_len` and gives the file's bytes.
    fn apply(&self, log: &[u8], piece_len: usize) -> Result<Vec<u8>> {
        let path: PathBuf = self.dir.path().join("out");
        std::fs::write(&path, &self.base).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut applied = Log::new(&file, &path, PageSize::new(4096).unwrap());
        for piece in log.chunks(piece_len) {
            applied.append(piece)?;
        }
        assert_eq!(applied.len(), log.len() as u64);
        applied.finish()?;
        let left: Vec<_> = std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name == "out-wal"), "{left:?}");
        Ok(std::fs::read(&path).unwrap())
    }

    fn frame_start(&self, frame: usize) -> usize {
        HEADER_LEN + (frame - 1) * (FRAME_HEADER_LEN + 4096)
    }
}

const THREE: &str = "INSERT INTO event (body) VALUES (zeroblob(9000)); DELETE FROM event WHERE id = 1; \
                     INSERT INTO event (body) VALUES (randomblob(20))";

#[test]
fn a_log_in_pieces_of_any_length_gives_the_same_database() {
    let world = world(THREE);
    for piece_len in [1, 7, 32, 4120, 4152, 1 << 20] {
        assert!(world.apply(&world.log, piece_len).unwrap() == world.expected.bytes(), "pieces of {piece_len}");
    }
}

/// 40 MiB in one transaction: more than is kept in memory.
#[test]
fn a_large_transaction_goes_through_the_scratch_file() {
    let world = world(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
         INSERT INTO event (body) SELECT zeroblob(1000000) FROM n; DELETE FROM event WHERE id = 20",
    );
    assert!(world.log.len() > 4 * MEMORY_LEN);
    assert!(world.apply(&world.log, 1 << 20).unwrap() == world.expected.bytes());
}

#[test]
fn a_database_that_shrinks_within_a_log_ends_at_its_last_commit() {
    let world = world(
        "INSERT INTO event (body) VALUES (zeroblob(500000)); DELETE FROM event; VACUUM;
         INSERT INTO event (body) VALUES (zeroblob(60000))",
    );
    assert!(world.apply(&world.log, 4096).unwrap() == world.expected.bytes());
}

#[test]
fn an_unfinished_transaction_at_the_end_does_not_count() {
    let world = world(THREE);
    let last = world.frame_start((world.log.len() - HEADER_LEN) / 4120);
    let mut with_tail = world.log.clone();
    // A frame that commits nothing: a copy of one with its commit field cleared.
    let mut frame = world.log[last..].to_vec();
    frame[4..8].fill(0);
    with_tail.extend_from_slice(&frame);
    assert!(world.apply(&with_tail, 4096).unwrap() == world.expected.bytes());
    // The same, torn.
    with_tail.truncate(world.log.len() + 1000);
    assert!(world.apply(&with_tail, 4096).unwrap() == world.expected.bytes());
}

#[test]
fn frames_of_an_older_log_behind_the_end_do_not_count() {
    let world = world(THREE);
    let mut stale = world.log[world.frame_start(1)..].to_vec();
    for frame in stale.chunks_mut(4120) {
        frame[8] ^= 0xff;
    }
    let with_tail = [world.log.as_slice(), &stale].concat();
    assert!(world.apply(&with_tail, 4096).unwrap() == world.expected.bytes());
}

/// SQLite would stop there without a word, and the commits behind would be gone.
#[test]
fn damage_before_a_commit_is_an_error_wherever_it_is() {
    let world = world(THREE);
    let frames = (world.log.len() - HEADER_LEN) / 4120;
    assert!(frames >= 4, "{frames}");
    for frame in 1..=frames {
        for offset in [0, 8, 16, FRAME_HEADER_LEN, 4000] {
            let is_last_commit_field_intact = frame < frames || offset != 8;
            if !is_last_commit_field_intact {
                continue; // looks like an older log's; the test above
            }
            let mut log = world.log.clone();
            log[world.frame_start(frame) + offset] ^= 0x40;
            let error = world.apply(&log, 1000).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "frame {frame} offset {offset}");
            assert!(error.to_string().contains(&format!("WAL frame {frame}: ")), "{error}");
        }
    }
    let torn = &world.log[..world.log.len() - 1];
    assert!(world.apply(torn, 1000).unwrap_err().to_string().contains("which commits"));
}

#[test]
fn a_log_without_a_valid_header_is_an_error() {
    let world = world(THREE);
    for offset in [0, 4, 8, 11, 16, 24, 31] {
        let mut log = world.log.clone();
        log[offset] ^= 0x01;
        assert_eq!(world.apply(&log, 4096).unwrap_err().kind(), ErrorKind::Corrupt, "byte {offset}");
    }
    assert_eq!(world.apply(&world.log[..20], 4096).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(world.apply(&[], 1).unwrap() == world.base, "an empty log changes nothing");
}

/// L64: positions beyond 4 GiB, which no test can afford to fill.
#[test]
fn lengths_are_counted_in_64_bits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let file = File::create_new(&path).unwrap();
    let mut log = Log::new(&file, &path, PageSize::new(4096).unwrap());
    log.len = u64::from(u32::MAX) - 3;
    log.frame_count = u64::from(u32::MAX);
    log.append(&[0; 8]).unwrap();
    assert_eq!(log.len(), u64::from(u32::MAX) + 5);
}

/// Salts and cumulative checksums of all frames as the header implies them, so that
/// what a frame claims is believed.
#[allow(clippy::ptr_arg, reason = "what a target takes")]
fn repaired(log: &mut Vec<u8>) {
    let Some(header) = log.first_chunk::<HEADER_LEN>().copied() else { return };
    let order = if header[3] & 1 == 1 { ltx::wal::WordOrder::Big } else { ltx::wal::WordOrder::Little };
    let mut chain = Chain::default().over(&header[..24], order);
    let bytes = |Chain(a, b): Chain| [a.to_be_bytes(), b.to_be_bytes()].concat();
    log[24..32].copy_from_slice(&bytes(chain));
    for frame in log[HEADER_LEN..].chunks_exact_mut(FRAME_HEADER_LEN + 4096) {
        frame[8..16].copy_from_slice(&header[16..24]);
        chain = chain.over(&frame[..8], order).over(&frame[FRAME_HEADER_LEN..], order);
        frame[16..24].copy_from_slice(&bytes(chain));
    }
}

/// Pages near the end of the numbers included: what a log makes of the database is
/// as long as its last commit says, or an error.
#[test]
fn no_log_crashes_or_takes_memory_beyond_its_buffers() {
    let World { dir, log, .. } = world(THREE);
    let words = [&[0x37, 0x7f, 0x06, 0x83][..], &[0xff; 4], &[0; 4], &[0, 0, 0, 1], &[0, 0, 0, 2, 0, 0, 0, 2]];
    litestream_fuzz::Target::new("v0.3 log", [log]).words(&words).repair(repaired).run(|input| {
        let path = dir.path().join("out");
        let file = tempfile::tempfile_in(dir.path()).unwrap();
        file.set_len(4096).unwrap();
        // A transaction waits in memory up to eight megabytes.
        let bound = litestream_fuzz::Bound { base: 64 << 10, per_byte: 8 };
        let applied = litestream_fuzz::bounded(input.len(), bound, || {
            let mut log = Log::new(&file, &path, PageSize::new(4096).unwrap());
            for piece in input.chunks(700) {
                log.append(piece)?;
            }
            let commit = log.commit;
            log.finish().map(|()| commit)
        });
        if let Ok(Some(commit)) = applied {
            assert_eq!(file.metadata().unwrap().len(), u64::from(commit) * 4096);
        }
    });
}
