//! The planning rule: which files, in which order, and when to refuse.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
#![allow(clippy::cast_possible_truncation, reason = "test data is small")]

use jiff::{SignedDuration, Timestamp};
use litestream_replica::{ErrorKind, FileId, FileInfo, Inventory, Level, Plan, Target};
use ltx::Txid;
use proptest::prelude::*;

/// A file of `level` with its time in milliseconds after [`epoch`].
fn file(level: u8, min: u64, max: u64, millis: i64) -> FileInfo {
    FileInfo {
        id: FileId { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) },
        size: 1000,
        created_at: epoch() + SignedDuration::from_millis(millis),
    }
}

fn epoch() -> Timestamp {
    "2026-11-22T09:50:00Z".parse().unwrap()
}

/// A file whose time follows from its last TXID, one second apart.
fn timely(level: u8, min: u64, max: u64) -> FileInfo {
    file(level, min, max, max as i64 * 1000)
}

fn chain(plan: &Plan) -> Vec<String> {
    plan.files.iter().map(|f| format!("L{} {:x}-{:x}", f.id.level, f.id.min.get(), f.id.max.get())).collect()
}

fn planned(files: &[FileInfo], target: Target) -> Vec<String> {
    chain(&Inventory::new(files.iter().copied()).plan(target).unwrap())
}

fn refusal(files: &[FileInfo], target: Target) -> (ErrorKind, String) {
    let error = Inventory::new(files.iter().copied()).plan(target).unwrap_err();
    (error.kind(), error.to_string())
}

fn txid(id: u64) -> Target {
    Target::Txid(Txid::new(id))
}

fn moment(millis: i64) -> Target {
    Target::Timestamp(epoch() + SignedDuration::from_millis(millis))
}

/// The tree of the specification's worked example, seen on a real replica: one
/// transaction a second, levels of 5, 15 and 45 seconds.
fn worked_example() -> Vec<FileInfo> {
    // 0x4d was written at 14.3 s, 0x57 at 24.3 s, 0x5c at 29.3 s.
    let at = |level, min, max: u64| file(level, min, max, (max as i64 - 62) * 1000 - 700);
    let mut files = vec![file(9, 1, 0x3e, 0), file(9, 1, 0x7b, 60_000)];
    files.extend([(1, 0xb), (0xc, 0x38), (0x39, 0x6b)].map(|(min, max)| at(3, min, max)));
    files.extend(
        [
            (1, 0xb),
            (0xc, 0x1a),
            (0x1b, 0x29),
            (0x2a, 0x38),
            (0x39, 0x4d),
            (0x4e, 0x57),
            (0x58, 0x6b),
            (0x6c, 0x75),
            (0x76, 0x85),
        ]
        .map(|(min, max)| at(2, min, max)),
    );
    files.extend(
        [
            (0x39, 0x3e),
            (0x3f, 0x43),
            (0x44, 0x48),
            (0x49, 0x4d),
            (0x4e, 0x52),
            (0x53, 0x57),
            (0x58, 0x5c),
            (0x5d, 0x61),
            (0x62, 0x66),
            (0x67, 0x6b),
            (0x6c, 0x70),
            (0x71, 0x75),
            (0x76, 0x7b),
            (0x7c, 0x80),
            (0x81, 0x85),
            (0x86, 0x8a),
            (0x8b, 0x8e),
        ]
        .map(|(min, max)| at(1, min, max)),
    );
    files.extend((0x7c..=0x90).map(|n| at(0, n, n)));
    files
}

#[test]
fn worked_example_latest() {
    assert_eq!(
        planned(&worked_example(), Target::Latest),
        ["L9 1-7b", "L2 76-85", "L1 86-8a", "L1 8b-8e", "L0 8f-8f", "L0 90-90"]
    );
}

#[test]
fn worked_example_without_the_newest_snapshot() {
    let files: Vec<_> = worked_example().into_iter().filter(|f| f.id != file(9, 1, 0x7b, 0).id).collect();
    assert_eq!(
        planned(&files, Target::Latest),
        ["L9 1-3e", "L3 39-6b", "L2 6c-75", "L2 76-85", "L1 86-8a", "L1 8b-8e", "L0 8f-8f", "L0 90-90"]
    );
}

