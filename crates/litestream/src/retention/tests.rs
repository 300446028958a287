//! One test for each rule; random histories are in `tests/history.rs`.

use jiff::SignedDuration;

use super::*;

fn file(level: u8, min: u64, max: u64, minute: i64) -> FileInfo {
    FileInfo { id: id(level, min, max), size: 1000, created_at: at(minute) }
}

fn id(level: u8, min: u64, max: u64) -> FileId {
    FileId { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) }
}

fn at(minute: i64) -> Timestamp {
    "2026-11-22T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_mins(minute)
}

fn inventory(files: &[FileInfo]) -> Inventory {
    Inventory::new(files.iter().copied())
}

/// What goes at a minute, as short text.
fn gone(files: &[FileInfo], minute: i64, policy: &Policy) -> Vec<String> {
    let deletions = expired(&inventory(files), at(minute), policy);
    let name = |id: FileId| format!("{}:{}-{}", id.level, id.min.get(), id.max.get());
    deletions.iter().map(|deletion| name(deletion.file.id)).collect()
}

/// The defaults: 5 minutes, 24 hours, 24 hours.
fn policy() -> Policy {
    Policy::default()
}

const DAY: i64 = 24 * 60;
const NOTHING: [&str; 0] = [];

/// SR-4.
#[test]
fn level_0_outlives_its_compaction_by_the_retention() {
    let files = [file(0, 1, 1, 0), file(0, 2, 2, 1), file(0, 3, 3, 2), file(1, 1, 2, 1)];
    assert_eq!(gone(&files, 4, &policy()), NOTHING);
    assert_eq!(gone(&files, 6, &policy()), ["0:1-1", "0:2-2"]);
}

#[test]
fn level_0_stays_until_the_whole_merged_file_is_old() {
    let files = [file(0, 1, 1, 0), file(0, 2, 2, 9), file(0, 3, 3, 10), file(1, 1, 2, 9)];
    assert_eq!(gone(&files, 10, &policy()), NOTHING, "the state at minute 0 is between two restorable ones");
    assert_eq!(gone(&files, 14, &policy()), ["0:1-1", "0:2-2"]);
}

/// Upstream deletes everything up to the newest TXID of level 1.
#[test]
fn level_0_stays_where_nothing_else_holds_it() {
    let files =
        [file(1, 1, 1, 0), file(0, 2, 2, 0), file(0, 3, 3, 0), file(1, 3, 4, 0), file(0, 4, 4, 0), file(0, 5, 5, 0)];
    assert_eq!(gone(&files, 60, &policy()), ["0:3-3", "0:4-4"], "2 is in no other file");
    let mut imaged = files.to_vec();
    imaged.push(file(9, 1, 5, 0));
    assert_eq!(gone(&imaged, 60, &policy()), ["0:3-3", "0:4-4"], "the newest state does not need 2, its moment does");
}

/// A server that looks at level 0 alone must find the newest position there.
#[test]
fn the_newest_file_of_a_level_stays() {
    assert_eq!(gone(&[file(0, 1, 1, 0), file(0, 2, 2, 0), file(1, 1, 2, 0)], 60, &policy()), ["0:1-1"]);
    let idle = [file(9, 1, 5, 0), file(9, 1, 9, 1), file(3, 1, 5, 0), file(2, 1, 2, 0), file(2, 3, 5, 0)];
    assert_eq!(gone(&idle, 3 * DAY, &policy()), ["9:1-5", "2:1-2"]);
}

/// SR-32.
#[test]
fn zero_keeps_level_0_for_ever() {
    let keep = Policy { l0_retention: Duration::ZERO, ..policy() };
    let files = [file(0, 1, 1, 0), file(0, 2, 2, 0), file(1, 1, 2, 0), file(9, 1, 2, 1), file(9, 1, 3, 2)];
    assert_eq!(gone(&files, 10 * DAY, &keep), ["9:1-2"]);
}

#[test]
fn switched_off_nothing_goes() {
    let off = Policy { enabled: false, ..policy() };
    let files = [file(0, 1, 1, 0), file(0, 2, 2, 0), file(1, 1, 2, 0), file(9, 1, 2, 1), file(9, 1, 3, 2)];
    assert_eq!(gone(&files, 10 * DAY, &off), NOTHING);
}

/// SR-33: with 24 h and 24 h upstream's window has no length right after
/// each snapshot.
#[test]
fn the_snapshot_the_window_starts_from_stays() {
    let files = [file(9, 1, 10, 0), file(1, 11, 19, DAY - 1), file(9, 1, 20, DAY), file(1, 20, 30, DAY + 1)];
    assert_eq!(gone(&files, DAY + 2, &policy()), NOTHING);
    assert_eq!(gone(&files, 2 * DAY, &policy()), NOTHING);
    let later = [files.to_vec(), vec![file(9, 1, 40, 2 * DAY)]].concat();
    assert_eq!(gone(&later, 2 * DAY + 59, &policy()), NOTHING, "an hour for restores that run");
    assert_eq!(gone(&later, 2 * DAY + 61, &policy()), ["9:1-10", "1:11-19"]);
}

#[test]
fn grace_is_a_generation_and_at_most_an_hour() {
    let grace = |seconds| Policy { snapshot_interval: Duration::from_secs(seconds), ..policy() }.grace();
    assert_eq!(grace(20), Duration::from_secs(20));
    assert_eq!(grace(24 * 3600), Duration::from_secs(3600));
}

