//! What a writer is told about stores.

use std::sync::Arc;
use std::time::Duration;

use litestream_replica::check::{Grade, PROBE_DIR, ProbeSite, Report, check};
use litestream_replica::clock::SystemClock;
use litestream_replica::file::{FileClient, FileOptions};
use litestream_replica::{ReplicaClient, Result};

use crate::store::{Call, Fault, Shelf, file_key, id};

/// Checks the replica in `db` as a writer would.
async fn checked(shelf: &Arc<Shelf>) -> Report {
    let probe = ProbeSite::new(|path| Result::<_>::Ok(shelf.client(&format!("db/{path}")))).unwrap().unwrap();
    check(&shelf.client("db"), Some(&probe), &*shelf.clock, LIMIT).await
}

/// Everything but `ok`.
fn complaints(report: &Report) -> Vec<(&'static str, Grade, &str)> {
    let complaints = report.findings.iter().filter(|finding| finding.grade != Grade::Ok);
    complaints.map(|finding| (finding.name, finding.grade, &*finding.detail)).collect()
}

/// What is said of the first check of this name.
fn detail<'a>(report: &'a Report, name: &str) -> &'a str {
    &report.findings.iter().find(|finding| finding.name == name).unwrap().detail
}

#[tokio::test]
async fn a_store_that_lacks_nothing_passes_and_is_left_empty() {
    let shelf = Shelf::new(&[]);
    let report = checked(&shelf).await;
    let said: Vec<_> = report.findings.iter().map(|f| (f.name, f.grade.name(), &*f.detail)).collect();
    let wanted = [
        ("connect", "ok", "the store answers"),
        ("list", "ok", "0 files in all levels"),
        ("contents", "ok", "nothing there yet"),
        ("write", "ok", "took 0 ms"),
        ("read", "ok", "what was written comes back"),
        ("range", "ok", "parts of files can be read"),
        ("clock", "ok", "within 1 s of the store's"),
        ("create-only", "ok", "of several writers at once one wins and the rest are refused"),
        ("lease", "ok", "works here"),
        ("delete", "ok", "files can be deleted"),
    ];
    assert_eq!(said, wanted);
    assert_eq!((&*report.location, report.kind, report.grade()), ("memory:db", "memory", Grade::Ok));
    assert_eq!(shelf.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn a_directory_passes_and_keeps_its_files_only() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &str| -> Result<Arc<dyn ReplicaClient>> {
        Ok(Arc::new(FileClient::new(FileOptions::new(dir.path().join(path)))?))
    };
    std::fs::create_dir_all(dir.path().join("db/ltx/9")).unwrap();
    let kept = dir.path().join("db").join(file_key(id(9, 1, 7)));
    std::fs::write(&kept, "kept").unwrap();
    let probe = ProbeSite::new(|path| open(&format!("db/{path}"))).unwrap().unwrap();
    let report = check(&open("db").unwrap(), Some(&probe), &SystemClock, LIMIT).await;
    let wanted = [
        ("clock", Grade::Skipped, "files get their times from this machine"),
        ("lease", Grade::Skipped, "not available for file replicas"),
    ];
    assert_eq!(complaints(&report), wanted);
    assert_eq!((report.kind, report.grade()), ("file", Grade::Ok));
    assert_eq!(detail(&report, "list"), "1 files in all levels");
    assert!(detail(&report, "contents").contains("newest txid 0000000000000007"), "{report:?}");
    assert_eq!(std::fs::read(&kept).unwrap(), b"kept");
    let left: Vec<_> =
        std::fs::read_dir(dir.path().join("db")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["ltx"]);
}

/// One fault at a time, and exactly what is said of it.
#[tokio::test]
async fn each_missing_capability_is_named_and_no_other() {
    use Fault::{Ahead, Refuses, RefusesProbes};
    use Grade::{Degraded, Failed, Ok, Skipped};
    type Complaint = (&'static str, Grade, &'static str);
    let cases: &[(Fault, Grade, &[Complaint])] = &[
        (Refuses(Call::Write), Failed, &[("write", Failed, "Write: access denied")]),
        (
            Fault::HidesFiles,
            Failed,
            &[("list", Failed, "a file just written is not listed, restores may miss transactions")],
        ),
        (
            Refuses(Call::List),
            Failed,
            &[
                ("list", Failed, "List: access denied"),
                ("list", Failed, "List: access denied"),
                ("delete", Degraded, "List: access denied"),
            ],
        ),
        (
            RefusesProbes(Call::List),
            Failed,
            &[("list", Failed, "List: access denied"), ("delete", Degraded, "old files stay for ever")],
        ),
        (
            Fault::Garbles,
            Failed,
            &[
                ("read", Failed, "other bytes come back than were written"),
                ("range", Failed, "asked for 7 bytes and got 7 others"),
            ],
        ),
        (
            Refuses(Call::Open),
            Failed,
            &[("read", Failed, "Open: access denied"), ("range", Failed, "Open: access denied")],
        ),
        (Fault::IgnoresRanges, Failed, &[("range", Failed, "asked for 7 bytes and got ")]),
        (Fault::RefusesParts, Failed, &[("range", Failed, "Open: access denied")]),
        (Ahead(5), Ok, &[]),
        (Ahead(-5), Ok, &[]),
        (Ahead(6), Degraded, &[("clock", Degraded, "this machine is 6 s behind the store; set its clock")]),
        (Ahead(-6), Degraded, &[("clock", Degraded, "this machine is 6 s ahead of the store; set its clock")]),
        (Fault::TellsNoTimes, Ok, &[("clock", Skipped, "the store tells no time")]),
        (
            RefusesProbes(Call::ListObjects),
            Degraded,
            &[
                ("clock", Degraded, "ListObjects: access denied"),
                ("clean-up", Degraded, "yourself: ListObjects: access denied"),
            ],
        ),
        (
            Fault::Replaces,
            Failed,
            &[("create-only", Failed, "an existing file was replaced, a second writer would too")],
        ),
        (Fault::DeniesTakenNames, Failed, &[("create-only", Failed, "Write: access denied")]),
        (Fault::LosesSecondFile, Degraded, &[("create-only", Degraded, "cannot be tried: connection reset")]),
        (Fault::LooksFirst, Degraded, &[("create-only", Degraded, "the store has no conditional writes")]),
        (Fault::NoLock, Ok, &[("lease", Skipped, "not available for memory replicas")]),
        (Refuses(Call::PutLock), Ok, &[("lease", Skipped, "not available: PutLock: access denied")]),
        (Fault::IgnoresAbsent, Ok, &[("lease", Skipped, "lock.json ignores If-None-Match: this store cannot")]),
        (Fault::IgnoresMatch, Ok, &[("lease", Skipped, "lock.json ignores If-Match: this store cannot")]),
        (Fault::NeverPuts, Degraded, &[("lease", Degraded, "conditions give odd answers")]),
        (Fault::ChangesBeforeRemoval, Degraded, &[("lease", Degraded, "conditions give odd answers")]),
        (
            Refuses(Call::Delete),
            Degraded,
            &[("delete", Degraded, "or set retention.enabled to false: Delete: access denied")],
        ),
        (Fault::KeepsDeleted, Failed, &[("delete", Failed, "deleted files are still listed")]),
    ];
    for (fault, grade, wanted) in cases {
        let shelf = Shelf::new(&[*fault]);
        let report = checked(&shelf).await;
        let said = complaints(&report);
        let names = |all: &[Complaint]| all.iter().map(|(name, grade, _)| (*name, *grade)).collect::<Vec<_>>();
        let said_names: Vec<_> = said.iter().map(|(name, grade, _)| (*name, *grade)).collect();
        assert_eq!(said_names, names(wanted), "{fault:?}: {report:?}");
        for ((_, _, text), (_, _, words)) in said.iter().zip(*wanted) {
            assert!(text.contains(words), "{fault:?}: {text}");
        }
        assert_eq!(report.grade(), *grade, "{fault:?}");
        assert_eq!(shelf.keys(), Vec::<String>::new(), "{fault:?} leaves something behind");
    }
}

#[tokio::test]
async fn without_the_permission_to_write_nothing_else_is_tried() {
    let shelf = Shelf::new(&[Fault::Refuses(Call::Write)]);
    let report = checked(&shelf).await;
    assert_eq!(report.findings.last().unwrap().name, "write");
    assert_eq!((shelf.count(Call::Open), shelf.count(Call::PutLock), shelf.count(Call::Delete)), (0, 0, 0));
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_is_asked_for_nothing_more() {
    let shelf = Shelf::new(&[Fault::Unresolved]);
    let report = checked(&shelf).await;
    let advice = "the name does not resolve, correct the endpoint or the name service: \
                  list: cannot connect to store:443: dns error: no such host";
    assert_eq!(complaints(&report), [("connect", Grade::Failed, advice)]);
    assert_eq!(report.findings.len(), 1);
    assert_eq!((shelf.count(Call::List), shelf.count(Call::Write)), (0, 0));
}

#[tokio::test]
async fn probes_that_cannot_be_removed_are_named_for_the_person_who_must() {
    let shelf = Shelf::new(&[Fault::Refuses(Call::Delete), Fault::Refuses(Call::DeleteAll)]);
    let report = checked(&shelf).await;
    let left = shelf.keys();
    assert_eq!(left.len(), 2, "both probes: {left:?}");
    let (place, _) = left.first().unwrap().split_once("/ltx/").unwrap();
    assert!(place.starts_with(&format!("db/{PROBE_DIR}/")), "{place}");
    let wanted = format!("remove memory:{place} yourself: DeleteAll: access denied");
    assert_eq!(detail(&report, "clean-up"), wanted);
    assert_eq!(report.grade(), Grade::Degraded);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_given_up_and_cleaned_all_the_same() {
    // The probe is written by then, and has to go.
    let shelf = Shelf::new(&[Fault::Hangs(Call::Open)]);
    let began = tokio::time::Instant::now();
    let report = checked(&shelf).await;
    let wanted = [("timeout", Grade::Failed, "not finished within 60s; the store is slow, or answers part of it only")];
    assert_eq!(complaints(&report), wanted);
    assert_eq!(began.elapsed().as_secs(), LIMIT.as_secs());
    assert_eq!((shelf.count(Call::Write), shelf.keys()), (1, Vec::new()));

    let shelf = Shelf::new(&[Fault::Hangs(Call::DeleteAll)]);
    let report = checked(&shelf).await;
    let said = complaints(&report);
    assert!(
        matches!(&*said, [("clean-up", Grade::Degraded, text)] if text.ends_with("yourself: no answer")),
        "{said:?}"
    );
}

#[tokio::test]
async fn probes_of_others_are_removed_only_when_long_abandoned() {
    let probe = |name: &str| format!("db/{PROBE_DIR}/{name}/{}", file_key(id(0, 1, 1)));
    let (old, young) = (probe("0123456789abcdef"), probe("fedcba9876543210"));
    let shelf = Shelf::new(&[]);
    shelf.put(&old, "x", 3700);
    shelf.put(&young, "x", 3500);
    assert_eq!(checked(&shelf).await.grade(), Grade::Ok);
    assert_eq!(shelf.keys(), [old.clone(), young.clone()], "another check may be running");

    shelf.remove(&young);
    assert_eq!(checked(&shelf).await.grade(), Grade::Ok);
    assert_eq!(shelf.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_there_already_is_told_and_not_touched() {
    let shelf = Shelf::new(&[]);
    let lease = r#"{"generation":1,"expires_at":"2027-01-15T08:00:30Z","owner":"a:1"}"#;
    for (key, body) in [
        (file_key(id(9, 1, 2)), "snapshot"),
        (file_key(id(0, 2, 2)), "two"),
        (file_key(id(0, 3, 3)), "three"),
        ("generations/0123456789abcdef/snapshots/00000000.snapshot.lz4".to_owned(), "old"),
        ("lock.json".to_owned(), lease),
    ] {
        shelf.put(&format!("db/{key}"), body, 30);
    }
    let before = shelf.keys();
    let report = checked(&shelf).await;
    let wanted = "level 0: 2, level 9: 1, newest txid 0000000000000003, last written 2027-01-15T07:59:30Z, \
                  in use: a litestream writes here at this time, backups of litestream 0.3, \
                  lease of a:1 until 2027-01-15T08:00:30Z";
    assert_eq!(detail(&report, "contents"), wanted);
    assert_eq!(detail(&report, "list"), "3 files in all levels");
    assert_eq!((report.grade(), shelf.keys()), (Grade::Ok, before));
    assert_eq!(shelf.body("db/lock.json").unwrap(), lease.as_bytes());

    // An hour later nobody is writing, and somebody has spoilt the lease.
    shelf.clock.advance_millis(3_600_000);
    shelf.put("db/lock.json", "{", 0);
    let report = checked(&shelf).await;
    let said = detail(&report, "contents");
    assert!(said.ends_with("backups of litestream 0.3, lock.json is not a lease: no JSON"), "{said}");
    assert!(!said.contains("in use"), "{said}");
}

#[test]
fn where_probes_would_lie_among_the_data_there_is_no_place_for_them() {
    let shelf = Shelf::new(&[]);
    // As for a replica type that knows no paths.
    assert!(ProbeSite::new(|_| Result::<_>::Ok(shelf.client("db"))).unwrap().is_none());
    assert!(ProbeSite::new(|path| Result::<_>::Ok(shelf.client(path))).unwrap().is_some());
    let refused = ProbeSite::new(|_| Err::<Arc<dyn ReplicaClient>, _>("no such bucket"));
    assert_eq!(refused.err(), Some("no such bucket"));
}

const LIMIT: Duration = Duration::from_secs(60);