#[test]
fn worked_example_by_timestamp() {
    assert_eq!(planned(&worked_example(), moment(30_000)), ["L9 1-3e", "L2 39-4d", "L2 4e-57", "L1 58-5c"]);
}

#[test]
fn worked_example_inside_a_compacted_file() {
    assert_eq!(
        refusal(&worked_example(), txid(0x41)),
        (ErrorKind::Unavailable, "no matching backup files available".to_owned())
    );
}

#[test]
fn all_snapshots_missing_is_bridged_from_txid_one() {
    let files: Vec<_> = worked_example().into_iter().filter(|f| f.id.level != Level::SNAPSHOT).collect();
    assert_eq!(planned(&files, Target::Latest)[..3], ["L3 1-b", "L3 c-38", "L3 39-6b"]);
}

#[test]
fn timestamp_is_strictly_before() {
    let files = [file(0, 1, 1, 0), file(0, 2, 2, 29_315)];
    assert_eq!(planned(&files, moment(29_315)), ["L0 1-1"]);
    assert_eq!(planned(&files, moment(29_316)), ["L0 1-1", "L0 2-2"]);
}

#[test]
fn timestamp_before_the_first_file_is_not_available() {
    assert_eq!(refusal(&[timely(0, 1, 1)], moment(0)).0, ErrorKind::Unavailable);
}

#[test]
fn timestamp_after_the_newest_file_is_the_newest_state() {
    assert_eq!(planned(&[timely(0, 1, 1), timely(0, 2, 2)], moment(i64::from(i32::MAX))), ["L0 1-1", "L0 2-2"]);
}

#[test]
fn txid_of_a_snapshot_needs_no_other_file() {
    assert_eq!(planned(&[timely(9, 1, 4), timely(0, 5, 5)], txid(4)), ["L9 1-4"]);
}

#[test]
fn zero_txid_is_the_newest_state() {
    assert_eq!(planned(&[timely(9, 1, 4), timely(0, 5, 5)], txid(0)), ["L9 1-4", "L0 5-5"]);
}

#[test]
fn txid_beyond_the_newest_is_not_available() {
    assert_eq!(
        refusal(&[timely(9, 1, 4), timely(0, 5, 5)], txid(6)),
        (ErrorKind::Unavailable, "no matching backup files available".to_owned())
    );
}

#[test]
fn an_empty_replica_is_not_available() {
    for target in [Target::Latest, txid(1), moment(0)] {
        assert_eq!(refusal(&[], target), (ErrorKind::Unavailable, "no matching backup files available".to_owned()));
    }
}

#[test]
fn a_chain_that_starts_at_two_is_not_available() {
    assert_eq!(
        refusal(&[timely(0, 2, 2), timely(0, 3, 3)], Target::Latest),
        (ErrorKind::Unavailable, "no matching backup files available".to_owned())
    );
}

#[test]
fn equal_reach_prefers_the_wider_then_the_higher_file() {
    let files = [timely(0, 1, 1), timely(0, 5, 5), timely(1, 2, 5), timely(2, 2, 5), timely(3, 3, 5), timely(0, 2, 2)];
    assert_eq!(planned(&files, Target::Latest), ["L0 1-1", "L2 2-5"]);
}

#[test]
fn overlapping_files_bridge_a_gap() {
    let files = [timely(9, 1, 150), timely(1, 100, 200), timely(0, 201, 201)];
    assert_eq!(planned(&files, Target::Latest), ["L9 1-96", "L1 64-c8", "L0 c9-c9"]);
}

#[test]
fn a_file_within_another_of_its_level_is_skipped() {
    let files = [timely(9, 1, 1), timely(1, 2, 5), timely(1, 2, 9), timely(1, 3, 4), timely(1, 10, 10)];
    assert_eq!(planned(&files, Target::Latest), ["L9 1-1", "L1 2-9", "L1 a-a"]);
}

#[test]
fn a_snapshot_covers_the_txid_level_zero_lacks() {
    let files = [timely(0, 1, 1), timely(0, 2, 2), timely(9, 1, 3), timely(0, 4, 4)];
    assert_eq!(planned(&files, Target::Latest), ["L9 1-3", "L0 4-4"]);
    assert_eq!(planned(&files, txid(2)), ["L0 1-1", "L0 2-2"]);
}

