//! Selection, gaps and their messages, on listings alone.

use super::*;

const A: &str = "000000000000000a";
const B: &str = "000000000000000b";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn snapshot(generation: &str, index: u32, second: i64) -> ObjectInfo {
    let key = format!("generations/{generation}/snapshots/{index:08x}.snapshot.lz4");
    ObjectInfo { key, size: 100, modified: at(second) }
}

fn segment(generation: &str, index: u32, offset: u64, second: i64) -> ObjectInfo {
    let key = format!("generations/{generation}/wal/{index:08x}_{offset:08x}.wal.lz4");
    ObjectInfo { key, size: 10, modified: at(second) }
}

/// Base and last segment of a plan, as text, with the number of objects.
fn shape(plan: &V3Plan) -> (String, String, usize) {
    let base = format!("{}/{}", plan.snapshot.generation.to_string().trim_start_matches('0'), plan.snapshot.index);
    let last = plan.segments.last().map_or("-".to_owned(), |segment| segment.start.to_string());
    (base, last, plan.object_count())
}

/// Two generations; the second begins with index 7, as after a new snapshot.
fn two_generations() -> V3Inventory {
    V3Inventory::new([
        snapshot(A, 0, 10),
        segment(A, 0, 0, 11),
        segment(A, 0, 4152, 12),
        segment(A, 1, 0, 13),
        snapshot(A, 1, 14),
        segment(A, 1, 4152, 15),
        snapshot(B, 7, 20),
        segment(B, 7, 0, 21),
        segment(B, 8, 0, 22),
        segment(B, 8, 1_000, 23),
    ])
}

/// L63: several generations, a snapshot whose index is not 0, and every moment.
#[test]
fn each_moment_has_its_base_and_segments() {
    let inventory = two_generations();
    for (second, base, last, count) in [
        (9, "", "", 0),
        (10, "a/0", "-", 1),
        (11, "a/0", "0/0", 2),
        (12, "a/0", "0/4152", 3),
        (13, "a/0", "1/0", 4),
        // The segment of the snapshot's own index was stored before it.
        (14, "a/1", "1/0", 2),
        (19, "a/1", "1/4152", 3),
        (20, "b/7", "-", 1),
        (22, "b/7", "8/0", 3),
        (1_000, "b/7", "8/1000", 4),
    ] {
        match inventory.plan(Target::Timestamp(at(second))) {
            Ok(plan) => assert_eq!(shape(&plan), (base.to_owned(), last.to_owned(), count), "second {second}"),
            Err(error) => {
                assert_eq!((error.kind(), count), (ErrorKind::Unavailable, 0), "second {second}: {error}");
                assert_eq!(error.to_string(), NOT_AVAILABLE);
            }
        }
    }
    let latest = inventory.plan(Target::Latest).unwrap();
    assert_eq!(shape(&latest).1, "8/1000");
    assert_eq!((latest.timestamp(), latest.total_bytes()), (at(23), 130));
    assert_eq!(inventory.bounds(), Some((at(10), at(23))));
}

#[test]
fn the_newest_snapshot_decides_even_when_another_generation_has_newer_segments() {
    let mut objects: Vec<ObjectInfo> = two_generations().objects().cloned().collect();
    objects.push(segment(A, 1, 8_304, 99));
    let plan = V3Inventory::new(objects).plan(Target::Latest).unwrap();
    assert_eq!(shape(&plan).0, "b/7");
}

#[test]
fn a_txid_is_nothing_that_0_3_knew() {
    let error = two_generations().plan(Target::Txid(ltx::Txid::new(5))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[test]
fn an_empty_listing_is_unavailable_and_segments_alone_are_not() {
    let error = V3Inventory::default().plan(Target::Latest).unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Unavailable, NOT_AVAILABLE.to_owned()));
    let error = V3Inventory::new([segment(A, 0, 0, 5)]).plan(Target::Latest).unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Hole, NO_SNAPSHOTS.to_owned()));
}

