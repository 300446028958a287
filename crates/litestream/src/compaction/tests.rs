//! One test for each rule; random histories are in `tests/history.rs`.

use jiff::SignedDuration;

use super::*;

/// A file made `second` seconds after a boundary of every interval used here.
fn file(level: u8, min: u64, max: u64, second: i64) -> FileInfo {
    let id = FileId { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) };
    FileInfo { id, size: 1000, created_at: at(second) }
}

fn at(second: i64) -> Timestamp {
    "2026-11-22T12:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(second)
}

/// Level-0 files, one a second.
fn singles(range: std::ops::RangeInclusive<u64>) -> Vec<FileInfo> {
    range.map(|txid| file(0, txid, txid, i64::try_from(txid).unwrap())).collect()
}

const INTERVAL: Duration = Duration::from_secs(30);

/// What a level with an interval of 30 s does at a second, as short text.
fn choice(files: &[FileInfo], level: u8, second: i64) -> String {
    match choose(&Inventory::new(files.iter().copied()), Level::new(level).unwrap(), INTERVAL, at(second)) {
        Choice::TooEarly { until } => format!("too early until {until}"),
        Choice::Nothing => "nothing".to_owned(),
        Choice::Merge { inputs, into } => {
            let names: Vec<_> = inputs
                .iter()
                .map(|file| format!("{}:{:x}-{:x}", file.id.level, file.id.min.get(), file.id.max.get()))
                .collect();
            format!("{} -> {:x}-{:x}", names.join(" "), into.min.get(), into.max.get())
        }
        Choice::Blocked { missing } => format!("missing {:x}-{:x}", missing.first.get(), missing.last.get()),
    }
}

#[test]
fn a_level_takes_what_lies_above_it() {
    let files = [vec![file(1, 1, 2, 2)], singles(1..=4)].concat();
    assert_eq!(choice(&files, 1, 30), "0:3-3 0:4-4 -> 3-4");
}

#[test]
fn one_input_is_enough() {
    assert_eq!(choice(&[file(1, 1, 2, 2), file(1, 3, 9, 9), file(2, 1, 2, 2)], 2, 30), "1:3-9 -> 3-9");
}

#[test]
fn a_level_is_served_once_in_an_interval() {
    let files = [vec![file(1, 1, 2, 31)], singles(1..=4)].concat();
    assert_eq!(choice(&files, 1, 59), "too early until 2026-11-22T12:01:00Z");
    assert_eq!(choice(&files, 1, 60), "0:3-3 0:4-4 -> 3-4");
}

/// A clock that was a year ahead wrote the newest file; upstream's level stands
/// still for that year.
#[test]
fn a_time_in_the_far_future_does_not_stop_a_level() {
    let year = 365 * 24 * 3600;
    let files = [vec![file(1, 1, 2, year)], singles(1..=4)].concat();
    assert_eq!(choice(&files, 1, 30), "0:3-3 0:4-4 -> 3-4");
    assert_eq!(choice(&[file(1, 1, 2, 61), file(0, 3, 3, 3)], 1, 59), "0:3-3 -> 3-3");
    assert!(choice(&[file(1, 1, 2, 60), file(0, 3, 3, 3)], 1, 59).starts_with("too early"), "a small difference");
}

#[test]
fn nothing_above_the_level_is_nothing_to_do() {
    assert_eq!(choice(&[], 1, 30), "nothing");
    assert_eq!(choice(&[file(1, 1, 4, 4), file(0, 4, 4, 4)], 1, 30), "nothing");
    assert_eq!(choice(&singles(1..=2), 2, 30), "nothing", "level 2 is made from level 1");
    assert_eq!(choice(&singles(1..=2), 0, 30), "nothing");
    assert_eq!(choice(&singles(1..=2), 9, 30), "nothing");
}

/// SR-12: a failed upload left an interior hole, and level 1 was stuck.
#[test]
fn inputs_end_before_a_hole() {
    let files = [singles(1..=4), singles(6..=8)].concat();
    assert_eq!(choice(&files, 1, 30), "0:1-1 0:2-2 0:3-3 0:4-4 -> 1-4");
}

/// SR-13: a hole exactly where the level ends was stepped over in silence.
#[test]
fn a_hole_at_the_end_of_the_level_is_named() {
    let files = [vec![file(1, 1, 4, 4)], singles(7..=8)].concat();
    assert_eq!(choice(&files, 1, 30), "missing 5-6");
    assert_eq!(choice(&singles(3..=4), 1, 30), "missing 1-2", "a history without its beginning");
    let above = [vec![file(2, 1, 4, 4), file(1, 9, 12, 12)], singles(9..=12)].concat();
    assert_eq!(choice(&above, 2, 30), "missing 5-8", "files behind the hole do not bridge it");
}

#[test]
fn a_snapshot_lets_a_level_go_on_above_it() {
    let files = [vec![file(1, 1, 4, 4), file(9, 1, 7, 7)], singles(6..=9)].concat();
    assert_eq!(choice(&files, 1, 30), "0:8-8 0:9-9 -> 8-9", "6 and 7 cannot be reached without 5");
    let older = [files.clone(), vec![file(9, 1, 5, 5)]].concat();
    assert_eq!(choice(&older, 1, 30), "0:6-6 0:7-7 0:8-8 0:9-9 -> 6-9", "the first image that bridges the hole");
}