/// A later upstream stores whole images at level 9 alone, also the first one.
#[test]
fn level_nine_alone_may_have_what_level_zero_lacks() {
    let files = [timely(9, 1, 1), timely(0, 2, 2), timely(0, 3, 3), timely(9, 1, 4), timely(0, 5, 5)];
    assert_eq!(planned(&files, Target::Latest), ["L9 1-4", "L0 5-5"]);
    assert_eq!(planned(&files, txid(3)), ["L9 1-1", "L0 2-2", "L0 3-3"]);
    assert_eq!(planned(&files, moment(4500)), ["L9 1-4"]);
    let inventory = Inventory::new(files);
    let points: Vec<u64> = inventory.restore_points().iter().map(|point| point.txid.get()).collect();
    assert_eq!(points, [1, 2, 3, 4, 5]);
    let holes = inventory.holes();
    assert_eq!(holes.len(), 1, "what lies below the oldest snapshot is no hole");
    assert_eq!((holes[0].first.get(), holes[0].last.get()), (4, 4));
    assert_eq!(holes[0].covered_by, Some(timely(9, 1, 4).id));
}

/// Levels that no configuration names any more are part of history.
#[test]
fn every_level_counts_whatever_is_configured() {
    let files = [timely(8, 1, 10), timely(6, 11, 12), timely(4, 12, 20), timely(0, 21, 21)];
    assert_eq!(planned(&files, Target::Latest), ["L8 1-a", "L6 b-c", "L4 c-14", "L0 15-15"]);
}

#[test]
fn retention_leaves_no_hole_and_names_no_step() {
    let inventory = Inventory::new([timely(9, 1, 50), timely(2, 41, 60), timely(0, 61, 61)]);
    assert_eq!(inventory.holes(), []);
    assert_eq!(inventory.step_around(Txid::new(55)), Some(timely(2, 41, 60).id));
    assert_eq!(inventory.step_around(Txid::new(60)), None);
    assert_eq!(inventory.step_around(Txid::new(61)), None);
}

#[test]
fn a_level_nine_file_that_starts_late_is_no_base() {
    let files = [timely(9, 1, 3), timely(9, 2, 7), timely(0, 4, 4)];
    assert_eq!(planned(&files, Target::Latest), ["L9 1-3", "L0 4-4"]);
}

#[test]
fn latest_stops_at_a_hole_with_upstreams_words() {
    let files = [timely(9, 1, 4), timely(0, 5, 5), timely(0, 8, 8), timely(1, 9, 12)];
    assert_eq!(
        refusal(&files, Target::Latest),
        (
            ErrorKind::Hole,
            "non-contiguous ltx files: have up to 0000000000000005 but next file starts at 0000000000000008".to_owned()
        )
    );
}

#[test]
fn txid_beyond_a_hole_names_the_hole_and_its_neighbours() {
    let files = [timely(9, 1, 4), timely(0, 5, 5), timely(0, 8, 8), timely(0, 9, 9), timely(9, 1, 10)];
    assert_eq!(
        refusal(&files, txid(9)),
        (
            ErrorKind::Hole,
            "no backup of txid 0000000000000009: transactions 0000000000000006 to 0000000000000007 are missing; \
             nearest restorable points are 0000000000000005 (2026-11-22T09:50:05Z) and 000000000000000a \
             (2026-11-22T09:50:10Z)"
                .to_owned()
        )
    );
}

#[test]
fn txid_before_a_hole_is_restorable() {
    let files = [timely(9, 1, 4), timely(0, 5, 5), timely(0, 8, 8)];
    assert_eq!(planned(&files, txid(5)), ["L9 1-4", "L0 5-5"]);
}

/// Upstream restores the state before the hole and exits 0, hours too early.
#[test]
fn timestamp_beyond_a_hole_is_refused() {
    let files = [timely(9, 1, 4), timely(0, 5, 5), timely(0, 8, 8)];
    let (kind, text) = refusal(&files, moment(9000));
    assert_eq!(kind, ErrorKind::Hole);
    assert!(text.contains("transactions 0000000000000006 to 0000000000000007 are missing"), "{text}");
    assert!(text.ends_with("nearest restorable point is 0000000000000005 (2026-11-22T09:50:05Z)"), "{text}");
}