/// L63 and the defect of upstream's comparison: which gap has which name, and what
/// is offered instead.
#[test]
fn every_gap_is_named_with_the_newest_complete_moment_before_it() {
    let cases: [(&str, Vec<ObjectInfo>, &str, Option<i64>); 7] = [
        (
            "an index is missing",
            vec![snapshot(A, 6, 1), segment(A, 6, 0, 2), segment(A, 8, 0, 4), segment(A, 8, 50, 5)],
            "missing WAL index: expected 7/0, got 8/0",
            Some(2),
        ),
        (
            "the first index is missing",
            vec![snapshot(A, 6, 1), segment(A, 7, 0, 2)],
            "missing WAL index: expected 6/0, got 7/0",
            Some(1),
        ),
        (
            "the first segment is missing",
            vec![snapshot(A, 6, 1), segment(A, 6, 4152, 2)],
            "missing WAL segment: expected 6/0, got 6/4152",
            Some(1),
        ),
        (
            "the start of the second log is missing, at an offset that fits the first",
            vec![snapshot(A, 6, 1), segment(A, 6, 0, 2), segment(A, 7, 4152, 3)],
            "missing WAL segment: expected 7/0, got 7/4152",
            Some(2),
        ),
        (
            "two names for one segment",
            vec![
                snapshot(A, 6, 1),
                segment(A, 6, 0, 2),
                ObjectInfo { key: format!("generations/{A}/wal/00000006_000000000.wal.lz4"), size: 1, modified: at(3) },
            ],
            "two objects for WAL segment 6/0: generations/000000000000000a/wal/00000006_00000000.wal.lz4 and \
             generations/000000000000000a/wal/00000006_000000000.wal.lz4",
            Some(1),
        ),
        (
            "everything was stored in the same second",
            vec![snapshot(A, 6, 1), segment(A, 6, 0, 1), segment(A, 8, 0, 1)],
            "missing WAL index: expected 7/0, got 8/0",
            None,
        ),
        (
            "an older generation is complete, the newer one is not",
            vec![snapshot(A, 0, 1), segment(A, 0, 0, 2), snapshot(B, 0, 5), segment(B, 1, 0, 5)],
            "missing WAL index: expected 0/0, got 1/0",
            Some(2),
        ),
    ];
    for (what, objects, text, earlier) in cases {
        let inventory = V3Inventory::new(objects);
        let error = inventory.plan(Target::Latest).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Hole, "{what}");
        let message = error.to_string();
        assert!(message.starts_with(&format!("apply WAL segments: {text}. ")), "{what}: {message}");
        match earlier {
            Some(second) => {
                let time = at(second);
                assert!(message.ends_with(&format!("restore with -timestamp {time}")), "{what}: {message}");
                let plan = inventory.plan(Target::Timestamp(time));
                assert_eq!(plan.map(|plan| plan.timestamp()).ok(), Some(time), "{what}: as promised");
            }
            None => assert!(message.ends_with("No earlier state is complete"), "{what}: {message}"),
        }
    }
}

/// L64: order and comparison beyond 4 GiB are 64-bit.
#[test]
fn segments_beyond_four_gib_come_last() {
    const FOUR_GIB: u64 = 1 << 32;
    let inventory = V3Inventory::new([
        segment(A, 0, FOUR_GIB + 4120, 4),
        segment(A, 0, FOUR_GIB, 3),
        snapshot(A, 0, 1),
        segment(A, 0, FOUR_GIB - 8, 2),
        segment(A, 0, 0, 2),
    ]);
    let plan = inventory.plan(Target::Latest).unwrap();
    let offsets: Vec<u64> = plan.segments.iter().map(|segment| segment.start.offset).collect();
    assert_eq!(offsets, [0, FOUR_GIB - 8, FOUR_GIB, FOUR_GIB + 4120]);
}

#[test]
fn foreign_objects_are_ignored() {
    let foreign = ["generations/x/wal/00000000_00000000.wal.lz4", "generations/readme.txt", "ltx/0/x.ltx"];
    let foreign = foreign.map(|key| ObjectInfo { key: key.to_owned(), size: 1, modified: at(99) });
    assert!(V3Inventory::new(foreign.clone()).is_empty());
    let inventory = V3Inventory::new(foreign.into_iter().chain([snapshot(A, 3, 1)]));
    assert_eq!(inventory.newest(), Some(at(1)));
}

#[test]
fn a_broken_object_leads_to_the_newest_moment_without_it() {
    let inventory = two_generations();
    for (broken, earlier) in [(2, Some(22)), (1, Some(21)), (0, Some(20))] {
        let plan = inventory.plan(Target::Latest).unwrap();
        let found = inventory.earlier(plan.timestamp(), &plan.segments[broken]);
        assert_eq!(found, earlier.map(at), "segment {broken}");
    }
}