#[test]
fn without_an_old_snapshot_everything_stays() {
    let files = [file(3, 1, 10, 0), file(3, 11, 20, 1), file(9, 1, 20, 2 * DAY), file(0, 21, 21, 2 * DAY)];
    assert_eq!(gone(&files, 2 * DAY + 5, &policy()), NOTHING, "the window starts from level 3");
}

/// Upstream deletes increments only in the pass that deletes a snapshot.
#[test]
fn the_rest_of_an_interrupted_pass_is_found_again() {
    let files = [
        file(9, 1, 10, 0),
        file(2, 1, 5, 0),
        file(2, 6, 10, 0),
        file(2, 11, 20, 0),
        file(9, 1, 20, 1),
        file(2, 21, 22, 2),
    ];
    let all = gone(&files, 3 * DAY, &policy());
    assert_eq!(all, ["9:1-10", "2:1-5", "2:6-10", "2:11-20"]);
    assert_eq!(gone(&files[2..], 3 * DAY, &policy()), all[2..]);
}

/// Changing `levels:` must not leave files behind for ever.
#[test]
fn any_level_is_freed_before_the_window() {
    let files = [file(7, 1, 5, 0), file(7, 6, 9, 0), file(0, 8, 8, 0), file(0, 9, 9, 0), file(9, 1, 9, 1)];
    assert_eq!(gone(&files, 2 * DAY, &policy()), ["0:8-8", "7:1-5"]);
}

#[test]
fn a_broken_replica_is_not_thinned_out() {
    let files = [file(0, 1, 1, 0), file(0, 2, 2, 0), file(1, 1, 2, 0), file(0, 4, 4, 0)];
    assert_eq!(gone(&files, 60, &policy()), NOTHING);
}

#[test]
fn a_bad_clock_does_not_end_the_window() {
    let past = [file(9, 1, 10, 2 * DAY), file(9, 1, 20, -9_999_999), file(9, 1, 30, 2 * DAY + 2)];
    assert_eq!(gone(&past, 2 * DAY + 3, &policy()), NOTHING, "a snapshot is no older than the one before it");
    let future = [file(9, 1, 10, 0), file(9, 1, 20, 9_999_999), file(9, 1, 30, 1)];
    assert_eq!(gone(&future, 2 * DAY, &policy()), ["9:1-10", "9:1-20"], "and does not hold up those after it");
}

#[test]
fn the_first_image_is_kept_once() {
    let files = [file(0, 1, 1, 0), file(9, 1, 1, 0), file(0, 2, 2, 0), file(0, 3, 3, 0), file(1, 2, 3, 0)];
    assert_eq!(gone(&files, 60, &policy()), ["0:1-1", "0:2-2"]);
    let late = [file(0, 1, 1, 0), file(9, 1, 1, 1), file(0, 2, 2, 2), file(1, 2, 2, 2)];
    assert_eq!(gone(&late, 60, &policy()), NOTHING, "for a minute there is only the file at level 0");
}

#[test]
fn a_file_at_level_9_that_is_no_image_is_left_alone() {
    let files = [file(9, 1, 10, 0), file(9, 3, 10, 0), file(9, 1, 20, 1), file(0, 21, 21, 2)];
    assert_eq!(gone(&files, 3 * DAY, &policy()), ["9:1-10"]);
}

/// SR-5.
#[test]
fn local_files_go_in_every_configuration() {
    let local: Vec<_> = (1..=5).map(|txid| (Txid::new(txid), at(0))).collect();
    let gone = |files: &[FileInfo], uploaded, compacts, policy: &Policy| -> Vec<u64> {
        let txids = expired_local(&inventory(files), &local, Txid::new(uploaded), compacts, at(6), policy);
        txids.into_iter().map(Txid::get).collect()
    };
    let merged = [file(9, 1, 1, 0), file(1, 1, 3, 0), file(0, 4, 4, 0), file(0, 5, 5, 0)];
    assert_eq!(gone(&merged, 5, true, &policy()), [1, 2, 3]);
    assert_eq!(gone(&merged, 5, true, &Policy { enabled: false, ..policy() }), [1, 2, 3]);
    assert_eq!(gone(&merged, 5, true, &Policy { l0_retention: Duration::ZERO, ..policy() }), [1, 2, 3]);
    assert_eq!(gone(&merged, 2, true, &policy()), [1, 2], "what was not sent stays");
    assert_eq!(gone(&merged, 5, false, &policy()), [1, 2, 3, 4], "nothing will be merged; 5 is the newest");
    assert_eq!(gone(&[file(9, 1, 4, 0)], 5, true, &policy()), [1, 2, 3, 4], "a snapshot heals what is below it");
    let young = Policy { l0_retention: Duration::from_secs(3600), ..policy() };
    assert_eq!(gone(&merged, 5, true, &young), [0; 0]);
}

#[test]
fn reasons_are_sentences() {
    let files = [file(9, 1, 10, 0), file(2, 1, 9, 0), file(9, 1, 20, 1), file(2, 10, 22, 2)];
    let texts: Vec<_> = expired(&inventory(&files), at(3 * DAY), &policy())
        .iter()
        .map(|deletion| deletion.reason.to_string())
        .collect();
    assert_eq!(
        texts,
        [
            "snapshot.retention starts from the newer snapshot 9/0000000000000001-0000000000000014.ltx",
            "ends at or before snapshot 9/0000000000000001-0000000000000014.ltx, from which snapshot.retention starts"
        ]
    );
}
