//! The decision as a table: where the LTX files are, where the 0.3 objects.

use jiff::SignedDuration;
use ltx::Txid;

use super::*;
use crate::{FileId, FileInfo, Level, ObjectInfo};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn file(level: u8, min: u64, max: u64, second: i64) -> FileInfo {
    let id = FileId { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) };
    FileInfo { id, size: 200, created_at: at(second) }
}

/// A backup whose snapshot and segments were stored at these seconds.
fn v3(snapshot: i64, segments: &[i64]) -> V3Inventory {
    let object = |name: String, second| ObjectInfo {
        key: format!("generations/00000000000000aa/{name}"),
        size: 10,
        modified: at(second),
    };
    let segments =
        segments.iter().zip(0..).map(|(second, index)| object(format!("wal/{index:08x}_00000000.wal.lz4"), *second));
    V3Inventory::new(std::iter::once(object("snapshots/00000000.snapshot.lz4".to_owned(), snapshot)).chain(segments))
}

#[test]
fn an_empty_side_leaves_the_other() {
    let (ltx, old) = (Inventory::new([file(9, 1, 5, 50)]), v3(10, &[20]));
    for target in [Target::Latest, Target::Timestamp(at(100))] {
        assert_eq!(choose(&ltx, &V3Inventory::default(), target), Format::Ltx);
        assert_eq!(choose(&Inventory::default(), &old, target), Format::V3);
        assert_eq!(choose(&Inventory::default(), &V3Inventory::default(), target), Format::Ltx);
    }
}

#[test]
fn a_txid_never_means_an_old_backup() {
    for ltx in [Inventory::default(), Inventory::new([file(9, 1, 5, 5)])] {
        assert_eq!(choose(&ltx, &v3(10, &[20]), Target::Txid(Txid::new(9))), Format::Ltx);
    }
}

#[test]
fn latest_is_the_newer_side_and_ltx_when_equal() {
    for (ltx_newest, format) in [(19, Format::V3), (20, Format::Ltx), (21, Format::Ltx)] {
        let ltx = Inventory::new([file(9, 1, 5, 5), file(0, 6, 6, ltx_newest)]);
        assert_eq!(choose(&ltx, &v3(10, &[20]), Target::Latest), format, "{ltx_newest}");
    }
}

/// An upgrade in place at second 100: 0.3 ends, LTX files begin.
#[test]
fn after_an_upgrade_old_times_lead_to_the_old_backup() {
    let old = v3(10, &[20, 90]);
    let with_snapshot = Inventory::new([file(0, 1, 1, 100), file(9, 1, 1, 101), file(0, 2, 2, 110)]);
    for (second, format) in [
        (5, Format::V3), // neither has it, and this one begins earlier
        (10, Format::V3),
        (95, Format::V3),
        (100, Format::V3), // LTX times are exclusive
        (101, Format::Ltx),
        (500, Format::Ltx),
    ] {
        assert_eq!(choose(&with_snapshot, &old, Target::Timestamp(at(second))), format, "second {second}");
    }
}

/// Upstream looks at level 9 alone and would restore the state of second 90.
#[test]
fn a_base_at_a_low_level_counts() {
    let old = v3(10, &[20, 90]);
    for level in 0..=3 {
        let ltx = Inventory::new([file(level, 1, 4, 100), file(0, 5, 5, 110)]);
        assert_eq!(choose(&ltx, &old, Target::Timestamp(at(200))), Format::Ltx, "level {level}");
        assert_eq!(choose(&ltx, &old, Target::Timestamp(at(99))), Format::V3, "level {level}");
    }
}

/// Files are there whose base has expired: LTX cannot go back that far.
#[test]
fn ltx_files_without_a_base_lead_nowhere() {
    let ltx = Inventory::new([file(1, 5, 9, 100), file(9, 1, 20, 300)]);
    let old = v3(10, &[20]);
    assert_eq!(choose(&ltx, &old, Target::Timestamp(at(200))), Format::V3);
    assert_eq!(choose(&ltx, &old, Target::Timestamp(at(400))), Format::Ltx);
}

/// A hole in the newer history must be an error, not an older database.
#[test]
fn a_hole_in_the_wanted_history_is_not_bridged_by_an_older_backup() {
    let ltx = Inventory::new([file(9, 1, 4, 100), file(0, 9, 9, 110)]);
    let later = Target::Timestamp(at(110) + SignedDuration::from_secs(1));
    assert_eq!(ltx.plan(later).unwrap_err().kind(), ErrorKind::Hole);
    assert_eq!(choose(&ltx, &v3(10, &[20]), later), Format::Ltx);
    // And the other way round: 0.3 went on after LTX files ended.
    assert_eq!(choose(&ltx, &v3(105, &[112]), Target::Timestamp(at(120))), Format::V3);
}