#[test]
fn timestamp_before_the_far_side_of_a_hole_is_restorable() {
    let files = [timely(9, 1, 4), timely(0, 5, 5), timely(0, 8, 8)];
    assert_eq!(planned(&files, moment(8000)), ["L9 1-4", "L0 5-5"]);
}

/// A clock that ran ahead at TXID 3 leaves no hole: the plan stops before it.
#[test]
fn a_clock_that_jumped_is_not_a_hole() {
    let files = [timely(0, 1, 1), timely(0, 2, 2), file(0, 3, 3, 60_000), timely(0, 4, 4)];
    assert_eq!(planned(&files, moment(5000)), ["L0 1-1", "L0 2-2"]);
    assert_eq!(planned(&files, Target::Latest).len(), 4);
}

#[test]
fn bounds_span_all_levels() {
    let inventory = Inventory::new(worked_example());
    let bounds = inventory.bounds().unwrap();
    assert_eq!((bounds.first_txid.get(), bounds.last_txid.get()), (1, 0x90));
    assert_eq!(bounds.newest, epoch() + SignedDuration::from_millis(81_300));
    assert_eq!(Inventory::default().bounds(), None);
}

#[test]
fn short_files_are_refused_with_level_and_size() {
    let mut short = timely(9, 1, 2);
    short.size = 50;
    let error = Plan { files: vec![short] }.check_sizes().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(
        error.to_string(),
        "invalid ltx file: level=9 min=0000000000000001 max=0000000000000002 has size 50 bytes (minimum 100)"
    );
}

/// Every file of a random history: levels 0 to 9, intervals over 24 TXIDs.
fn histories() -> impl Strategy<Value = Vec<FileInfo>> {
    let any_file = (0u8..=9, 1u64..24, 0u64..8, 0i64..30).prop_map(|(level, min, span, second)| {
        file(level, if level == 9 { 1 } else { min }, min + span, second * 1000)
    });
    // A store holds a name once.
    proptest::collection::vec(any_file, 0..40).prop_map(|files| Inventory::new(files).files().to_vec())
}

fn targets() -> impl Strategy<Value = Target> {
    prop_oneof![Just(Target::Latest), (1u64..32).prop_map(txid), (0i64..31).prop_map(|second| moment(second * 1000))]
}

fn admitted(file: &FileInfo, target: Target) -> bool {
    match target {
        Target::Latest => true,
        Target::Txid(txid) => file.id.max <= txid,
        Target::Timestamp(moment) => file.created_at < moment,
    }
}

/// For each TXID, the least number of admitted files of levels 0 to 8 that lead
/// to it from `start`, found by trying everything.
fn distances(files: &[FileInfo], target: Target, start: u64) -> std::collections::BTreeMap<u64, usize> {
    let mut distances = std::collections::BTreeMap::from([(start, 0)]);
    loop {
        let mut changed = false;
        for file in files.iter().filter(|f| f.id.level != Level::SNAPSHOT && admitted(f, target)) {
            let (min, max) = (file.id.min.get(), file.id.max.get());
            let best = distances.iter().filter(|(at, _)| min <= **at + 1 && max > **at).map(|(_, n)| n + 1).min();
            if let Some(best) = best
                && distances.get(&max).is_none_or(|known| *known > best)
            {
                distances.insert(max, best);
                changed = true;
            }
        }
        if !changed {
            return distances;
        }
    }
}