#[test]
fn a_file_of_a_higher_level_bridges_a_hole() {
    let files = [vec![file(1, 1, 4, 4), file(2, 1, 7, 7)], singles(9..=9), singles(8..=8)].concat();
    assert_eq!(choice(&files, 1, 30), "0:8-8 0:9-9 -> 8-9");
}

#[test]
fn a_file_of_a_lower_level_fills_a_hole() {
    let files = [vec![file(2, 1, 4, 4), file(1, 5, 6, 6), file(1, 9, 9, 9)], singles(6..=12)].concat();
    assert_eq!(choice(&files, 2, 30), "1:5-6 0:7-7 0:8-8 1:9-9 -> 5-9", "and what is above level 1 stays there");
}

#[test]
fn a_lost_file_is_made_again_at_once() {
    let files = [vec![file(1, 1, 2, 2), file(1, 5, 6, 31)], singles(3..=6)].concat();
    assert_eq!(choice(&files, 1, 32), "0:3-3 0:4-4 -> 3-4");
    assert!(choice(&files[..2], 1, 32).starts_with("too early"), "the source is gone as well");
}

/// SR-14: asked for files from `dst.max + 1` on, a listing leaves out the one
/// that begins before and reaches beyond.
#[test]
fn a_file_that_spans_the_end_of_the_level_is_not_missed() {
    assert_eq!(choice(&[file(2, 1, 4, 4), file(1, 3, 6, 6), file(1, 7, 8, 8)], 2, 30), "1:3-6 1:7-8 -> 3-8");
}

/// LTX-15: files of one level overlap.
#[test]
fn a_covered_file_is_no_input() {
    assert_eq!(choice(&[file(1, 1, 5, 5), file(1, 1, 8, 8), file(1, 3, 6, 6)], 2, 30), "1:1-8 -> 1-8");
    assert_eq!(choice(&[file(1, 1, 5, 5), file(1, 3, 8, 8), file(1, 6, 7, 7)], 2, 30), "1:1-5 1:3-8 -> 1-8");
}

/// SR-19: level 0, 1, 2, 3 and 9 each held the first image.
#[test]
fn the_image_a_history_begins_with_is_not_copied_up() {
    let image = file(9, 1, 1, 1);
    assert_eq!(choice(&[vec![image], singles(1..=3)].concat(), 1, 30), "0:2-2 0:3-3 -> 2-3", "upstream's layout");
    assert_eq!(choice(&[vec![image], singles(2..=3)].concat(), 1, 30), "0:2-2 0:3-3 -> 2-3", "ours");
    assert_eq!(choice(&[image, file(0, 1, 1, 1)], 1, 30), "nothing");
    assert_eq!(choice(&[image, file(0, 1, 1, 1), file(1, 2, 9, 9)], 2, 30), "1:2-9 -> 2-9");
    assert_eq!(choice(&singles(1..=3), 1, 30), "0:1-1 0:2-2 0:3-3 -> 1-3", "without a snapshot it is");
    let beyond = [file(9, 1, 2, 2), file(1, 1, 5, 5), file(1, 6, 8, 8)];
    assert_eq!(choice(&beyond, 2, 30), "1:1-5 1:6-8 -> 1-8", "and when it holds more than the snapshot");
}

#[test]
fn a_snapshot_a_moment_younger_than_the_first_file_does_not_hide_what_follows() {
    let files = [vec![file(9, 1, 3, 3)], singles(1..=4)].concat();
    assert_eq!(choice(&files, 1, 30), "0:2-2 0:3-3 0:4-4 -> 2-4");
}

#[test]
fn a_backlog_is_cut_at_the_boundaries_that_were_missed() {
    assert_eq!(choice(&singles(1..=200), 1, 210).split(" -> ").last(), Some("1-1e"), "up to second 30");
    let rest = [vec![file(1, 1, 0x1e, 30)], singles(0x1f..=200)].concat();
    assert_eq!(choice(&rest, 1, 210).split(" -> ").last(), Some("1f-3c"));
    assert_eq!(choice(&singles(1..=80), 1, 85).split(" -> ").last(), Some("1-50"), "a late pass is no backlog");
}

#[test]
fn a_merge_has_at_most_256_inputs() {
    let files: Vec<FileInfo> = (1..=1000).map(|txid| file(0, txid, txid, 1)).collect();
    assert_eq!(choice(&files, 1, 30).split(" -> ").last(), Some("1-100"));
}

/// SR-1, SR-21.
#[test]
fn a_snapshot_is_due_once_an_interval_and_only_for_something_new() {
    let due = |files: &[FileInfo], second, position| {
        snapshot_due(&Inventory::new(files.iter().copied()), INTERVAL, at(second), Txid::new(position))
    };
    assert!(due(&[], 1, 1), "the first one at once");
    assert!(!due(&[], 1, 0), "there is nothing to store");
    assert!(!due(&[file(9, 1, 5, 1)], 60, 5), "nothing happened since");
    assert!(due(&[file(9, 1, 5, 1)], 60, 6));
    assert!(!due(&[file(9, 1, 5, 31)], 59, 6), "made in this interval");
    assert!(due(&[file(9, 1, 5, 9_999_999)], 60, 6), "a clock was wrong");
    assert!(due(&[file(9, 2, 5, 1)], 60, 2), "no image");
}