/// Small ones, and those at the end of the numbers.
fn txids() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..12, (0u64..4).prop_map(|back| u64::MAX - back), any::<u64>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What a hostile store may list: any range, any size, any time.
    #[test]
    fn no_listing_crashes_a_plan(
        files in proptest::collection::vec((0u8..=9, txids(), txids(), any::<u64>(), any::<i32>()), 0..30),
        target in prop_oneof![Just(Target::Latest), txids().prop_map(txid), any::<i32>().prop_map(|ms| moment(ms.into()))],
        position in txids(),
    ) {
        let files = files.into_iter().map(|(level, a, b, size, millis)| {
            FileInfo { size, ..file(level, a.min(b).max(1), a.max(b).max(1), millis.into()) }
        });
        let inventory = Inventory::new(files);
        if let Ok(plan) = inventory.plan(target) {
            let mut reached = 0_u64;
            for file in &plan.files {
                prop_assert!(file.id.min.get() <= reached.saturating_add(1) && file.id.max.get() > reached);
                reached = file.id.max.get();
            }
            prop_assert!(plan.total_bytes() >= plan.files.iter().map(|file| file.size).max().unwrap_or_default());
        }
        let _ = (inventory.bounds(), inventory.plan_from(Txid::new(position)), inventory.newest_txid());
        let _ = (inventory.restore_points(), inventory.holes(), inventory.nearest(Txid::new(position)));
    }

    /// A plan exists exactly when a chain does; it is contiguous, starts at 1,
    /// ends at the target and no chain from its base is shorter.
    #[test]
    fn plan_is_the_shortest_chain(files in histories(), target in targets()) {
        let inventory = Inventory::new(files.iter().copied());
        let base = files
            .iter()
            .filter(|f| f.id.level == Level::SNAPSHOT && admitted(f, target))
            .map(|f| f.id.max.get())
            .max();
        let start = base.unwrap_or(0);
        let distances = distances(&files, target, start);
        let (&reach, &hops) = distances.last_key_value().unwrap();
        let wanted = match target {
            Target::Txid(txid) => txid.get(),
            _ => reach,
        };
        let beyond = files.iter().any(|f| f.id.level != Level::SNAPSHOT && f.id.min.get() > reach + 1);
        match inventory.plan(target) {
            Ok(plan) => {
                prop_assert_eq!(plan.files[0].id.min, Txid::FIRST);
                for pair in plan.files.windows(2) {
                    prop_assert!(pair[1].id.min <= pair[0].id.max.next() && pair[1].id.max > pair[0].id.max);
                }
                prop_assert!(plan.files.iter().all(|f| admitted(f, target)));
                prop_assert_eq!(plan.txid().get(), wanted);
                prop_assert_eq!(plan.files.len(), hops + usize::from(base.is_some()));
                prop_assert!(target != Target::Latest || !beyond);
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                prop_assert!(reach == 0 || reach < wanted);
            }
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::Hole);
                prop_assert!(beyond && reach > 0);
                prop_assert!(matches!(target, Target::Latest | Target::Timestamp(_)) || reach < wanted);
            }
        }
    }

    /// A TXID is a restore point exactly when a plan for it exists.
    #[test]
    fn restore_points_are_the_txids_that_plan(files in histories()) {
        let inventory = Inventory::new(files);
        let points: Vec<u64> = inventory.restore_points().iter().map(|p| p.txid.get()).collect();
        let plannable: Vec<u64> = (1..40).filter(|id| inventory.plan(txid(*id)).is_ok()).collect();
        prop_assert_eq!(points, plannable);
    }

    /// The newest state can be restored exactly when each hole is bridged, and on
    /// both sides of a hole stand the restorable states next to it.
    #[test]
    fn a_hole_without_a_bridge_is_a_newest_state_out_of_reach(files in histories()) {
        let inventory = Inventory::new(files);
        let holes = inventory.holes();
        let has_changes = inventory.files().iter().any(|file| file.id.level != Level::SNAPSHOT);
        if has_changes {
            prop_assert_eq!(holes.iter().all(|hole| hole.is_covered()), inventory.plan(Target::Latest).is_ok());
        }
        let points = inventory.restore_points();
        for hole in &holes {
            prop_assert!(hole.first <= hole.last);
            let before = points.iter().rev().find(|point| point.txid < hole.first);
            let after = points.iter().find(|point| point.txid >= hole.last);
            prop_assert_eq!(hole.before.as_ref(), before);
            prop_assert_eq!(hole.after.as_ref(), after);
            let changes = inventory.files().iter().filter(|file| file.id.level != Level::SNAPSHOT);
            for file in changes {
                prop_assert!(file.id.max < hole.first || file.id.min > hole.last, "{} overlaps {:?}", file.id, hole);
            }
        }
        for pair in holes.windows(2) {
            prop_assert!(pair[0].last < pair[1].first);
        }
    }

    /// The order in which a store lists does not matter.
    #[test]
    fn listing_order_does_not_matter(files in histories(), target in targets()) {
        let forward = Inventory::new(files.iter().copied()).plan(target).ok();
        let backward = Inventory::new(files.into_iter().rev()).plan(target).ok();
        prop_assert_eq!(forward, backward);
    }
}
